"""What encoders share that see each window by itself: cutting, standardising, pooling.

A network whose layers reach over a whole window (a graph of its parts, norms over it) cannot share
work between overlapping windows as the convolutional encoders do. Windows are cut out of the
spectrogram, folded into the batch, and encoded alone: a vector depends on nothing but its window.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from spolia.networks.front_end import LogBandEncoder, Windowing
from spolia.networks.sample_encoder import SampleEncoder, SampleFrontEnd
from spolia.networks.segment_encoder import unit_norm


@dataclass(frozen=True)
class WindowConfig(Windowing):
    """Sizes that every encoder of windows has; 4.19 s every 0.512 s."""

    front_end: SampleFrontEnd = field(default_factory=SampleFrontEnd)
    segment_frames: int = 128  # of a window; a multiple of hop_frames
    hop_frames: int = 16  # between windows
    dim: int = 128  # size of the vector


def standardised(log_power: Tensor, softening: float = 0.1) -> Tensor:
    """Return windows less half of each band's mean, with zero mean and about unit deviation.

    log_power: [shape=(..., n_bands, n_frames)]. As ``BandStandardisation``, but of the window alone
    instead of its surroundings. Silence gives zeros.
    """
    flat = log_power - 0.5 * log_power.mean(-1, keepdim=True)
    flat = flat - flat.mean((-2, -1), keepdim=True)
    deviation = flat.square().mean((-2, -1), keepdim=True).sqrt()
    return flat / (deviation + softening)


class GeneralisedMean(nn.Module):
    """The generalised mean over places, its power learned (Radenović et al. 2018, eq. 3)."""

    def __init__(self, power: float = 3.0) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(power))

    def forward(self, x: Tensor) -> Tensor:
        """Map what is not negative (N, C, H, W) to (N, C)."""
        power = self.power.clamp(min=1.0)
        return x.float().clamp(min=1e-4).pow(power).mean((2, 3)).pow(1.0 / power)


class WindowEncoder(LogBandEncoder):
    """Waveform → one unit vector per window, and the nodes that it is the summary of."""

    def __init__(self, config: WindowConfig) -> None:
        super().__init__(config.front_end)
        self.config = config

    @abstractmethod
    def features(self, windows: Tensor) -> Tensor:
        """Map standardised windows (N, 1, n_bands, segment_frames) to a grid (N, d, H, W)."""

    @abstractmethod
    def pooled(self, grid: Tensor) -> Tensor:
        """Map grids (N, d, H, W) to vectors (N, dim) of any length."""

    def cut(self, log_power: Tensor) -> Tensor:
        """Cut (n_batch, n_bands, n_frames) into windows (n_batch, n_windows, n_bands, n)."""
        hop = self.config.hop_frames
        n_hops = self.config.segment_frames // hop
        blocks = log_power[..., : log_power.shape[2] // hop * hop].unflatten(2, (-1, hop))
        n_windows = log_power.shape[2] // hop - n_hops + 1
        shifted = [blocks[:, :, i : i + n_windows] for i in range(n_hops)]
        return torch.cat(shifted, dim=3).transpose(1, 2)

    def grids(self, log_power: Tensor) -> Tensor:
        """Return the features of each window of log power (n_batch · n_windows, d, H, W)."""
        windows = standardised(self.cut(log_power)).flatten(0, 1)[:, None]
        return self.features(windows.contiguous(memory_format=torch.channels_last))

    def embed(self, log_power: Tensor) -> Tensor:
        """Map log power (n_batch, n_bands, n_frames) to unit vectors (n_batch, n_windows, dim)."""
        return self._vectors(self.grids(log_power), log_power.shape[0])

    def nodes(self, log_power: Tensor) -> Tensor:
        """Map log power to node matrices (n_batch, n_windows, n_nodes, d), row by row of grids."""
        return self._nodes(self.grids(log_power), log_power.shape[0])

    def with_nodes(self, log_power: Tensor) -> tuple[Tensor, Tensor]:
        """Return what :meth:`embed` and :meth:`nodes` return, at the cost of one."""
        grids = self.grids(log_power)
        return self._vectors(grids, log_power.shape[0]), self._nodes(grids, log_power.shape[0])

    def _vectors(self, grids: Tensor, n_batch: int) -> Tensor:
        return unit_norm(self.pooled(grids).float()).unflatten(0, (n_batch, -1))

    def _nodes(self, grids: Tensor, n_batch: int) -> Tensor:
        return grids.flatten(2).transpose(1, 2).float().unflatten(0, (n_batch, -1))


NodeEncoder = SampleEncoder | WindowEncoder  # whose nodes a classifier compares
