"""Draws pairs for the classifier: mixtures of two windows, what is in them, and what is not.

A query is a mixture of two windows (``sampling.py``); both are its positives. Its negatives are the
windows of other recordings that the encoder finds most similar to it, and windows of the same
recording elsewhere. Neither can hold a positive: recordings that share a group with one of the two
are left out, and of the sampled recording what overlaps the window or repeats it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from spolia.errors import TrainingError
from spolia.networks.windows import NodeEncoder
from spolia.training.batches import Batch, BatchMaker, Places
from spolia.training.encoded import EncodedFolder, Tensors
from spolia.training.mining import embedded_with_nodes

Prepared = Callable[[int, int], None]


@dataclass(frozen=True)
class PairConfig:
    """Which windows are compared."""

    n_queries: int = 32  # mixtures per batch, each with two positives
    n_batches: int = 0  # different ones, repeated with new negatives; 0: each step has a new one
    offset: float = 0.25  # seconds by which a positive may be shifted, either way
    n_places: int = 24  # windows of each group that may be negatives
    n_nearest: int = 20  # hits of a query, of which its hard negatives are drawn
    n_hard: int = 5  # negatives of other recordings, per query
    n_same: int = 2  # negatives of the same recording; hard ones where it has too few
    most_alike: float = 0.95  # cosine above which the same recording repeats the window


class Pairs(NamedTuple):
    """Node matrices of queries and of what each is compared with; two positives come first."""

    queries: Tensor  # [shape=(n, n_nodes, d)]
    candidates: Tensor  # [shape=(n, 2 + n_negatives, n_nodes, d)]
    similarity: Tensor  # cosines of the encoder's vectors [shape=(n, 2 + n_negatives)]


class Encoded(NamedTuple):
    """A batch of mixtures as the frozen encoder sees it."""

    batch: Batch  # without its spectrograms
    queries: Tensor  # nodes, float16 [shape=(n, n_nodes, d)]
    vectors: Tensor  # of the queries [shape=(n, dim)]
    clean: Tensor  # nodes of the first positives, float16 [shape=(n, n_nodes, d)]
    own: Tensor  # vectors of these [shape=(n, dim)]


class PairMaker:
    """Draws pairs by step number; the same seed and step give the same pairs.

    The encoder is frozen, so what it made of a window is kept, in half precision: of all windows
    that may be negatives, and of ``n_batches`` batches of mixtures. On a CPU encoding takes nearly
    all of a step.
    """

    def __init__(
        self,
        encoder: NodeEncoder,
        batches: BatchMaker,
        config: PairConfig,
        cache: Path,
        *,
        seed: int,
        n_kept: int,
        report: Prepared | None = None,
    ) -> None:
        """Encode the windows that may be negatives, or read them from ``cache``.

        n_kept: batches that are kept too; report: gets (done, all) windows that are encoded.
        """
        self.encoder, self.batches, self.config, self.n_kept = encoder, batches, config, n_kept
        self.folder = EncodedFolder(cache, encoder, batches, config.n_places, seed)

        def places() -> Tensors:
            of, vectors, nodes = embedded_with_nodes(
                encoder, batches, config.n_places, seed=seed, report=report
            )
            return {**of._asdict(), "vectors": vectors, "nodes": nodes}

        held = self.folder.get("places", places, batches.device)
        self.vectors, self.nodes = held.pop("vectors"), held.pop("nodes")
        self.places = Places(**held)
        self._kept = lru_cache(maxsize=max(n_kept, 1))(self._read)

    @torch.no_grad()
    def draw(self, step: int, *, seed: int) -> Pairs:
        """Return the pairs of a step."""
        number = step % self.config.n_batches if self.config.n_batches else step
        batch, queries, vectors, clean, own = self._kept(number, seed)
        rng = torch.Generator(device=self.batches.device).manual_seed(seed * 1_000_003 + step)
        second = _second(batch)
        chosen = self.negatives(batch, vectors, own, rng)
        positives = torch.stack([clean, clean[second]], dim=1)
        found = torch.cat([torch.stack([own, own[second]], dim=1), self.vectors[chosen]], dim=1)
        return Pairs(
            queries.float(),
            torch.cat([positives, self.nodes[chosen]], dim=1).float(),
            (found @ vectors[:, :, None])[:, :, 0],
        )

    def _read(self, number: int, seed: int) -> Encoded:
        if not self.n_kept:
            return self._encoded(number, seed)

        def made() -> Tensors:
            batch, *parts = self._encoded(number, seed)
            of = {key: value for key, value in vars(batch).items() if value is not None}
            return {**of, **dict(zip(Encoded._fields[1:], parts, strict=True))}

        held = self.folder.get(f"batch-{seed}-{number}", made, self.batches.device)
        parts = [held.pop(name) for name in Encoded._fields[1:]]
        return Encoded(Batch(**held), *parts)

    def _encoded(self, number: int, seed: int) -> Encoded:
        batch = self.batches.draw(number, seed=seed)
        vectors, queries = (of[:, 0] for of in self.encoder.with_nodes(batch.positives))
        own, clean = (of[:, 0] for of in self.encoder.with_nodes(batch.anchors))
        nothing = batch.anchors[:0]
        batch = replace(batch, anchors=nothing, positives=nothing)
        return Encoded(batch, queries.half(), vectors, clean.half(), own)

    def negatives(self, batch: Batch, vectors: Tensor, own: Tensor, rng: torch.Generator) -> Tensor:
        """Return numbers of places that are no samples of a query, int64 [shape=(n, n_negatives)].

        vectors: of the queries; own: of their first positives, unit norm [shape=(n, dim)].
        """
        config = self.config
        related = self._related(batch)
        n_free = int((~related).sum(1).min())
        wanted = config.n_hard + config.n_same
        if n_free < wanted:
            raise TrainingError(
                f"{n_free} windows of other recordings are there and {wanted} are wanted; "
                "add recordings or lower n_hard and n_same in [pairs]"
            )
        similarity = (vectors @ self.vectors.T).masked_fill(related, -2.0)
        near = similarity.topk(max(wanted, min(config.n_nearest, n_free)), dim=1).indices
        order = torch.rand(near.shape, generator=rng, device=near.device).argsort(1)
        hard = near.gather(1, order)[:, :wanted]
        draw = torch.rand(related.shape, generator=rng, device=related.device)
        same = draw.masked_fill(~self._elsewhere(batch, own), -1.0).topk(config.n_same, dim=1)
        replaced = torch.where(same.values >= 0, same.indices, hard[:, config.n_hard :])
        return torch.cat([hard[:, : config.n_hard], replaced], dim=1)

    def _related(self, batch: Batch) -> Tensor:
        """Tell which places share a group with one of the two rows of a mixture."""
        groups = torch.stack([batch.groups, batch.groups[_second(batch)]], dim=1)
        return (groups[:, :, None] == self.places.groups).any(1)

    def _elsewhere(self, batch: Batch, own: Tensor) -> Tensor:
        """Tell which places are of the sampled recording, beyond its window, and unlike it."""
        geometry = self.batches.geometry
        distance = self.batches.anchor_starts(self.places.starts) - batch.starts[:, None]
        beyond = distance.abs() >= geometry.anchor + geometry.shift
        unlike = own @ self.vectors.T < self.config.most_alike
        return (batch.files[:, None] == self.places.files) & beyond & unlike


def _second(batch: Batch) -> Tensor:
    rows = torch.arange(len(batch.groups), device=batch.groups.device)
    return rows if batch.others is None else batch.others
