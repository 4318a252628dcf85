"""The cross-attention classifier: does this window sound in that one?

The nodes of a query's window ask the nodes of a candidate's window (Vaswani et al. 2017): each is
given the mix of the candidate's nodes that answers it. Their mean decides. One number comes out,
the logit of "the same sound is in both".

Bhattacharjee et al., ISMIR 2025 (arXiv 2506.14684), whose encoder is in ``graph_encoder.py``.
Chen, Q. et al.: Enhanced LSTM for natural language inference. ACL 2017 (difference and product).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spolia.errors import TrainingError


@dataclass(frozen=True)
class CrossAttentionConfig:
    """Shape of the classifier; the defaults are the published ones."""

    dim_in: int = 512  # of a node
    n_nodes: int = 32  # of a window
    width: int = 512  # of attention; nodes are projected where they have another
    n_heads: int = 4
    hidden: int = 128
    dropout: float = 0.3
    compared: bool = False  # judge answers beside their difference and product with what asked
    both_ways: bool = False  # the candidate asks too; the mean of both logits is symmetric

    def __post_init__(self) -> None:
        """Check what can be wrong."""
        if self.width % self.n_heads:
            raise TrainingError(
                f"width is {self.width}, no multiple of n_heads {self.n_heads}; change one"
            )


SIZES: dict[str, dict[str, Any]] = {
    "as-printed": {},
    "nano": {"dim_in": 256, "width": 128, "hidden": 64, "compared": True, "both_ways": True},
}


class CrossAttention(nn.Module):
    """Multi-head attention of one set of nodes to another.

    Keys have no bias: it would add one number to all of a query's weights, which softmax ignores.
    """

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, asking: Tensor, asked: Tensor) -> Tensor:
        """Map (B, n, width) and (B, m, width) to answers (B, n, width)."""
        query, key, value = (
            part.unflatten(2, (self.n_heads, -1)).transpose(1, 2)  # (B, heads, n, d)
            for part in (self.query(asking), self.key(asked), self.value(asked))
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))


class CrossAttentionClassifier(nn.Module):
    """Two node matrices → a logit."""

    def __init__(self, config: CrossAttentionConfig) -> None:
        super().__init__()
        self.config = config
        projects = config.width != config.dim_in
        self.into = nn.Linear(config.dim_in, config.width) if projects else nn.Identity()
        self.places = nn.Parameter(0.02 * torch.randn(config.n_nodes, config.width))
        self.attention = CrossAttention(config.width, config.n_heads)
        n_judged = 3 * config.width if config.compared else config.width
        self.judge = nn.Sequential(
            nn.Linear(n_judged, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, 1),
        )

    def forward(
        self,
        query: Tensor,
        candidate: Tensor,
        query_places: Tensor | None = None,
        candidate_places: Tensor | None = None,
    ) -> Tensor:
        """Map node matrices of two windows (B, n_nodes, dim_in) to logits (B,).

        places: of the nodes in the encoder's grid, int64 [shape=(n_nodes,)], if they are in another
        order; the logit does not depend on the order.
        """
        asking = self.into(query) + self._placed(query_places)
        asked = self.into(candidate) + self._placed(candidate_places)
        logit = self._judged(asking, asked)
        if self.config.both_ways:
            logit = (logit + self._judged(asked, asking)) / 2
        return logit

    def _placed(self, places: Tensor | None) -> Tensor:
        return self.places if places is None else self.places[places]

    def _judged(self, asking: Tensor, asked: Tensor) -> Tensor:
        answers = self.attention(asking, asked)
        if self.config.compared:
            answers = torch.cat([answers, (asking - answers).abs(), asking * answers], dim=2)
        return self.judge(answers.mean(1))[:, 0]
