"""How much higher a query sounds than the recording it was found in. Pure.

An encoder that was trained to forgive a semitone or so answers with a plateau around the shift that
undoes a change of pitch; its middle is the answer.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spolia.alignment import Line, Proposal, compare
from spolia.fingerprints.base import Fingerprint

STEP = 2 / 3  # semitones, a band of the spectrogram: shifts between bands blur it
REACH = 5  # steps on either side of the shift at which a match was found
FLOOR = 0.3  # share of the largest similarity that does not count


def measure_semitones(
    line: Line,
    found_at: float,
    query: Callable[[float], Fingerprint],
    reference: Fingerprint,
    *,
    hop: float,
    segment: float,
) -> float:
    """Return how many semitones higher the query sounds on a line's stretch.

    found_at: the same as far as the search knew it; query: the stretch's fingerprint when it is
    played higher by some semitones; hop, segment: seconds between and within stored vectors.
    """
    middle = round(-found_at / STEP)
    shifts = STEP * np.arange(middle - REACH, middle + REACH + 1)
    values = np.array([_similarity(line, query(float(s)), reference, hop, segment) for s in shifts])
    weights = np.maximum(values - FLOOR * max(float(values.max()), 0.0), 0.0) ** 2
    if not weights.any():
        return found_at
    return -float(np.average(shifts, weights=weights))


def _similarity(
    line: Line, query: Fingerprint, reference: Fingerprint, hop: float, segment: float
) -> float:
    """Return the mean similarity of a query to the recording along a line."""
    if not len(query):
        return 0.0
    # Lines are about true times; vectors of different speeds match at their middles.
    offset = line.offset + (line.speed - 1.0) * segment / 2
    window = compare(
        query.times,
        query.values,
        reference.times,
        reference.values,
        Proposal(0, line.speed, offset, 0.0),
        hop=hop,
    )
    middle = float(query.times[0] + query.times[-1]) / 2
    centre = np.array([offset + line.speed * middle])
    return float(window.along(np.array([line.speed]), centre, middle).mean())
