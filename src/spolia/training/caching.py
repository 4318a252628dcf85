"""Gradients of a batch that is larger than memory: Gao et al., *Scaling Deep Contrastive Learning
Batch Size under Memory Limited Setup* (RepL4NLP 2021).

A contrastive loss needs all vectors of a batch at once, but the network needs only the gradient of
the loss with respect to them. So the vectors are computed without a graph, the loss and its
gradient from these, and then each chunk is computed again with a graph. One more forward pass, and
the memory of one chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Embed = Callable[[Tensor], Tensor]


def backward_in_chunks(
    model: nn.Module, embed: Embed, rows: Tensor, loss_of: Callable[[Tensor], Tensor], chunk: int
) -> Tensor:
    """Add the gradients of ``loss_of(embed(rows))`` to the model's, ``chunk`` rows at a time.

    Returns the loss, detached. Batch norms see a chunk, not the whole batch; their running
    statistics are updated once per chunk. What drops out, drops out of both passes.
    """
    pieces = rows.split(chunk)
    if len(pieces) == 1:
        loss = loss_of(embed(rows))
        loss.backward()
        return loss.detach()
    with torch.no_grad(), frozen_statistics(model), torch.random.fork_rng():
        vectors = torch.cat([embed(piece) for piece in pieces])
    vectors = vectors.detach().requires_grad_()
    loss = loss_of(vectors)
    loss.backward()  # of what the loss itself learns, too
    assert vectors.grad is not None
    for piece, of in zip(pieces, vectors.grad.split(chunk), strict=True):
        embed(piece).backward(of)
    return loss.detach()


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch norms normalise by the batch without remembering it."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    counts = [
        None if n.num_batches_tracked is None else n.num_batches_tracked.clone() for n in norms
    ]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            if count is not None:
                norm.num_batches_tracked.copy_(count)
