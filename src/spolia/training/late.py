"""Late interaction as a loss: a mixture's nodes look for theirs in all windows of a batch.

Search compares nodes where vectors have led it (:mod:`spolia.sample_agreement`); here the trunk
learns to make them worth comparing. The rest of the batch stands for the library: a similarity
counts by how far it is beyond what a node finds in other windows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from spolia.errors import TrainingError
from spolia.networks.sample_encoder import SampleEncoder
from spolia.sample_agreement import BESIDE, RARE, SOFTENING
from spolia.training.recipe import Recipe

SOFTNESS = 0.25  # deviations: what is less rare counts a little, so that it can be learned


class Late:
    """What of a batch's loss its nodes are; they travel behind the vectors, in one tensor."""

    def __init__(self, recipe: Recipe, model: Any) -> None:
        """Take the recipe and its encoder; raises TrainingError where there is nothing to train."""
        if not isinstance(model, SampleEncoder) or model.shorten is None or not recipe.sampling.use:
            raise TrainingError(
                f"{recipe.name}: [late] trains short nodes on mixtures; give "
                'architecture = "sample", a node_dim in [model] and use = true in [sampling]'
            )
        self.config, self.model = recipe.late, model
        self.dim, self.n_columns = model.config.dim, model.config.columns
        self.node_dim = model.config.node_dim

    def packed(self, log_power: Tensor, model: Any = None) -> Tensor:
        """Return vectors with their nodes behind them [shape=(n_batch, n_windows, …)].

        model: with other weights than the one that is trained.
        """
        vectors, nodes = (model or self.model).with_nodes(log_power)
        return torch.cat([vectors, nodes.flatten(2)], dim=2)

    def vectors(self, packed: Tensor) -> Tensor:
        """Return the vectors [shape=(…, dim)]."""
        return packed[..., : self.dim]

    def agreement(self, mixtures: Tensor, windows: Tensor) -> Tensor:
        """Return :func:`rare_agreement` of packed rows [shape=(n, …)], over the temperature."""
        asking, asked = (
            rows[:, self.dim :].unflatten(1, (-1, self.node_dim)) for rows in (mixtures, windows)
        )
        return rare_agreement(asking, asked, n_columns=self.n_columns) / self.config.temperature


def rare_agreement(mixtures: Tensor, windows: Tensor, *, n_columns: int) -> Tensor:
    """Return how much of each mixture is rarely similar to each window [shape=(n, m)].

    mixtures, windows: nodes, row by row of bands, of any length [shape=(n, n_nodes, d)] and
    [shape=(m, n_nodes, d)]. A node looks for its most similar one among those of its row and the
    rows beside it, and of its column and those beside it; by how many deviations the similarity is
    beyond RARE of all windows' is summed.
    """
    asking, asked = (_grid(nodes, n_columns) for nodes in (mixtures, windows))
    total = torch.zeros(len(mixtures), len(windows), device=mixtures.device)
    for row in range(len(asking)):
        rows = asked[max(0, row - 1) : row + 2]
        total = total + _of_row(asking[row], rows)
    return total


def _of_row(asking: Tensor, asked: Tensor) -> Tensor:
    """Return what one row of bands adds; computed again for the gradient, since it is large.

    asking: unit nodes [shape=(n_columns, n, d)]; asked: [shape=(n_rows, n_columns, m, d)].
    """
    if torch.is_grad_enabled():
        found: Tensor = checkpoint(_evidence, asking, asked, use_reentrant=False)
        return found
    return _evidence(asking, asked)


def _evidence(asking: Tensor, asked: Tensor) -> Tensor:
    def cosines_of(some: Tensor, others: Tensor) -> Tensor:
        return torch.einsum("cnd,rcmd->rcnm", some, others).amax(0)

    cosines = cosines_of(asking, asked)
    nothing = torch.full_like(cosines[:1], -1.0)
    before = torch.cat([nothing, cosines_of(asking[1:], asked[:, :-1])])
    after = torch.cat([cosines_of(asking[:-1], asked[:, 1:]), nothing])
    cosines = torch.maximum(cosines, BESIDE * torch.maximum(before, after))
    cosines = cosines.float()
    mean, deviation = cosines.mean(2, keepdim=True), cosines.std(2, keepdim=True)
    rarity = (cosines - mean) / (deviation + SOFTENING[0]) - RARE
    return (SOFTNESS * F.softplus(rarity / SOFTNESS)).sum(0)


def _grid(nodes: Tensor, n_columns: int) -> Tensor:
    """Return unit nodes by row and column [shape=(n_rows, n_columns, n, d)]."""
    units = F.normalize(nodes, dim=-1).unflatten(1, (-1, n_columns))
    return units.permute(1, 2, 0, 3)


def mixture_contrast(agreement: Tensor, groups: Tensor, others: Tensor) -> Tensor:
    """Return the cross-entropy of mixtures, each of which holds two windows, and of the windows.

    agreement: of mixture i with window j, over the temperature [shape=(n, n)]; groups: of the
    windows, int64 [shape=(n,)]; others: mixture i holds windows i and ``others[i]``. As
    :func:`spolia.training.losses.mixture_nt_xent`, but windows are compared with mixtures alone.
    """
    second = groups[others]
    related = (groups[:, None] == groups) | (second[:, None] == groups)
    rivals = agreement.masked_fill(related, float("-inf"))
    row = torch.arange(len(groups), device=groups.device)
    mixture, window = torch.cat([row, row]), torch.cat([row, others])
    positive = agreement[mixture, window]
    of_mixtures = F.softplus(rivals.logsumexp(1)[mixture] - positive)
    of_windows = F.softplus(rivals.logsumexp(0)[window] - positive)
    return (of_mixtures.mean() + of_windows.mean()) / 2
