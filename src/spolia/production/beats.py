"""Onsets and beats of a stretch of music: plain estimates, good enough to cut a loop by. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spolia.audio import Audio

Floats = npt.NDArray[np.float64]

N_FFT, HOP = 512, 160  # samples; at 16 kHz frames of 32 ms every 10 ms
CONTRAST = 100.0  # log(1 + CONTRAST · magnitude): soft onsets count, noise does not
SURROUND = 0.1  # seconds on either side whose mean an onset has to exceed
APART = 0.08  # seconds between two onsets
FASTEST, SLOWEST = 0.3, 1.0  # seconds per beat
USUAL, SPREAD = 0.5, 0.8  # seconds per beat that are preferred, and octaves around them
ATTACK_REACH = 0.03  # seconds around a frame's time in which the attack is looked for


@dataclass(frozen=True)
class Beats:
    """An even grid of beats."""

    first: float  # seconds, of one of the beats; less than ``period``
    period: float  # seconds per beat

    def times(self, end: float) -> Floats:
        """Return the beats before ``end`` seconds."""
        return np.arange(self.first, end, self.period)


def onset_strength(audio: Audio) -> Floats:
    """Return how much louder the spectrum becomes [shape=(n_frames,)], at least 0, every HOP.

    Frame i tells of the time (i − 0.5) · HOP. Spectral flux of log-compressed magnitudes
    (Böck & Widmer, DAFx 2013, without their maximum filter).
    """
    padded = np.pad(audio.samples, N_FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
    window = np.hanning(N_FFT).astype(np.float32)
    peak = max(float(np.abs(audio.samples).max(initial=0.0)), 1e-9)
    magnitude = np.abs(np.fft.rfft(frames * window)) / (peak * N_FFT / 4)
    level = np.log1p(CONTRAST * magnitude)
    flux = np.maximum(np.diff(level, axis=0, prepend=level[:1]), 0.0).mean(1)
    return np.asarray(flux, np.float64)


def onsets(audio: Audio, strength: Floats) -> Floats:
    """Return when sounds begin, in seconds, ascending; to about a millisecond where they attack."""
    frame = HOP / audio.sample_rate
    reach = max(1, round(SURROUND / frame))
    around = np.convolve(strength, np.ones(2 * reach + 1) / (2 * reach + 1), "same")
    least = 0.1 * float(np.quantile(strength, 0.98)) if len(strength) else 0.0
    apart = max(1, round(APART / frame))
    padded = np.pad(strength, apart, constant_values=-1.0)
    highest = np.lib.stride_tricks.sliding_window_view(padded, 2 * apart + 1).max(1)
    is_onset = (strength >= highest) & (strength > 1.3 * around) & (strength > least)
    times = (np.flatnonzero(is_onset) - 0.5) * frame
    return np.unique(np.array([_attack(audio, float(t)) for t in times], np.float64))


def _attack(audio: Audio, time: float) -> float:
    """Return where the level rises most near a time: 3 ms before against 3 ms after."""
    block = audio.sample_rate // 1000
    first = max(0, round((time - ATTACK_REACH) * audio.sample_rate))
    piece = audio.samples[first : first + 2 * round(ATTACK_REACH * audio.sample_rate)]
    n_blocks = len(piece) // block
    if n_blocks < 8:
        return max(time, 0.0)
    energy = np.square(piece[: n_blocks * block].astype(np.float64)).reshape(n_blocks, -1).sum(1)
    total = np.concatenate([[0.0], np.cumsum(energy)])
    floor = 1e-3 * total[-1] + 1e-12
    rise = (total[6:] - total[3:-3] + floor) / (total[3:-3] - total[:-6] + floor)
    return float(first + (3 + int(rise.argmax())) * block) / audio.sample_rate


def estimate_beats(strength: Floats, sample_rate: int) -> Beats | None:
    """Return the grid of beats that fits best; None where nothing recurs.

    The period is the lag at which the strength resembles itself most, tempi near 120 per minute
    preferred, made exact by its multiples; the phase is that of the strongest comb.
    """
    frame = HOP / sample_rate
    shortest, longest = round(FASTEST / frame), round(SLOWEST / frame)
    if len(strength) < 3 * longest or not strength.any():
        return None
    rise = strength - strength.mean()
    size = 1 << (2 * len(rise) - 1).bit_length()
    likeness = np.fft.irfft(np.abs(np.fft.rfft(rise, size)) ** 2)[: len(rise)]
    lags = np.arange(shortest, longest + 1)
    usual = np.exp(-0.5 * (np.log2(lags * frame / USUAL) / SPREAD) ** 2)
    weighted = likeness[lags] * usual
    if weighted.max() <= 0:
        return None
    period = _sharpened(likeness, float(lags[int(weighted.argmax())]))
    return Beats(_phase(strength, period) * frame, period * frame)


def _sharpened(likeness: Floats, period: float) -> float:
    """Return a period in frames from the peaks at its multiples, as far as they go."""
    for multiple in (1, 2, 4, 8, 16):
        middle = round(period * multiple)
        reach = max(2, round(0.03 * period * min(multiple, 4)))
        if middle + reach + 1 >= len(likeness) * 3 // 4:
            break
        near = likeness[middle - reach : middle + reach + 1]
        peak = int(near.argmax())
        if 0 < peak < len(near) - 1 and near[peak] > 0:
            left, top, right = near[peak - 1 : peak + 2]
            bend = left - 2 * top + right
            vertex = 0.5 * (left - right) / bend if bend < 0 else 0.0
            period = (middle - reach + peak + vertex) / multiple
    return period


def _phase(strength: Floats, period: float) -> float:
    """Return the frame of the first beat: that of the strongest comb of a period."""
    offsets = np.arange(0.0, period, 0.5)
    n_beats = int((len(strength) - 1 - period) / period) + 1
    places = offsets[:, None] + period * np.arange(max(n_beats, 1))
    comb = np.interp(places, np.arange(len(strength)), strength).sum(1)
    return float((offsets[int(comb.argmax())] - 0.5) % period)  # see onset_strength
