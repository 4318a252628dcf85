"""Candidates that explain the same stretch of a query: which is best, and how far ahead it is.

How much a wrong recording resembles a query depends on the query: one anthem resembles every other
anthem. A line is therefore judged beside the strongest line of *another* recording on the same
stretch, as speaker verification normalises a score by a cohort (T-norm; Auckenthaler et al. 2000).
A recording that holds the same sound, a copy, is no rival.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from spolia.alignment import Floats, Line, Vectors
from spolia.calibration import OVERLAP, Calibration, overlaps, strength
from spolia.fingerprints.base import Fingerprint
from spolia.spectral_alignment import MOST_LAG

N_LEADERS = 12  # strongest recordings among which rivals and copies are looked for
SAME_SOUND = 0.6  # mean similarity of stored vectors from which two recordings hold one sound


@dataclass(frozen=True)
class Place:
    """A candidate's line by the sound of its recording, and how well that agrees."""

    line: Line
    semitones: float | None = None  # how much higher the query sounds; None: not measured
    correlation: float | None = None  # see spectral_alignment.Alignment; None: nothing to compare
    prominence: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A line in a recording with what was made of it."""

    recording_id: str
    line: Line
    rival: float = 0.0  # evidence of the strongest line of another recording's sound
    probability: float = 0.0
    semitones: float = 0.0  # how much higher the query sounds, as far as the search knows
    is_copy: bool = False  # whether it holds the same sound as the strongest one on its stretch
    lag: float = MOST_LAG  # seconds by which its offset may be wrong
    place: Place | None = None  # once it was aligned
    by_vectors: float = 0.0  # probability before that


Same = Callable[[Candidate, Candidate], bool]


def judged(
    candidates: list[Candidate], same: Same, *, n_entries: int, calibration: Calibration
) -> list[Candidate]:
    """Return candidates with rival and probability, most probable first.

    same: whether two candidates hold the same sound; n_entries: vectors or hashes of the library.
    No candidate is more probable than a stronger one on the same stretch.
    """
    ordered = sorted(candidates, key=lambda c: -strength(c.line.evidence, c.line.score))
    same = lru_cache(maxsize=None)(same)
    leading = list(_leaders(ordered))
    rivals = [
        _rival(candidate, leaders, same)
        for candidate, leaders in zip(ordered, leading, strict=True)
    ]
    lines = [
        (c.line.evidence, c.line.score, c.line.support, rival)
        for c, rival in zip(ordered, rivals, strict=True)
    ]
    probabilities = calibration.probabilities(np.reshape(lines, (-1, 4)), n_entries).tolist()
    found: list[Candidate] = []
    every = zip(ordered, leading, rivals, probabilities, strict=True)
    for candidate, leaders, rival, probability in every:
        caps = [c.probability for c in found if overlapping(c.line, candidate.line)]
        is_copy = candidate in leaders[1:] and same(leaders[0], candidate)
        found.append(
            replace(candidate, rival=rival, probability=min([probability, *caps]), is_copy=is_copy)
        )
    return sorted(found, key=lambda c: -c.probability)


def _leaders(ordered: list[Candidate]) -> Iterator[list[Candidate]]:
    """Yield the strongest candidate of each of the strongest recordings on a candidate's stretch.

    ordered: strongest first. Elsewhere in a long query there are other leaders.
    """
    starts = np.array([c.line.query_start for c in ordered])
    ends = np.array([c.line.query_end for c in ordered])
    known: dict[tuple[float, float], list[Candidate]] = {}
    for candidate in ordered:
        stretch = candidate.line.query_start, candidate.line.query_end
        if stretch not in known:
            near = np.flatnonzero(overlaps(starts, ends, *np.array(stretch)))
            known[stretch] = best_per_recording([ordered[i] for i in near])[:N_LEADERS]
        yield known[stretch]


def _rival(candidate: Candidate, leaders: list[Candidate], same: Same) -> float:
    """Return the evidence of the strongest leader that is another recording's sound, or 0."""
    for other in sorted(leaders, key=lambda c: -c.line.evidence):
        if other.recording_id != candidate.recording_id and not same(other, candidate):
            return other.line.evidence
    return 0.0


def overlapping(first: Line, second: Line) -> bool:
    """Tell whether two lines explain the same stretch of the query."""
    common = min(first.query_end, second.query_end) - max(first.query_start, second.query_start)
    shorter = min(first.query_end - first.query_start, second.query_end - second.query_start)
    return common > OVERLAP * max(shorter, 1e-9)


def same_sound(
    first: Candidate, second: Candidate, sequence: Callable[[str], Fingerprint], *, hop: float
) -> bool:
    """Tell whether two recordings hold the same sound where their lines overlap.

    sequence: a recording's stored vectors, ``hop`` seconds apart. The grids of two recordings may
    be half a hop apart, and the lines a little off, so neighbouring vectors count too.
    """
    start = max(first.line.query_start, second.line.query_start)
    end = min(first.line.query_end, second.line.query_end)
    times = np.arange(start, max(end - hop, start + 1e-6), hop)
    one = _stored(sequence(first.recording_id), first.line, times, hop)
    shifted = np.concatenate([times - hop, times, times + hop])
    other = _stored(sequence(second.recording_id), second.line, shifted, hop)
    similarity = np.einsum("td,std->st", one, other.reshape(3, len(times), -1))
    return bool(similarity.mean(1).max() >= SAME_SOUND)


def _stored(fingerprint: Fingerprint, line: Line, query_times: Floats, hop: float) -> Vectors:
    """Return the stored vectors nearest to a line at times of the query, 0 where it is silent."""
    wanted = line.speed * query_times + line.offset
    if len(fingerprint) == 0:
        return np.zeros((len(wanted), 1), np.float32)
    right = np.clip(np.searchsorted(fingerprint.times, wanted), 1, max(len(fingerprint) - 1, 1))
    right = np.minimum(right, len(fingerprint) - 1)
    left = np.maximum(right - 1, 0)
    nearer = np.abs(fingerprint.times[left] - wanted) < np.abs(fingerprint.times[right] - wanted)
    place = np.where(nearer, left, right)
    near = np.abs(fingerprint.times[place] - wanted) <= hop
    return np.asarray(fingerprint.values[place] * near[:, None], np.float32)


def rivals_removed(candidates: list[Candidate]) -> list[Candidate]:
    """Keep, for every stretch of the query, the most probable candidate."""
    kept: list[Candidate] = []
    for candidate in candidates:
        if all(not overlapping(candidate.line, other.line) for other in kept):
            kept.append(candidate)
    return kept


def best_per_recording(candidates: list[Candidate]) -> list[Candidate]:
    """Keep each recording's first candidate."""
    seen: set[str] = set()
    kept = []
    for candidate in candidates:
        if candidate.recording_id not in seen:
            seen.add(candidate.recording_id)
            kept.append(candidate)
    return kept
