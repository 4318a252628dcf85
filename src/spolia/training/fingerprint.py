"""The training loop of fingerprint encoders: contrastive, resumable, the same on CPU and GPU."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spolia.corpus import CorpusFile, is_device, read_manifests, trainable
from spolia.errors import TrainingError
from spolia.networks.architectures import build_encoder
from spolia.training.batches import Batch, BatchMaker, Geometry, plan
from spolia.training.caching import backward_in_chunks
from spolia.training.coding import code_file
from spolia.training.generator import generate_many
from spolia.training.initial import load_initial, load_trained
from spolia.training.late import Late
from spolia.training.left_out import LeftOutBatchMaker
from spolia.training.mining import mine
from spolia.training.objective import Objective, Temperature
from spolia.training.pool import extended, load_pool
from spolia.training.recipe import Recipe, SamplingConfig
from spolia.training.responses import (
    LEAD,
    load_responses,
    response_bank,
    simulate_rooms,
    vary,
)
from spolia.training.running import Report, ResumableRun, RunOptions, learning_rate
from spolia.training.sampling import SampleBatchMaker, holds_speech
from spolia.training.stems import load_stems
from spolia.training.validation import late_retrieval, retrieval

logger = logging.getLogger(__name__)


def train(recipe: Recipe, options: RunOptions, report: Report) -> Path:
    """Train to the recipe's last step, or until ``stop_after``; return the checkpoint's path.

    Continues from the folder's checkpoint if it has one; a run that was interrupted ends with the
    same weights as one that was not. ``report`` receives a dict per logged step.
    """
    torch.set_num_threads(options.threads)
    return Run(recipe, options).run(report)


class Run(ResumableRun):
    """The state of one training run."""

    def __init__(self, recipe: Recipe, options: RunOptions) -> None:
        super().__init__(recipe, options)
        torch.manual_seed(recipe.seed)
        self.model = build_encoder(recipe.architecture, recipe.model).to(self.device)
        self.model.to(memory_format=torch.channels_last)
        self.average = build_encoder(recipe.architecture, recipe.model).to(self.device).eval()
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=recipe.optimiser.learning_rate,
            weight_decay=recipe.optimiser.weight_decay,
        )
        self.parts = {
            "model": self.model,
            "average": self.average,
            "optimiser": self.optimiser,
        }
        self.temperature = self._temperature()
        self.geometry = plan(
            recipe,
            self.model.log_bands,
            segment_frames=self.model.config.segment_frames,
            hop_frames=self.model.config.hop_frames,
        )
        self.batches = make_batches(recipe, options, self.model, self.geometry, "train")
        quiet = replace(recipe, data=replace(recipe.data, n_rows=10**6))
        self.held_out = make_batches(quiet, options, self.model, self.geometry, "val")
        if not self.restore():
            self._begin()
        self.late = Late(recipe, self.model) if recipe.late.share else None
        self.objective = self._objective()
        self._mine()
        embed = self.late.packed if self.late else self.model.embed
        self.embed = torch.compile(embed) if options.compile else embed

    def _objective(self) -> Objective:
        config = self.recipe.teacher
        teacher = self._frozen(config.weights) if config.weights else None
        return Objective(self.recipe.optimiser, config, teacher, self.late, self.temperature)

    def _temperature(self) -> Temperature | None:
        """Return what learns the temperature, to be moved and kept with the weights."""
        config = self.recipe.optimiser
        if not config.learn_temperature:
            return None
        learned = Temperature(config.temperature).to(self.device)
        self.optimiser.add_param_group({"params": learned.parameters(), "weight_decay": 0.0})
        self.parts = {**self.parts, "temperature": learned}
        return learned

    def _mine(self) -> None:
        config = self.recipe.mining
        if config.weights:
            network = self._frozen(config.weights)
            found = mine(network, self.batches, config, seed=self.recipe.seed)
            self.batches.replace = found.replaced

    def _frozen(self, source: str) -> Any:
        """Return a trained network with our front end, on our device."""
        network = load_trained(source, self._example).to(self.device).eval()
        if network.config.front_end != self.model.config.front_end:
            raise TrainingError(
                f"{source} has another front end than the recipe's; "
                "give a network that sees the same spectrogram"
            )
        return network

    def _example(self) -> Tensor:
        """Return spectrograms as the network will see them in training."""
        with torch.no_grad():
            batch = self.batches.draw(0, seed=self.recipe.seed)
        return torch.cat([batch.anchors, batch.positives])

    def _begin(self) -> None:
        if self.recipe.initial:
            load_initial(self.model, self.recipe.initial, self._example)
        self.average.load_state_dict(self.model.state_dict())

    def advance(self, report: Report) -> None:
        """Do one step, and validate where the step is due."""
        begun = time.perf_counter()
        with torch.no_grad():
            batch = self.batches.draw(self.step, seed=self.recipe.seed)
        made = time.perf_counter()
        loss, norm = self._learn(batch)
        self._average()
        self.step += 1
        ended = time.perf_counter()
        n_segments = 2 * len(batch.groups) * self.recipe.data.n_segments
        entry = {
            "step": float(self.step),
            "loss": loss,
            "gradient_norm": norm,
            "batch_seconds": made - begun,
            "network_seconds": ended - made,
            "segments_per_second": n_segments / (ended - begun),
        }
        if self.temperature is not None:
            entry["temperature"] = float(self.temperature())
        if self.validates():
            entry |= self.validate()
        self.log(entry)
        report(entry)

    def _learn(self, batch: Batch) -> tuple[float, float]:
        """Move the weights by a batch; return its loss and the gradient's norm."""
        optimiser = self.recipe.optimiser
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(
                self.step, optimiser.steps, optimiser.warmup, optimiser.learning_rate
            )
        self.model.train()
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.step)  # of what drops out
        mixed = optimiser.mixed_precision and has_fast_bfloat16(self.device)

        def embed(rows: Tensor) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
                return self.embed(rows)

        rows = torch.cat([batch.anchors, batch.positives])
        wanted = self.objective.wanted(rows)
        self.optimiser.zero_grad(set_to_none=True)
        loss = backward_in_chunks(
            self.model,
            embed,
            rows,
            lambda vectors: self.objective(vectors, batch.groups, wanted, batch.others),
            optimiser.chunk or len(rows),
        )
        return float(loss), self.move(loss, 5.0)

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.recipe.optimiser.ema, (1 + self.step) / (10 + self.step))
        for slow, fast in zip(
            self.average.state_dict().values(), self.model.state_dict().values(), strict=True
        ):
            if slow.dtype.is_floating_point:
                slow.lerp_(fast, 1 - decay)
            else:
                slow.copy_(fast)

    def validate(self) -> dict[str, float]:
        """Return retrieval figures on val tracks with the averaged weights."""
        with torch.no_grad():
            found = retrieval(self.average, self.held_out, n_batches=4, seed=977)
            if self.late:
                found["val_late"] = late_retrieval(
                    self.late, self.average, self.held_out, n_batches=4, seed=977
                )
        return found


def has_fast_bfloat16(device: torch.device) -> bool:
    """Tell whether a device computes in bfloat16; a CPU that emulates it is five times slower."""
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def make_batches(
    recipe: Recipe, options: RunOptions, model: Any, geometry: Geometry, split: str
) -> BatchMaker:
    """Load what one split needs and return its batch maker."""
    if recipe.sampling.use and recipe.architecture == "nafp":
        raise TrainingError(
            "[sampling] mixes logarithms of power, which the front end of 'nafp' does not give; "
            "choose another architecture"
        )
    rate = model.log_bands.config.sample_rate
    n_fft = 1 << (geometry.window - 1).bit_length()
    longest = n_fft + geometry.context - geometry.window

    def chosen(kind: str) -> list[CorpusFile]:
        files = read_manifests(options.corpora, kind)
        return trainable(files) if split == "train" else [f for f in files if f.split == "val"]

    responses = chosen("ir")
    rooms = load_responses((f for f in responses if not is_device(f)), sample_rate=rate)
    seed = recipe.seed + (split != "train")
    rng = np.random.default_rng(seed)
    n_variants = recipe.data.room_variants
    rooms += [vary(r, rng, sample_rate=rate) for r in rooms for _ in range(n_variants)]
    rooms += simulate_rooms(recipe.data.simulated_rooms, sample_rate=rate, seed=seed)
    devices = load_responses((f for f in responses if is_device(f)), sample_rate=rate)
    tracks = chosen("track")

    def pool(kind: str, **changes: Any) -> Any:
        files = tracks if kind == "track" else chosen(kind)
        return load_pool(files, sample_rate=rate, cache=options.cache, **changes)

    coded = pool("track", variant="coded-2", change=code_file) if recipe.data.coded > 0 else None
    recordings, noise = pool("track"), pool("noise")
    if split == "train" and recipe.data.generated:
        pieces = generate_many(
            recipe.data.generated,
            seconds=recipe.data.generated_seconds,
            seed=recipe.seed,
            device=torch.device(options.device),
            sample_rate=rate,
        )
        recordings = extended(recordings, pieces)
        coded = None if coded is None else extended(coded, pieces)
    batches = _maker(recipe.sampling)(
        recipe,
        model.log_bands,
        geometry,
        response_bank(
            rooms,
            devices,
            n_fft=n_fft,
            longest=longest,
            lead=round(LEAD * rate),
            device=torch.device(options.device),
        ),
        recordings,
        noise,
        n_fft=n_fft,
        device=torch.device(options.device),
        coded=coded,
    )
    if isinstance(batches, SampleBatchMaker):
        if recipe.sampling.stems > 0 or recipe.sampling.left_out:
            batches.use_stems(load_stems(recordings, options.corpora, cache=options.cache))
        if recipe.sampling.voice > 0 and (split == "train" or holds_speech(noise)):
            batches.use_voices(noise)
    return batches


def _maker(config: SamplingConfig) -> type[BatchMaker]:
    """Return what draws the batches of a recipe."""
    if not config.use:
        return BatchMaker
    return LeftOutBatchMaker if config.left_out else SampleBatchMaker
