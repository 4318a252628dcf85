"""Trains the embedding encoder of AMG-Embedding on the vectors of a frozen fingerprinter."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spolia.encoders import open_encoder
from spolia.errors import TrainingError
from spolia.networks.run_encoder import RunEncoder, RunEncoderConfig
from spolia.training.batches import plan
from spolia.training.degrade import DegradeConfig
from spolia.training.fingerprint import make_batches
from spolia.training.initial import load_trained
from spolia.training.losses import divergence, semi_hard_triplet
from spolia.training.margin import (
    MarginConfig,
    Proxies,
    exhaustive_scores,
    info_nce,
    pam,
)
from spolia.training.pieces import PieceBatch, PieceConfig, anchor_start, draw_pieces
from spolia.training.recipe import DataConfig, Recipe
from spolia.training.running import (
    Report,
    ResumableRun,
    RunOptions,
    learning_rate,
    recipe_dict,
)
from spolia.training.runs import Runs, compute_runs, thinned
from spolia.training.warp import MaskConfig, WarpConfig

LOSSES = ("pam", "info_nce", "triplet")

Prepared = Callable[[int, int], None]


@dataclass(frozen=True)
class ClipConfig:
    """The clips that are classes."""

    n_vectors: int = 59  # of a clip: 30 s
    n_versions: int = 9  # degraded versions of each
    offset: float = 0.25  # seconds by which a version may be shifted, either way
    most_per_file: int = 10**6  # clips of one recording
    n_classes: int = 10**6  # of all clips at most so many, evenly spread, are trained on
    simulated_rooms: int = 150
    room_variants: int = 2


@dataclass(frozen=True)
class EmbeddingOptimiser:
    """How the weights move; the defaults are the published ones but for warm-up and clipping."""

    steps: int = 6000
    learning_rate: float = 1e-3  # peak; a cosine falls to
    final_rate: float = 1e-4
    warmup: int = 200  # steps
    weight_decay: float = 1e-5  # in the gradient, as of Adam
    clip: float = 1.0  # largest norm of the gradient
    temperature: float = 0.1  # of InfoNCE
    triplet_margin: float = 0.2  # squared distances
    imitation: float = 0.0  # share of the loss that imitates the scores of an exhaustive search
    imitation_temperature: float = 0.1


@dataclass(frozen=True)
class EmbeddingRecipe:
    """One training run of an embedding encoder."""

    name: str
    fingerprint: str = "segment"  # frozen fingerprinter: a shipped model or a model file
    model: dict[str, Any] = field(default_factory=dict)  # settings of RunEncoderConfig
    loss: str = "pam"  # or "info_nce", "triplet"; ArcFace is PAM with its measures switched off
    seed: int = 0
    clips: ClipConfig = field(default_factory=ClipConfig)
    degrade: DegradeConfig = field(default_factory=DegradeConfig)
    warp: WarpConfig = field(default_factory=WarpConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    pieces: PieceConfig = field(default_factory=PieceConfig)
    margin: MarginConfig = field(default_factory=MarginConfig)
    optimiser: EmbeddingOptimiser = field(default_factory=EmbeddingOptimiser)


def train_embedding(
    recipe: EmbeddingRecipe,
    options: RunOptions,
    report: Report,
    prepared: Prepared | None = None,
) -> Path:
    """Train to the recipe's last step, or until ``stop_after``; return the checkpoint's path.

    Continues from the folder's checkpoint, to the same weights as without the interruption.
    ``report`` receives a dict per step, ``prepared`` how many clips are fingerprinted of how many.
    """
    torch.set_num_threads(options.threads)
    return EmbeddingRun(recipe, options, prepared).run(report)


def load_runs(
    recipe: EmbeddingRecipe,
    options: RunOptions,
    split: str,
    prepared: Prepared | None = None,
) -> Runs:
    """Return the vectors of all clips of a split, computed once into the cache."""
    card = open_encoder(recipe.fingerprint).card
    data = DataConfig(
        n_rows=2,
        n_segments=recipe.clips.n_vectors,
        offset=recipe.clips.offset,
        simulated_rooms=recipe.clips.simulated_rooms,
        room_variants=recipe.clips.room_variants,
    )
    as_recipe = Recipe(
        "clips",
        seed=recipe.seed,
        data=data,
        degrade=recipe.degrade,
        warp=recipe.warp,
        mask=recipe.mask,
    )
    n_bands = card.architecture["front_end"]["n_bands"]
    network = _frozen(recipe.fingerprint, n_bands, options.device)
    batches = make_batches(as_recipe, options, network, _geometry(as_recipe, network), split)
    return compute_runs(
        network,
        batches,
        options.cache,
        n_versions=recipe.clips.n_versions,
        seed=recipe.seed,
        facts={"fingerprint": card.id, "split": split, "recipe": recipe_dict(as_recipe)},
        most_per_file=recipe.clips.most_per_file,
        report=prepared,
    )


def _geometry(recipe: Recipe, network: Any) -> Any:
    frames = network.config.segment_frames, network.config.hop_frames
    return plan(recipe, network.log_bands, segment_frames=frames[0], hop_frames=frames[1])


def _frozen(source: str, n_bands: int, device: str) -> Any:
    """Return the network of a model file, not to be trained."""

    def example() -> Tensor:
        return torch.randn(4, n_bands, 63, generator=torch.Generator().manual_seed(0))

    return load_trained(source, example).to(device).eval()


class EmbeddingRun(ResumableRun):
    """The state of one training run."""

    def __init__(
        self, recipe: EmbeddingRecipe, options: RunOptions, prepared: Prepared | None = None
    ) -> None:
        if recipe.loss not in LOSSES:
            raise TrainingError(f"unknown loss {recipe.loss!r}; known: {', '.join(LOSSES)}")
        super().__init__(recipe, options)
        self.runs = thinned(load_runs(recipe, options, "train", prepared), recipe.clips.n_classes)
        self.held_out = load_runs(recipe, options, "val", prepared)
        torch.manual_seed(recipe.seed)
        settings = {"dim_in": self.runs.values.shape[-1], **recipe.model}
        self.model = RunEncoder(RunEncoderConfig(**settings)).to(self.device)
        self.longest = self.model.config.longest
        if self.longest > recipe.clips.n_vectors:
            raise TrainingError(
                f"runs of {self.longest} vectors do not fit into clips of "
                f"{recipe.clips.n_vectors}; raise n_vectors in [clips]"
            )
        self.proxies = self._proxies()
        self.groups = torch.from_numpy(self.runs.groups).to(self.device)
        self.optimiser = torch.optim.Adam(
            [*self.model.parameters(), *self.proxies.parameters()],
            lr=recipe.optimiser.learning_rate,
            weight_decay=recipe.optimiser.weight_decay,
        )
        self.parts = {"model": self.model, "proxies": self.proxies, "optimiser": self.optimiser}
        self.restore()

    def _proxies(self) -> Proxies:
        rng = torch.Generator().manual_seed(self.recipe.seed)
        proxies = Proxies(len(self.runs.values), self.model.config.dim, rng=rng).to(self.device)
        if self.recipe.margin.initialise:
            start = anchor_start(self.runs.values.shape[2], self.longest)
            anchor = slice(start, start + self.longest)
            parts = np.array_split(np.arange(len(self.runs.values)), 64)
            means = [self.runs.vectors(clips)[:, anchor].mean(1) for clips in parts]
            proxies.initialise(torch.from_numpy(np.concatenate(means)).to(self.device))
        return proxies

    def advance(self, report: Report) -> None:
        """Do one step, and validate where the step is due."""
        optimiser, begun = self.recipe.optimiser, time.perf_counter()
        beta = self.recipe.pieces.beta(self.step / max(1, optimiser.steps - 1))
        rng = np.random.default_rng([self.recipe.seed, self.step])
        batch = draw_pieces(self.runs, self.recipe.pieces, longest=self.longest, beta=beta, rng=rng)
        batch = PieceBatch(*(part.to(self.device) for part in batch))
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(
                self.step,
                optimiser.steps,
                optimiser.warmup,
                optimiser.learning_rate,
                optimiser.final_rate / optimiser.learning_rate,
            )
        self.model.train()
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.step)  # of the dropout
        self.optimiser.zero_grad(set_to_none=True)
        vectors = self.model(batch.runs, batch.padding)
        loss = self.loss(vectors, batch)
        if optimiser.imitation:
            share = optimiser.imitation
            loss = (1 - share) * loss + share * self.imitated(vectors, batch)
        loss.backward()
        self.move(loss, optimiser.clip)
        self.step += 1
        seconds = time.perf_counter() - begun
        entry = {
            "step": float(self.step),
            "loss": float(loss.detach()),
            "beta": beta,
            "runs_per_second": len(batch.labels) / seconds,
        }
        if self.validates():
            entry |= self.validate()
        self.log(entry)
        report(entry)

    def loss(self, vectors: Tensor, batch: PieceBatch) -> Tensor:
        """Return the recipe's loss of a batch's vectors [shape=(n, dim)]."""
        if self.recipe.loss == "pam":
            cosines = self.proxies.cosines(vectors)
            of = batch.labels, batch.overlap, batch.is_anchor
            return pam(cosines, *of, self.recipe.margin, groups=self.groups)
        optimiser = self.recipe.optimiser
        n = int(batch.is_anchor.sum())
        anchors, pieces = vectors[:n], vectors[n:]
        owner = torch.arange(n, device=self.device).repeat_interleave(len(pieces) // n)
        groups = self.groups[batch.labels]
        if self.recipe.loss == "info_nce":
            return info_nce(pieces, anchors, owner, groups[:n], optimiser.temperature)
        return semi_hard_triplet(pieces, anchors[owner], groups[n:], optimiser.triplet_margin)

    def imitated(self, vectors: Tensor, batch: PieceBatch) -> Tensor:
        """Return how far pieces' similarities to anchors are from an exhaustive search's scores."""
        n = int(batch.is_anchor.sum())
        wanted = exhaustive_scores(batch.runs[n:], batch.runs[:n], batch.padding[n:])
        temperature = self.recipe.optimiser.imitation_temperature
        return divergence(vectors[n:] @ vectors[:n].T / temperature, wanted / temperature)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return Top-1 rates of pieces of degraded val clips among all clips' clean runs."""
        self.model.eval()
        rng = np.random.default_rng(977)
        gallery = [self._grid(self.held_out), self._grid(self.runs)]
        stored = torch.cat([vectors for vectors, _ in gallery])
        owner = torch.cat([gallery[0][1], torch.full_like(gallery[1][1], -1)])
        rates = {}
        for length in sorted({min(n, self.longest) for n in (3, 5, 9, 19, 59)}):
            queries, truth = self._queries(length, rng)
            found = owner[(queries @ stored.T).argmax(1)]
            rates[f"val_top1_{length}"] = float((found == truth).float().mean())
        return rates

    def _grid(self, runs: Runs) -> tuple[Tensor, Tensor]:
        """Return vectors of consecutive clean runs, and the clips they are from."""
        n_clips, n = len(runs.values), runs.values.shape[2]
        vectors, owner = [], []
        for clips in np.array_split(np.arange(n_clips), max(1, n_clips // 256)):
            clean = torch.from_numpy(runs.vectors(clips)).to(self.device)
            for start in range(0, n, self.longest):
                part = clean[:, start : start + self.longest]
                if part.shape[1] >= min(self.recipe.pieces.shortest, self.longest):
                    vectors.append(self.model(part, self._whole(part)))
                    owner.append(torch.from_numpy(clips).to(self.device))
        return torch.cat(vectors), torch.cat(owner)

    def _queries(self, length: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return vectors of pieces of one version of every val clip, and the clips."""
        n_clips, n_versions, n, _ = self.held_out.values.shape
        version = 1 + rng.integers(n_versions - 1, size=n_clips)
        start = rng.integers(n - length + 1, size=n_clips)
        place = start[:, None] + np.arange(length)
        clips = np.arange(n_clips)
        pieces = torch.from_numpy(self.held_out.at(clips, version, place)).to(self.device)
        return self.model(pieces, self._whole(pieces)), torch.from_numpy(clips).to(self.device)

    def _whole(self, runs: Tensor) -> Tensor:
        return torch.zeros(runs.shape[:2], dtype=torch.bool, device=self.device)
