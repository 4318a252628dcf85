"""Hard negatives: places of other music that a trained network finds similar.

Random rows of a batch are easy to tell apart after some training. So some of them are replaced by
places that a frozen network, say the one a run starts from, takes for neighbours of other rows.
Which places are neighbours is worked out once, before the first step, so that a run that was
interrupted goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spolia.training.batches import BatchMaker, Places
from spolia.training.recipe import MiningConfig

CHUNK = 256  # places that are embedded at once


@dataclass(frozen=True)
class Neighbours:
    """Places in the training recordings, and which of other groups are similar to each."""

    places: Places
    nearest: Tensor  # int64 [shape=(n_places, n_neighbours)], most similar first
    share: float  # of a batch's rows that are neighbours of other rows

    def replaced(self, drawn: Places, rng: torch.Generator) -> Places:
        """Return a batch's places with ``share`` of them replaced by neighbours of others.

        A replaced row's partner becomes a place whose neighbour it is. No group stands in a batch
        twice: where that would happen, the row drawn at random stays.
        """
        n_pairs = int(len(drawn.groups) * self.share / 2)
        device = drawn.groups.device
        partners = torch.randint(
            len(self.nearest), (n_pairs,), generator=rng, device=self.nearest.device
        )
        column = torch.randint(
            self.nearest.shape[1], (n_pairs,), generator=rng, device=self.nearest.device
        )
        pairs = torch.stack([partners, self.nearest[partners, column]], 1).flatten().to(device)
        groups = torch.cat([self.places.groups[pairs], drawn.groups])
        chosen = torch.cat([pairs, -1 - torch.arange(len(drawn.groups), device=device)])
        keep = _first_of_each(groups)[: len(drawn.groups)]
        return _picked(self.places, drawn, chosen[keep])


def _first_of_each(groups: Tensor) -> Tensor:
    """Return the positions at which each group appears for the first time, ascending."""
    order = torch.sort(groups, stable=True)
    first = torch.ones_like(groups, dtype=torch.bool)
    first[1:] = order.values[1:] != order.values[:-1]
    return order.indices[first].sort().values


def _picked(mined: Places, drawn: Places, chosen: Tensor) -> Places:
    """Return mined places (numbers from 0) and drawn ones (from −1 downwards)."""
    is_mined = chosen >= 0

    def pick(one: Tensor, other: Tensor) -> Tensor:
        return torch.where(is_mined, one[chosen.clamp(min=0)], other[(-1 - chosen).clamp(min=0)])

    return Places(
        pick(mined.groups, drawn.groups),
        pick(mined.files, drawn.files),
        pick(mined.starts, drawn.starts),
    )


def drawn_places(batches: BatchMaker, n_places: int, *, seed: int) -> Places:
    """Draw ``n_places`` of every group."""
    rng = torch.Generator(device=batches.device).manual_seed(seed)
    drawn = [batches.draw_places(rng, all_groups=True) for _ in range(n_places)]
    return Places(*(torch.cat(of) for of in zip(*drawn, strict=True)))


@torch.no_grad()
def embedded(
    network: Any, batches: BatchMaker, n_places: int, *, seed: int
) -> tuple[Places, Tensor]:
    """Draw ``n_places`` of every group; return them and their vectors [shape=(n, dim)]."""
    places = drawn_places(batches, n_places, seed=seed)
    vectors = [
        network.embed(batches.spectrogram(starts)).mean(1) for starts in places.starts.split(CHUNK)
    ]
    return places, torch.cat(vectors)


@torch.no_grad()
def embedded_with_nodes(
    network: Any,
    batches: BatchMaker,
    n_places: int,
    *,
    seed: int,
    report: Callable[[int, int], None] | None = None,
) -> tuple[Places, Tensor, Tensor]:
    """Return what :func:`embedded` does, and nodes in float16 [shape=(n, n_nodes, d)].

    The batches' windows must be as long as one of the network's. report: gets (done, all) windows.
    """
    places = drawn_places(batches, n_places, seed=seed)
    vectors, nodes, done = [], [], 0
    for starts in places.starts.split(CHUNK):
        of = network.with_nodes(batches.spectrogram(starts))
        vectors.append(of[0][:, 0])
        nodes.append(of[1][:, 0].half())
        done += len(starts)
        if report:
            report(done, len(places.starts))
    return places, torch.cat(vectors), torch.cat(nodes)


@torch.no_grad()
def mine(network: Any, batches: BatchMaker, config: MiningConfig, *, seed: int) -> Neighbours:
    """Embed ``n_places`` of every group with a frozen network and find each one's neighbours."""
    places, vectors = embedded(network, batches, config.n_places, seed=seed)
    nearest = []
    for some, groups in zip(vectors.split(CHUNK), places.groups.split(CHUNK), strict=True):
        similarity = some @ vectors.T
        similarity[groups[:, None] == places.groups[None, :]] = -2.0
        nearest.append(similarity.topk(config.n_neighbours, dim=1).indices)
    return Neighbours(places, torch.cat(nearest), config.share)
