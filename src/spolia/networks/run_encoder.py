"""The embedding encoder of AMG-Embedding: a run of segment vectors → one unit vector.

A standard transformer encoder without positions over up to 30 s of segment fingerprints, a mean
over the vectors that are there, a linear layer and L2 normalisation: 4,023,680 parameters at the
published size (10 layers, 8 heads, 256 wide, feed-forward 256, post-norm, ReLU). Positions, a norm
before each part and GELU are settings.

Su, Y., Hu, W., Zhang, F., Xu, Q.: AMG-Embedding: a self-supervised embedding approach for audio
identification. ACM MM 2024.
Vaswani, A. et al.: Attention is all you need. NIPS 2017.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spolia.errors import TrainingError
from spolia.networks.run_backbones import BACKBONES, PICTURES, Picture, Recurrent
from spolia.networks.segment_encoder import unit_norm

POSITIONS = ("none", "sinusoidal", "learned")


@dataclass(frozen=True)
class RunEncoderConfig:
    """Shape of the encoder; the defaults are the published ones."""

    dim_in: int = 128  # of a segment vector
    dim: int = 128  # of a run's vector
    backbone: str = "transformer"  # or another of BACKBONES
    longest: int = 19  # segment vectors of a run: 9, 19, 29, 59 for 5, 10, 15, 30 s
    n_layers: int = 10  # this and what follows: of the transformer; "bilstm" has layers and width
    n_heads: int = 8
    hidden: int = 256
    feed_forward: int = 256
    dropout: float = 0.1
    positions: str = "none"  # or "sinusoidal", "learned"
    pre_norm: bool = False  # norm before attention and feed-forward instead of after
    gelu: bool = False  # instead of ReLU
    from_mean: bool = False  # the network adds to the run's mean vector, and begins as it

    def __post_init__(self) -> None:
        """Check what can be wrong."""
        if self.positions not in POSITIONS:
            known = ", ".join(POSITIONS)
            raise TrainingError(f"positions is {self.positions!r}; choose from: {known}")
        if self.backbone not in BACKBONES:
            known = ", ".join(BACKBONES)
            raise TrainingError(f"backbone is {self.backbone!r}; choose from: {known}")
        if self.from_mean and self.dim != self.dim_in:
            raise TrainingError(
                f"from_mean needs run vectors of the segments' size {self.dim_in}, not {self.dim}; "
                "give both one size, or from_mean = false"
            )
        if self.hidden % self.n_heads:
            raise TrainingError(
                f"hidden is {self.hidden}, no multiple of n_heads {self.n_heads}; change one"
            )


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.into = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, heard: Tensor) -> Tensor:
        """Map (B, L, width) to the same shape; heard: bool (B, L), False where nothing is."""
        n_batch, n, width = x.shape
        shape = (n_batch, n, 3, self.n_heads, width // self.n_heads)
        query, key, value = self.into(x).view(shape).permute(2, 0, 3, 1, 4)  # (B, heads, L, d)
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=heard[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(mixed.transpose(1, 2).reshape(n_batch, n, width))


class Layer(nn.Module):
    """Attention and feed-forward, each with a residual, dropout and a layer norm."""

    def __init__(self, config: RunEncoderConfig) -> None:
        super().__init__()
        self.pre_norm, self.gelu = config.pre_norm, config.gelu
        self.attention = Attention(config.hidden, config.n_heads, config.dropout)
        self.first = nn.Linear(config.hidden, config.feed_forward)
        self.second = nn.Linear(config.feed_forward, config.hidden)
        self.norm1, self.norm2 = nn.LayerNorm(config.hidden), nn.LayerNorm(config.hidden)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, heard: Tensor) -> Tensor:
        """Keep the shape (B, L, hidden)."""
        if self.pre_norm:
            x = x + self.drop(self.attention(self.norm1(x), heard))
            return x + self.drop(self._feed_forward(self.norm2(x)))
        x = self.norm1(x + self.drop(self.attention(x, heard)))
        return self.norm2(x + self.drop(self._feed_forward(x)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(self.drop(F.gelu(x) if self.gelu else F.relu(x)))


class Transformer(nn.Module):
    """Segment vectors → the mean of what a transformer encoder makes of them."""

    def __init__(self, config: RunEncoderConfig) -> None:
        super().__init__()
        self.n_features = config.hidden
        self.into = nn.Linear(config.dim_in, config.hidden)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.last = nn.LayerNorm(config.hidden) if config.pre_norm else nn.Identity()
        self.learned = config.positions == "learned"
        places = torch.zeros(config.longest, config.hidden)
        if self.learned:
            self.places = nn.Parameter(0.02 * torch.randn_like(places))
        else:
            if config.positions == "sinusoidal":
                places = sinusoids(config.longest, config.hidden)
            self.register_buffer("places", places, persistent=False)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """Map (B, L, dim_in) to (B, hidden); padding: bool (B, L), True where nothing is."""
        heard = ~padding
        x = self.into(x) + self.places[: x.shape[1]]
        for layer in self.layers:
            x = layer(x, heard)
        return mean_heard(self.last(x), heard)


def mean_heard(x: Tensor, heard: Tensor) -> Tensor:
    """Return the mean of (B, L, n) over what is heard (B, L); zeros where nothing is."""
    weight = heard[:, :, None].to(x.dtype)
    return x.mul(weight).sum(1) / weight.sum(1).clamp(min=1.0)


def sinusoids(n: int, width: int) -> Tensor:
    """Return the positions of Vaswani et al. 2017, section 3.5 [shape=(n, width)]."""
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle = torch.arange(n)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :width]


def trunk(config: RunEncoderConfig) -> Transformer | Recurrent | Picture:
    """Return the part of an encoder before its last layer."""
    if config.backbone == "transformer":
        return Transformer(config)
    if config.backbone == "bilstm":
        return Recurrent(config.dim_in, config.hidden, config.n_layers, longest=config.longest)
    return Picture(*PICTURES[config.backbone](), longest=config.longest)


class RunEncoder(nn.Module):
    """A run of segment vectors → one unit vector, any length from 1 to ``longest``."""

    def __init__(self, config: RunEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = trunk(config)
        self.out = nn.Linear(self.trunk.n_features, config.dim)
        if config.from_mean:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, runs: Tensor, padding: Tensor) -> Tensor:
        """Map runs (B, L, dim_in) to unit vectors (B, dim).

        padding: bool (B, L), True behind a run's end; a run of nothing but padding gives a finite
        vector.
        """
        nothing = padding.all(1, keepdim=True)
        first = torch.zeros_like(padding)
        first[:, 0] = True
        heard_somewhere = padding & ~(nothing & first)  # attention over nothing is NaN
        runs = runs.masked_fill(padding[:, :, None], 0.0)
        vectors = self.out(self.trunk(runs, heard_somewhere)).float()
        if self.config.from_mean:
            vectors = vectors + mean_heard(runs, ~padding)
        return unit_norm(vectors)
