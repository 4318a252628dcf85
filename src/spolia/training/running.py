"""What every training run has: options, checkpoints, a log, a rate that falls, and an end."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spolia.corpus import MANIFESTS, read_manifest
from spolia.errors import TrainingError
from spolia.training.initial import load_checkpoint
from spolia.training.pool import identity

KINDS = ("track", "noise", "ir", "samples")  # of files that runs learn from
MOST_SKIPPED = 10  # steps one after the other whose gradient is not finite

Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class RunOptions:
    """Where and how a run happens; nothing here changes its result but the device's rounding."""

    corpora: tuple[Path, ...]
    folder: Path  # checkpoints and log
    cache: Path  # decoded audio
    device: str = "cpu"
    threads: int = 2
    checkpoint_seconds: float = 180.0
    validate_every: int = 250  # steps
    stop_after: float = math.inf  # seconds
    compile: bool = False  # let torch.compile fuse the network's operations


class ResumableRun(ABC):
    """A run of some steps that can be interrupted after any of them."""

    model: Any  # whose weights move
    optimiser: Any

    def __init__(self, recipe: Any, options: RunOptions) -> None:
        """Take a recipe (a dataclass with ``optimiser.steps``) and make the run's folder."""
        self.recipe, self.options = recipe, options
        self.device = torch.device(options.device)
        self.data = data_digest(options.corpora)
        options.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = options.folder / "checkpoint.pt"
        self.step = 0
        self.n_skipped = 0  # steps in a row that moved no weights
        self.spoilt = False  # whether what is in memory is not worth a checkpoint
        self.parts: Mapping[str, Any] = {}  # what a checkpoint holds, each with a state_dict()

    @abstractmethod
    def advance(self, report: Report) -> None:
        """Do one step and report it."""

    def run(self, report: Report) -> Path:
        """Go on to the last step, or until ``stop_after``; return the checkpoint's path."""
        started = saved = time.monotonic()
        try:
            while self.step < self.recipe.optimiser.steps:
                self.advance(report)
                now = time.monotonic()
                if now - saved > self.options.checkpoint_seconds:
                    self.save()
                    saved = now
                if now - started > self.options.stop_after:
                    break
        finally:
            if not self.spoilt:
                self.save()
        return self.checkpoint

    def move(self, loss: Tensor, clip: float) -> float:
        """Move the weights along the gradient of a loss, clipped; return the gradient's norm.

        The gradient is that of all the optimiser moves, whether it belongs to the model or not.
        One that is not finite moves nothing: in bfloat16 it happens, and on some CPUs convolutions
        return one at times without reason. Raises TrainingError where it does so MOST_SKIPPED times
        in a row, or the loss itself is not finite; the last checkpoint stays.
        """
        moved = [weight for group in self.optimiser.param_groups for weight in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(moved, clip))
        value = float(loss.detach())
        if math.isfinite(norm) and math.isfinite(value):
            self.optimiser.step()
            self.n_skipped = 0
            return norm
        self.n_skipped += 1
        if self.n_skipped >= MOST_SKIPPED or not math.isfinite(value):
            self.spoilt = True
            raise TrainingError(
                f"step {self.step + 1} has a loss of {value:.3g} and a gradient of {norm:.3g}; "
                "begin again with a lower learning_rate, or with mixed_precision = false in "
                "[optimiser] where the recipe has it"
            )
        return norm

    def save(self) -> None:
        """Write the checkpoint: to a temporary name, synced, renamed."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"recipe": recipe_dict(self.recipe), "step": self.step, "data": self.data}
        partial = self.checkpoint.with_suffix(".partial")
        with partial.open("wb") as out:
            torch.save(state, out)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(self.checkpoint)

    def restore(self) -> bool:
        """Go back to the folder's checkpoint; tell whether there is one.

        Raises TrainingError where it belongs to another recipe or to other data.
        """
        if not self.checkpoint.is_file():
            return False
        state = load_checkpoint(self.checkpoint)
        if state["recipe"] != recipe_dict(self.recipe):
            raise TrainingError(
                f"{self.checkpoint} belongs to another version of the recipe; "
                "choose another folder with --run or restore the recipe"
            )
        if state.get("data", self.data) != self.data:  # older ones do not tell
            raise TrainingError(
                f"{self.checkpoint} was trained on other files than those of "
                f"{', '.join(map(str, self.options.corpora))}; give the data it began with, "
                "in the same order, with --corpus, or choose another folder with --run"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.step = int(state["step"])
        return True

    def validates(self) -> bool:
        """Tell whether the step just done is one to validate after."""
        last = self.step == self.recipe.optimiser.steps
        return last or self.step % self.options.validate_every == 0

    def log(self, entry: dict[str, float]) -> None:
        """Append an entry to the run's log."""
        with (self.options.folder / "log.jsonl").open("a") as out:
            out.write(json.dumps({k: round(v, 5) for k, v in entry.items()}) + "\n")


def data_digest(corpora: Sequence[Path]) -> str:
    """Return what tells corpora from others, wherever they are: their manifests, files' sizes."""
    digest = hashlib.sha256()
    for kind in KINDS:
        for corpus in corpora:
            if (corpus / f"{MANIFESTS[kind]}.csv").is_file():
                for file in read_manifest(corpus, kind):
                    known = {k: v for k, v in vars(file).items() if k != "corpus"}
                    size = identity(file.path)[1]
                    digest.update(json.dumps([kind, known, size]).encode())
    return digest.hexdigest()


def learning_rate(step: int, steps: int, warmup: int, peak: float, last: float = 0.01) -> float:
    """Return the rate of a step: linear warm-up, then a cosine to ``last`` times the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (last + (1 - last) * 0.5 * (1 + math.cos(math.pi * progress)))


def recipe_dict(recipe: Any) -> dict[str, Any]:
    """Return a recipe as plain values, as it is stored in checkpoints and models."""
    return dict(json.loads(json.dumps(asdict(recipe))))
