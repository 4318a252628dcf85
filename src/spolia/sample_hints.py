"""Places that other methods take for a recording's, to be compared as samples are. Pure.

A vector of samples is made of four seconds, in which a chopped or a softly laid sample may be
lost. Where a library also holds segment vectors, of one second, or landmarks, what they find is
heard too, just there, at the pitch and tempo they found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spolia.fingerprints.base import Fingerprint
from spolia.rivals import Candidate, best_per_recording
from spolia.sample_patches import Near, Pair
from spolia.samples import N_PAIRS, PAIRS_APART, Nominee
from spolia.store.hits import Hits

N_HINTS = 6  # recordings of each method
LONGEST_SHIFTED = 90.0  # seconds of a track up to which other methods listen at other pitches, too
FROM_ODDS, MOST_SAID = -3.0, 10.0  # log odds (one in twenty) from which a method is heard; cap
LEAST_DOUBT, DOUBT = 0.03, 0.25  # of a tempo's logarithm, and for a line of one second more


@dataclass(frozen=True)
class Hint:
    """Places of a query and of a recording that another method takes for the same."""

    recording: int  # position in the index's ``recording_ids``
    pairs: tuple[Pair, ...]  # the middle of what was found first
    near: Near  # how it is played
    word: float  # log odds of the method that it is right, beyond FROM_ODDS; 0 to MOST_SAID


def hints_of(candidates: Sequence[Candidate], numbers: Mapping[str, int]) -> list[Hint]:
    """Return hints of the most probable recordings; candidates: most probable first.

    numbers: of recordings in the index, by id; others are left out.
    """
    known = [c for c in candidates if c.recording_id in numbers]
    best = best_per_recording(known)[:N_HINTS]
    return [
        Hint(
            numbers[c.recording_id],
            _pairs(c),
            Near(c.semitones, c.line.speed, LEAST_DOUBT + DOUBT / _seconds(c)),
            _word(c.probability),
        )
        for c in best
    ]


def hinted(
    hints: Sequence[Hint],
    query: Fingerprint,
    stored: Callable[[int], Fingerprint],
    *,
    seconds: float,
) -> list[Nominee]:
    """Return hints as nominees, with the similarity of the windows at their first pair.

    query: vectors of samples of the query; stored: gives a recording's, by its number; seconds: the
    length of a window. Where either has no vectors there is no hint.
    """
    found = []
    for hint in hints:
        recording, pair = stored(hint.recording), hint.pairs[0]
        if len(query) and len(recording):
            one = query.values[np.abs(query.times + seconds / 2 - pair.query).argmin()]
            place = np.abs(recording.times + seconds / 2 - pair.recording).argmin()
            score = float(one @ recording.values[place])
            found.append(Nominee(hint.recording, hint.pairs, score, near=hint.near, word=hint.word))
    return found


def hits_of(nominees: Sequence[Nominee], *, seconds: float) -> Hits:
    """Return the windows of ``seconds`` seconds around nominees' first pairs as hits."""
    firsts = [nominee.pairs[0] for nominee in nominees]
    starts = np.array([(pair.query, pair.recording) for pair in firsts]).reshape(-1, 2)
    query, recording = np.maximum(starts - seconds / 2, 0.0).T
    return Hits(
        np.array([nominee.recording for nominee in nominees], np.int32),
        query,
        recording,
        np.array([nominee.score for nominee in nominees], np.float32),
    )


def _pairs(candidate: Candidate) -> tuple[Pair, ...]:
    """Return places on a candidate's line, from its middle to both sides."""
    line, length = candidate.line, _seconds(candidate)
    middle = (line.query_start + line.query_end) / 2
    away = (0.0, -length / 3, length / 3) if length >= N_PAIRS * PAIRS_APART else (0.0,)
    times = np.maximum(middle + np.array(away), 0.0).tolist()
    return tuple(Pair(t, max(0.0, line.speed * t + line.offset)) for t in times)


def _word(probability: float) -> float:
    """Return what a probability says, as evidence."""
    p = min(max(probability, 1e-9), 1.0 - 1e-9)
    return min(max(float(np.log(p / (1.0 - p))) - FROM_ODDS, 0.0), MOST_SAID)


def _seconds(candidate: Candidate) -> float:
    """Return the length of what was found, one second at least."""
    return max(1.0, candidate.line.query_end - candidate.line.query_start)
