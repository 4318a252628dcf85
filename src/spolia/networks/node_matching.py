"""A classifier that looks for a window's nodes among another's: cross-attention that starts right.

Attention with random weights takes thousands of steps to notice that equal sounds have equal nodes.
Here it begins as late interaction (Khattab and Zaharia, *ColBERT*, SIGIR 2020): a node attends to
those that are most similar to it and nearly at its place; how similar they are is its evidence, and
the nodes with most of it decide, since a bed hides the others. What each head looks at, how far it
looks, and what the answers say beyond their similarity is learned from there.

Cosines leave out a factor of the nodes, so that they may be stored in 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spolia.errors import TrainingError


@dataclass(frozen=True)
class NodeMatchingConfig:
    """Shape of the classifier, and where it begins."""

    dim_in: int = 64  # of a node
    n_nodes: int = 77  # of a window, row by row of bands
    n_columns: int = 7  # of time
    n_heads: int = 4
    hidden: int = 32
    dropout: float = 0.1
    sharpness: float = 12.0  # of attention, per cosine
    strictness: float = 12.0  # of the mean over nodes, per evidence
    near: tuple[int, int] = (1, 2)  # rows and columns within which nodes are looked for at first
    penalty: float = 3.0  # of those beyond

    def __post_init__(self) -> None:
        """Check what can be wrong."""
        if self.n_nodes % self.n_columns:
            raise TrainingError(
                f"n_nodes is {self.n_nodes}, no multiple of n_columns {self.n_columns}; change one"
            )


class NodeMatching(nn.Module):
    """Two node matrices → a logit, the same for either order of the two."""

    relative: Tensor

    def __init__(self, config: NodeMatchingConfig) -> None:
        super().__init__()
        self.config = config
        n, dim = config.n_heads, config.dim_in
        self.heads = nn.Parameter(torch.eye(dim).repeat(n, 1, 1) + 0.02 * torch.randn(n, dim, dim))
        self.bias = nn.Parameter(_nearness(config).repeat(n, 1))
        self.register_buffer("relative", _relative(config), persistent=False)
        self.sharpness = nn.Parameter(torch.full((n, 1, 1), config.sharpness).log())
        self.strictness = nn.Parameter(torch.tensor(config.strictness).log())
        self.share = nn.Parameter(torch.full((n,), 1.0 / n))
        self.judge = nn.Sequential(
            nn.Linear(n * dim + n + dim, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, 1, bias=False),
        )
        with torch.no_grad():
            self.judge[3].weight.mul_(0.1)
        self.out = nn.Parameter(torch.tensor([8.0, -5.0]))  # cosines of about 0.6 are undecided

    def forward(self, query: Tensor, candidate: Tensor) -> Tensor:
        """Map node matrices of two windows (B, n_nodes, dim_in) to logits (B,)."""
        asking, asked = self._heads(query), self._heads(candidate)
        cosines = asking @ asked.transpose(2, 3)  # (B, heads, n, n)
        forth = self._evidence(query, asking, asked, cosines)
        back = self._evidence(candidate, asked, asking, cosines.transpose(2, 3))
        return (forth + back) / 2 * self.out[0] + self.out[1]

    def _heads(self, nodes: Tensor) -> Tensor:
        """Return what each head sees, unit norm (B, heads, n_nodes, dim_in)."""
        return F.normalize(torch.einsum("bnd,hde->bhne", nodes, self.heads), dim=-1)

    def _evidence(self, nodes: Tensor, asking: Tensor, asked: Tensor, cosines: Tensor) -> Tensor:
        """Return how well the asking nodes are found among those asked (B,)."""
        weights = (cosines * self.sharpness.exp() + self.bias[:, self.relative]).softmax(-1)
        similar = (weights * cosines).sum(-1)  # (B, heads, n)
        agreeing = asking * (weights @ asked) * self.config.dim_in**0.5
        own = F.layer_norm(nodes, (self.config.dim_in,))
        seen = torch.cat([agreeing.transpose(1, 2).flatten(2), similar.transpose(1, 2), own], dim=2)
        evidence = torch.einsum("bhn,h->bn", similar, self.share) + self.judge(seen)[..., 0]
        return ((evidence * self.strictness.exp()).softmax(1) * evidence).sum(1)


def _relative(config: NodeMatchingConfig) -> Tensor:
    """Return the number of the difference between two nodes' places (n_nodes, n_nodes)."""
    n_rows = config.n_nodes // config.n_columns
    place = torch.arange(config.n_nodes)
    rows, columns = place // config.n_columns, place % config.n_columns
    down = rows[:, None] - rows + n_rows - 1
    across = columns[:, None] - columns + config.n_columns - 1
    return down * (2 * config.n_columns - 1) + across


def _nearness(config: NodeMatchingConfig) -> Tensor:
    """Return what attention adds to each difference of places at first."""
    n_rows, n_columns = config.n_nodes // config.n_columns, config.n_columns
    down, across = torch.arange(1 - n_rows, n_rows).abs(), torch.arange(1 - n_columns, n_columns)
    far = (down[:, None] > config.near[0]) | (across.abs() > config.near[1])
    return -config.penalty * far.float().flatten()


@torch.no_grad()
def compression(
    nodes: Tensor, dim: int, *, whitening: float = 0.75
) -> tuple[Tensor, Tensor, float]:
    """Return weights (dim, d) and biases (dim,) that make nodes short, and what they keep.

    nodes: of windows drawn at random [shape=(n, d)]. Principal components of the standardised
    channels, their deviations to the power ``1 - whitening``, then divided by the mean deviation:
    common sounds count less, and what is stored has one scale. What is kept is the share of the
    standardised nodes' variance along these components.
    """
    mean, deviation = nodes.mean(0), nodes.std(0) + 1e-3
    flat = (nodes - mean) / deviation
    values, axes = torch.linalg.eigh(flat.T @ flat / len(flat))
    kept = float(values[-dim:].sum() / values.sum())
    values, axes = values.flip(0)[:dim].clamp(min=1e-4), axes.flip(1)[:, :dim]
    scale = values.pow((1.0 - whitening) / 2).mean()
    weight = (axes / values.pow(whitening / 2) / scale).T / deviation
    return weight, -weight @ mean, kept
