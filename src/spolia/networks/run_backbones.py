"""The other backbones with which the paper compares its transformer (its table 3).

Each sees a run of segment vectors as a picture of one channel, L high and ``dim_in`` wide, zero
where the run is over; the recurrent one reads it vector by vector. The published sizes contain the
thousand-class layer of ImageNet between the features and the embedding; here the embedding follows
the features at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spolia.networks.resnet import Conv, resnet


class Dense(nn.Module):
    """A layer of a dense block: what it makes is put beside what it got (Huang et al. 2017)."""

    def __init__(self, n_in: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(n_in),
            nn.ReLU(inplace=True),
            nn.Conv2d(n_in, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(inplace=True),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n_in, H, W) to (B, n_in + growth, H, W)."""
        return torch.cat([x, self.body(x)], dim=1)


def densenet121() -> tuple[nn.Sequential, int]:
    """Return the features of DenseNet-121 and their number (Huang et al. 2017, table 1)."""
    growth, n = 32, 64
    layers: list[nn.Module] = [Conv(1, n, 7, stride=2), nn.MaxPool2d(3, 2, padding=1)]
    blocks = (6, 12, 24, 16)
    for number, depth in enumerate(blocks):
        for _ in range(depth):
            layers.append(Dense(n, growth))
            n += growth
        layers += [nn.BatchNorm2d(n), nn.ReLU(inplace=True)]
        if number < len(blocks) - 1:
            pool = nn.AvgPool2d(2, ceil_mode=True)  # short runs are one high by then
            layers += [nn.Conv2d(n, n // 2, 1, bias=False), pool]
            n //= 2
    return nn.Sequential(*layers), n


class Squeeze(nn.Module):
    """Weighs channels by what the whole picture holds (Hu et al. 2018)."""

    def __init__(self, n: int, n_squeezed: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(n, n_squeezed, 1), nn.Conv2d(n_squeezed, n, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, n, H, W)."""
        weight = self.second(F.silu(self.first(x.mean((2, 3), keepdim=True))))
        return cast(Tensor, x * weight.sigmoid())


class Inverted(nn.Module):
    """An inverted residual block: wide inside, narrow at its ends (Tan & Le 2019)."""

    def __init__(self, n_in: int, n_out: int, *, expand: int, size: int, stride: int) -> None:
        super().__init__()
        wide = n_in * expand
        grow = [Conv(n_in, wide, 1, active=nn.SiLU)] if expand > 1 else []
        self.body = nn.Sequential(
            *grow,
            Conv(wide, wide, size, stride=stride, groups=wide, active=nn.SiLU),
            Squeeze(wide, max(1, n_in // 4)),
            Conv(wide, n_out, 1, active=None),
        )
        self.adds = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n_in, H, W) to (B, n_out, H / stride, W / stride)."""
        made = self.body(x)
        return x + made if self.adds else made


# expansion, channels, blocks, stride, kernel: of EfficientNet-B0
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
WIDER, DEEPER = 1.2, 1.4  # B3


def efficientnet_b3() -> tuple[nn.Sequential, int]:
    """Return the features of EfficientNet-B3 and their number (Tan & Le 2019, table 1)."""

    def width(n: int) -> int:
        eights = max(8, int(n * WIDER + 4) // 8 * 8)
        return eights + 8 if eights < 0.9 * n * WIDER else eights

    n = width(32)
    layers: list[nn.Module] = [Conv(1, n, 3, stride=2, active=nn.SiLU)]
    for expand, channels, depth, stride, size in STAGES:
        for i in range(math.ceil(depth * DEEPER)):
            step = 1 if i else stride
            layers.append(Inverted(n, width(channels), expand=expand, size=size, stride=step))
            n = width(channels)
    layers.append(Conv(n, 4 * n, 1, active=nn.SiLU))
    return nn.Sequential(*layers), 4 * n


class Picture(nn.Module):
    """A convolutional network over the run as a picture, and the mean of what it makes."""

    def __init__(self, features: nn.Sequential, n_features: int, *, longest: int) -> None:
        super().__init__()
        self.features, self.n_features, self.longest = features, n_features, longest

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """Map (B, L, dim_in) to (B, n_features); padding: bool (B, L), True where nothing is."""
        shown = F.pad(x.masked_fill(padding[:, :, None], 0.0), (0, 0, 0, self.longest - x.shape[1]))
        return cast(Tensor, self.features(shown[:, None]).mean((2, 3)))


class Recurrent(nn.Module):
    """A bidirectional LSTM (Schuster & Paliwal 1997), and the mean of what it makes."""

    def __init__(self, dim_in: int, hidden: int, n_layers: int, *, longest: int) -> None:
        super().__init__()
        self.n_features, self.longest = 2 * hidden, longest
        self.layers = nn.LSTM(dim_in, hidden, n_layers, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """Map (B, L, dim_in) to (B, n_features); padding: bool (B, L), True where nothing is.

        What follows a run's end is read as silence, by the backward direction too.
        """
        beyond = self.longest - x.shape[1]
        heard = F.pad((~padding)[:, :, None].to(x.dtype), (0, 0, 0, beyond))
        x = F.pad(x, (0, 0, 0, beyond))
        made, _ = self.layers(x * heard)
        return (made * heard).sum(1) / heard.sum(1).clamp(min=1.0)


PICTURES: dict[str, Callable[[], tuple[nn.Sequential, int]]] = {
    "resnet18": lambda: resnet((2, 2, 2, 2), bottleneck=False),
    "resnet50": lambda: resnet((3, 4, 6, 3), bottleneck=True),
    "densenet121": densenet121,
    "efficientnet_b3": efficientnet_b3,
}
BACKBONES = ("transformer", "bilstm", *PICTURES)
