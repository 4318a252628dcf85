"""Every place where a query plays a stretch of a recording, and how far the stretch reaches. Pure.

Once pitch and tempo are known, the recording is brought to the query's, and both are compared frame
by frame: an occurrence is a diagonal of the matrix of products, a loop is many diagonals over one
stretch of the recording. How far the stretch reaches is seen best where all occurrences are laid
over each other, since what lies over them differs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spolia.sample_alignment import BANDS_PER_SEMITONE, FRAME, Played, polish
from spolia.sample_loops import Explanation, Lags, Span, explained, extents, stretch
from spolia.sample_patches import Bands, Floats, Pair
from spolia.spectral_alignment import rows_at

STEP = 2  # frames in one tick
TICK = STEP * FRAME  # 32 ms
REACH = 10.0  # seconds of the recording on either side of the seed, as played
LOCAL = 0.5  # seconds over which agreement is measured along a diagonal
LEAST = 0.4  # seconds: a shorter stretch is no occurrence
LONGEST = 9.0  # seconds: a longer stretch is rarely sampled
MOST_POLISHED = 5  # occurrences from which pitch and tempo are measured
WEAK, STRONG = 3.0, 4.5  # robust standard deviations from which a place is looked at, and found
MOST_PLACES = 150  # that are looked at
NEAREST = 0.35  # seconds between them
SLACK = 3  # ticks by which the seed may be off
LEAST_DEVIATION = 0.5  # of the robust one over the plain one: it is 0 where the query mostly rests
KEEP = 0.8  # of the agreement of the first trace that the one after polishing must have
PLACES_AT_ONCE = 8192
LENGTHS = {"shortest": round(LEAST / TICK), "longest": round(LONGEST / TICK)}


@dataclass(frozen=True)
class Occurrence:
    """One stretch of the query that plays a stretch of the recording."""

    query_start: float  # seconds
    query_end: float
    reference_start: float
    reference_end: float
    score: float  # correlation over the stretch, from -1 to 1


@dataclass(frozen=True)
class Trace:
    """All occurrences of a sample, in order of time."""

    occurrences: tuple[Occurrence, ...]
    z: float  # agreement of the best place, in robust standard deviations of all places
    pooled: float  # root of the sum of the squares of all occurrences' z

    @property
    def seconds(self) -> float:
        """Return the length of an occurrence of the query, the median of all."""
        return float(np.median([o.query_end - o.query_start for o in self.occurrences]))


def trace(query: Bands, recording: Bands, played: Played, *, seconds: float) -> Trace:
    """Return every occurrence of what a patch of the query plays.

    query, recording: levels of the whole, see :func:`spolia.sample_alignment.levels`; played: of
    the patch; seconds: its length. Places are looked for with the patch, with what agrees around it
    and with the stretch that these lead to; the explanation that says most is kept.
    """
    heard = _ticks(query)
    first = played.middle - seconds / 2 - REACH  # the recording, as if all of it were played on
    times = first + TICK * np.arange(round((seconds + 2 * REACH) / TICK))
    known = _as_played(recording, played, times)
    heard, known = heard - heard.mean(0), known - known.mean(0)
    baseline, seed = _baseline(heard, known), round(first / TICK)
    patch = round(REACH / TICK), round((REACH + seconds) / TICK)
    own = _along(heard, known, np.array([seed]))[0]

    def tried(core: Span) -> list[tuple[Explanation, Lags]]:
        places, heights = _places(heard, known, core, seed)
        lags = Lags(places, heights, _along(heard, known, places), baseline, len(heard))
        one = explained(lags, core, **LENGTHS)
        return [] if one is None else [(one, lags)]

    found = tried(patch) + tried(stretch(own, baseline, patch, **LENGTHS))
    if not found:
        return Trace((), 0.0, 0.0)
    found += tried(max(found, key=_gain)[0].span)
    best, lags = max(found, key=_gain)
    z = lags.heights[best.chosen]
    occurrences = _occurrences(lags, best, times, played)
    return Trace(occurrences, float(z.max()), float(np.sqrt(np.square(z).sum())))


def _gain(found: tuple[Explanation, Lags]) -> float:
    return found[0].gain


def exact(
    query: Bands, recording: Bands, played: Played, *, seconds: float
) -> tuple[Played, Trace]:
    """Return how a sample is played, measured on all its occurrences, and these.

    Arguments as of :func:`trace`.
    """
    found = trace(query, recording, played, seconds=seconds)
    if found.occurrences:
        played = polished(query, recording, played, found)
        again = trace(query, recording, played, seconds=found.seconds)
        found = again if again.pooled > KEEP * found.pooled else found
    return played, found


def polished(query: Bands, recording: Bands, played: Played, found: Trace) -> Played:
    """Return how a sample is played more exactly, by its occurrences alone."""
    best = sorted(found.occurrences, key=lambda o: -o.score)[:MOST_POLISHED]
    pairs = []
    for o in best:
        middle = (o.query_start + o.query_end) / 2
        pairs.append(Pair(middle, (o.reference_start + o.reference_end) / 2))
    return polish(query, recording, pairs, played, seconds=found.seconds)


def _ticks(values: Bands) -> Bands:
    rows = len(values) // STEP
    return np.asarray(values[: rows * STEP].reshape(rows, STEP, -1).mean(1), np.float32)


def _as_played(recording: Bands, played: Played, times: Floats) -> Bands:
    """Return the recording as the query plays it at times of the query; 0 where it does not."""
    places = (played.tempo * (times + TICK / 4) + played.offset) / FRAME
    rows = rows_at(recording, places)
    bands = np.arange(rows.shape[1]) - played.semitones * BANDS_PER_SEMITONE
    return np.ascontiguousarray(rows_at(np.ascontiguousarray(rows.T), bands).T)


def _along(heard: Bands, known: Bands, places: npt.NDArray[np.int64]) -> Floats:
    """Return the agreement of each row along diagonals [shape=(n_places, len(known))].

    Products over the loudness of LOCAL seconds around. A place is the row of the query at which
    ``known`` begins; where that is outside the query, 0.
    """
    curves = np.zeros((len(places), len(known)))
    left, right = (np.einsum("tb,tb->t", x, x, dtype=np.float64) for x in (heard, known))
    for curve, place in zip(curves, places, strict=True):
        low, high = max(0, -place), min(len(known), len(heard) - place)
        if high <= low:
            continue
        one, other = slice(low + place, high + place), slice(low, high)
        loud = _smooth(left[one]), _smooth(right[other])
        quiet = 0.1 * float(loud[0].mean() + loud[1].mean()) / 2 + 1e-9
        product = np.einsum("tb,tb->t", heard[one], known[other])
        curve[low:high] = product / np.sqrt((loud[0] + quiet) * (loud[1] + quiet))
    return curves


def _baseline(heard: Bands, known: Bands, n: int = 16) -> float:
    """Return the mean agreement along diagonals that mean nothing, drawn evenly."""
    last = max(len(heard) - len(known), 1)
    return float(_along(heard, known, np.linspace(0, last, n).astype(np.int64)).mean())


def _smooth(values: Floats) -> Floats:
    n = max(1, round(LOCAL / TICK))
    padded = np.pad(values, (n // 2, n - 1 - n // 2), mode="edge")
    return np.convolve(padded, np.full(n, 1.0 / n), "valid")


def _places(
    heard: Bands, known: Bands, core: Span, seed: int
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the rows of the query at which ``known`` may begin, and how far they stand out.

    By robust standard deviations of what the core reaches when it is played backwards, which has
    its levels and its rhythm: a loop may fill the track, so that places themselves have no middle.
    The place nearest to the seed is always among them; where none stands out, it is alone.
    """
    part = known[core[0] : core[1]]
    n = len(part)
    line, null = _correlations(heard, part)
    middle = float(np.median(null))
    deviation = 1.4826 * float(np.median(np.abs(null - middle)))
    deviation = max(deviation, LEAST_DEVIATION * float(null.std()), 1e-9)
    z = (line - middle) / deviation
    apart, left = round(NEAREST / TICK), z.copy()
    near = max(0, min(seed + n + core[0] - SLACK, len(z) - 1))
    best = near + int(z[near : near + 2 * SLACK + 1].argmax())
    found = [best]
    while len(found) < MOST_PLACES:
        left[max(0, best - apart + 1) : best + apart] = -np.inf
        best = int(left.argmax())
        if left[best] < WEAK:
            break
        found.append(best)
    if z[found].max() < STRONG:
        found = found[:1]
    chosen = np.array(sorted(found), np.int64)
    return chosen - n - core[0], z[chosen]


def _correlations(heard: Bands, part: Bands) -> tuple[Floats, Floats]:
    """Return the correlation of a part with the query at all places, and of the part backwards.

    Places go from the part's length before the query's first row to its last.
    """
    n, n_places = len(part), len(heard) + len(part)
    padded = np.pad(heard, ((n, n), (0, 0)))  # an occurrence may be cut by the query's ends
    sums = np.empty((2, n_places), np.float32)
    for first in range(0, n_places, PLACES_AT_ONCE):  # an hour's products would fill memory
        size = min(PLACES_AT_ONCE, n_places - first)
        products = part @ padded[first : first + size + n - 1].T
        for line, rows in zip(sums, (products, products[::-1]), strict=True):
            line[first : first + size] = _diagonals(rows, size)
    energy = np.concatenate([[0.0], np.cumsum(np.square(padded).sum(1, dtype=np.float64))])
    local = energy[n : n + n_places] - energy[:n_places]
    scale = float(np.square(part).sum()) * (local + 0.2 * float(local.mean()) + 1e-9)
    forwards, backwards = sums / np.sqrt(scale)
    return forwards, backwards


def _diagonals(rows: Bands, n: int) -> Bands:
    """Return the sums of the first ``n`` diagonals of a matrix."""
    total = np.zeros(n, np.float32)
    for i, row in enumerate(rows):
        total += row[i : i + n]
    return total


def _occurrences(
    lags: Lags, found: Explanation, times: Floats, played: Played
) -> tuple[Occurrence, ...]:
    occurrences: list[Occurrence] = []
    for number, low, high in extents(lags, found.chosen, found.span):
        if (high - low) * TICK < LEAST:
            continue
        start, end = (
            float(played.tempo * (times[0] + TICK * row) + played.offset) for row in (low, high)
        )
        score = float(lags.curves[number, low:high].mean())
        begin, stop = (TICK * (int(lags.places[number]) + row) for row in (low, high))
        occurrences.append(Occurrence(begin, stop, start, end, score))
    return tuple(occurrences)
