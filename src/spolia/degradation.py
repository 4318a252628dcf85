"""Degradations of one clip, for queries in evaluation, demo and tests. Audio in, audio out.

They imitate what happens between a record and a recording of it: rooms, noise, small speakers,
gain control, overload, codecs, and players that run fast. Training has its own batched chain
(``spolia.training.degrade``); these are independent of it, so that a measurement does not reward
a network for knowing its own simulator.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from spolia.audio import Audio
from spolia.encoding import encode
from spolia.errors import MissingDependency, ParameterError

Samples = npt.NDArray[np.float32]

CONTAINERS = {
    "libopus": "ogg",
    "libmp3lame": "mp3",
    "aac": "mp4",
    "flac": "flac",
    "libopencore_amrnb": "amr",  # of mobile phones; 8 kHz whatever is put in
}


def _like(audio: Audio, samples: npt.NDArray[Any]) -> Audio:
    return Audio(np.asarray(samples, np.float32), audio.sample_rate)


def fast_size(n: int) -> int:
    """Return a size of at least ``n`` that transforms quickly: 2^k times 1, 9/8, 5/4 or 3/2."""
    whole = max(16, 1 << max(n - 1, 0).bit_length())
    return min(size for size in (whole // 16 * m for m in (9, 10, 12, 16)) if size >= n)


def power(audio: Audio) -> float:
    """Return the mean square of the samples."""
    return float(np.mean(np.square(audio.samples, dtype=np.float64))) if len(audio) else 0.0


def pink_noise(n_samples: int, sample_rate: int, rng: np.random.Generator) -> Audio:
    """Return noise whose power falls by 3 dB per octave."""
    spectrum = np.fft.rfft(rng.normal(size=n_samples))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1.0))
    samples = np.fft.irfft(spectrum, n_samples)
    return Audio((0.1 * samples / max(samples.std(), 1e-12)).astype(np.float32), sample_rate)


def add_noise(
    audio: Audio, rng: np.random.Generator, *, snr_db: float, noise: Audio | None = None
) -> Audio:
    """Add noise at a signal-to-noise ratio over the clip; pink noise if none is given."""
    if noise is None:
        noise = pink_noise(len(audio), audio.sample_rate, rng)
    repeats = -(-len(audio) // max(len(noise), 1))
    background = Audio(np.tile(noise.samples, repeats)[: len(audio)], audio.sample_rate)
    scale = np.sqrt(power(audio) / max(power(background), 1e-12) * 10 ** (-snr_db / 10))
    return _like(audio, audio.samples + np.float32(scale) * background.samples)


def convolve(audio: Audio, response: Samples) -> Audio:
    """Convolve linearly with an impulse response; direct sound, level and length are kept."""
    if not len(audio):
        return audio
    size = fast_size(len(audio) + len(response) - 1)
    product = np.fft.rfft(audio.samples, size) * np.fft.rfft(response, size)
    start = int(np.argmax(np.abs(response)))
    wet = np.fft.irfft(product, size)[start : start + len(audio)]
    level = np.sqrt(power(audio) / max(float(np.mean(wet**2)), 1e-12))
    return _like(audio, wet * level)


def room(audio: Audio, rng: np.random.Generator, *, rt60: float = 0.5, wet: float = 0.5) -> Audio:
    """Put the sound into a made-up room: a few early reflections and a decaying tail.

    rt60: seconds in which the tail falls by 60 dB; wet: the tail's energy over the direct sound's.
    """
    rate = audio.sample_rate
    time = np.arange(round(rt60 * rate)) / rate
    tail = rng.normal(size=len(time)) * 10 ** (-3 * time / rt60)
    tail *= np.sqrt(wet / max(float((tail**2).sum()), 1e-12))
    tail[rng.integers(rate // 200, rate // 20, size=6)] += 0.2 * rng.normal(size=6)
    tail[0] = 1.0
    return convolve(audio, tail.astype(np.float32))


def filtered(audio: Audio, gain: npt.NDArray[np.float64]) -> Audio:
    """Multiply the spectrum by gains at evenly spaced frequencies from 0 to half the rate."""
    size = fast_size(len(audio) + 2 * len(gain))
    spectrum = np.fft.rfft(audio.samples, size)
    place = np.linspace(0, len(gain) - 1, len(spectrum))
    spectrum *= np.interp(place, np.arange(len(gain)), gain)
    return _like(audio, np.fft.irfft(spectrum, size)[: len(audio)])


def octave_gains(decibels: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return gains at evenly spaced frequencies from gains at octaves, joined by straight lines.

    decibels: the last at half the sample rate, each one before an octave lower.
    """
    octaves = np.log2(np.linspace(1e-3, 1.0, 513)) + len(decibels) - 1
    gain = np.interp(octaves, np.arange(len(decibels)), np.asarray(decibels, np.float64))
    return np.asarray(10 ** (gain / 20), np.float64)


def band_pass(audio: Audio, low: float, high: float, *, order: int = 4) -> Audio:
    """Keep low–high Hz with Butterworth slopes and no delay."""
    frequency = np.linspace(0, audio.sample_rate / 2, 4097)
    with np.errstate(divide="ignore", over="ignore"):
        rise = 1 / np.sqrt(1 + (low / np.maximum(frequency, 1e-9)) ** (2 * order))
        fall = 1 / np.sqrt(1 + (frequency / high) ** (2 * order))
    return filtered(audio, rise * fall)


def compress(audio: Audio, *, strength: float = 0.7, window: float = 0.1) -> Audio:
    """Level the loudness as automatic gain control does: divide by envelope ** strength."""
    size = max(1, round(window * audio.sample_rate))
    squares = np.convolve(np.square(audio.samples, dtype=np.float64), np.ones(size) / size, "same")
    envelope = np.sqrt(np.maximum(squares, 1e-12))
    loudest = float(envelope.max(initial=1e-6))
    gain = np.maximum(envelope / loudest, 0.02) ** -strength
    return _like(audio, audio.samples * gain * 0.3)


def clip(audio: Audio, *, drive_db: float) -> Audio:
    """Overload: amplify so that the peaks exceed full scale by ``drive_db``, and cut them off."""
    peak = float(np.abs(audio.samples).max(initial=1e-9))
    gain = 10 ** (drive_db / 20) / peak
    return _like(audio, np.clip(audio.samples * gain, -1, 1) * min(peak, 1.0))


def codec(audio: Audio, *, codec: str, bit_rate: int) -> Audio:
    """Encode and decode; aligned in time and of the same length and rate.

    codec: an encoder of FFmpeg, one of CONTAINERS. bit_rate: bits per second.
    """
    if codec not in CONTAINERS:
        raise ParameterError(f"unknown codec {codec!r}; known: {', '.join(CONTAINERS)}")
    if not len(audio):
        return audio
    data = encode(audio, codec=codec, container=CONTAINERS[codec], bit_rate=bit_rate)
    coded = Audio.load(data, sample_rate=audio.sample_rate).samples
    return _like(audio, _aligned(coded, audio.samples, audio.sample_rate // 10))


def _aligned(samples: Samples, reference: Samples, reach: int) -> Samples:
    """Shift ``samples`` by the lag within ± reach that fits the reference best; keep its length.

    Sounds shorter than the reach are shifted by less than their own length.
    """
    n = min(len(reference), len(samples), 1 << 17)
    reach = max(1, min(reach, n - 1))
    size = 1 << (2 * n - 1).bit_length()
    product = np.fft.rfft(samples[:n], size) * np.conj(np.fft.rfft(reference[:n], size))
    correlation = np.fft.irfft(product, size)
    lags = np.concatenate([np.arange(0, reach), np.arange(-reach, 0)])
    lag = int(lags[np.argmax(correlation[lags])])
    shifted = samples[lag:] if lag >= 0 else np.concatenate([np.zeros(-lag, np.float32), samples])
    return np.pad(shifted, (0, max(0, len(reference) - len(shifted))))[: len(reference)]


def change_speed(audio: Audio, factor: float) -> Audio:
    """Play ``factor`` times as fast: pitch and tempo rise together."""
    if not 0.25 <= factor <= 4.0:
        raise ParameterError(f"speed factor {factor} is out of range; choose from 0.25 to 4")
    samples = soxr.resample(audio.samples, audio.sample_rate * factor, audio.sample_rate, "HQ")
    return _like(audio, samples)


def stretch(audio: Audio, tempo: float) -> Audio:
    """Play ``tempo`` times as fast at the same pitch (Signalsmith Stretch)."""
    return _signalsmith(audio, tempo=tempo, semitones=0.0)


def shift_pitch(audio: Audio, semitones: float) -> Audio:
    """Raise the pitch by semitones at the same tempo (Signalsmith Stretch)."""
    return _signalsmith(audio, tempo=1.0, semitones=semitones)


def _signalsmith(audio: Audio, *, tempo: float, semitones: float) -> Audio:
    try:
        library = importlib.import_module("python_stretch")
    except ImportError as error:
        raise MissingDependency("python-stretch", "evaluate") from error
    engine = library.Signalsmith.Stretch()
    engine.preset(1, audio.sample_rate)
    engine.timeFactor = tempo
    engine.setTransposeSemitones(semitones)
    return _like(audio, engine.process(audio.samples[None])[0])


def phone(
    audio: Audio, rng: np.random.Generator, *, noise: Audio | None = None, snr_db: float = 13.0
) -> Audio:
    """Play on a small speaker and record by telephone.

    A speaker that has nothing below 500 Hz and distorts, noise, the band 300–3400 Hz, gain
    control, clipping, and a speech codec (Opus at 8 kbit/s).
    """
    speaker = clip(band_pass(audio, 500, 7000, order=2), drive_db=float(rng.uniform(0, 6)))
    heard = add_noise(speaker, rng, snr_db=snr_db, noise=noise)
    line = compress(band_pass(heard, 300, 3400, order=6), strength=float(rng.uniform(0.4, 0.9)))
    overloaded = clip(line, drive_db=float(rng.uniform(0, 4)))
    return codec(overloaded, codec="libopus", bit_rate=8000)
