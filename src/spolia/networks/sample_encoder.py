"""The encoder of samples: four seconds of sound → one unit vector, every half second.

A sample in a new track is pitched, stretched, equalised and covered by other sounds. As the segment
encoder, this one is convolutional in time, so that overlapping windows share all work: strided
convolutions down to one column per half second, one convolution over columns, then a generalised
mean (Radenović et al. 2018) over those that a window covers, since a sample may fill only part of
it. Half of each band's local mean is taken off, so that equalisers and steady sounds count less.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spolia.networks.front_end import FrontEndConfig, LogBandEncoder, Windowing
from spolia.networks.segment_encoder import DownBlock, strided_trunk, unit_norm

MOST = 4.0  # deviations up to which short nodes are kept, so that 8 bits tell them apart
SHORT = 1000  # frames up to which running means are differences of sums, exact enough


@dataclass(frozen=True)
class SampleFrontEnd(FrontEndConfig):
    """Settings of the log-frequency spectrogram: six octaves, two bands a semitone."""

    sample_rate: int = 16000  # Hz
    n_fft: int = 2048  # 128 ms
    hop_length: int = 512  # 32 ms
    n_bands: int = 144
    bands_per_octave: int = 24
    f_min: float = 100.0  # Hz


@dataclass(frozen=True)
class SampleEncoderConfig(Windowing):
    """Shape of the encoder."""

    front_end: SampleFrontEnd = field(default_factory=SampleFrontEnd)
    channels: tuple[int, ...] = (16, 40, 96, 192)  # after each strided convolution
    n_blocks: tuple[int, ...] = (0, 0, 0, 0)  # residual blocks after each strided convolution
    columns: int = 7  # that a window covers, one per hop
    hidden: int = 384  # of a column
    dim: int = 192  # size of the vector
    peaks: bool = False  # also see what stands out of its surroundings, as evidence is measured by
    node_dim: int = 0  # of a node, short enough to be stored; 0: as the trunk ends

    @property
    def hop_frames(self) -> int:
        """Frames between windows."""
        return int(2 ** len(self.channels))

    @property
    def segment_frames(self) -> int:
        """Frames that one window sees."""
        return 2 * self.hop_frames - 1 + (self.columns - 1) * self.hop_frames


class BandStandardisation(nn.Module):
    """Subtracts half of each band's local mean, then standardises over all bands.

    Means are running ones over a window, so that a vector depends on nothing but its own sound and
    what is around it. Silence gives zeros.
    """

    def __init__(self, n_frames: int, softening: float = 0.1) -> None:
        super().__init__()
        self.n_frames, self.softening = n_frames, softening

    def forward(self, log_power: Tensor) -> Tensor:
        """Map [shape=(n_batch, n_bands, n_frames)] to the same shape."""
        centred = log_power - 8.0
        flat = centred - 0.5 * self._mean(centred)
        moments = self._mean(torch.stack([flat.mean(1), flat.square().mean(1)], dim=1))
        mean, square = moments[:, :1], moments[:, 1:]
        deviation = (square - mean.square()).clamp(min=0.0).sqrt()
        return (flat - mean) / (deviation + self.softening)

    def _mean(self, x: Tensor) -> Tensor:
        half, n = self.n_frames // 2, x.shape[2]
        if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export() or n > SHORT:
            return F.avg_pool1d(x, self.n_frames, 1, half, count_include_pad=False)
        # PyTorch's pooling adds every window up anew: a seventh of a training step.
        total = F.pad(x.cumsum(2), (1, 0))
        frame = torch.arange(n, device=x.device)
        last, first = (frame + half + 1).clamp(max=n), (frame - half).clamp(min=0)
        return (total[:, :, last] - total[:, :, first]) / (last - first)


class Peaks(nn.Module):
    """Levels above the mean of their surroundings, and their rise.

    What lies over a sample hides some of these but moves none, as :mod:`spolia.sample_alignment`
    relies on. Silence gives zeros.
    """

    n_bands, n_frames = 13, 17  # of the surroundings: half an octave, half a second

    def forward(self, log_power: Tensor) -> Tensor:
        """Map [shape=(n_batch, n_bands, n_frames)] to the same shape, not negative."""
        around = log_power[:, None]  # one direction after the other: ten times as fast as both
        for size in ((self.n_bands, 1), (1, self.n_frames)):
            beside = tuple(n // 2 for n in size)
            around = F.avg_pool2d(around, size, 1, beside, count_include_pad=False)
        above = F.relu(log_power - around[:, 0])
        before = F.pad(above[:, :, :-1], (1, 0))
        return above + F.relu(above - before)


def _stages(trunk: nn.Sequential) -> list[list[int]]:
    """Return the places of each strided convolution and of the blocks that follow it."""
    stages: list[list[int]] = []
    for place, layer in enumerate(trunk):
        if isinstance(layer, DownBlock):
            stages.append([])
        stages[-1].append(place)
    return stages


class SampleEncoder(LogBandEncoder):
    """Waveform → one unit vector per window, one window every half second."""

    def __init__(self, config: SampleEncoderConfig) -> None:
        super().__init__(config.front_end)
        self.config = config
        self.standardise = BandStandardisation(config.segment_frames)
        self.peaks = Peaks() if config.peaks else None
        self.trunk = strided_trunk(config.channels, config.n_blocks, n_in=1 + config.peaks)
        n_in = config.channels[-1]
        n_rows = -(-config.front_end.n_bands // config.hop_frames)
        self.columns = nn.Sequential(
            nn.Conv2d(n_in, config.hidden, (n_rows, 1), bias=False),
            nn.BatchNorm2d(config.hidden),
            nn.ReLU(),
            nn.Conv2d(config.hidden, config.hidden, (1, 3), bias=False),
            nn.BatchNorm2d(config.hidden),
            nn.ReLU(),
        )
        self.power = nn.Parameter(torch.tensor(3.0))
        self.head = nn.Sequential(
            nn.Conv1d(config.hidden, config.hidden, 1),
            nn.ReLU(),
            nn.Conv1d(config.hidden, config.dim, 1),
        )

        self.shorten = nn.Linear(n_in, config.node_dim) if config.node_dim else None

    @torch.no_grad()
    def grown_from(self, smaller: SampleEncoder) -> dict[str, Tensor]:
        """Return weights by which this network computes what a smaller one does.

        New residual blocks begin as the identity, the weights of a new input as 0 (Chen et al.,
        *Net2Net*, ICLR 2016). RuntimeError where something else differs.
        """
        state = self.state_dict()
        known = {k: v for k, v in smaller.state_dict().items() if not k.startswith("trunk.")}
        for mine, theirs in zip(_stages(self.trunk), _stages(smaller.trunk), strict=True):
            for place, name in enumerate(mine):
                prefix = f"trunk.{name}."
                if place >= len(theirs):
                    state[f"{prefix}norm2.weight"].zero_()
                    continue
                for key, value in smaller.trunk[theirs[place]].state_dict().items():
                    own = state[prefix + key]
                    if own.ndim == 4 and own.shape[1] > value.shape[1]:
                        value = F.pad(value, (0, 0, 0, 0, 0, own.shape[1] - value.shape[1]))
                    known[prefix + key] = value
        return {**{k: v for k, v in state.items() if k.startswith("trunk.")}, **known}

    def embed(self, log_power: Tensor) -> Tensor:
        """Map log power (n_batch, n_bands, n_frames) to unit vectors (n_batch, n_windows, dim)."""
        return self._vectors(self._grid(log_power))

    def nodes(self, log_power: Tensor) -> Tensor:
        """Map log power to what a window's vector is made of (n_batch, n_windows, n_nodes, d).

        A node for each row of bands and column of time that the trunk ends with, row by row. Where
        ``node_dim`` is set, see :func:`spolia.networks.node_matching.compression`.
        """
        return self._nodes(self._grid(log_power))

    def with_nodes(self, log_power: Tensor) -> tuple[Tensor, Tensor]:
        """Return what :meth:`embed` and :meth:`nodes` return, at the cost of one."""
        grid = self._grid(log_power)
        return self._vectors(grid), self._nodes(grid)

    def _grid(self, log_power: Tensor) -> Tensor:
        """Return the trunk's features (n_batch, d, n_rows, n_columns)."""
        x = self.standardise(log_power)[:, None]
        if self.peaks is not None:
            x = torch.cat([x, self.peaks(log_power)[:, None]], dim=1)
        return self.trunk(x.contiguous(memory_format=torch.channels_last))

    def _vectors(self, grid: Tensor) -> Tensor:
        x = self.columns(grid)[:, :, 0].float()  # (B, hidden, columns)
        pooled = F.avg_pool1d(x.clamp(min=1e-4).pow(self.power), self.config.columns - 2, 1)
        x = self.head(pooled.pow(1.0 / self.power))
        return unit_norm(x.transpose(1, 2))

    def _nodes(self, grid: Tensor) -> Tensor:
        n = self.config.columns
        if self.shorten is not None:
            short = self.shorten(grid.movedim(1, 3).float())
            grid = short.clamp(-MOST, MOST).movedim(3, 1)
        n_windows = grid.shape[3] - n + 1
        windows = torch.stack([grid[..., i : i + n_windows] for i in range(n)], dim=3)
        return windows.permute(0, 4, 2, 3, 1).flatten(2, 3).float()
