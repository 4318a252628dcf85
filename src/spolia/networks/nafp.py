"""The neural audio fingerprinter of Chang et al., ICASSP 2021 (arXiv 2010.11910), "NFS" in AMG.

Magnitude mel spectrogram of 1 s (256 bands, 300–4000 Hz, 32 frames); eight blocks of a 1 × 3 and a
3 × 1 convolution, ELU and layer norm over frequency, time and channels; the divide-and-encode
projection. 16,939,008 parameters, as in the authors' code.

Where we differ: the reference level of the log magnitude is the maximum of each sample, not of the
batch, so that a vector does not depend on its batch mates (``level = "batch"`` trains as the
authors' code does); and a segment's frames see the sound around it instead of zero padding (8,960
samples for 32 frames). ``norm = "channel"`` normalises over channels at each place instead of over
the whole map, with 2.3 M fewer parameters (Araz et al., ISMIR 2025).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spolia.errors import TrainingError
from spolia.networks.front_end import PowerSpectrum, used_bins
from spolia.networks.segment_encoder import unit_norm


@dataclass(frozen=True)
class MelConfig:
    """Settings of the mel spectrogram."""

    sample_rate: int = 8000  # Hz
    n_fft: int = 1024  # samples per frame
    hop_length: int = 256  # samples between frames
    n_bands: int = 256  # mel bands
    f_min: float = 300.0  # Hz
    f_max: float = 4000.0  # Hz
    floor: float = 0.06  # added to the magnitude before the logarithm
    range_db: float = 80.0  # below the sample's maximum
    bands_per_octave: int = 0  # the axis is not logarithmic: no pitch by shifting


@dataclass(frozen=True)
class NafpConfig:
    """Shape of the network; the defaults are the published ones."""

    front_end: MelConfig = field(default_factory=MelConfig)
    channels: tuple[int, ...] = (128, 128, 256, 256, 512, 512, 1024, 1024)
    time_strides: tuple[int, ...] = (2, 2, 2, 2, 1, 2, 1, 2)
    hidden: int = 32  # of each slice of divide-and-encode
    dim: int = 128  # size of the vector: slices
    n_frames: int = 32  # of a segment
    hop_samples: int = 4000  # between segments
    level: str = "segment"  # whose maximum is 0 dB: "segment", or "batch" as published
    norm: str = "layer"  # "layer": over channels, bands and frames, as published; or "channel"

    def __post_init__(self) -> None:
        """Check the words."""
        if self.level not in ("segment", "batch"):
            raise TrainingError(f"level is {self.level!r}; choose segment or batch")
        if self.norm not in ("layer", "channel"):
            raise TrainingError(f"norm is {self.norm!r}; choose layer or channel")

    @property
    def segment_frames(self) -> int:
        """Frames that one vector sees."""
        return self.n_frames

    @property
    def hop_frames(self) -> int:
        """Frames between segments of a training crop; a whole number, so not quite 0.5 s."""
        return round(self.hop_samples / self.front_end.hop_length)

    @property
    def segment_samples(self) -> int:
        """Samples that one vector sees."""
        return (self.n_frames - 1) * self.front_end.hop_length + self.front_end.n_fft


def mel_weights(config: MelConfig) -> Tensor:
    """Return triangular mel filters (Slaney's scale and norm) [shape=(n_bins, n_bands)]."""
    edges = _hertz(
        torch.linspace(*(_mel(f) for f in (config.f_min, config.f_max)), config.n_bands + 2)
    )
    bins = torch.linspace(0, config.sample_rate / 2, config.n_fft // 2 + 1, dtype=torch.float64)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rise = (bins[:, None] - low) / (centre - low)
    fall = (high - bins[:, None]) / (high - centre)
    return (torch.minimum(rise, fall).clamp(min=0.0) * 2 / (high - low)).float()


def _mel(hertz: float) -> float:
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def _hertz(mel: Tensor) -> Tensor:
    mel = mel.double()
    return torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))


class LogMel(nn.Module):
    """Turns a waveform into log mel magnitudes."""

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config
        weights = mel_weights(config)
        first, last = used_bins(weights)
        window = torch.hann_window(config.n_fft, periodic=True, dtype=torch.float64)
        self.spectrum = PowerSpectrum(config.n_fft, config.hop_length, window, (first, last))
        self.register_buffer("bands", weights[first:last].contiguous(), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Turn [shape=(n_batch, n_samples)] into log10 magnitudes [shape=(n_batch, n_bands, n)]."""
        magnitude = (self.spectrum(waveform) + 1e-12).sqrt() @ self.bands
        return torch.log10(magnitude + self.config.floor).transpose(1, 2)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each place."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(n_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, n_channels, F, T)."""
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


def _norm(kind: str, shape: tuple[int, int, int]) -> nn.Module:
    return ChannelNorm(shape[0]) if kind == "channel" else nn.LayerNorm(shape)


class SeparableBlock(nn.Module):
    """1 × 3 convolution along time, then 3 × 1 along frequency, each with ELU and a norm."""

    def __init__(
        self, n_in: int, n_out: int, n_bands: int, n_frames: int, time_stride: int, norm: str
    ) -> None:
        super().__init__()
        self.n_frames = -(-n_frames // time_stride)  # after it
        self.n_bands = -(-n_bands // 2)  # after it
        self.along_time = nn.Conv2d(n_in, n_out, (1, 3), (1, time_stride), (0, 1))
        self.norm1 = _norm(norm, (n_out, n_bands, self.n_frames))
        self.along_frequency = nn.Conv2d(n_out, n_out, (3, 1), (2, 1), (1, 0))
        self.norm2 = _norm(norm, (n_out, self.n_bands, self.n_frames))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n_in, F, T) to (B, n_out, F / 2, T / time_stride)."""
        x = self.norm1(F.elu(self.along_time(x)))
        return self.norm2(F.elu(self.along_frequency(x)))


class DivideAndEncode(nn.Module):
    """Cuts a vector into slices and maps each by a network of its own to one number."""

    def __init__(self, n_in: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.dim = dim
        self.first = nn.Conv1d(n_in, dim * hidden, 1, groups=dim)
        self.second = nn.Conv1d(dim * hidden, dim, 1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n_in) to (B, dim)."""
        return self.second(F.elu(self.first(x[:, :, None])))[:, :, 0]


class Nafp(nn.Module):
    """Waveform → one unit vector per segment; segments share nothing."""

    def __init__(self, config: NafpConfig) -> None:
        super().__init__()
        self.config = config
        self.log_bands = LogMel(config.front_end)
        blocks, n_in = [], 1
        n_bands, n_frames = config.front_end.n_bands, config.n_frames
        for n_out, stride in zip(config.channels, config.time_strides, strict=True):
            block = SeparableBlock(n_in, n_out, n_bands, n_frames, stride, config.norm)
            n_in, n_bands, n_frames = n_out, block.n_bands, block.n_frames
            blocks.append(block)
        self.trunk = nn.Sequential(*blocks)
        self.head = DivideAndEncode(n_in * n_bands * n_frames, config.dim, config.hidden)

    def embed(self, log_mel: Tensor) -> Tensor:
        """Map log mel (B, n_bands, n_frames) to unit vectors (B, n_segments, dim)."""
        config = self.config
        segments = log_mel.unfold(2, config.n_frames, config.hop_frames)  # (B, F, S, T)
        n_batch, _, n_segments, _ = segments.shape
        x = segments.transpose(1, 2).flatten(0, 1)  # (B · S, F, T)
        vectors = self._encode(x)
        return vectors.unflatten(0, (n_batch, n_segments))

    def _encode(self, x: Tensor) -> Tensor:
        """Map log mel of single segments (N, F, T) to unit vectors (N, dim)."""
        depth = self.config.front_end.range_db / 20
        axes = (0, 1, 2) if self.config.level == "batch" else (1, 2)
        x = x - x.amax(axes, keepdim=True)
        x = 1 + 2 * x.clamp(min=-depth) / depth  # [-1, 1]
        return unit_norm(self.head(self.trunk(x[:, None]).flatten(1)).float())

    def forward(self, waveform: Tensor) -> Tensor:
        """Map a waveform (n_batch, n_samples) to unit vectors (n_batch, n_segments, dim)."""
        config = self.config
        segments = waveform.unfold(1, config.segment_samples, config.hop_samples)
        vectors = self._encode(self.log_bands(segments.flatten(0, 1)))
        return vectors.unflatten(0, segments.shape[:2])
