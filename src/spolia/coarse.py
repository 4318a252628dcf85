"""The two stages of compressed search: runs name candidates, segments say where. Pure.

Run vectors of a query find stored runs, and with them (recording, offset) candidates that are good
to about half a run. Of each candidate only the stored segment vectors around it are read and
compared with the query's: their hits go the way of an exhaustive search's. Where runs are all that
is stored, the query's segment vectors are held against them at every offset instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spolia.alignment import Line
from spolia.fingerprints.base import Fingerprint
from spolia.store.hits import NO_HITS, Hits

N_CANDIDATES = 200  # places of recordings whose segments are read
N_LOCAL = 4  # stored vectors of each candidate that become hits of a query vector
RELATED = 0.3  # similarity below which a hit says nothing
PLACE_STEP = 0.1  # seconds between offsets at which a query is held against stored runs
ALIKE = 0.5  # cosine of the means of a query's segments and runs above which they are comparable


class Neighbourhood(NamedTuple):
    """Where in a recording a query may be."""

    recording: int  # position in the index's ``recording_ids``
    offset: float  # seconds of the recording at the query's beginning, to about half a run
    score: float  # sum over the query's runs of the best similarity there


def candidates(hits: Hits, *, span: float, n: int = N_CANDIDATES) -> list[Neighbourhood]:
    """Return the places where most runs of a query found stored runs, most similar first.

    span: seconds of a run. A place is a cell of one span; cells overlap by half, so that no border
    divides hits that belong together. Runs of the query that begin together, a whole one and a
    half one, count once in a cell, by their best hit.
    """
    if not len(hits):
        return []
    offsets = np.tile(hits.reference_times - hits.query_times, 2)
    scores = np.tile(hits.scores, 2)
    cells = np.floor(offsets / (span / 2)).astype(np.int64) - np.repeat([0, 1], len(hits))
    named, owner = np.unique(hits.recordings, return_inverse=True)
    begins, run = np.unique(hits.query_times, return_inverse=True)
    low, width = int(cells.min()), int(cells.max() - cells.min()) + 1
    place = np.tile(owner, 2) * width + (cells - low)
    keys = place * len(begins) + np.tile(run, 2)
    order = np.lexsort((-scores, keys))
    counted = order[_begins(keys[order])]  # the best hit of each run at each place
    first = _begins(place[counted])
    weight = scores[counted].astype(np.float64)
    of = np.cumsum(first) - 1
    total = np.bincount(of, weights=weight)
    middle = np.bincount(of, weights=weight * offsets[counted]) / np.maximum(total, 1e-9)
    recordings = named[place[counted[first]] // width]
    order = np.argsort(-total, kind="stable")[: 4 * n]
    found = zip(recordings[order], middle[order], total[order], strict=True)
    return _apart((Neighbourhood(int(r), float(m), float(t)) for r, m, t in found), span, n)


def recording_scores(hits: Hits) -> dict[int, float]:
    """Return each recording's cumulative similarity: the paper's rule, which ignores order."""
    totals = np.bincount(hits.recordings, weights=hits.scores)
    return {int(i): float(totals[i]) for i in np.unique(hits.recordings)}


def located(
    segments: Fingerprint,
    runs: Fingerprint,
    hits: Hits,
    sequence: Callable[[int], Fingerprint],
    *,
    span: float,
    hop: float,
) -> list[Neighbourhood]:
    """Return where a query is by runs alone, most similar first.

    segments, runs: of the query; hits: of its runs; see :func:`placed` for the rest. Where runs lie
    elsewhere than segments, as a model may learn, they cannot be compared: candidates are then kept
    as they are, scored by the mean over the query's runs.
    """
    places = candidates(hits, span=span)
    if places and _alike(segments.values, runs.values):
        return placed(segments, places, sequence, span=span, hop=hop)
    return [place._replace(score=place.score / len(runs)) for place in places]


def placed(
    query: Fingerprint,
    places: Sequence[Neighbourhood],
    sequence: Callable[[int], Fingerprint],
    *,
    span: float,
    hop: float,
) -> list[Neighbourhood]:
    """Return where around candidates a query's segment vectors fit the stored runs, best first.

    sequence: the stored runs of a recording, by its position; span: seconds of a run; hop: seconds
    between the segment vectors that runs were made of. A run is about the mean of the vectors in
    it, so that a query fits at the offset at which the sum of those of its vectors that fall into
    each run points the run's way. The score is the mean similarity of a vector and the run that it
    falls into, over the root of its mean similarity with its neighbours' mean: on that scale right
    and wrong places lie about where they do for whole runs of the query.
    """
    offsets: dict[int, list[float]] = {}
    for place in places:
        offsets.setdefault(place.recording, []).append(place.offset)
    scale = np.sqrt(_coherence(query, span))
    reach = np.arange(-round(span / PLACE_STEP), round(span / PLACE_STEP) + 1)
    found = []
    for recording, near in offsets.items():
        steps = np.round(np.array(near)[:, None] / PLACE_STEP).astype(np.int64) + reach
        grid = PLACE_STEP * np.unique(steps)
        fit = _fit(query, sequence(recording), grid, span=span, hop=hop) / scale
        for _ in near:
            level = np.flatnonzero(fit > fit.max() - 1e-6)
            best = level[len(level) // 2]  # short ones fit as well anywhere in a run
            if fit[best] > 0:
                found.append(Neighbourhood(recording, float(grid[best]), float(fit[best])))
            fit[np.abs(grid - grid[best]) < span / 2] = 0.0
    return sorted(found, key=lambda place: -place.score)


def rough_lines(
    query: Fingerprint, places: Sequence[Neighbourhood], *, segment: float
) -> list[tuple[int, Line]]:
    """Return (recording, line) of the places where a query fits stored runs; segment: seconds.

    Runs alone say nothing of the speed: it is 1. The evidence is the score's excess over RELATED in
    seconds.
    """
    start = float(query.times[0])
    seconds = max(min(query.duration, float(query.times[-1]) + segment) - start, 1e-6)
    found = []
    for place in places:
        evidence = max(place.score - RELATED, 0.0) * seconds
        line = Line(1.0, place.offset, start, start + seconds, place.score, seconds, evidence)
        found.append((place.recording, line))
    return found


def local_hits(
    query: Fingerprint,
    places: Sequence[Neighbourhood],
    sequence: Callable[[int], Fingerprint],
    *,
    span: float,
    k: int,
    stride: int = 1,
) -> Hits:
    """Return hits of a query's segment vectors among the stored ones around candidates.

    sequence: the stored segment vectors of a recording, by its position; stride: every how many
    of the query's vectors are compared. Each has at most N_LOCAL hits at a candidate, and ``k`` in
    all, the most similar ones, as an exhaustive search would.
    """
    vectors, times = query.values[::stride], query.times[::stride]
    surroundings = []
    for place in places:
        stored = sequence(place.recording)
        first, last = place.offset + times[0] - span, place.offset + times[-1] + span
        inside = slice(*stored.times.searchsorted([first, last]).tolist())
        if inside.stop > inside.start:
            surroundings.append((place.recording, stored.times[inside], stored.values[inside]))
    if not surroundings:
        return NO_HITS
    similarity = vectors @ np.concatenate([values for _, _, values in surroundings]).T
    sizes = [len(of) for _, of, _ in surroundings]
    rows, columns = _strongest(similarity, sizes, k)
    recordings = np.repeat([recording for recording, _, _ in surroundings], sizes)
    stored_times = np.concatenate([of for _, of, _ in surroundings])
    return Hits(
        recordings[columns].astype(np.int32),
        times[rows],
        stored_times[columns],
        similarity[rows, columns].astype(np.float32),
    )


def _fit(
    query: Fingerprint,
    stored: Fingerprint,
    offsets: npt.NDArray[np.float64],
    *,
    span: float,
    hop: float,
) -> npt.NDArray[np.float64]:
    """Return the mean similarity of a query's vectors and the stored runs they fall into.

    offsets: seconds of the recording at the query's beginning, ascending. A vector falls into the
    run that holds the nearest of the vectors that runs were made of. Those that fall into none
    count as 0; of those that fall into two, runs overlapping, both count by half.
    """
    ends = offsets[0] + query.times[0] - span, offsets[-1] + query.times[-1] + hop
    inside = slice(*stored.times.searchsorted(ends).tolist())
    similarity = query.values @ stored.values[inside].T
    sums = np.cumsum(similarity, 0, dtype=np.float64)
    sums = np.concatenate([np.zeros((1, similarity.shape[1])), sums])
    begins = stored.times[inside] - hop / 2 - offsets[:, None]  # in the query's seconds
    first, last = query.times.searchsorted(begins), query.times.searchsorted(begins + span)
    run = np.arange(similarity.shape[1])
    total = (sums[last, run] - sums[first, run]).sum(1)
    return np.asarray(total / np.maximum((last - first).sum(1), len(query)))


def _alike(some: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> bool:
    """Tell whether vectors point the way of others."""
    one, other = some.mean(0), others.mean(0)
    return bool(one @ other > ALIKE * np.linalg.norm(one) * np.linalg.norm(other))


def _coherence(query: Fingerprint, span: float) -> float:
    """Return the mean similarity of a query's vectors and the direction of those within a span."""
    of = ((query.times - query.times[0]) / span).astype(np.int64)
    sums = np.zeros((int(of[-1]) + 1, query.values.shape[1]))
    np.add.at(sums, of, query.values)
    return max(float(np.linalg.norm(sums, axis=1).sum()) / len(query), 1e-6)


def _strongest(
    similarity: npt.NDArray[np.float32], sizes: Sequence[int], k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return rows and columns of each row's ``k`` largest values, N_LOCAL of a block at most.

    sizes: of the blocks of columns, none empty. A block in N_LOCAL parts has as many maxima, none
    above its N_LOCAL largest: the k-th largest of all maxima bounds the k-th largest of what is
    kept from below, so that all but a few are left aside unsorted.
    """
    widths = np.asarray(sizes)
    parts = (np.cumsum(widths) - widths)[:, None] + widths[:, None] * np.arange(N_LOCAL) // N_LOCAL
    highest = np.maximum.reduceat(similarity, np.unique(parts), axis=1)
    least = np.full(len(similarity), RELATED, np.float32)
    if highest.shape[1] >= k:
        bound = -np.partition(-highest, k - 1, axis=1)[:, k - 1]
        least = np.maximum(least, np.nextafter(bound, np.float32(-2.0)))
    rows, columns = np.divmod(np.flatnonzero(similarity > least[:, None]), similarity.shape[1])
    values = similarity[rows, columns]
    blocks = rows * len(widths) + np.repeat(np.arange(len(widths)), widths)[columns]
    order = np.lexsort((-values, blocks))  # stable: equal values stay in the order of columns
    order = np.sort(order[_rank(blocks[order]) < N_LOCAL])
    order = order[np.lexsort((-values[order], rows[order]))]
    order = np.sort(order[_rank(rows[order]) < k])
    return rows[order], columns[order]


def _rank(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return each element's place, from 0, among neighbours with the same key."""
    begins = np.flatnonzero(np.diff(keys, prepend=keys[:1] - 1))
    return np.arange(len(keys)) - np.repeat(begins, np.diff([*begins, len(keys)]))


def _begins(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Tell which elements differ from the one before."""
    return np.concatenate([[True], keys[1:] != keys[:-1]])


def _apart(places: Iterable[Neighbourhood], span: float, n: int) -> list[Neighbourhood]:
    """Keep the ``n`` best of places that are so near that their surroundings hold each other."""
    kept: list[Neighbourhood] = []
    offsets: dict[int, list[float]] = {}
    for place in places:
        others = offsets.setdefault(place.recording, [])
        if all(abs(other - place.offset) >= span / 2 for other in others):
            others.append(place.offset)
            kept.append(place)
        if len(kept) == n:
            break
    return kept
