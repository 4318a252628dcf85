"""A made-up voice: sung or half-spoken lines of vowels and consonants, set to a beat. Pure.

Most samples are heard under a voice, and few free recordings of singing exist. It is a source and a
filter: harmonics of a gliding pitch, weighted by the formants of vowels that melt into each other
(after Fant, Acoustic Theory of Speech Production, 1960), with bursts of noise for consonants.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spolia.audio import Audio
from spolia.production.plan import Rng

Floats = npt.NDArray[np.float64]

VOWELS = np.array(  # the first three formants in Hz (Peterson & Barney, JASA 1952, men)
    [
        (730.0, 1090.0, 2440.0),
        (270.0, 2290.0, 3010.0),
        (300.0, 870.0, 2240.0),
        (530.0, 1840.0, 2480.0),
        (570.0, 840.0, 2410.0),
        (660.0, 1720.0, 2410.0),
        (490.0, 1350.0, 1690.0),
    ]
)
BANDWIDTHS = np.array([80.0, 110.0, 160.0])  # Hz
FRAME = 0.01  # seconds between the values of a line's contours
HIGHEST = 5500.0  # Hz, of the harmonics
SCALE = np.array([0, 3, 5, 7, 10, 12])  # semitones that a melody moves in
STEPS_PER_BEAT = (2, 4)  # syllables at most


@dataclass(frozen=True)
class Singer:
    """What stays the same in a voice."""

    pitch: float  # Hz, of its lowest note
    size: float  # factor of the formants: 1 a man, 1.2 a child
    sung: float  # 0: speech that falls at the end of each syllable; 1: notes held
    vibrato: float  # semitones
    tilt: float  # exponent by which harmonics fall


def draw_singer(rng: Rng) -> Singer:
    """Return a random voice."""
    high = float(rng.uniform(0.0, 1.0))
    return Singer(
        float(90.0 * 2.0 ** (1.3 * high)),
        float(0.95 + 0.22 * high + rng.normal(0, 0.03)),
        float(rng.choice([0.0, 0.3, 1.0])),
        float(rng.uniform(0.1, 0.5)),
        float(rng.uniform(0.5, 1.2)),
    )


def sing(rng: Rng, *, seconds: float, first: float, beat: float, sample_rate: int) -> Audio:
    """Return lines of a voice with rests between them, peak 0.9.

    first, beat: seconds of the first beat, and per beat.
    """
    singer = draw_singer(rng)
    track = np.zeros(round(seconds * sample_rate), np.float32)
    place = first + beat * int(rng.integers(0, 5))
    while place < seconds - 2 * beat:
        n_beats = int(rng.choice([3, 4, 6, 7]))
        line = _line(singer, rng, n_beats * beat, beat, sample_rate)
        start = round(place * sample_rate)
        track[start : start + len(line)] += line[: len(track) - start]
        place += beat * (n_beats + int(rng.choice([1, 1, 2, 4])))
    peak = max(float(np.abs(track).max(initial=0.0)), 1e-9)
    return Audio(track * np.float32(0.9 / peak), sample_rate)


def _line(
    singer: Singer, rng: Rng, seconds: float, beat: float, sample_rate: int
) -> npt.NDArray[np.float32]:
    """Return one line: syllables on a grid, each a consonant and a vowel."""
    starts = _rhythm(rng, seconds, beat)
    times = np.arange(0.0, seconds, FRAME)
    syllable = np.searchsorted(starts, times, side="right") - 1
    within = times - starts[syllable]
    lasts = np.append(starts[1:], seconds)[syllable] - starts[syllable]
    consonant = rng.uniform(0.02, 0.08, len(starts))[syllable]
    loud = np.clip((within - consonant) / 0.03, 0, 1) * np.clip((lasts - within) / 0.05, 0, 1)
    loud *= rng.uniform(0.6, 1.0, len(starts))[syllable]
    pitch = _pitch(singer, rng, len(starts), syllable, times, within / lasts)
    formants = _smooth(VOWELS[rng.integers(len(VOWELS), size=len(starts))][syllable] * singer.size)
    voiced = _voiced(pitch, formants, loud, singer.tilt, sample_rate)
    hiss = (within < consonant) * rng.uniform(0.0, 0.25, len(starts))[syllable]
    return np.asarray(voiced + _noise(rng, hiss, len(voiced), sample_rate), np.float32)


def _rhythm(rng: Rng, seconds: float, beat: float) -> Floats:
    """Return when syllables begin, the first at 0."""
    step = beat / int(rng.choice(STEPS_PER_BEAT))
    grid = np.arange(0.0, seconds - 0.5 * step, step)
    sounding = (rng.random(len(grid)) < rng.uniform(0.4, 0.9)) | (grid == 0.0)
    return np.asarray(grid[sounding])


def _pitch(
    singer: Singer,
    rng: Rng,
    n_syllables: int,
    syllable: npt.NDArray[np.int64],
    times: Floats,
    progress: Floats,
) -> Floats:
    """Return the pitch of each frame in Hz: a melody that glides, or speech that falls."""
    steps = np.clip(np.cumsum(rng.integers(-1, 2, size=n_syllables)) + 2, 0, len(SCALE) - 1)
    spoken = rng.normal(4.0, 1.5, n_syllables)[syllable] - 3.0 * progress
    sung = SCALE[steps][syllable] + singer.vibrato * np.sin(2 * np.pi * 5.3 * times)
    semitones = _smooth((singer.sung * sung + (1 - singer.sung) * spoken)[:, None])[:, 0]
    return np.asarray(singer.pitch * 2.0 ** (semitones / 12))


def _smooth(values: Floats) -> Floats:
    """Return contours [shape=(n_frames, n)] that move over about 70 ms."""
    kernel = np.hanning(9)[1:-1] / np.hanning(9).sum()
    padded = np.pad(values, ((3, 3), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, kernel, "valid") for column in padded.T], axis=1)


def _voiced(
    pitch: Floats, formants: Floats, loud: Floats, tilt: float, sample_rate: int
) -> npt.NDArray[np.float32]:
    """Return the harmonics of a pitch under formants, each of a frame interpolated."""
    n_samples = round(len(pitch) * FRAME * sample_rate)
    frames = np.arange(n_samples) / (FRAME * sample_rate)
    every = np.arange(len(pitch))
    phase = 2 * np.pi * np.cumsum(np.interp(frames, every, pitch)) / sample_rate
    turn = np.exp(1j * phase).astype(np.complex64)
    wave, sound = np.ones_like(turn), np.zeros(n_samples, np.float32)
    for number in range(1, int(HIGHEST / pitch.min()) + 1):
        wave *= turn
        frequency = number * pitch
        away = (frequency[:, None] - formants) / BANDWIDTHS
        gain = loud * (1 / np.sqrt(1 + away**2)).sum(1) * number**-tilt * (frequency < HIGHEST)
        sound += wave.imag * np.interp(frames, every, gain).astype(np.float32)
    return sound


def _noise(rng: Rng, loud: Floats, n_samples: int, sample_rate: int) -> Floats:
    """Return noise with more highs than lows, as loud as told per frame."""
    noise = np.diff(rng.normal(size=n_samples + 1))
    frames = np.arange(n_samples) / (FRAME * sample_rate)
    return np.asarray(noise * np.interp(frames, np.arange(len(loud)), loud))
