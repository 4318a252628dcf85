"""The conditions under which queries are measured (DESIGN, section 8), seeded and separate.

A condition turns a stretch of a clean recording into a query: it says how fast the query plays and
what is done to its sound. Rooms, noises and devices are those of the corpus' ``val`` split, which
no training uses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from spolia import degradation
from spolia.audio import Audio
from spolia.errors import ParameterError

CONTEXT = 1.0  # seconds before the query that still sound in a room


@dataclass(frozen=True)
class Materials:
    """Held-out sounds that queries are degraded with."""

    noises: Sequence[Audio]
    rooms: Sequence[Audio]  # impulse responses
    devices: Sequence[Audio]  # impulse responses


@dataclass(frozen=True)
class Condition:
    """One way to degrade a query."""

    name: str
    variants: tuple[
        float, ...
    ]  # drawn from with equal chance: decibels, per cent, semitones, kbit/s
    apply: Callable[[Audio, float, Materials, np.random.Generator], Audio]
    tempo: Callable[[float], float] = lambda _: 1.0  # seconds of recording per second of query
    semitones: Callable[[float], float] = lambda _: 0.0  # how much higher the query sounds


def _noise(materials: Materials, seconds: float, rng: np.random.Generator) -> Audio:
    noise = materials.noises[int(rng.integers(len(materials.noises)))]
    repeats = int(np.ceil((seconds + 0.1) / max(noise.duration, 0.1))) + 1
    samples = np.tile(noise.samples, repeats)
    start = int(rng.integers(len(noise)))
    length = round(seconds * noise.sample_rate) + 1
    return Audio(samples[start : start + length], noise.sample_rate)


def _clean(audio: Audio, variant: float, materials: Materials, rng: np.random.Generator) -> Audio:
    return audio


def _noisy(audio: Audio, variant: float, materials: Materials, rng: np.random.Generator) -> Audio:
    noise = _noise(materials, audio.duration, rng)
    return degradation.add_noise(audio, rng, snr_db=variant, noise=noise)


def _room(audio: Audio, variant: float, materials: Materials, rng: np.random.Generator) -> Audio:
    response = materials.rooms[int(rng.integers(len(materials.rooms)))]
    wet = degradation.convolve(audio, response.samples)
    return _noisy(wet, variant, materials, rng)


def _phone(audio: Audio, variant: float, materials: Materials, rng: np.random.Generator) -> Audio:
    noise = _noise(materials, audio.duration, rng)
    return degradation.phone(audio, rng, noise=noise, snr_db=variant)


CODECS = {
    8: ("libopus", 8000),
    12: ("libopus", 12000),
    16: ("libmp3lame", 16000),
    24: ("libmp3lame", 24000),
    32: ("aac", 32000),
}
AMR_RATES = (4.75, 7.95, 12.2)  # kbit/s


def _codec(audio: Audio, variant: float, materials: Materials, rng: np.random.Generator) -> Audio:
    name, bit_rate = CODECS[int(variant)]
    return degradation.codec(audio, codec=name, bit_rate=bit_rate)


def _amr(audio: Audio, variant: float, materials: Materials, rng: np.random.Generator) -> Audio:
    return degradation.codec(audio, codec="libopencore_amrnb", bit_rate=round(variant * 1000))


def _speed(audio: Audio, variant: float, materials: Materials, rng: np.random.Generator) -> Audio:
    return degradation.change_speed(audio, 1 + variant / 100)


def _pitch(audio: Audio, variant: float, materials: Materials, rng: np.random.Generator) -> Audio:
    return degradation.shift_pitch(audio, variant)


def _tempo(audio: Audio, variant: float, materials: Materials, rng: np.random.Generator) -> Audio:
    return degradation.stretch(audio, 1 + variant / 100)


def _percent(variant: float) -> float:
    return 1 + variant / 100


def _faster_is_higher(variant: float) -> float:
    return 12 * float(np.log2(_percent(variant)))


def _itself(variant: float) -> float:
    return variant


STANDARD: dict[str, Condition] = {
    c.name: c
    for c in (
        Condition("clean", (0.0,), _clean),
        Condition("noise", (0.0, 5.0, 10.0), _noisy),
        Condition("room", (5.0, 7.5, 10.0), _room),
        Condition("phone", (8.0, 13.0, 18.0), _phone),
        Condition("codec", (8.0, 12.0, 16.0, 24.0, 32.0), _codec),
        Condition("speed", (-4.0, -2.0, 2.0, 4.0), _speed, _percent, _faster_is_higher),
        Condition("pitch", (-2.0, -1.0, 1.0, 2.0), _pitch, semitones=_itself),
        Condition("tempo", (-10.0, -5.0, 5.0, 10.0), _tempo, _percent),
    )
}

PAIRS: tuple[tuple[str, float, str, float], ...] = (  # a player's change, then a channel
    ("speed", 4.0, "room", 7.5),
    ("speed", -4.0, "codec", 8.0),
    ("pitch", 2.0, "noise", 5.0),
    ("pitch", -2.0, "phone", 13.0),
    ("tempo", 10.0, "phone", 13.0),
    ("tempo", -10.0, "room", 7.5),
    ("speed", 2.0, "noise", 0.0),
    ("pitch", -1.0, "room", 10.0),
)


def _two(audio: Audio, variant: float, materials: Materials, rng: np.random.Generator) -> Audio:
    player, amount, channel, level = PAIRS[int(variant)]
    played = STANDARD[player].apply(audio, amount, materials, rng)
    return STANDARD[channel].apply(played, level, materials, rng)


def _tempo_of_two(variant: float) -> float:
    player, amount, _, _ = PAIRS[int(variant)]
    return STANDARD[player].tempo(amount)


def _semitones_of_two(variant: float) -> float:
    player, amount, _, _ = PAIRS[int(variant)]
    return STANDARD[player].semitones(amount)


HARD: dict[str, Condition] = {
    c.name: c
    for c in (
        Condition("noise-5dB", (-5.0,), _noisy),
        Condition("speed-10", (-10.0, 10.0), _speed, _percent, _faster_is_higher),
        Condition("pitch-4", (-4.0, 4.0), _pitch, semitones=_itself),
        Condition("tempo-20", (-20.0, 20.0), _tempo, _percent),
        Condition("amr", AMR_RATES, _amr),
        Condition(
            "two", tuple(map(float, range(len(PAIRS)))), _two, _tempo_of_two, _semitones_of_two
        ),
    )
}

NOISE_ROOM = Condition("noise-room", (0.0, 5.0, 10.0), _room)  # as papers on identification have it

CONDITIONS = STANDARD | HARD | {NOISE_ROOM.name: NOISE_ROOM}
SETS = {"standard": tuple(STANDARD), "hard": tuple(HARD), "all": (*STANDARD, *HARD)}


def named(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of conditions with the names of sets replaced by their members."""
    found = tuple(c for name in names for c in SETS.get(name, (name,)))
    if unknown := [name for name in found if name not in CONDITIONS]:
        known = ", ".join((*SETS, *CONDITIONS))
        raise ParameterError(f"unknown condition {unknown[0]!r}; choose from: {known}")
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Query:
    """A degraded excerpt with its truth."""

    audio: Audio
    condition: str
    variant: float
    file: str  # the recording's path relative to the corpus
    start: float  # seconds into the recording
    speed: float  # seconds of recording per second of query
    semitones: float  # how much higher it sounds

    def prefix(self, seconds: float) -> Audio:
        """Return the query's first seconds."""
        return self.audio.slice(0.0, seconds)


def make_query(
    recording: Audio,
    file: str,
    condition: Condition,
    materials: Materials,
    rng: np.random.Generator,
    *,
    seconds: float,
) -> Query:
    """Draw a place and a variant, and degrade a query of ``seconds`` (less if the track ends).

    The sound before the place is degraded with it and cut off, so rooms ring on from the past.
    """
    variant = float(rng.choice(condition.variants))
    speed = condition.tempo(variant)
    latest = max(0.0, recording.duration - seconds * speed - 0.5)
    start = float(rng.uniform(0.0, latest))
    context = min(CONTEXT, start / speed)
    excerpt = recording.slice(start - context * speed, start + (seconds + 0.2) * speed)
    degraded = condition.apply(excerpt, variant, materials, rng)
    query = degraded.slice(context, context + seconds)
    semitones = condition.semitones(variant)
    return Query(query, condition.name, variant, file, start, speed, semitones)
