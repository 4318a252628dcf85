"""The encoder of samples: four seconds of sound → one unit vector, every half second.

A sample in a new track is pitched, stretched, equalised and covered by other sounds. As the segment
encoder, this one is convolutional in time, so that overlapping windows share all work: strided
convolutions down to one column per half second, one convolution over columns, then a generalised
mean (Radenović et al. 2018) over those that a window covers, since a sample may fill only part of
it. Half of each band's local mean is taken off, so that equalisers and steady sounds count less.

A new track holds more than one sound at a time, and one vector cannot be near all of them. So a
window of a query may have several vectors (``n_heard``), each near one of the sounds in it, as
slots are in source separation; a recording's window has one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spolia.networks.front_end import FrontEndConfig, LogBandEncoder, Windowing
from spolia.networks.segment_encoder import strided_trunk, unit_norm

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
    n_heard: int = 0  # vectors of a query's window; 0: one, the same as a recording's

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


class Listener(nn.Module):
    """Columns → one vector per window: a convolution over columns, a generalised mean, a head."""

    def __init__(self, config: SampleEncoderConfig) -> None:
        super().__init__()
        self.n_columns = config.columns - 2  # that the mean is over
        self.conv = nn.Conv2d(config.hidden, config.hidden, (1, 3), bias=False)
        self.norm = nn.BatchNorm2d(config.hidden)
        self.power = nn.Parameter(torch.tensor(3.0))
        self.head = _head(config)

    def forward(self, columns: Tensor) -> Tensor:
        """Map (n_batch, hidden, 1, n_columns) to unit vectors (n_batch, n_windows, dim)."""
        x = F.relu(self.norm(self.conv(columns)))
        return _summary(x, self.power, self.n_columns, self.head)


class SampleEncoder(LogBandEncoder):
    """Waveform → one unit vector per window, one window every half second."""

    def __init__(self, config: SampleEncoderConfig) -> None:
        super().__init__(config.front_end)
        self.config = config
        self.standardise = BandStandardisation(config.segment_frames)
        self.trunk = strided_trunk(config.channels, config.n_blocks)
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
        self.head = _head(config)
        self.listeners = nn.ModuleList(Listener(config) for _ in range(config.n_heard))

    def embed(self, log_power: Tensor) -> Tensor:
        """Map log power (n_batch, n_bands, n_frames) to unit vectors (n_batch, n_windows, dim)."""
        return self._vectors(self._columns(log_power))

    def hear(self, log_power: Tensor) -> Tensor:
        """Map log power to a query's unit vectors (n_batch, n_windows, n_heard or 1, dim)."""
        return self._heard(self._columns(log_power))

    def with_heard(self, log_power: Tensor) -> tuple[Tensor, Tensor]:
        """Return what :meth:`embed` and :meth:`hear` return, at the cost of one."""
        columns = self._columns(log_power)
        return self._vectors(columns), self._heard(columns)

    def joined(self, log_power: Tensor) -> Tensor:
        """Return the same, one behind the other (n_batch, n_windows, (1 + n_heard) · dim)."""
        vectors, heard = self.with_heard(log_power)
        return torch.cat([vectors[:, :, None], heard], dim=2).flatten(2)

    @torch.no_grad()
    def begin_listeners(self, deviation: float = 0.1) -> None:
        """Let each listener begin as what makes a recording's vector, give or take some noise."""
        for listener in self.listeners:
            listener.conv.load_state_dict(self.columns[3].state_dict())
            listener.norm.load_state_dict(self.columns[4].state_dict())
            listener.head.load_state_dict(self.head.state_dict())
            listener.power.copy_(self.power)
            for layer in (listener.conv, listener.head[0], listener.head[2]):
                noise = torch.randn_like(layer.weight) * layer.weight.std()
                layer.weight.add_(deviation * noise)

    def _columns(self, log_power: Tensor) -> Tensor:
        x = self.standardise(log_power)[:, None]
        x = self.trunk(x.contiguous(memory_format=torch.channels_last))
        return self.columns[:3](x)  # (B, hidden, 1, columns)

    def _vectors(self, columns: Tensor) -> Tensor:
        x = self.columns[3:](columns)
        return _summary(x, self.power, self.config.columns - 2, self.head)

    def _heard(self, columns: Tensor) -> Tensor:
        if not len(self.listeners):
            return self._vectors(columns)[:, :, None]
        return torch.stack([listener(columns) for listener in self.listeners], dim=2)


def _head(config: SampleEncoderConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(config.hidden, config.hidden, 1),
        nn.ReLU(),
        nn.Conv1d(config.hidden, config.dim, 1),
    )


def _summary(x: Tensor, power: Tensor, n_columns: int, head: nn.Module) -> Tensor:
    """Map columns (n_batch, hidden, 1, n) to unit vectors (n_batch, n − n_columns + 1, dim)."""
    x = x[:, :, 0].float().clamp(min=1e-4).pow(power)
    x = head(F.avg_pool1d(x, n_columns, 1).pow(1.0 / power))
    return unit_norm(x.transpose(1, 2))
