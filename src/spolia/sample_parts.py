"""Which part of a recording a query samples: its drums, its bass, its harmony or all of it. Pure.

The recording is brought to the query's pitch and tempo and divided into what is struck and what
lasts, by medians over frequency and over time (FitzGerald, "Harmonic/percussive separation using
median filtering", DAFx 2010). Of either, in each of N_GROUPS ranges of frequency, two facts tell
whether the query has it: whether the query's spectrum moves as it does, and whether the query is
ever too soft where it is loud. What lies over a sample adds power, so power proves nothing; its
absence does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from spolia.sample_alignment import (
    BANDS_PER_SEMITONE,
    QUIET,
    SAMPLE_RATE,
    SURROUND_BANDS,
    Played,
    Samples,
    powers,
)
from spolia.sample_patches import Bands, Floats
from spolia.sample_tracing import Occurrence
from spolia.samples import Part
from spolia.spectral_alignment import rows_at, standing_out

HOP = 512
FRAME = HOP / SAMPLE_RATE  # 32 ms
LOWEST, N_BANDS = 40.0, 180  # Hz, and 7.5 octaves up to 7.1 kHz
EDGES = (0, 48, 96, 132, N_BANDS)  # bands between the ranges: 160, 640 and 1800 Hz
N_GROUPS = len(EDGES) - 1
N_FEATURES = 4 * N_GROUPS
LASTING, WIDE = 17, 25  # frames (0.54 s) and bands (an octave) of the two medians
SILENT = 1e-7  # power of a band
MOST_OCCURRENCES = 12  # that are heard, the best ones
LEAST_ROWS = 6  # frames of the recording
LOUD = float(np.log(1e3))  # ln of power: so far below a frame's loudest band, a band is loud
OWN = 0.6  # share of a cell's power from which it belongs to one of the two
LEAST_CELLS = 10  # that are loud, from which a component is judged in a range
SOFTEST = 10  # percentile of the differences of level
MOST_SHORT = 8.0  # ln of power: 35 dB; what falls short by more is as absent
ALONE = 0.98  # share of power from which a recording has one part only: it is all there is
LEAST_POWER = 1e-4  # of the loudest cell: below, all is silence
MARGIN = 0.5  # seconds around an occurrence on which its levels depend
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class Cells:
    """A stretch of a recording as a query plays it, and the query there [shape=(n, n_bands)].

    A row is FRAME seconds of the query, a column a band of it; levels are ln of power.
    """

    moves: Bands  # of the query: levels above their surroundings, mean of all occurrences
    softest: Bands  # level of the query, the least of all occurrences: the least lies over it
    level: Bands  # of the recording
    struck: Bands  # share of the recording's power that is struck, 0 to 1
    components: tuple[Bands, Bands]  # the same as ``moves`` of what is struck, and of what lasts
    bands: npt.NDArray[np.int64]  # number of each column's band


def part_of(
    query: Samples,
    recording: Samples,
    occurrences: Sequence[Occurrence],
    played: Played,
    *,
    origin: float = 0.0,
) -> Part | None:
    """Return the part of a recording that a query plays; None where that is not sure.

    query, recording: float32 at SAMPLE_RATE [shape=(n_samples,)]; origin: seconds of the recording
    at which its samples begin.
    """
    cells = compared(query, recording, occurrences, played, origin=origin)
    if cells is None or dominance(cells) > ALONE:
        return None
    likely = probabilities(features(cells))
    best = int(likely.argmax())
    return PARTS[best] if likely[best] >= SURE else None


def compared(
    query: Samples,
    recording: Samples,
    occurrences: Sequence[Occurrence],
    played: Played,
    *,
    origin: float = 0.0,
) -> Cells | None:
    """Return a query beside a recording, see :func:`part_of`; None where too little is played."""
    best = sorted(occurrences, key=lambda o: -o.score)[:MOST_OCCURRENCES]
    if not best:
        return None
    first, last = min(o.reference_start for o in best), max(o.reference_end for o in best)
    times = np.arange(first, last, FRAME * played.tempo)
    known = powers(recording, hop=HOP, lowest=LOWEST, n_bands=N_BANDS)
    rows = (times - origin) / FRAME
    moves, softest, n_heard = _heard(query, best, times, played.tempo)
    usable = (n_heard > 0) & (rows >= 0) & (rows <= len(known) - 1)
    if usable.sum() < LEAST_ROWS or not moves.any():
        return None
    sources = np.arange(N_BANDS) - played.semitones * BANDS_PER_SEMITONE
    bands = np.nonzero((sources >= 0) & (sources <= N_BANDS - 1))[0]

    def as_heard(values: Bands) -> Bands:
        columns = rows_at(values, rows[usable]).T
        return rows_at(np.ascontiguousarray(columns), sources[bands]).T

    struck, quiet = _struck(known), QUIET * known.mean(0) + SILENT
    return Cells(
        moves[usable][:, bands],
        softest[usable][:, bands],
        as_heard(np.log(known + SILENT)),
        as_heard(struck),
        (
            as_heard(_moves(known * struck, quiet)),
            as_heard(_moves(known * (1 - struck), quiet)),
        ),
        bands,
    )


def _heard(
    query: Samples, occurrences: Sequence[Occurrence], times: Floats, tempo: float
) -> tuple[Bands, Bands, npt.NDArray[np.int64]]:
    """Return how a query moves, its least level, and how often it plays each place of a recording.

    times: seconds of the recording, ascending [shape=(n,)].
    """
    total = np.zeros((len(times), N_BANDS), np.float32)
    least = np.full((len(times), N_BANDS), np.inf, np.float32)
    n_heard = np.zeros(len(times), np.int64)
    for o in occurrences:
        first = max(0, int((o.query_start - MARGIN) * SAMPLE_RATE))
        sound = query[first : int((o.query_end + MARGIN) * SAMPLE_RATE)]
        power = powers(sound, hop=HOP, lowest=LOWEST, n_bands=N_BANDS)
        rows = o.query_start - first / SAMPLE_RATE + (times - o.reference_start) / tempo
        rows /= FRAME
        inside = (times >= o.reference_start) & (times < o.reference_end)
        inside &= (rows >= 0) & (rows <= len(power) - 1)
        moves = _moves(power, QUIET * power.mean(0) + SILENT)
        total[inside] += rows_at(moves, rows[inside])
        level = rows_at(np.log(power + SILENT), rows[inside])
        least[inside] = np.minimum(least[inside], level)
        n_heard += inside
    mean = np.asarray(total / np.maximum(n_heard, 1)[:, None], np.float32)
    return mean, least, n_heard


def _moves(power: Bands, quiet: Bands) -> Bands:
    return standing_out(np.log(power + quiet), SURROUND_BANDS)


def _struck(power: Bands) -> Bands:
    """Return the share of each cell's power that is struck (Wiener masks of the two medians)."""
    size = np.sqrt(power)
    lasting = np.square(_median(size, LASTING, axis=0))
    struck = np.square(_median(size, WIDE, axis=1))
    return np.asarray(struck / (struck + lasting + 1e-12), np.float32)


def _median(values: Bands, n: int, *, axis: int) -> Bands:
    """Return the median of ``n`` neighbours along an axis, ``n`` odd; ends are repeated."""
    padding = [(0, 0), (0, 0)]
    padding[axis] = (n // 2, n // 2)
    padded = np.pad(values, padding, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, n, axis=axis)
    return np.asarray(np.partition(windows, n // 2, axis=-1)[..., n // 2])


def features(cells: Cells) -> Floats:
    """Return what the model sees [shape=(N_FEATURES,)].

    For each range of frequency, of what is struck and of what lasts: how the query moves with it
    (partial correlation, the other held fixed), then by how much the query falls short of it: the
    SOFTEST percentile of the differences of level where it is loud and alone, below that of what
    falls short least. Where a component is not loud, it is taken to fall short as most do.
    """
    difference = cells.softest - cells.level
    loud = cells.level > cells.level.max(1, keepdims=True) - LOUD
    own = loud & (cells.struck > OWN), loud & (cells.struck < 1 - OWN)
    together, softest = np.zeros((N_GROUPS, 2)), np.full((N_GROUPS, 2), np.nan)
    for i in range(N_GROUPS):
        group = (cells.bands >= EDGES[i]) & (cells.bands < EDGES[i + 1])
        together[i] = _partial(cells.moves[:, group], *(c[:, group] for c in cells.components))
        for j in range(2):
            found = difference[:, group][own[j][:, group]]
            if len(found) >= LEAST_CELLS:
                softest[i, j] = np.percentile(found, SOFTEST)
    known = np.isfinite(softest)
    middle = np.median(softest[known]) if known.any() else 0.0
    softest = np.where(known, softest, middle)
    short = np.maximum(softest - softest.max(), -MOST_SHORT)
    return np.concatenate([together.ravel(), short.ravel()])


def _partial(heard: Bands, one: Bands, other: Bands) -> tuple[float, float]:
    """Return the correlations with two components over time, each with the other held fixed."""
    a, x, y = (values - values.mean(0) for values in (heard, one, other))

    def correlation(u: Bands, v: Bands) -> float:
        return float((u * v).sum() / np.sqrt(np.square(u).sum() * np.square(v).sum() + 1e-9))

    ax, ay, xy = correlation(a, x), correlation(a, y), correlation(x, y)
    free = [1e-3 + max(1 - r * r, 0.0) for r in (ax, ay, xy)]
    return (
        (ax - ay * xy) / float(np.sqrt(free[1] * free[2])),
        (ay - ax * xy) / float(np.sqrt(free[0] * free[2])),
    )


def dominance(cells: Cells) -> float:
    """Return the share of a stretch's power that its strongest component has; 1 of silence.

    Components: what is struck, and what lasts in the lowest range and above.
    """
    power, low = np.exp(cells.level, dtype=np.float64), cells.bands < EDGES[1]
    lasting = power * (1 - cells.struck)
    shares = [float((power - lasting).sum()), *(float(lasting[:, g].sum()) for g in (low, ~low))]
    return max(shares) / sum(shares) if power.max() > LEAST_POWER else 1.0


# Weights of a softmax, a row for each of PARTS, a column for each range of frequency, struck and
# lasting: fitted by benchmarks/parts.py on made tracks of train.
BIAS = np.array([-0.371, -0.841, 0.324, 0.889])
TOGETHER = np.array(
    [
        [1.12, -1.494, 0.603, -1.639, 0.473, -1.335, 0.913, -0.401],
        [-0.672, 1.628, -0.433, -0.247, -0.234, -0.876, -0.395, -1.45],
        [-0.618, -0.602, -0.872, 1.123, -1.306, 1.162, -1.006, 0.36],
        [0.17, 0.467, 0.702, 0.763, 1.068, 1.049, 0.488, 1.491],
    ]
)
SHORT = np.array(
    [
        [0.053, -0.101, -0.068, -0.16, 0.008, -0.136, 0.072, 0.023],
        [-0.068, 0.093, 0.113, -0.094, -0.059, -0.206, -0.112, -0.173],
        [-0.109, -0.023, -0.177, 0.123, -0.09, 0.147, -0.035, 0.037],
        [0.125, 0.031, 0.133, 0.13, 0.141, 0.194, 0.076, 0.113],
    ]
)
SURE = 0.5  # probability from which a part is named


def probabilities(values: Floats) -> Floats:
    """Return the probability of each of PARTS, given features [shape=(N_FEATURES,)]."""
    heights = BIAS + TOGETHER @ values[: 2 * N_GROUPS] + SHORT @ values[2 * N_GROUPS :]
    likely = np.exp(heights - heights.max())
    return np.asarray(likely / likely.sum())
