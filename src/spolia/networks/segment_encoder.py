"""The default fingerprint encoder: small, and convolutional in time so that segments share work.

Convolutions are padded along frequency but never along time, with stride 2 in both; four of them
see exactly 31 frames (1.0625 s of sound) and step 16 frames (0.5 s). A vector of a segment in a
long recording is therefore the vector of that segment alone, up to the window of the local
standardisation. Residual blocks with kernels along frequency only add depth without widening the
view. The encoder takes the place of NAFP's (Chang et al., ICASSP 2021, ``nafp.py``) at about 1/25
of its operations per second of audio.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spolia.networks.front_end import (
    FrontEndConfig,
    LocalStandardisation,
    LogBandEncoder,
    Windowing,
)


@dataclass(frozen=True)
class SegmentEncoderConfig(Windowing):
    """Shape of the encoder."""

    front_end: FrontEndConfig = field(default_factory=FrontEndConfig)
    channels: tuple[int, ...] = (32, 64, 128, 256)  # after each strided convolution
    n_blocks: tuple[int, ...] = (0, 1, 1, 1)  # residual blocks after each strided convolution
    hidden: int = 512  # width of the projection head
    dim: int = 128  # size of the vector

    @property
    def segment_frames(self) -> int:
        """Frames that one vector sees: 2^(n+1) − 1."""
        return int(2 ** (len(self.channels) + 1)) - 1

    @property
    def hop_frames(self) -> int:
        """Frames between vectors: 2^n."""
        return int(2 ** len(self.channels))


class DownBlock(nn.Module):
    """3 × 3 convolution, stride 2 both ways, padded along frequency only."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 3, stride=2, padding=(1, 0), bias=False)
        self.norm = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n_batch, n_in, n_bands, n_frames) to (n_batch, n_out, n_bands/2, (n_frames−1)/2)."""
        return F.relu(self.norm(self.conv(x)))


class FrequencyBlock(nn.Module):
    """Residual block of two convolutions along frequency; its view in time stays one frame."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_channels, n_channels, (3, 1), padding=(1, 0), bias=False)
        self.norm1 = nn.BatchNorm2d(n_channels)
        self.conv2 = nn.Conv2d(n_channels, n_channels, (3, 1), padding=(1, 0), bias=False)
        self.norm2 = nn.BatchNorm2d(n_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(y)))


def strided_trunk(
    channels: tuple[int, ...], n_blocks: tuple[int, ...], n_in: int = 1
) -> nn.Sequential:
    """Return strided convolutions, each followed by its number of residual blocks."""
    layers: list[nn.Module] = []
    for n_out, n in zip(channels, n_blocks, strict=True):
        layers.append(DownBlock(n_in, n_out))
        layers.extend(FrequencyBlock(n_out) for _ in range(n))
        n_in = n_out
    return nn.Sequential(*layers)


class SegmentEncoder(LogBandEncoder):
    """Waveform → one unit vector per segment, one segment every half second."""

    def __init__(self, config: SegmentEncoderConfig) -> None:
        super().__init__(config.front_end)
        self.config = config
        self.standardise = LocalStandardisation(config.segment_frames)
        self.trunk = strided_trunk(config.channels, config.n_blocks)
        n_in = config.channels[-1]
        n_rows = -(-config.front_end.n_bands // 2 ** len(config.channels))
        self.head = nn.Sequential(
            nn.Conv2d(n_in, config.hidden, (n_rows, 1), bias=False),
            nn.BatchNorm2d(config.hidden),
            nn.ReLU(),
            nn.Conv2d(config.hidden, config.dim, 1),
        )

    def embed(self, log_power: Tensor) -> Tensor:
        """Map log power (n_batch, n_bands, n_frames) to unit vectors (n_batch, n_segments, dim)."""
        x = self.standardise(log_power)[:, None]  # (B, 1, n_bands, n_frames)
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.head(self.trunk(x))  # (B, dim, 1, n_segments)
        return unit_norm(x[:, :, 0].transpose(1, 2).float())


def unit_norm(x: Tensor) -> Tensor:
    """Scale the last axis to unit length; a zero vector stays zero."""
    return x / x.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()
