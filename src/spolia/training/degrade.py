"""Degradation of whole batches, as recording does it: device, batch FFTs, no per-item Python.

A positive is the anchor's sound after a room, background noise, a microphone, filters, gain
control, overload and quantisation. Each part is drawn per row, seeded, and can be switched off by
its probability. Convolutions are linear and see the second before the segment, so reverberation
of earlier sound is present (Araz et al., ISMIR 2025, found that this decides real recordings).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class DegradeConfig:
    """Probabilities and ranges; probabilities in [0, 1]."""

    noise: float = 0.9  # background noise
    snr_db: tuple[float, float] = (0.0, 10.0)  # signal to noise, uniform
    room: float = 0.6  # room impulse response
    microphone: float = 0.3  # microphone, speaker or cabinet impulse response
    equaliser: float = 0.7  # smooth random response
    equaliser_db: float = 8.0  # standard deviation of its control points
    high_pass: float = 0.4
    high_pass_hz: tuple[float, float] = (60.0, 600.0)
    low_pass: float = 0.4
    low_pass_hz: tuple[float, float] = (1500.0, 4000.0)
    telephone: float = 0.2  # steep 300–3400 Hz band instead of the gentle filters
    gain_control: float = 0.3  # automatic gain: divides by a power of the envelope
    overload: float = 0.3  # clipping, soft or hard
    quantise: float = 0.3  # coarse steps that follow the level, as speech codecs make
    dropout: float = 0.1  # holes of 60 ms and more, as lost packets leave; 23 % of the sound


@dataclass(frozen=True)
class Responses:
    """Spectra of impulse responses at one FFT size, complex64 [shape=(n, n_fft // 2 + 1)]."""

    rooms: Tensor
    microphones: Tensor


def chance(shape: int, probability: float, like: Tensor, rng: torch.Generator) -> Tensor:
    """Return a boolean per row, true with the given probability [shape=(n_rows,)]."""
    return torch.rand(shape, generator=rng, device=like.device) < probability


def uniform(
    shape: tuple[int, ...], low: float, high: float, like: Tensor, rng: torch.Generator
) -> Tensor:
    """Return float32 numbers from [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=rng, device=like.device)


class Degrader:
    """Degrades batches of waveforms that begin with context; see :meth:`__call__`."""

    def __init__(
        self, config: DegradeConfig, responses: Responses, *, sample_rate: int, n_fft: int
    ) -> None:
        self.config = config
        self.responses = responses
        self.sample_rate = sample_rate
        self.n_fft = n_fft
        device = responses.rooms.device
        self.frequencies = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, device=device)
        self.equaliser_basis = _interpolation(self.frequencies, n_points=12)

    def __call__(self, signal: Tensor, noise: Tensor, context: int, rng: torch.Generator) -> Tensor:
        """Return degraded ``signal`` without its first ``context`` samples.

        signal, noise: float32 [shape=(n_rows, n_samples)], n_samples + the longest response
        ≤ n_fft + context: what wraps around falls into the context and is cut off.
        """
        spectrum = torch.fft.rfft(signal, self.n_fft)
        spectrum = self._room(spectrum, rng)
        spectrum = self._add_noise(spectrum, torch.fft.rfft(noise, self.n_fft), rng)
        spectrum = self._filters(spectrum, rng)
        degraded = torch.fft.irfft(spectrum, self.n_fft)[:, context : signal.shape[1]]
        degraded = normalise(degraded)
        degraded = self._gain_control(degraded, rng)
        degraded = self._overload(degraded, rng)
        return self._drop(self._quantise(degraded, rng), rng)

    def _room(self, spectrum: Tensor, rng: torch.Generator) -> Tensor:
        bank, rows = self.responses.rooms, spectrum.shape[0]
        pick = torch.randint(len(bank), (rows,), generator=rng, device=spectrum.device)
        used = chance(rows, self.config.room, spectrum, rng)[:, None]
        return torch.where(used, spectrum * bank[pick], spectrum)

    def _add_noise(self, spectrum: Tensor, noise: Tensor, rng: torch.Generator) -> Tensor:
        rows = spectrum.shape[0]
        snr_db = uniform((rows, 1), *self.config.snr_db, spectrum, rng)
        signal_power = power(spectrum)
        scale = (signal_power / power(noise).clamp(min=1e-12)).sqrt() * 10 ** (-snr_db / 20)
        used = chance(rows, self.config.noise, spectrum, rng)[:, None]
        return spectrum + torch.where(used, noise * scale, torch.zeros_like(noise))

    def _filters(self, spectrum: Tensor, rng: torch.Generator) -> Tensor:
        config, rows = self.config, spectrum.shape[0]
        bank = self.responses.microphones
        pick = torch.randint(len(bank), (rows,), generator=rng, device=spectrum.device)
        used = chance(rows, config.microphone, spectrum, rng)[:, None]
        spectrum = torch.where(used, spectrum * bank[pick], spectrum)
        telephone = chance(rows, config.telephone, spectrum, rng)
        response = self._equaliser(rows, rng, spectrum)
        response = response * self._edge(
            rows, config.high_pass, config.high_pass_hz, -1, telephone, rng
        )
        response = response * self._edge(
            rows, config.low_pass, config.low_pass_hz, 1, telephone, rng
        )
        return spectrum * response

    def _equaliser(self, rows: int, rng: torch.Generator, like: Tensor) -> Tensor:
        points = torch.randn(rows, self.equaliser_basis.shape[0], generator=rng, device=like.device)
        points = (points * self.config.equaliser_db).clamp(-20, 20)
        points = points * chance(rows, self.config.equaliser, like, rng)[:, None]
        return torch.exp((math.log(10) / 20) * (points @ self.equaliser_basis))

    def _edge(
        self,
        rows: int,
        probability: float,
        range_hz: tuple[float, float],
        sign: int,
        telephone: Tensor,
        rng: torch.Generator,
    ) -> Tensor:
        """Return Butterworth magnitudes, high-pass (sign −1) or low-pass (sign 1)."""
        low, high = (math.log(f) for f in range_hz)
        corner = torch.exp(uniform((rows, 1), low, high, self.frequencies, rng))
        order = torch.randint(1, 5, (rows, 1), generator=rng, device=corner.device).float()
        phone_corner = (
            uniform((rows, 1), 250, 400, corner, rng)
            if sign < 0
            else uniform((rows, 1), 3000, 3600, corner, rng)
        )
        corner = torch.where(telephone[:, None], phone_corner, corner)
        order = torch.where(telephone[:, None], torch.full_like(order, 6.0), order)
        used = chance(rows, probability, corner, rng) | telephone
        steepness = torch.where(used[:, None], order, torch.zeros_like(order))
        octaves = torch.log(self.frequencies.clamp(min=1.0) / corner)
        exponent = (2 * sign * steepness * octaves).clamp(max=40.0)
        edge = torch.rsqrt(1 + torch.exp(exponent))
        return torch.where(used[:, None], edge, torch.ones_like(edge))

    def _gain_control(self, signal: Tensor, rng: torch.Generator) -> Tensor:
        envelope = follow(signal, self.sample_rate // 10)
        strength = uniform((signal.shape[0], 1), 0.3, 1.0, signal, rng)
        used = chance(signal.shape[0], self.config.gain_control, signal, rng)[:, None]
        levelled = signal * (envelope + 0.02).pow(-strength)
        return torch.where(used, normalise(levelled), signal)

    def _overload(self, signal: Tensor, rng: torch.Generator) -> Tensor:
        rows = signal.shape[0]
        drive = torch.exp(uniform((rows, 1), 0.0, math.log(6.0), signal, rng))
        hard = chance(rows, 0.5, signal, rng)[:, None]
        driven = torch.where(hard, (signal * drive).clamp(-1, 1), torch.tanh(signal * drive))
        used = chance(rows, self.config.overload, signal, rng)[:, None]
        return torch.where(used, driven / drive, signal)

    def _quantise(self, signal: Tensor, rng: torch.Generator) -> Tensor:
        """Add noise that follows the envelope at 6–26 dB below it."""
        rows, envelope = signal.shape[0], follow(signal, self.sample_rate // 50)
        level = 10 ** (-uniform((rows, 1), 6.0, 26.0, signal, rng) / 20)
        noise = torch.randn(signal.shape, generator=rng, device=signal.device)
        used = chance(rows, self.config.quantise, signal, rng)[:, None]
        return torch.where(used, signal + envelope * level * noise, signal)

    def _drop(self, signal: Tensor, rng: torch.Generator) -> Tensor:
        """Silence runs of 20 ms blocks: one block in twelve begins one of three blocks.

        Runs that meet join: holes last at least 60 ms, but at the edges, and seldom more than
        200 ms. A row that is chosen loses 1 − (11/12)³ = 23 % of its sound.
        """
        rows, block = signal.shape[0], self.sample_rate // 50
        n_blocks = -(-signal.shape[1] // block)
        begins = torch.rand(rows, 1, n_blocks, generator=rng, device=signal.device) < 1 / 12
        lost = F.max_pool1d(F.pad(begins.float(), (2, 0)), 3, 1)[:, 0]
        lost = lost * chance(rows, self.config.dropout, signal, rng)[:, None]
        kept = (1 - lost).repeat_interleave(block, 1)[:, : signal.shape[1]]
        return signal * kept


def power(spectrum: Tensor) -> Tensor:
    """Return each row's energy up to a constant [shape=(n_rows, 1)]."""
    return torch.view_as_real(spectrum).square().sum((1, 2))[:, None]


def normalise(signal: Tensor, level: float = 0.2) -> Tensor:
    """Scale each row to a root mean square of ``level``; silence stays silence."""
    return signal * (level / signal.square().mean(1, keepdim=True).sqrt().clamp(min=1e-5))


def follow(signal: Tensor, window: int) -> Tensor:
    """Return the envelope: means of ``window`` samples, joined by straight lines.

    (A running mean by pooling with stride 1 took 80 % of the time of a batch.)
    """
    blocks = F.avg_pool1d(signal.abs()[:, None], window, window, ceil_mode=True)
    return F.interpolate(blocks, size=signal.shape[1], mode="linear")[:, 0]


def _interpolation(frequencies: Tensor, *, n_points: int) -> Tensor:
    """Return linear interpolation weights from log-spaced control points to the bins."""
    position = torch.log2(frequencies.clamp(min=50.0) / 50.0)
    position = position / position[-1] * (n_points - 1)
    points = torch.arange(n_points, device=frequencies.device)[:, None]
    return (1 - (position - points).abs()).clamp(min=0.0)
