"""Excerpts: which stretch of a recording is worth sampling. Pure.

They begin on an onset near a beat, last a whole number of beats so that they can be looped, and
are never silent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spolia.audio import Audio, is_silent
from spolia.production.beats import Beats, Floats, estimate_beats, onset_strength, onsets
from spolia.production.levels import BLOCK, block_powers
from spolia.production.plan import NOTE_SECONDS, RIFF_SECONDS, Rng
from spolia.production.truth import Kind

SHORTEST = 4.0  # seconds of sound in which an excerpt can be looked for
PREROLL = 0.005  # seconds before the onset at which an excerpt begins: its fade spares the attack
NEAR_BEAT = 0.06  # seconds by which an onset may miss its beat
BEATS_PER_BAR = 4
PHRASES = (1, 2, 3, 4, 6, 8, 12, 16)  # beats that a riff may last
LONGEST = 10.0  # seconds of any excerpt
NO_BEAT = Beats(0.0, 0.5)  # for sounds without a beat: cut by 120 per minute
LEAST_POWER = 3e-5  # of an excerpt: −45 dBFS
BELOW_LOUDEST = 0.01  # power of an excerpt over that of the loudest tenth around it: −20 dB
SILENT_BELOW = 1e-5  # power of a silent block over that of the excerpt: −50 dB
LEAST_SOUNDING = 0.25  # share of the blocks that are not: a drum machine rests between its hits


@dataclass(frozen=True)
class Excerpt:
    """A stretch that is to be sampled."""

    start: float  # seconds of the sound in which it was found
    end: float
    beat: float  # seconds per beat of the source
    onsets: tuple[float, ...]  # seconds from its start, inside it, ascending


@dataclass(frozen=True)
class Wish:
    """What kind of excerpt is looked for."""

    kind: Kind
    seconds: float  # about: of riffs and notes
    n_bars: int  # of breaks; fewer where they take too long
    longest: float  # seconds


def find_excerpt(sound: Audio, rhythm: Audio, wish: Wish, rng: Rng) -> Excerpt | None:
    """Return one of the fitting excerpts of a sound.

    rhythm: the same stretch of the full recording, whose beat is followed. None where the sound is
    shorter than SHORTEST, or nothing in it is long and loud enough.
    """
    if sound.duration < SHORTEST or is_silent(sound):
        return None
    begins = onsets(sound, onset_strength(sound))
    beats = estimate_beats(onset_strength(rhythm), rhythm.sample_rate) or NO_BEAT
    spans = [s for s in _spans(begins, beats, wish, sound.duration) if s[1] <= sound.duration]
    levels = block_powers(sound)
    audible = [span for span in spans if _is_audible(levels, *span)]
    if not audible:
        return None
    start, end = audible[int(rng.integers(len(audible)))]
    start, end = (round(t * sound.sample_rate) / sound.sample_rate for t in (start, end))
    inside = begins[(begins > start + NEAR_BEAT) & (begins < end - NEAR_BEAT)]
    return Excerpt(start, end, beats.period, tuple(map(float, inside - PREROLL - start)))


def _spans(begins: Floats, beats: Beats, wish: Wish, duration: float) -> list[tuple[float, float]]:
    """Return the starts and ends of all candidates, in seconds."""
    if wish.kind == "note":
        ends = np.append(begins[1:], duration)
        lengths = np.minimum(ends - begins, min(wish.seconds, wish.longest))
        starts = begins[lengths >= NOTE_SECONDS[0]]
        return list(zip(*_early(starts, lengths[lengths >= NOTE_SECONDS[0]]), strict=True))
    starts = _near(begins, beats.times(duration))
    if not len(starts):  # nothing is struck: any beat will do
        starts = beats.times(duration)
    length = beats.period * _n_beats(beats, wish)
    return list(zip(*_early(starts, np.full(len(starts), length)), strict=True))


def _early(starts: Floats, lengths: Floats) -> tuple[list[float], list[float]]:
    """Return starts moved before their onsets, and ends."""
    begin = np.maximum(starts - PREROLL, 0.0)
    return begin.tolist(), (begin + lengths).tolist()


def _near(begins: Floats, beats: Floats) -> Floats:
    """Return the onsets that are the nearest to a beat and near enough."""
    if not len(begins) or not len(beats):
        return np.zeros(0)
    nearest = np.abs(beats[:, None] - begins).argmin(1)
    found = begins[nearest]
    return np.unique(found[np.abs(found - beats) <= NEAR_BEAT])


def _n_beats(beats: Beats, wish: Wish) -> int:
    """Return how many beats the excerpt lasts: whole bars of a break, else nearest to the wish."""
    longest = min(wish.longest, LONGEST)
    if wish.kind == "break":
        n_bars = wish.n_bars
        while n_bars > 1 and n_bars * BEATS_PER_BAR * beats.period > longest:
            n_bars //= 2
        return n_bars * BEATS_PER_BAR
    usable = [n for n in PHRASES if RIFF_SECONDS[0] <= n * beats.period <= longest]
    return min(
        usable or [2],
        key=lambda n: abs(float(np.log(n * beats.period / wish.seconds))),
    )


def _is_audible(levels: npt.NDArray[np.float64], start: float, end: float) -> bool:
    inside = levels[int(start / BLOCK) : max(int(end / BLOCK), int(start / BLOCK) + 1)]
    if not len(inside):
        return False
    mean = float(inside.mean())
    loud_enough = mean >= max(LEAST_POWER, BELOW_LOUDEST * float(np.quantile(levels, 0.9)))
    return loud_enough and float((inside > SILENT_BELOW * mean).mean()) >= LEAST_SOUNDING
