"""Waveform → logarithmic power in logarithmically spaced bands, and its local standardisation.

On a logarithmic frequency axis a change of pitch is a shift and a change of speed is a shift and
a stretch, so training can apply both to the spectrogram (``spolia.training.warp``). One module
serves training (FFT) and export (two matrix products over folded frames, which ONNX Runtime runs
faster than its own STFT); a test holds the two within 1e-4.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class FrontEndConfig:
    """Settings of the log-frequency spectrogram."""

    sample_rate: int = 8000  # Hz
    n_fft: int = 1000  # samples per frame, 125 ms; any even multiple of hop_length
    hop_length: int = 250  # samples between frames, 31.25 ms
    n_bands: int = 80  # bands, spaced logarithmically
    bands_per_octave: int = 18  # a semitone is 1.5 bands
    f_min: float = 170.0  # Hz, centre of the lowest band
    floor: float = 1e-9  # power that counts as silence; a full-scale sine has 0.25


class Windowing(ABC):
    """Sizes in samples of what a config states in frames."""

    front_end: FrontEndConfig

    @property
    @abstractmethod
    def segment_frames(self) -> int:
        """Frames that one vector sees."""

    @property
    @abstractmethod
    def hop_frames(self) -> int:
        """Frames between vectors."""

    @property
    def segment_samples(self) -> int:
        """Samples that one vector sees."""
        return (self.segment_frames - 1) * self.front_end.hop_length + self.front_end.n_fft

    @property
    def hop_samples(self) -> int:
        """Samples between vectors."""
        return self.hop_frames * self.front_end.hop_length


def band_centres(config: FrontEndConfig) -> Tensor:
    """Return the centre frequency of each band in Hz, float64 [shape=(n_bands,)]."""
    steps = torch.arange(config.n_bands, dtype=torch.float64)
    return config.f_min * 2.0 ** (steps / config.bands_per_octave)


def band_weights(config: FrontEndConfig) -> Tensor:
    """Return triangular band filters over the bins of a DFT, float32 [shape=(n_bins, n_bands)].

    Each triangle reaches to the neighbouring centres, but at least one bin to either side, and
    sums to one: at the low end, bands narrower than a bin interpolate between bins.
    """
    spacing = config.sample_rate / config.n_fft
    bins = torch.arange(config.n_fft // 2 + 1, dtype=torch.float64)[:, None] * spacing
    centres = band_centres(config)
    width = (centres * (2.0 ** (1.0 / config.bands_per_octave) - 1.0)).clamp(min=spacing)
    weights = (1.0 - (bins - centres).abs() / width).clamp(min=0.0)
    return (weights / weights.sum(0, keepdim=True)).float()


class PowerSpectrum(nn.Module):
    """Turns a waveform into power spectra of frames, by FFT or, for export, by matrix products."""

    def __init__(self, n_fft: int, hop_length: int, window: Tensor, bins: tuple[int, int]) -> None:
        """Take a periodic symmetric window, float64 [shape=(n_fft,)], and the bins wanted."""
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        self.first_bin, self.last_bin = bins
        self.register_buffer("window", window.float(), persistent=False)
        half = n_fft // 2
        tapered = window[: half + 1, None].float()
        tapered[half] *= 0.5  # the middle sample is folded onto itself
        self.register_buffer("tapered", tapered, persistent=False)
        steps = torch.arange(half + 1)[:, None], torch.arange(*bins)[None]
        self.register_buffer("samples", steps[0], persistent=False)
        self.register_buffer("bins", steps[1], persistent=False)

    def _folded_dft(self) -> tuple[Tensor, Tensor]:
        """Return windowed DFT matrices for frames folded about their middle sample.

        Re = Σ_{n≤N/2} (x[n] + x[N−n]) cos, Im = Σ_{n<N/2} (x[n] − x[N−n]) sin: half the products.
        Computed, not stored: the graph holds the rule, not megabytes of sines. Whole turns are
        taken off in integers, so that single precision is exact to its last digits.
        """
        turns = torch.remainder(self.samples * self.bins, self.n_fft).float()
        phase = turns * (2 * math.pi / self.n_fft)
        cosine, sine = self.tapered * torch.cos(phase), self.tapered * torch.sin(phase)
        return cosine, sine[1 : self.n_fft // 2]

    def frames(self, waveform: Tensor) -> Tensor:
        """Cut [shape=(n_batch, n_samples)] into [shape=(n_batch, n_frames, n_fft)] by reshaping."""
        hop, n_hops = self.hop_length, self.n_fft // self.hop_length
        n_blocks = waveform.shape[1] // hop
        blocks = waveform[:, : n_blocks * hop].reshape(waveform.shape[0], n_blocks, hop)
        n_frames = n_blocks - n_hops + 1
        return torch.cat([blocks[:, i : i + n_frames] for i in range(n_hops)], dim=2)

    def by_fft(self, waveform: Tensor) -> Tensor:
        """Return power spectra of the used bins [shape=(n_batch, n_frames, n_bins)]."""
        frames = waveform.unfold(1, self.n_fft, self.hop_length)
        spectrum = torch.fft.rfft(frames * self.window)[..., self.first_bin : self.last_bin]
        real, imaginary = spectrum.real, spectrum.imag
        return torch.addcmul(real * real, imaginary, imaginary)

    def by_matmul(self, waveform: Tensor) -> Tensor:
        """Return the same as :meth:`by_fft`, for export."""
        half = self.n_fft // 2
        frames = self.frames(waveform)
        left, middle = frames[..., 1:half], frames[..., half : half + 1]
        right = torch.flip(frames[..., half + 1 :], dims=(-1,))
        even = torch.cat([frames[..., :1], left + right, 2 * middle], dim=-1)
        cosine, sine = self._folded_dft()
        real, imaginary = even @ cosine, (left - right) @ sine
        return real.square() + imaginary.square()

    def forward(self, waveform: Tensor) -> Tensor:
        """Return power spectra [shape=(n_batch, n_frames, n_bins)]; no padding."""
        exporting = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
        return self.by_matmul(waveform) if exporting else self.by_fft(waveform)


def used_bins(weights: Tensor) -> tuple[int, int]:
    """Return the first bin with a weight and the one after the last."""
    used = weights.sum(1).nonzero().flatten()
    return int(used[0]), int(used[-1]) + 1


class LogBands(nn.Module):
    """Turns a waveform into log band power, one frame every hop, no padding."""

    def __init__(self, config: FrontEndConfig) -> None:
        super().__init__()
        self.config = config
        weights = band_weights(config)
        first, last = used_bins(weights)
        window = torch.hann_window(config.n_fft, periodic=True, dtype=torch.float64)
        self.spectrum = PowerSpectrum(
            config.n_fft, config.hop_length, window / window.sum(), (first, last)
        )
        self.register_buffer("bands", weights[first:last].contiguous(), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Turn float32 [shape=(n_batch, n_samples)] into log power [shape=(n_batch, n_bands, n)].

        Natural logarithm of 1 + power / floor; n = 1 + (n_samples − n_fft) // hop_length.
        """
        # Not log(power + floor): the exporter's optimiser takes so small a constant for zero, drops
        # the addition, and silence becomes NaN.
        power = self.spectrum(waveform) @ self.bands
        return torch.log(power / self.config.floor + 1.0).transpose(1, 2)


def resampled(x: Tensor, places: Tensor, dim: int) -> Tensor:
    """Return ``x`` at fractional ``places`` along an axis, interpolated; the ends are held.

    places: float32 [shape=(n,)]. Whole numbers give the values themselves.
    """
    last = x.shape[dim] - 1
    lower = torch.floor(places)
    shape = [1] * x.ndim
    shape[dim] = -1
    share = (places - lower).reshape(shape)
    left = x.index_select(dim, lower.long().clamp(0, last))
    right = x.index_select(dim, (lower.long() + 1).clamp(0, last))
    return left + (right - left) * share


class LocalStandardisation(nn.Module):
    """Subtracts the mean and divides by the deviation of the surrounding second, all bands.

    A running window instead of one per segment keeps the network convolutional in time, so that
    overlapping segments share all work, and a vector depends on nothing but its own sound. Gain
    drops out. At the ends the window shrinks. Silence gives zeros.
    """

    def __init__(self, n_frames: int, softening: float = 0.1) -> None:
        super().__init__()
        self.n_frames = n_frames  # odd
        self.softening = softening  # added to the deviation, in nepers of power

    def forward(self, log_power: Tensor) -> Tensor:
        """Map [shape=(n_batch, n_bands, n_frames)] to the same shape, about unit deviation."""
        # Centred on one constant first: the variance as a difference of moments would otherwise
        # lose its digits in single precision.
        centred = log_power - 8.0
        moments = torch.stack([centred.mean(1), centred.square().mean(1)], dim=1)
        moments = F.avg_pool1d(
            moments, self.n_frames, 1, self.n_frames // 2, count_include_pad=False
        )
        mean, square = moments[:, :1], moments[:, 1:]
        deviation = (square - mean.square()).clamp(min=0.0).sqrt()
        return (centred - mean) / (deviation + self.softening)


class LogBandEncoder(nn.Module, ABC):
    """A network from the log-frequency spectrogram to vectors, which also takes waveforms."""

    def __init__(self, front_end: FrontEndConfig) -> None:
        super().__init__()
        self.log_bands = LogBands(front_end)

    @abstractmethod
    def embed(self, log_power: Tensor) -> Tensor:
        """Map log power (n_batch, n_bands, n_frames) to unit vectors (n_batch, n_vectors, dim).

        n_vectors = 1 + (n_frames − segment_frames) // hop_frames. Silence yields finite vectors.
        """

    def forward(
        self, waveform: Tensor, bands: Tensor | None = None, frames: Tensor | None = None
    ) -> Tensor:
        """Map a waveform (n_batch, n_samples) to unit vectors (n_batch, n_vectors, dim).

        bands, frames: as of :meth:`spectrogram`.
        """
        return self.embed(self.spectrogram(waveform, bands, frames))

    def spectrogram(
        self, waveform: Tensor, bands: Tensor | None = None, frames: Tensor | None = None
    ) -> Tensor:
        """Return the log power of a waveform [shape=(n_batch, n_bands, n_frames)].

        bands, frames: where to read the spectrogram, as fractional numbers of its bands and frames,
        float32 [shape=(n_bands,)] and [shape=(n,)]. Other places than 0, 1, 2, … undo a change of
        pitch (a shift of the bands) or of tempo (a stretch of the frames).
        """
        log_power: Tensor = self.log_bands(waveform)
        if bands is not None and frames is not None:
            log_power = resampled(resampled(log_power, bands, 1), frames, 2)
        return log_power
