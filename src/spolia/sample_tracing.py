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

from spolia.sample_alignment import (
    BANDS_PER_SEMITONE,
    FRAME,
    Bands,
    Floats,
    Pair,
    Played,
    polish,
)
from spolia.spectral_alignment import rows_at

STEP = 2  # frames in one tick
TICK = STEP * FRAME  # 32 ms
REACH = 10.0  # seconds of the recording on either side of the seed, as played
LOCAL = 0.5  # seconds over which agreement is measured along a diagonal
LEAST = 0.4  # seconds: a shorter stretch is no occurrence
HEARD = 0.5  # share of a stretch's agreement that divides it from what is outside
MOST_POLISHED = 5  # occurrences from which pitch and tempo are measured
N_PASSES = 2  # in which places give the stretch, and the stretch places
PEAK = 5.0  # robust standard deviations from which a place is an occurrence,
PEAK_SHARE = 0.5  # and share of the best place's
KEEP = 0.8  # of the agreement of the first trace that the one after polishing must have
BANDS_AT_ONCE = 8
APART = 0.8  # of the stretch's length: two occurrences begin at least that far apart


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
    the patch; seconds: its length. The stretch is first taken for the patch, and for what agrees
    around it, and where that leads to more is kept.
    """
    heard = _ticks(query)
    first = played.middle - seconds / 2 - REACH  # the recording, as if all of it were played on
    times = first + TICK * np.arange(round((seconds + 2 * REACH) / TICK))
    known = _as_played(recording, played, times)
    heard, known = heard - heard.mean(0), known - known.mean(0)
    baseline = _baseline(heard, known)
    patch = round(REACH / TICK), round((REACH + seconds) / TICK)
    own = _along(heard, known, np.array([round(first / TICK)]))[0]
    best = Trace((), 0.0, 0.0)
    for span in (patch, _span(own, baseline, patch)):
        places: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        weights: Floats = np.zeros(0)
        for _ in range(N_PASSES):
            places, weights = _places(heard, known, span)
            if not len(places):
                break
            curves = _along(heard, known, places)
            span = _span((curves * weights[:, None]).sum(0) / weights.sum(), baseline, span)
        pooled = float(np.sqrt(np.square(weights).sum()))
        if pooled > best.pooled:
            found = _occurrences(heard, known, places, span, times, played)
            best = Trace(found, float(weights.max()), pooled)
    return best


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
    for curve, place in zip(curves, places, strict=True):
        low, high = max(0, -place), min(len(known), len(heard) - place)
        if high <= low:
            continue
        one, other = heard[low + place : high + place], known[low:high]
        left, right = (_smooth(np.einsum("tb,tb->t", x, x)) for x in (one, other))
        quiet = 0.1 * float(right.mean() + left.mean()) / 2 + 1e-9
        product = np.einsum("tb,tb->t", one, other)
        curve[low:high] = product / np.sqrt((left + quiet) * (right + quiet))
    return curves


def _baseline(heard: Bands, known: Bands, n: int = 16) -> float:
    """Return the mean agreement along diagonals that mean nothing, drawn evenly."""
    last = max(len(heard) - len(known), 1)
    return float(_along(heard, known, np.linspace(0, last, n).astype(np.int64)).mean())


def _smooth(values: Floats) -> Floats:
    n = max(1, round(LOCAL / TICK))
    padded = np.pad(values, (n // 2, n - 1 - n // 2), mode="edge")
    return np.convolve(padded, np.full(n, 1.0 / n), "valid")


def _span(curve: Floats, baseline: float, seed: tuple[int, int]) -> tuple[int, int]:
    """Return the rows around the best place within the seed on which a curve is high.

    The run whose excess over half its own height is largest: the likeliest place of a step up and a
    step down in noise.
    """
    smooth = _smooth(curve)
    inside = slice(max(0, seed[0]), max(min(len(curve), seed[1]), seed[0] + 1))
    best = inside.start + int(smooth[inside].argmax())
    level, run = float(smooth[best]), (best, best + 1)
    for _ in range(3):
        excess = curve - (HEARD * level + (1 - HEARD) * baseline)
        after = np.cumsum(excess[best:])
        before = np.cumsum(excess[:best][::-1])
        end = best + 1 + int(after.argmax())
        start = best - 1 - int(before.argmax()) if len(before) and before.max() > 0 else best
        run = start, end
        level = float(curve[start:end].mean())
    return run


def _places(
    heard: Bands, known: Bands, span: tuple[int, int]
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the rows of the query at which ``known`` begins where it is played, and their z."""
    part = known[span[0] : span[1]]
    n = len(part)
    size = 1 << (len(heard) + 2 * n - 1).bit_length()
    padded = np.pad(heard, ((n, n), (0, 0)))  # an occurrence may be cut by the query's ends
    spectrum = np.zeros(size // 2 + 1, np.complex128)
    for first in range(0, heard.shape[1], BANDS_AT_ONCE):  # an hour's spectra would fill memory
        bands = slice(first, first + BANDS_AT_ONCE)
        one, other = (np.fft.rfft(x[:, bands], size, axis=0) for x in (padded, part))
        spectrum += (one * np.conj(other)).sum(1)
    product = np.fft.irfft(spectrum, size)[: len(heard) + n]
    energy = np.concatenate([[0.0], np.cumsum(np.square(padded).sum(1))])
    local = energy[n : n + len(product)] - energy[: len(product)]
    scale = float(np.square(part).sum()) * (local + 0.2 * float(local.mean()) + 1e-9)
    line = product / np.sqrt(scale)
    middle = float(np.median(line))
    z = (line - middle) / (1.4826 * float(np.median(np.abs(line - middle))) + 1e-9)
    apart, left, found = max(1, round(APART * n)), z.copy(), []
    while left.max() >= max(PEAK, PEAK_SHARE * z.max()):
        best = int(left.argmax())
        found.append(best)
        left[max(0, best - apart + 1) : best + apart] = -np.inf
    chosen = np.array(sorted(found), np.int64)
    return chosen - n - span[0], z[chosen]


def _occurrences(
    heard: Bands,
    known: Bands,
    places: npt.NDArray[np.int64],
    span: tuple[int, int],
    times: Floats,
    played: Played,
) -> tuple[Occurrence, ...]:
    curves = _along(heard, known, places)
    found: list[Occurrence] = []
    for i, place in enumerate(places):
        low, high = max(span[0], -place), min(span[1], len(heard) - place)
        if i + 1 < len(places):
            high = min(high, int(places[i + 1]) + span[0] - int(place))
        if (high - low) * TICK < LEAST:
            continue
        start, end = (played.tempo * (times[0] + TICK * row) + played.offset for row in (low, high))
        score = float(curves[i, low:high].mean())
        begin, stop = (TICK * (int(place) + row) for row in (low, high))
        found.append(Occurrence(begin, stop, start, end, score))
    return tuple(found)
