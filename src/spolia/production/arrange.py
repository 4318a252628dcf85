"""Arrangement: where in the new track an excerpt is played: once, in a loop, or chopped. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from spolia.production.plan import Rng
from spolia.production.truth import Manner

Samples = npt.NDArray[np.float32]

FADE = 0.004  # seconds at both ends of whatever is played
UNIT = 0.5  # beats, of which a round of a loop takes a whole number
TOO_LONG = 0.03  # beats by which a sound may exceed its round: it is cut
GAPS = (  # which rounds of a loop are played
    (True,),
    (True, True, True, False),
    (True, False),
    (True, True, False, False),
    (True, True, True, True, True, True, False, False),
)
SHORTEST_CHOP = 0.1  # seconds
MOST_CHOPS = 8
EVEN_CHOPS = 4  # where nothing is struck inside


@dataclass(frozen=True)
class Grid:
    """The beats of the new track."""

    first: float  # seconds of the first beat
    beat: float  # seconds per beat

    def at(self, beats: float, sample_rate: int) -> int:
        """Return the sample at a number of beats."""
        return round((self.first + beats * self.beat) * sample_rate)


@dataclass(frozen=True)
class Placement:
    """A piece of a sound in the new track, in samples."""

    at: int  # of the track
    first: int  # of the sound
    last: int  # of the sound, exclusive


@dataclass(frozen=True)
class Round:
    """One round of a loop: what is played from when on."""

    beats: float  # that it takes
    triggers: tuple[tuple[float, int, int], ...]  # (beats into the round, first, last sample)


def arranged(
    n_samples: int,
    cuts: Sequence[int],
    grid: Grid,
    *,
    manner: Manner,
    section: tuple[float, float],
    pause: float,
    sample_rate: int,
    rng: Rng,
) -> tuple[Placement, ...]:
    """Return where a sound of ``n_samples`` is played, ascending and never overlapping.

    cuts: samples at which it may be chopped; section: seconds between which it sounds, or from
    earlier on where no round fits; pause: beats at the end of each round in which it rests.
    """
    length = n_samples / sample_rate / grid.beat
    beats = UNIT * max(1, int(np.ceil((length - TOO_LONG) / UNIT)))
    whole = Round(beats + pause, ((0.0, 0, n_samples),))
    turn = whole if manner != "chop" else _chopped(n_samples, cuts, grid, whole, sample_rate, rng)
    end = round(section[1] * sample_rate)
    placements = []
    for start in _starts(turn, grid, section, manner, rng):
        following = [beat for beat, _, _ in turn.triggers[1:]] + [turn.beats]
        for (beat, first, last), then in zip(turn.triggers, following, strict=True):
            at = grid.at(start + beat, sample_rate)
            room = min(grid.at(start + then, sample_rate), end) - at
            if room >= FADE * sample_rate:
                placements.append(Placement(at, first, min(last, first + room)))
    return tuple(placements)


def _starts(
    turn: Round, grid: Grid, section: tuple[float, float], manner: Manner, rng: Rng
) -> list[float]:
    """Return the beats at which rounds begin."""
    first = float(np.ceil(max(section[0] - grid.first, 0.0) / grid.beat))
    last = (section[1] - grid.first) / grid.beat
    n_rounds = int((last - first) / turn.beats)
    if n_rounds < 1:
        first, n_rounds = max(0.0, float(np.floor(last - turn.beats))), 1
    if manner == "once":
        return [first + turn.beats * int(rng.integers(n_rounds))]
    played = GAPS[int(rng.integers(len(GAPS)))]
    return [first + turn.beats * i for i in range(n_rounds) if played[i % len(played)]]


def _chopped(
    n_samples: int, cuts: Sequence[int], grid: Grid, whole: Round, sample_rate: int, rng: Rng
) -> Round:
    """Return a round in which pieces of the sound come in another order, on half beats."""
    least = round(SHORTEST_CHOP * sample_rate)
    edges = _edges(n_samples, cuts, least)
    pieces = list(pairwise(edges))
    n_steps = max(2, round(2 * whole.beats))
    step = whole.beats / n_steps
    n_chops = min(len(pieces), n_steps)
    order = rng.permutation(len(pieces))[:n_chops]
    if (np.diff(order) == 1).all():
        order = order[::-1]
    places = np.sort(rng.choice(np.arange(1, n_steps), size=n_chops - 1, replace=False))
    beats = [0.0, *(float(place) * step for place in places)]
    triggers = [(beat, *pieces[i]) for beat, i in zip(beats, order, strict=True)]
    return Round(whole.beats, tuple(triggers))


def _edges(n_samples: int, cuts: Sequence[int], least: int) -> list[int]:
    """Return where the pieces begin and the last one ends: MOST_CHOPS pieces at most."""
    edges = [0]
    for cut in cuts:
        if cut - edges[-1] >= least and n_samples - cut >= least:
            edges.append(cut)
    if len(edges) < 2:
        edges = [n_samples * i // EVEN_CHOPS for i in range(EVEN_CHOPS)]
    return [*edges[:MOST_CHOPS], n_samples]


def laid(sound: Samples, placements: Sequence[Placement], n_samples: int, fade: int) -> Samples:
    """Return a track of ``n_samples`` with pieces of a sound, each faded over ``fade`` samples."""
    track = np.zeros(n_samples, np.float32)
    for place in placements:
        piece = sound[place.first : place.last].copy()
        ramp = np.linspace(0.0, 1.0, min(fade, len(piece) // 2) + 1, dtype=np.float32)[:-1]
        piece[: len(ramp)] *= ramp
        piece[len(piece) - len(ramp) :] *= ramp[::-1]
        track[place.at : place.at + len(piece)] += piece[: n_samples - place.at]
    return track
