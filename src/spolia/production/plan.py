"""Plans: everything about a production that can be drawn before any sound is heard. Pure.

The defaults of Habits follow Sample100-ext (the fine-grained annotations of Van Balen's Sample100
by Bhattacharjee et al., ISMIR 2025), 106 samples in 75 hip-hop tracks: riffs 71, beats 33, single
notes 2; drums alone 26; tempo ratios 0.75–1.37, half of them within 3 % and four fifths within
10 % of 1; overlays with voices in 101, other instruments in 78, drums in 53, bass in 47. What it
does not tell, levels and effects, is our choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np

from spolia.errors import ParameterError
from spolia.production.effects import Effect, draw_effects
from spolia.production.truth import Kind, Manner
from spolia.samples import Part, Transformation

Rng = np.random.Generator
T = TypeVar("T")
Layer = Literal["drums", "bass", "music", "voice"]

SHORTEST_TRACK = 10.0  # seconds
MOST_OF_TRACK = 0.4  # share of the track that one occurrence may take
RIFF_SECONDS = (1.5, 8.0)  # of the source; logarithmically even: median 3.5, quartiles 2.3 and 5.3
NOTE_SECONDS = (0.2, 1.0)
BREAK_BARS = {1: 0.4, 2: 0.4, 4: 0.2}
SLOWEST, QUICKEST = 0.7, 1.5  # tempo ratios
LEAST_TEMPO, USUAL_TEMPO = 0.03, 0.10  # changes: the least that is drawn, and the edge of the usual
USUAL_SHARE = 0.64  # of the tempo changes: of 55 beyond 3 %, 35 are within 10 %
LEAST_PITCH, MOST_PITCH = 0.75, 6.0  # semitones
MOST_STRETCH = 1.8  # by which a sound is stretched at its own pitch; beyond, it falls apart
WHOLE_SEMITONES = 0.7  # share of pitch changes that are whole semitones, as samplers have them
LAYER_SPREAD = 3.0  # decibels by which the layers' levels vary
ENTRANCES = (0.0, 0.0, 0.1, 0.2, 0.3)  # shares of the track after which a layer enters
ON_BEAT = 0.7  # share of the layers that follow the track's beat


def _shares(values: Mapping[T, float]) -> Callable[[], Mapping[T, float]]:
    return lambda: dict(values)


@dataclass(frozen=True)
class Habits:
    """How often producers do what; every mapping is from a choice to its share."""

    n_uses: Mapping[int, float] = field(default_factory=_shares({1: 0.85, 2: 0.10, 3: 0.05}))
    parts: Mapping[Part, float] = field(
        default_factory=_shares({"drums": 0.25, "mix": 0.56, "harmonic": 0.14, "bass": 0.05})
    )
    drum_kinds: Mapping[Kind, float] = field(  # where the part is drums
        default_factory=_shares({"break": 0.85, "riff": 0.13, "note": 0.02})
    )
    other_kinds: Mapping[Kind, float] = field(
        default_factory=_shares({"riff": 0.85, "break": 0.13, "note": 0.02})
    )
    transformations: Mapping[Transformation, float] = field(
        default_factory=_shares(
            {"untouched": 0.32, "varispeed": 0.25, "stretched": 0.15, "pitched": 0.14, "both": 0.14}
        )
    )
    manners: Mapping[Manner, float] = field(
        default_factory=_shares({"loop": 0.65, "chop": 0.2, "once": 0.15})
    )
    effect: float = 0.2  # chance of each effect
    overlay_db: tuple[float, float] = (-12.0, 12.0)  # even between
    layers: Mapping[Layer, float] = field(  # chance of each
        default_factory=_shares({"voice": 0.95, "music": 0.74, "drums": 0.5, "bass": 0.44})
    )

    def __post_init__(self) -> None:
        """Check that there is something to choose from, and that chances are chances."""
        for name in ("n_uses", "parts", "drum_kinds", "other_kinds", "transformations", "manners"):
            shares = getattr(self, name).values()
            if not shares or min(shares) < 0 or sum(shares) <= 0:
                raise ParameterError(
                    f"the shares of {name} must be positive: {getattr(self, name)}"
                )
        if not all(0 <= chance <= 1 for chance in (self.effect, *self.layers.values())):
            raise ParameterError("the chances of effects and layers must be from 0 to 1")
        if self.overlay_db[0] > self.overlay_db[1]:
            raise ParameterError(f"overlay_db {self.overlay_db} must be (least, most) in decibels")


@dataclass(frozen=True)
class Change:
    """A change of pitch and tempo."""

    semitones: float  # how much higher
    tempo_ratio: float  # seconds of the source per second of the result


@dataclass(frozen=True)
class UsePlan:
    """How one recording is to be sampled."""

    part: Part
    kind: Kind
    seconds: float  # of the source, about: riffs and notes
    n_bars: int  # breaks
    change: Change
    effects: tuple[Effect, ...]
    manner: Manner
    overlay_db: float  # power of the layers over it where both sound
    section: tuple[float, float]  # shares of the track between which it sounds


@dataclass(frozen=True)
class LayerPlan:
    """One layer of what is laid over the samples."""

    layer: Layer
    level_db: float  # relative to the other layers
    enters: float  # share of the track after which it enters
    on_beat: bool  # sped up or slowed down to the track's beat, where that is near


@dataclass(frozen=True)
class Plan:
    """A track that is to be made."""

    seconds: float
    uses: tuple[UsePlan, ...]
    layers: tuple[LayerPlan, ...]  # at least one


def choose(rng: Rng, shares: Mapping[T, float]) -> T:
    """Return one of the keys, by their shares."""
    weights = np.array(list(shares.values()), np.float64)
    return list(shares)[int(rng.choice(len(weights), p=weights / weights.sum()))]


def draw_plan(rng: Rng, habits: Habits, *, seconds: float) -> Plan:
    """Return a random plan of a track of ``seconds``, SHORTEST_TRACK or more."""
    if seconds < SHORTEST_TRACK:
        raise ParameterError(f"a track of {seconds} s is too short; give {SHORTEST_TRACK} or more")
    n_uses = choose(rng, habits.n_uses)
    uses = tuple(_draw_use(rng, habits, seconds) for _ in range(n_uses))
    return Plan(seconds, uses, draw_layers(rng, habits))


def draw_layers(rng: Rng, habits: Habits) -> tuple[LayerPlan, ...]:
    """Return random layers, one at least; music where nothing else comes. The first enters at 0."""
    chosen = [layer for layer, chance in habits.layers.items() if rng.random() < chance]
    layers: list[Layer] = chosen or ["music"]
    enters = rng.choice(ENTRANCES, size=len(layers))
    levels = rng.normal(0.0, LAYER_SPREAD, size=len(layers))
    return tuple(
        LayerPlan(layer, float(level), float(entrance), bool(rng.random() < ON_BEAT))
        for layer, level, entrance in zip(layers, levels, enters - enters.min(), strict=True)
    )


def _draw_use(rng: Rng, habits: Habits, seconds: float) -> UsePlan:
    part = choose(rng, habits.parts)
    kind = choose(rng, habits.drum_kinds if part == "drums" else habits.other_kinds)
    manner = choose(rng, habits.manners)
    change = draw_change(rng, choose(rng, habits.transformations))
    low, high = NOTE_SECONDS if kind == "note" else RIFF_SECONDS
    high = min(high, MOST_OF_TRACK * seconds * change.tempo_ratio)
    return UsePlan(
        part,
        kind,
        float(np.exp(rng.uniform(np.log(low), np.log(high)))),
        choose(rng, BREAK_BARS),
        change,
        draw_effects(rng, chance=habits.effect, part=part),
        "loop" if kind == "note" and manner == "chop" else manner,
        float(rng.uniform(*habits.overlay_db)),
        (float(rng.uniform(0.0, 0.25)), float(rng.uniform(0.65, 1.0))),
    )


def draw_change(rng: Rng, wanted: Transformation) -> Change:
    """Return a random change that is clearly what is wanted."""
    if wanted == "untouched":
        return Change(0.0, 1.0)
    tempo, semitones = _draw_tempo(rng), _draw_semitones(rng)
    if wanted == "varispeed":
        return Change(12 * float(np.log2(tempo)), tempo)
    if wanted == "stretched":
        return Change(0.0, tempo)
    if wanted == "pitched":
        return Change(semitones, 1.0)
    while not _independent(semitones, tempo):
        semitones = _draw_semitones(rng)
    return Change(semitones, tempo)


def _independent(semitones: float, tempo: float) -> bool:
    """Tell whether a change cannot be mistaken for a varispeed, nor stretches too much."""
    apart = abs(semitones / 12 - float(np.log2(tempo)))  # octaves of stretching
    return LEAST_PITCH / 12 <= apart <= float(np.log2(MOST_STRETCH))


def _draw_tempo(rng: Rng) -> float:
    faster = rng.random() < 0.5
    most = np.log(QUICKEST) if faster else -np.log(SLOWEST)
    usual = rng.random() < USUAL_SHARE
    low, high = (LEAST_TEMPO, USUAL_TEMPO) if usual else (USUAL_TEMPO, most)
    size = rng.uniform(low, high)
    return float(np.exp(size if faster else -size))


def _draw_semitones(rng: Rng) -> float:
    sign = float(rng.choice([-1.0, 1.0]))
    if rng.random() < WHOLE_SEMITONES:
        return sign * float(rng.integers(1, int(MOST_PITCH) + 1))
    return sign * float(rng.uniform(LEAST_PITCH, MOST_PITCH))
