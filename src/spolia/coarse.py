"""The two stages of compressed search: runs name candidates, segments say where. Pure.

Run vectors of a query find stored runs, and with them (recording, offset) candidates that are good
to about half a run. Of each candidate only the stored segment vectors around it are read and
compared with the query's: their hits go the way of an exhaustive search's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spolia.alignment import Floats, Line
from spolia.fingerprints.base import Fingerprint
from spolia.store.hits import NO_HITS, Hits

N_CANDIDATES = 200  # places of recordings whose segments are read
N_LOCAL = 4  # stored vectors of each candidate that become hits of a query vector
RELATED = 0.3  # similarity below which a hit says nothing


class Neighbourhood(NamedTuple):
    """Where in a recording a query may be."""

    recording: int  # position in the index's ``recording_ids``
    offset: float  # seconds of the recording at the query's beginning, to about half a run
    score: float  # sum over the query's runs of the best similarity there


def candidates(hits: Hits, *, span: float, n: int = N_CANDIDATES) -> list[Neighbourhood]:
    """Return the places where most runs of a query found stored runs, most similar first.

    span: seconds of a run. A place is a cell of one span; cells overlap by half, so that no border
    divides hits that belong together. Each run of the query counts once in a cell, by its best hit.
    """
    if not len(hits):
        return []
    offsets = np.tile(hits.reference_times - hits.query_times, 2)
    every, scores = np.tile(hits.recordings.astype(np.int64), 2), np.tile(hits.scores, 2)
    cells = np.floor(offsets / (span / 2)).astype(np.int64) - np.repeat([0, 1], len(hits))
    _, run = np.unique(hits.query_times, return_inverse=True)
    keys = np.stack([every, cells, np.tile(run, 2)], axis=1)
    best = np.lexsort((-scores, *keys.T[::-1]))
    first = np.ones(len(best), bool)
    first[1:] = (keys[best[1:]] != keys[best[:-1]]).any(1)
    counted = best[first]
    places, of = np.unique(keys[counted][:, :2], axis=0, return_inverse=True)
    of = of.reshape(-1)
    weight = scores[counted].astype(np.float64)
    total = np.bincount(of, weights=weight)
    middle = np.bincount(of, weights=weight * offsets[counted]) / np.maximum(total, 1e-9)
    order = np.argsort(-total, kind="stable")
    found = [
        Neighbourhood(int(places[i, 0]), float(middle[i]), float(total[i])) for i in order[: 4 * n]
    ]
    return _apart(found, span)[:n]


def recording_scores(hits: Hits) -> dict[int, float]:
    """Return each recording's cumulative similarity: the paper's rule, which ignores order."""
    totals = np.bincount(hits.recordings, weights=hits.scores)
    return {int(i): float(totals[i]) for i in np.unique(hits.recordings)}


def rough_lines(hits: Hits, query: Fingerprint, *, span: float) -> list[tuple[int, Line]]:
    """Return (recording, line) of the places where most runs of a query found stored runs.

    Runs alone say nothing of the speed: it is 1. The score is the mean over the query's runs of
    the best similarity at the place, the evidence its excess over RELATED in seconds.
    """
    n_runs = max(len(query), 1)
    start = float(query.times[0]) if len(query) else 0.0
    seconds = max(query.duration - start, 1e-6)
    found = []
    for place in candidates(hits, span=span):
        score = place.score / n_runs
        evidence = max(score - RELATED, 0.0) * seconds
        line = Line(1.0, place.offset, start, start + seconds, score, seconds, evidence)
        found.append((place.recording, line))
    return found


def local_hits(
    query: Fingerprint,
    places: Sequence[Neighbourhood],
    sequence: Callable[[int], Fingerprint],
    *,
    span: float,
    stride: int = 1,
) -> Hits:
    """Return hits of a query's segment vectors among the stored ones around candidates.

    sequence: the stored segment vectors of a recording, by its position; stride: every how many
    of the query's vectors are compared.
    """
    vectors, times = query.values[::stride], query.times[::stride]
    found = [_hits_at(place, vectors, times, sequence(place.recording), span) for place in places]
    found = [hits for hits in found if len(hits)]
    if not found:
        return NO_HITS
    return Hits(
        *(np.concatenate(of) for of in zip(*(vars(h).values() for h in found), strict=True))
    )


def strongest(hits: Hits, k: int) -> Hits:
    """Return the ``k`` most similar hits of each query vector, as an exhaustive search would."""
    if not len(hits):
        return hits
    order = np.lexsort((-hits.scores, hits.query_times))
    times = hits.query_times[order]
    begins = np.flatnonzero(np.concatenate([[True], times[1:] != times[:-1]]))
    rank = np.arange(len(order)) - np.repeat(begins, np.diff([*begins, len(order)]))
    kept = np.sort(order[rank < k])
    return Hits(*(column[kept] for column in vars(hits).values()))


def _apart(places: Sequence[Neighbourhood], span: float) -> list[Neighbourhood]:
    """Keep the best of places that are so near that their surroundings hold each other."""
    kept: list[Neighbourhood] = []
    for place in places:
        near = (
            other.recording == place.recording and abs(other.offset - place.offset) < span / 2
            for other in kept
        )
        if not any(near):
            kept.append(place)
    return kept


def _hits_at(
    place: Neighbourhood,
    vectors: npt.NDArray[np.float32],
    times: Floats,
    stored: Fingerprint,
    span: float,
) -> Hits:
    first, last = place.offset + times[0] - span, place.offset + times[-1] + span
    low, high = np.searchsorted(stored.times, [first, last])
    if high <= low:
        return NO_HITS
    similarity = vectors @ stored.values[low:high].T
    k = min(N_LOCAL, high - low)
    columns = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    rows = np.repeat(np.arange(len(times)), k)
    columns = columns.reshape(-1)
    scores = similarity[rows, columns]
    keep = scores > RELATED
    rows, columns = rows[keep], columns[keep]
    return Hits(
        np.full(len(rows), place.recording, np.int32),
        times[rows],
        stored.times[low + columns],
        np.asarray(scores[keep], np.float32),
    )
