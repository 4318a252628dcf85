"""Retrieval on held-out tracks during training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spolia.training.batches import BatchMaker


def retrieval(model: Any, batches: BatchMaker, *, n_batches: int, seed: int) -> dict[str, float]:
    """Return Top-1 rates of single segments and of runs of segments on degraded positives.

    Every val group gives one clean and one degraded run of segments per batch; a query is right
    when the most similar of all clean runs at the same place in the batch is its own. With several
    places per recording in the gallery, this is harder than naming the recording: the neighbours
    of a place in its own recording count as wrong.
    """
    anchors, positives = [], []
    for i in range(n_batches):
        batch = batches.draw(i, seed=seed)
        anchors.append(model.embed(batch.anchors))
        positives.append(model.embed(batch.positives))
    gallery, queries = torch.cat(anchors), torch.cat(positives)  # (n, n_segments, dim)
    single = _top1(queries[:, :1], gallery[:, :1])
    return {
        "val_top1_1s": single,
        "val_top1_run": _top1(queries, gallery),
        "val_n": float(len(gallery)),
    }


def _top1(queries: Tensor, gallery: Tensor) -> float:
    similarity = torch.einsum("qsd,gsd->qg", queries, gallery)
    found = similarity.argmax(1).cpu()
    return float((found == torch.arange(len(queries))).float().mean())
