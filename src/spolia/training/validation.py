"""Retrieval on held-out tracks during training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spolia.training.batches import BatchMaker
from spolia.training.late import Late


def retrieval(model: Any, batches: BatchMaker, *, n_batches: int, seed: int) -> dict[str, float]:
    """Return Top-1 rates of single segments and of runs of segments on degraded positives.

    Every val group gives one clean and one degraded run of segments per batch; a query is right
    when the most similar of all clean runs is its own, what else is in a mixture left aside. With
    several places per recording in the gallery, this is harder than naming the recording: the
    neighbours of a place in its own recording count as wrong.
    """
    anchors, positives, others = [], [], []
    n = 0
    for i in range(n_batches):
        batch = batches.draw(i, seed=seed)
        anchors.append(model.embed(batch.anchors))
        positives.append(model.embed(batch.positives))
        own = torch.arange(len(batch.groups), device=batch.groups.device)
        others.append(n + (own if batch.others is None else batch.others))
        n += len(batch.groups)
    gallery, queries = torch.cat(anchors), torch.cat(positives)  # (n, n_segments, dim)
    second = torch.cat(others)
    return {
        "val_top1_1s": _top1(queries[:, :1], gallery[:, :1], second),
        "val_top1_run": _top1(queries, gallery, second),
        "val_n": float(n),
    }


def late_retrieval(
    late: Late, model: Any, batches: BatchMaker, *, n_batches: int, seed: int
) -> float:
    """Return the share of mixtures whose own window's nodes agree most, of all in their batch."""
    right, n = 0.0, 0
    for i in range(n_batches):
        batch = batches.draw(i, seed=seed)
        anchors, positives = (
            late.packed(rows, model).flatten(0, 1) for rows in (batch.anchors, batch.positives)
        )
        assert batch.others is not None
        right += len(anchors) * _first(late.agreement(positives, anchors), batch.others)
        n += len(anchors)
    return right / n


def _top1(queries: Tensor, gallery: Tensor, second: Tensor) -> float:
    """Return the share of queries that are nearest to their own row; ``second`` is no rival."""
    return _first(torch.einsum("qsd,gsd->qg", queries, gallery), second)


def _first(similarity: Tensor, second: Tensor) -> float:
    """Return the share of rows [shape=(n, n)] whose own column is the most similar one."""
    row = torch.arange(len(similarity), device=similarity.device)
    own = similarity[row, row].clone()
    similarity[row, second] = float("-inf")
    similarity[row, row] = own
    return float((similarity.argmax(1) == row).float().mean())
