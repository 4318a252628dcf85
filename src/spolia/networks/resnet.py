"""Residual networks over a picture of one channel (He et al., CVPR 2016), with or without IBN.

Pan, X., Luo, P., Shi, J., Tang, X.: Two at once: enhancing learning and generalization capacities
via IBN-Net. ECCV 2018: half of a block's first channels are normalised over their own picture, so
that what is only colour or level there drops out (IBN-a).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class InstanceBatchNorm(nn.Module):
    """Instance norm over the first half of the channels, batch norm over the others (IBN-a)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n_instance = n // 2
        self.instance = nn.GroupNorm(self.n_instance, self.n_instance)  # a channel is a group
        self.batch = nn.BatchNorm2d(n - self.n_instance)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, n, H, W)."""
        own, others = x[:, : self.n_instance], x[:, self.n_instance :]
        return torch.cat([self.instance(own), self.batch(others)], dim=1)


class Conv(nn.Sequential):
    """Convolution without bias, a norm and, unless ``active`` is None, an activation."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        active: Callable[..., nn.Module] | None = nn.ReLU,
        norm: type[nn.Module] = nn.BatchNorm2d,
    ) -> None:
        convolution = nn.Conv2d(
            n_in, n_out, size, stride, padding=size // 2, groups=groups, bias=False
        )
        super().__init__(convolution, norm(n_out), *([active(inplace=True)] if active else []))


class Residual(nn.Module):
    """A residual block of two convolutions, or of three around a bottleneck (He et al. 2016)."""

    def __init__(
        self,
        n_in: int,
        width: int,
        *,
        stride: int,
        bottleneck: bool,
        norm: type[nn.Module] = nn.BatchNorm2d,
    ) -> None:
        """Take the norm of the first convolution; the others have batch norms."""
        super().__init__()
        self.n_out = 4 * width if bottleneck else width
        self.body = (
            nn.Sequential(
                Conv(n_in, width, 1, norm=norm),
                Conv(width, width, 3, stride=stride),
                Conv(width, self.n_out, 1, active=None),
            )
            if bottleneck
            else nn.Sequential(
                Conv(n_in, width, 3, stride=stride, norm=norm), Conv(width, width, 3, active=None)
            )
        )
        same = stride == 1 and n_in == self.n_out
        self.short = (
            nn.Identity() if same else Conv(n_in, self.n_out, 1, stride=stride, active=None)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n_in, H, W) to (B, n_out, H / stride, W / stride)."""
        return F.relu(self.body(x) + self.short(x))


def resnet(
    blocks: tuple[int, ...],
    *,
    bottleneck: bool,
    width: int = 64,
    n_ibn: int = 0,
    last_stride: int = 2,
) -> tuple[nn.Sequential, int]:
    """Return the features of a residual network and their number (He et al. 2016, table 1).

    width: of the stem and the first stage; n_ibn: stages with IBN-a, three as published;
    last_stride: of the last stage, 1 where its places are pooled for retrieval.
    """
    layers: list[nn.Module] = [Conv(1, width, 7, stride=2), nn.MaxPool2d(3, 2, padding=1)]
    strides = [1, *[2] * (len(blocks) - 2), last_stride]
    n = width
    for stage, depth in enumerate(blocks):
        norm = InstanceBatchNorm if stage < n_ibn else nn.BatchNorm2d
        for i in range(depth):
            block = Residual(
                n,
                width << stage,
                stride=1 if i else strides[stage],
                bottleneck=bottleneck,
                norm=norm,
            )
            layers.append(block)
            n = block.n_out
    return nn.Sequential(*layers), n
