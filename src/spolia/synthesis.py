"""A small synthesiser: varied pieces of music from a seed, for the demo and the tests.

A piece has a tempo, a key, chords, drums, a bass, pads and a melody. Every bar is varied, so that
no two seconds of a piece are the same and a place in it is unambiguous.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spolia.audio import Audio

Floats = npt.NDArray[np.float64]
Rng = np.random.Generator

SCALES = (
    (0, 2, 4, 5, 7, 9, 11),  # major
    (0, 2, 3, 5, 7, 8, 10),  # minor
    (0, 2, 3, 5, 7, 9, 10),  # Dorian
    (0, 2, 4, 5, 7, 9, 10),  # Mixolydian
    (0, 1, 4, 5, 7, 8, 10),  # Phrygian dominant
)
STEPS = 16  # per bar
GROOVES = (  # chance of kick, snare and hat on each sixteenth
    ("x...x...x...x...", "....x.......x...", "..x...x...x...x."),
    ("x.....x.x.......", "....x.......x..o", "x.x.x.x.x.x.x.x."),
    ("x..o..x...x.....", "....x..o....x...", "xxxxxxxxxxxxxxxx"),
    ("x.......x.o.....", "........x.......", "x...x...x...x..."),
    ("x..x..x.....x...", "....x..x.x..x...", "x.xxx.xxx.xxx.xx"),
)
CHANCE = {"x": 0.95, "o": 0.4, ".": 0.03}


@dataclass(frozen=True)
class Timbre:
    """How a pitched instrument sounds."""

    partials: Floats  # amplitude of each harmonic [shape=(n,)]
    attack: float  # seconds
    decay: float  # seconds to fall to a third
    vibrato: float  # depth as a share of the frequency
    brightness_decay: float  # how much faster high partials fade


@dataclass(frozen=True)
class Style:
    """What stays the same throughout a piece."""

    tempo: float  # beats per minute
    root: int  # MIDI note of the key
    scale: tuple[int, ...]
    groove: int
    bass: Timbre
    pad: Timbre
    lead: Timbre
    swing: float  # share of a step by which off-beats come late
    levels: tuple[float, float, float, float]  # drums, bass, pad, lead


def draw_timbre(rng: Rng, *, n_partials: int, longest: float) -> Timbre:
    """Return a random timbre between a flute, a bell and a saw."""
    slope = rng.uniform(0.6, 2.5)
    partials = np.arange(1, n_partials + 1) ** -slope
    if rng.random() < 0.4:
        partials[1::2] *= rng.uniform(0.0, 0.3)  # hollow, like a clarinet
    return Timbre(
        partials / partials.sum(),
        float(rng.uniform(0.003, 0.06)),
        float(rng.uniform(0.15, longest)),
        float(rng.choice([0.0, 0.004, 0.01])),
        float(rng.uniform(0.0, 0.6)),
    )


def draw_style(rng: Rng) -> Style:
    """Return a random style."""
    return Style(
        float(rng.uniform(70, 170)),
        int(rng.integers(45, 57)),
        SCALES[int(rng.integers(len(SCALES)))],
        int(rng.integers(len(GROOVES))),
        draw_timbre(rng, n_partials=8, longest=0.6),
        draw_timbre(rng, n_partials=6, longest=2.0),
        draw_timbre(rng, n_partials=10, longest=0.8),
        float(rng.choice([0.0, 0.0, 0.2, 0.33])),
        (0.5 * rng.uniform(0.4, 1.2), 0.35, 0.3 * rng.uniform(0.4, 1.2), 0.4),
    )


def piece(rng: Rng, *, seconds: float = 30.0, sample_rate: int = 16000) -> Audio:
    """Return a piece of music, peak 0.9."""
    mix = sum(stems(rng, seconds=seconds, sample_rate=sample_rate).values(), np.zeros(1))
    mix = np.tanh(1.5 * mix / max(float(np.abs(mix).max()), 1e-9))
    return Audio((0.9 * mix / max(float(np.abs(mix).max()), 1e-9)).astype(np.float32), sample_rate)


def stems(rng: Rng, *, seconds: float, sample_rate: int = 16000) -> dict[str, Floats]:
    """Return the drums, the bass and the harmony of a piece [shape=(n_samples,)] each."""
    style = draw_style(rng)
    drums, bass, harmonic = (np.zeros(round(seconds * sample_rate)) for _ in range(3))
    step = 60.0 / style.tempo / 4
    chords = rng.integers(0, 7, size=4)
    motif = rng.integers(0, 8, size=STEPS)
    n_bars = int(np.ceil(seconds / (step * STEPS)))
    for bar in range(n_bars):
        if bar % 8 == 0:
            chords = rng.integers(0, 7, size=4)
        if bar % 4 == 0:
            motif = rng.integers(0, 8, size=STEPS)
        times: Floats = (bar * STEPS + np.arange(STEPS, dtype=np.float64)) * step
        times[1::2] += style.swing * step
        degree = int(chords[bar % 4])
        _drums(drums, rng, style, times, sample_rate)
        _bass(bass, rng, style, times, degree, sample_rate)
        _chord(harmonic, rng, style, times, degree, sample_rate)
        _melody(harmonic, rng, style, times, degree, motif, sample_rate)
    return {"drums": drums, "bass": bass, "harmonic": harmonic}


def _pitch(style: Style, degree: int, octave: int) -> float:
    """Return the frequency in Hz of a degree of the key."""
    shift, place = divmod(degree, len(style.scale))
    note = style.root + style.scale[place] + 12 * (shift + octave)
    return float(440.0 * 2 ** ((note - 69) / 12))


def _put(mix: Floats, sound: Floats, time: float, sample_rate: int) -> None:
    start = round(time * sample_rate)
    room = len(mix) - start
    if room > 0:
        mix[start : start + len(sound)] += sound[:room]


def note(frequency: float, seconds: float, timbre: Timbre, sample_rate: int) -> Floats:
    """Return a note, float64 [shape=(n_samples,)], peak about 1."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    wobble = timbre.vibrato * np.sin(2 * np.pi * 5.5 * time) / 5.5
    phase = 2 * np.pi * frequency * (time + wobble)
    sound = np.zeros(len(time))
    for number, amplitude in enumerate(timbre.partials, start=1):
        if number * frequency >= 0.45 * sample_rate:
            break
        fading = np.exp(-time * timbre.brightness_decay * number / timbre.decay)
        sound += amplitude * fading * np.sin(number * phase)
    envelope = np.minimum(time / timbre.attack, 1.0) * np.exp(-1.1 * time / timbre.decay)
    release = np.minimum((seconds - time) / 0.02, 1.0)
    return np.asarray(sound * envelope * np.clip(release, 0.0, 1.0))


def _drums(mix: Floats, rng: Rng, style: Style, times: Floats, sample_rate: int) -> None:
    kit = (_kick, _snare, _hat)
    for pattern, drum, level in zip(GROOVES[style.groove], kit, (1.0, 0.7, 0.25), strict=True):
        for time, mark in zip(times, pattern, strict=True):
            if rng.random() < CHANCE[mark]:
                loudness = level * style.levels[0] * rng.uniform(0.7, 1.0)
                _put(mix, loudness * drum(rng, sample_rate), float(time), sample_rate)


def _kick(rng: Rng, sample_rate: int) -> Floats:
    time = np.arange(round(0.25 * sample_rate)) / sample_rate
    phase = 2 * np.pi * (50 * time + 90 * 0.03 * (1 - np.exp(-time / 0.03)))
    return np.asarray(np.sin(phase) * np.exp(-time / 0.08))


def _snare(rng: Rng, sample_rate: int) -> Floats:
    time = np.arange(round(0.2 * sample_rate)) / sample_rate
    body = np.sin(2 * np.pi * 190 * time) * np.exp(-time / 0.05)
    return np.asarray(0.5 * body + 0.5 * rng.normal(size=len(time)) * np.exp(-time / 0.06))


def _hat(rng: Rng, sample_rate: int) -> Floats:
    time = np.arange(round(0.08 * sample_rate)) / sample_rate
    return np.asarray(np.diff(rng.normal(size=len(time) + 1)) * np.exp(-time / 0.02))


def _bass(
    mix: Floats, rng: Rng, style: Style, times: Floats, degree: int, sample_rate: int
) -> None:
    length = float(times[2] - times[0])
    for place in (0, 3, 6, 8, 10, 14):
        if place == 0 or rng.random() < 0.6:
            step = degree + int(rng.choice([0, 0, 0, 4, 7, -3]))
            sound = note(_pitch(style, step, -1), 1.5 * length, style.bass, sample_rate)
            _put(mix, style.levels[1] * sound, float(times[place]), sample_rate)


def _chord(
    mix: Floats, rng: Rng, style: Style, times: Floats, degree: int, sample_rate: int
) -> None:
    length = float(times[-1] - times[0])
    places = [0] if rng.random() < 0.5 else [0, int(rng.integers(5, 12))]
    for place in places:
        for third in range(int(rng.integers(3, 5))):
            pitch = _pitch(style, degree + 2 * third, int(rng.integers(0, 2)))
            sound = note(pitch, length / len(places), style.pad, sample_rate)
            _put(mix, style.levels[2] * 0.5 * sound, float(times[place]), sample_rate)


def _melody(
    mix: Floats,
    rng: Rng,
    style: Style,
    times: Floats,
    degree: int,
    motif: npt.NDArray[np.int64],
    sample_rate: int,
) -> None:
    step = float(times[2] - times[0]) / 2
    for place in range(STEPS):
        if rng.random() < (0.55 if place % 2 == 0 else 0.2):
            height = degree + int(motif[place]) + int(rng.choice([0, 0, 0, 1, -1, 2]))
            length = step * float(rng.choice([1, 2, 3, 4]))
            sound = note(_pitch(style, height, 1), length, style.lead, sample_rate)
            loudness = style.levels[3] * rng.uniform(0.6, 1.0)
            _put(mix, loudness * sound, float(times[place]), sample_rate)


ADJECTIVES = ("Amber", "Broken", "Cold", "Distant", "Electric", "Faded", "Golden", "Hollow")
NOUNS = ("Arch", "Bridge", "Cellar", "Column", "Courtyard", "Gate", "Harbour", "Lintel", "Vault")
ARTISTS = ("The Masons", "Rosa Petri", "Cornice", "Ashlar Trio", "Keystone Four", "Lena Quoin")


def crate(n: int = 24, *, seed: int, seconds: float = 30.0) -> Iterator[tuple[str, str, Audio]]:
    """Yield (title, artist, audio) of ``n`` pieces; a seed always gives the same crate."""
    rng = np.random.default_rng(seed)
    titles = [f"{a} {b}" for a in ADJECTIVES for b in NOUNS]
    order = rng.permutation(len(titles))
    for i in range(n):
        artist = ARTISTS[int(rng.integers(len(ARTISTS)))]
        own = np.random.default_rng([seed, i])
        length = float(seconds * own.uniform(0.8, 1.2))
        yield titles[order[i % len(titles)]], artist, piece(own, seconds=length)
