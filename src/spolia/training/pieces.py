"""Pieces of clips: fragment augmentation of AMG-Embedding.

The anchor of a clip is the run of ``longest`` vectors in its middle. A piece is a shorter run of a
degraded version that overlaps it, and may hang out of it by half its length at either end. Its
length, as a share of ``longest``, is δ = α^β with α uniform, and falls over training as β rises
from 0.5 to 3: long pieces first, then ever shorter ones (section 4.1 of the paper). What a piece
shares with the anchor sets its margin, and is less: at β = 0.5 lengths are 0.67 and overlaps 0.54
in the mean. Where a clip is no longer than its anchor, nothing hangs out and both are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spolia.training.runs import Runs

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PieceConfig:
    """How pieces are cut."""

    n_classes: int = 64  # clips of a batch; each gives its anchor and
    n_pieces: int = 9  # pieces
    shortest: int = 3  # vectors: 2 s
    beta_first: float = 0.5  # β at the first step
    beta_last: float = 3.0  # and at the last, linearly in between

    def beta(self, progress: float) -> float:
        """Return β at a share of the training."""
        return self.beta_first + (self.beta_last - self.beta_first) * min(max(progress, 0.0), 1.0)


class PieceBatch(NamedTuple):
    """Runs with their classes, anchors and pieces mixed."""

    runs: Tensor  # float32 [shape=(n, longest, dim)], zero where padding
    padding: Tensor  # bool [shape=(n, longest)]
    labels: Tensor  # int64 [shape=(n,)]
    overlap: Tensor  # float32 [shape=(n,)], share of ``longest``
    is_anchor: Tensor  # bool [shape=(n,)]


def anchor_start(n_vectors: int, longest: int) -> int:
    """Return the first vector of a clip's anchor."""
    return (n_vectors - longest) // 2


def draw_pieces(
    runs: Runs, config: PieceConfig, *, longest: int, beta: float, rng: np.random.Generator
) -> PieceBatch:
    """Return the anchors of some clips and pieces of their degraded versions."""
    n_clips, n_versions, n_vectors, _ = runs.values.shape
    clips = rng.choice(n_clips, min(config.n_classes, n_clips), replace=False)
    zone = anchor_start(n_vectors, longest)
    n = len(clips) * config.n_pieces
    length = np.round(rng.random(n) ** beta * longest).astype(np.int64)
    length = np.clip(length, min(config.shortest, longest), longest)
    low = np.maximum(zone - length // 2, 0)
    high = np.minimum(zone + longest - length + length // 2, n_vectors - length)
    start = low + np.floor(rng.random(n) * (high - low + 1)).astype(np.int64)
    shared = np.minimum(start + length, zone + longest) - np.maximum(start, zone)
    version = 1 + rng.integers(n_versions - 1, size=n)
    of = np.repeat(clips, config.n_pieces)
    anchors = np.full(len(clips), zone), np.full(len(clips), longest)
    return _cut(
        runs,
        np.concatenate([clips, of]),
        np.concatenate([np.zeros(len(clips), np.int64), version]),
        np.concatenate([anchors[0], start]),
        np.concatenate([anchors[1], length]),
        np.concatenate([np.ones(len(clips)), shared / longest]),
        longest,
    )


def _cut(
    runs: Runs,
    clips: Ints,
    version: Ints,
    start: Ints,
    length: Ints,
    overlap: npt.NDArray[np.float64],
    longest: int,
) -> PieceBatch:
    steps = np.arange(longest)
    heard = steps < length[:, None]
    place = np.minimum(start[:, None] + steps, runs.values.shape[2] - 1)
    values = runs.at(clips, version, place)
    values[~heard] = 0.0
    return PieceBatch(
        torch.from_numpy(values),
        torch.from_numpy(~heard),
        torch.from_numpy(clips),
        torch.from_numpy(overlap.astype(np.float32)),
        torch.from_numpy(version == 0),
    )
