"""Segment vectors of training clips, clean and degraded: what the embedding encoder learns from.

A clip is a class. Its clean vectors hold the anchor; each degraded version is the same place,
shifted by less than a hop, after another draw of the whole degradation chain, changes of pitch and
tempo included. They are computed once and kept, since a frozen fingerprinter would say the same
each time: a hundredth of the cost of a training step that degrades anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spolia.training.batches import BatchMaker, Places
from spolia.training.encoded import heard

SCALE = 127.0  # of vectors stored as int8
CHUNK = 16  # clips that are computed at once

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Runs:
    """Vectors of clips on the fingerprinter's grid."""

    values: npt.NDArray[np.int8]  # [shape=(n_clips, 1 + n_versions, n_vectors, dim)], clean first
    groups: npt.NDArray[np.int64]  # of the clips [shape=(n_clips,)]
    files: npt.NDArray[np.int64]  # of the clips [shape=(n_clips,)]

    def vectors(self, clips: npt.NDArray[np.int64], version: int = 0) -> npt.NDArray[np.float32]:
        """Return clips' vectors, float32 [shape=(n, n_vectors, dim)], about unit norm."""
        return self.values[clips, version].astype(np.float32) / SCALE

    def at(
        self,
        clips: npt.NDArray[np.int64],
        versions: npt.NDArray[np.int64],
        places: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.float32]:
        """Return chosen vectors, float32 [shape=(n, n_places, dim)], about unit norm.

        clips, versions: one each [shape=(n,)]; places: numbers of vectors [shape=(n, n_places)].
        """
        found = self.values[clips[:, None], versions[:, None], places]
        return found.astype(np.float32) / SCALE


def thinned(runs: Runs, most: int) -> Runs:
    """Return ``most`` of the clips, evenly spread, or all if there are no more."""
    if len(runs.values) <= most:
        return runs
    kept = np.linspace(0, len(runs.values) - 1, most).round().astype(np.int64)
    return Runs(runs.values[kept], runs.groups[kept], runs.files[kept])


def lay_out(batches: BatchMaker, *, most_per_file: int = 10**6) -> Places:
    """Return places of clips one after the other in every file, as many as fit."""
    length = batches.geometry.anchor + 2 * batches.geometry.shift
    groups, files, starts = [], [], []
    group_of = batches.file_weights.argmax(0).tolist()
    for file, (first, room) in enumerate(
        zip(batches.first.tolist(), batches.room.tolist(), strict=True)
    ):
        n = min(int(room // length) + 1, most_per_file) if room > 0 else 0
        gap = max(length, room // max(n, 1))
        groups += [group_of[file]] * n
        files += [file] * n
        starts += [int(first + i * gap) for i in range(n)]
    return Places(torch.tensor(groups), torch.tensor(files), torch.tensor(starts))


@torch.no_grad()
def compute_runs(
    network: Any,
    batches: BatchMaker,
    folder: Path,
    *,
    n_versions: int,
    seed: int,
    facts: dict[str, Any],
    most_per_file: int = 10**6,
    report: Report | None = None,
) -> Runs:
    """Compute the vectors of all clips, or go on where an interrupted call stopped.

    network: the frozen fingerprinter's network; facts: whatever the result depends on beside
    ``n_versions``, ``seed`` and the sound of ``batches``: they name the file in ``folder``.
    """
    places = lay_out(batches, most_per_file=most_per_file)
    named = {**facts, "n_versions": n_versions, "seed": seed, "starts": places.starts.tolist()}
    named["heard"] = heard(batches).hex()
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]
    shape = (len(places.starts), 1 + n_versions, batches.recipe.data.n_segments, network.config.dim)
    folder.mkdir(parents=True, exist_ok=True)
    data, done_file = folder / f"runs-{digest}.i8", folder / f"runs-{digest}.done"
    done = int(done_file.read_text()) if done_file.is_file() else 0
    values = np.memmap(data, np.int8, "r+" if data.is_file() else "w+", shape=shape)
    for first in range(done, shape[0], CHUNK):
        some = slice(first, min(first + CHUNK, shape[0]))
        chunk = Places(*(of[some] for of in places))
        values[some] = _versions(network, batches, chunk, n_versions, seed * 1_000_003 + first)
        values.flush()
        done_file.write_text(str(some.stop))
        if report:
            report(some.stop, shape[0])
    return Runs(values, places.groups.numpy(), places.files.numpy())


def _versions(
    network: Any, batches: BatchMaker, places: Places, n_versions: int, seed: int
) -> npt.NDArray[np.int8]:
    """Return int8 vectors of some clips, clean first."""
    batches.replace = lambda drawn, rng: Places(*(of.to(drawn.groups.device) for of in places))
    try:
        made = [batches.draw(version, seed=seed) for version in range(n_versions)]
    finally:
        batches.replace = None
    rows = [made[0].anchors, *(batch.positives for batch in made)]
    return torch.stack([quantised(network.embed(row)) for row in rows], dim=1).cpu().numpy()


def quantised(vectors: Tensor) -> Tensor:
    """Return vectors as int8."""
    return (vectors * SCALE).round().clamp(-127, 127).to(torch.int8)
