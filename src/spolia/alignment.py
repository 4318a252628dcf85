"""Lines through hits: where in a recording a query lies, and how much faster it plays.

Every hit pairs a time in the query with a time in a recording. Hits of a true match lie on a line
``t_reference = speed · t_query + offset``. Lines are proposed by a vote over (speed, offset), as
in Wang 2003 with a speed axis added, then refined on the similarities of all vectors around. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spolia.store.hits import Hits

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

SPEEDS = np.exp(np.linspace(np.log(0.82), np.log(1.22), 21))  # votes; 1.0 is the middle
MAX_SPEED = 1.25  # and its inverse: the range of the refined speed
UNRELATED = 0.3  # similarity that vectors of unrelated sound rarely exceed on average
CROWD = 20_000  # hits from which only those in the most crowded bins are voted on exactly
TABLE = 1 << 18  # cells up to which votes are counted in a table of all, without sorting
INDEPENDENT = 0.5  # seconds between query vectors whose places err independently
MINIMUM_SPREAD = 0.5  # seconds², of the times of vectors from which a slope can be had
SIGNIFICANT = 2.5  # standard deviations from which a slope counts
# Seconds around a proposal's place that are searched, first roughly, then exactly,
REACH = 1.0, 0.12
NEAR = np.linspace(-REACH[1], REACH[1], 13)
WIDTH = 0.1, 0.02  # and the share around its speed
FINER = 8  # places between two stored vectors that are told apart, roughly
MOST_ROUGH = 128  # query vectors that are looked at, roughly
EDGE = 2  # zeros around a grid, between which a place outside is interpolated
SPEED_COST = 0.1  # similarity that a speed other than 1 must gain per unit of change


@dataclass(frozen=True)
class Proposal:
    """A line suggested by the vote."""

    recording: int  # position in the index's recording_ids
    speed: float
    offset: float  # seconds; t_reference = speed · t_query + offset
    weight: float  # votes


@dataclass(frozen=True)
class Line:
    """A line with the stretch of the query on which it holds."""

    speed: float  # reference seconds per query second
    offset: float  # seconds; t_reference = speed · t_query + offset
    query_start: float  # seconds
    query_end: float  # seconds
    score: float  # mean cosine similarity, or share of equal hashes, within the stretch
    support: float  # seconds of the query's stretch that were compared
    evidence: float  # sum over the stretch of similarity above UNRELATED, in seconds

    @property
    def reference_start(self) -> float:
        """Seconds into the recording where the stretch begins."""
        return self.speed * self.query_start + self.offset

    @property
    def reference_end(self) -> float:
        """Seconds into the recording where the stretch ends."""
        return self.speed * self.query_end + self.offset


def propose(
    hits: Hits, *, resolution: float, n_lines: int, per_recording: int = 3, base: float = 0.0
) -> list[Proposal]:
    """Return the lines with most votes, heaviest first.

    resolution: width of an offset bin in seconds; a line collects two neighbouring bins. base:
    similarity at which a hit has no weight. A recording gives at most ``per_recording`` lines, so
    that a much repeated loop does not crowd out other recordings.
    """
    if not len(hits):
        return []
    weights = np.maximum(hits.scores - base, 0.0) + 1e-6
    named, owner = np.unique(hits.recordings, return_inverse=True)
    found = []
    for speed in SPEEDS:
        offsets = hits.reference_times - speed * hits.query_times
        bins = np.floor(offsets / resolution).astype(np.int64)
        low, width = int(bins.min()) - 1, int(bins.max() - bins.min()) + 3
        cells, votes = _crowded(owner * width + (bins - low), weights, len(named) * width)
        best = _largest(votes, 4 * n_lines)
        offset = (cells[best] % width + low + 1) * resolution
        found.append((cells[best] // width, np.full(len(best), speed), offset, votes[best]))
    number, speeds, offsets, votes = (np.concatenate(of) for of in zip(*found, strict=True))
    order = np.argsort(-votes * (1.0 - 0.01 * np.abs(np.log(speeds))), kind="stable")
    columns = named[number[order]], speeds[order], offsets[order], votes[order]
    lines = zip(*(column.tolist() for column in columns), strict=True)
    return _spread(lines, n_lines, per_recording, 2 * resolution)


def _crowded(
    keys: npt.NDArray[np.int64], weights: Vectors, n_keys: int
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return cells, each of which holds a key and the next, and their votes."""
    if n_keys <= TABLE:
        of_key = np.bincount(keys, weights=weights, minlength=n_keys + 1)
        return np.arange(n_keys), np.asarray(of_key[:-1] + of_key[1:], np.float64)
    if len(keys) > CROWD:
        crowded = _most_crowded(keys, weights, CROWD)
        keys, weights = keys[crowded], weights[crowded]
    cells, inverse = np.unique(np.concatenate([keys, keys - 1]), return_inverse=True)
    votes = np.bincount(inverse, weights=np.concatenate([weights, weights]))
    return cells, np.asarray(votes, np.float64)


def _largest(values: Floats, n: int) -> npt.NDArray[np.int64]:
    """Return the places of the ``n`` largest values that are above 0, largest first."""
    n = min(n, len(values))
    chosen = np.sort(np.argpartition(-values, n - 1)[:n])
    chosen = chosen[values[chosen] > 0]
    return chosen[np.argsort(-values[chosen], kind="stable")]


def _most_crowded(
    keys: npt.NDArray[np.int64], weights: Vectors, n_kept: int
) -> npt.NDArray[np.int64]:
    """Return places of the hits whose cells can hold most votes, without sorting all hits.

    Bins are counted in a table addressed by a multiplicative hash. Bins that share an address only
    make a cell look heavier than it is, and the exact count of what is kept follows.
    """
    bits = int(np.ceil(np.log2(2 * len(keys))))

    def address(of: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        mixed = of.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ over the golden ratio
        return (mixed >> np.uint64(64 - bits)).astype(np.int64)

    own = address(keys)
    table = np.bincount(own, weights=weights, minlength=1 << bits).astype(np.float32)
    most = table[own] + np.maximum(table[address(keys - 1)], table[address(keys + 1)])
    return np.argpartition(-most, n_kept)[:n_kept]


def _spread(
    lines: Iterable[tuple[int, float, float, float]],
    n_lines: int,
    per_recording: int,
    apart: float,
) -> list[Proposal]:
    """Keep the first lines, few per recording and at different offsets.

    lines: recording, speed, offset and weight, see Proposal.
    """
    kept: list[Proposal] = []
    offsets: dict[int, list[float]] = {}
    for recording, speed, offset, weight in lines:
        others = offsets.setdefault(recording, [])
        if len(others) < per_recording and all(abs(offset - o) > apart for o in others):
            others.append(offset)
            kept.append(Proposal(recording, speed, offset, weight))
        if len(kept) == n_lines:
            break
    return kept


class Surface(NamedTuple):
    """How similar a query is to a recording along lines."""

    centres: Floats  # seconds of the recording at the query's middle [shape=(n_centres,)]
    value: Vectors  # mean similarity [shape=(n_speeds, n_centres)]


@dataclass(frozen=True)
class Window:
    """Similarities of a query to a stretch of a recording on a regular grid."""

    similarity: Vectors  # [shape=(n_query, n_grid)], 0 where the recording is silent or over
    query_times: Floats  # seconds [shape=(n_query,)]
    start: float  # seconds of the first grid point in the recording
    hop: float  # seconds between grid points
    segment: float  # seconds that one vector sees
    query: Vectors  # [shape=(n_query, dim)]
    reference: Vectors  # [shape=(n_grid, dim)]

    def around(self, speeds: Floats, middle: float, centre: float, reach: float) -> Surface:
        """Return mean similarities along lines of each speed through places around ``centre``.

        Places are FINER to a grid point, from ``reach`` before to ``reach`` after; similarities are
        read at the nearest such place, of MOST_ROUGH query vectors or fewer.
        """
        step = self.hop / FINER
        n_side = int(np.ceil(reach / step))
        rows = np.arange(0, len(self.query_times), -(-len(self.query_times) // MOST_ROUGH))
        times = self.query_times[rows] - middle
        finer = self._finer(rows, 2 * n_side + 1)
        places = (centre - self.start) / step + speeds[:, None] * times / step
        first = np.round(places).astype(np.int64) + FINER + n_side + 1
        np.clip(first, 0, finer.shape[1] - (2 * n_side + 1), out=first)
        first += np.arange(len(rows)) * finer.shape[1]
        stretches = np.lib.stride_tricks.sliding_window_view(finer.ravel(), 2 * n_side + 1)
        value = np.einsum("srp->sp", stretches[first])
        centres = centre + step * np.arange(-n_side, n_side + 1, dtype=np.float64)
        return Surface(centres, np.asarray(value / len(rows), np.float32))

    def _finer(self, rows: npt.NDArray[np.int64], margin: int) -> Vectors:
        """Return similarities of some query vectors at FINER times as many places.

        From one grid point before the first; ``margin`` zeros and more stand at either end
        [shape=(n_rows, (n_grid + 1) · FINER + 2 margin + 1)].
        """
        values = self._padded[rows, EDGE - 1 : 1 - EDGE]
        left, steps = values[:, :-1], np.diff(values, axis=1)
        share = np.arange(FINER, dtype=np.float32) / FINER
        between = steps * share[:, None, None]  # long rows of equal shares: faster than short ones
        between += left
        finer = np.zeros((len(rows), left.shape[1] * FINER + 2 * margin + 1), np.float32)
        inner = finer[:, margin : -margin - 1].reshape(*left.shape, FINER)  # a view
        inner[...] = between.transpose(1, 2, 0)
        return finer

    def along(self, speed: Floats, centre: Floats, middle: float) -> Vectors:
        """Return similarities along lines [shape=(n_lines, n_query)].

        A line passes through (middle, centre); between grid points the similarity is interpolated.
        """
        place = np.multiply.outer(speed, self.query_times - middle)
        place += centre[:, None]
        place -= self.start
        place /= self.hop
        left = np.floor(place)
        share = (place - left).astype(np.float32)
        at = left.astype(np.int64) + EDGE
        width = self._padded.shape[1]
        np.clip(at, 0, width - EDGE, out=at)
        at += np.arange(len(self._padded)) * width
        values = self._padded.ravel()
        left_values, right_values = values[at], values[at + 1]
        left_values *= 1 - share
        right_values *= share
        left_values += right_values
        return left_values

    def inside(self, line: Line) -> slice:
        """Return which query vectors see nothing beyond a line's stretch."""
        begins = line.query_start - 1e-6, line.query_end - self.segment + 1e-6
        return slice(*np.searchsorted(self.query_times, begins).tolist())

    @cached_property
    def _padded(self) -> Vectors:
        """The similarities between EDGE zeros at either end of the grid."""
        n_query, n_grid = self.similarity.shape
        padded = np.zeros((n_query, n_grid + 2 * EDGE), np.float32)
        padded[:, EDGE:-EDGE] = self.similarity
        return padded


def compare(
    query_times: Floats,
    query: Vectors,
    reference_times: Floats,
    reference: Vectors,
    line: Proposal,
    *,
    hop: float,
    segment: float,
    slack: float = 2.0,
) -> Window:
    """Return the similarities around a proposed line; hop, segment: seconds, see Window."""
    ends = line.offset + line.speed * np.array([query_times[0], query_times[-1]])
    first = max(0, int(np.floor((ends.min() - slack) / hop)))
    last = max(first + 1, int(np.ceil((ends.max() + slack) / hop)))
    places = np.round(reference_times / hop).astype(np.int64)
    chosen = slice(*np.searchsorted(places, [first, last + 1]))
    grid = np.zeros((last + 1 - first, query.shape[1]), np.float32)
    grid[places[chosen] - first] = reference[chosen]
    return Window(query @ grid.T, query_times, first * hop, hop, segment, query, grid)


def refine(window: Window, line: Proposal, *, step: float) -> Line | None:
    """Return the best line near a proposal, with the stretch where it holds; None if nowhere.

    step: seconds between the query's vectors. The search is a grid over (speed, position), coarse
    then fine, then a parabola through the peak.
    """
    times = window.query_times
    middle = float(times[0] + times[-1]) / 2
    span = float(times[-1] - times[0])
    speeds = _speed_grid(line.speed, span, WIDTH[0])
    surface = window.around(speeds, middle, line.offset + line.speed * middle, REACH[0])
    speed, centre = _summit(speeds, surface)
    speeds = _speed_grid(speed, span, WIDTH[1])
    centres = centre + NEAR
    every, each = np.repeat(speeds, len(centres)), np.tile(centres, len(speeds))
    value = window.along(every, each, middle).mean(1)
    speed, centre = _summit(speeds, Surface(centres, value.reshape(len(speeds), -1)))
    similarity = window.along(np.array([speed]), np.array([centre]), middle)[0]
    rough = _stretch(similarity, times, speed, centre - speed * middle, window.segment, step)
    return None if rough is None else _polish(window, rough)


def _summit(speeds: Floats, surface: Surface) -> tuple[float, float]:
    """Return the speed and the centre where a surface is highest; unusual speeds cost something."""
    value = surface.value - SPEED_COST * np.abs(np.log(speeds)).astype(np.float32)[:, None]
    i, j = np.unravel_index(int(value.argmax()), value.shape)
    return float(speeds[i]), _peak(surface.centres, value[i], int(j))


def _polish(window: Window, line: Line) -> Line:
    """Return the line moved to where each vector's similarity peaks between stored vectors.

    The interpolated similarity has its maximum on the grid of the query's phases (0.125 s). Here a
    parabola through the three nearest stored vectors gives each query vector a place of its own,
    and a weighted line through these places, over all phases, corrects offset and speed.
    """
    inside = window.inside(line)
    times, similarity = window.query_times[inside], window.similarity[inside]
    place = (line.speed * times + line.offset - window.start) / window.hop
    nearest = np.round(place).astype(np.int64)
    usable = (nearest >= 1) & (nearest < similarity.shape[1] - 1)
    if not usable.any():
        return line
    rows, columns = np.flatnonzero(usable), nearest[usable]
    around = similarity[rows, columns + np.array([[-1], [0], [1]])].astype(np.float64)
    left, centre, right = around
    curvature = np.maximum(2 * centre - left - right, 0.0)
    shift = np.clip(0.5 * (right - left) / np.maximum(curvature, 1e-6), -0.75, 0.75)
    residual = (columns + shift - place[usable]) * window.hop
    weight = curvature * (np.abs(residual) < 0.4) + 1e-9
    times = times[usable]
    moved, bent = _fit_residual(times, residual, weight)
    middle = float((times * weight).sum() / weight.sum())
    speed = min(max(line.speed + bent, 1 / MAX_SPEED), MAX_SPEED)
    moved = min(max(moved, -0.15), 0.15)
    return replace(line, speed=speed, offset=line.offset + moved + (line.speed - speed) * middle)


def _fit_residual(times: Floats, residual: Floats, weight: Floats) -> tuple[float, float]:
    """Return (shift in seconds at the weighted middle, slope) of residuals over time.

    The slope is 0 unless it is significant: most clips play at the speed of the record, and their
    speed is said to be 1 rather than 1.001.
    """
    total = weight.sum()
    moved = float((weight * residual).sum() / total)
    from_middle = times - (weight * times).sum() / total
    spread = float((weight * from_middle**2).sum() / total)
    n_independent = max(1.0, float(times[-1] - times[0]) / INDEPENDENT)
    if spread < MINIMUM_SPREAD or n_independent < 4.0:
        return moved, 0.0
    slope = float((weight * from_middle * residual).sum() / total / spread)
    noise = residual - moved - slope * from_middle
    variance = float((weight * noise**2).sum() / total)
    deviation = np.sqrt(variance / (n_independent * spread))
    return moved, slope if abs(slope) > SIGNIFICANT * deviation else 0.0


def _speed_grid(speed: float, span: float, width: float) -> Floats:
    """Return speeds around one so fine that the line's ends move by at most 0.1 s a step."""
    if span < 1.0:
        return np.array([1.0])
    n_steps = min(max(math.ceil(width * span / 0.2), 1), 40)
    speeds = speed * np.exp(width / n_steps * np.arange(-n_steps, n_steps + 1))
    speeds = np.append(speeds, 1.0)
    return np.asarray(speeds[(speeds <= MAX_SPEED) & (speeds >= 1 / MAX_SPEED)])


def _peak(places: Floats, values: Vectors, best: int) -> float:
    """Return the place of the maximum of a parabola through the best value and its neighbours."""
    if best == 0 or best == len(places) - 1:
        return float(places[best])
    left, middle, right = (float(v) for v in values[best - 1 : best + 2])
    curvature = left - 2 * middle + right
    shift = 0.0 if curvature >= 0 else 0.5 * (left - right) / curvature
    return float(places[best] + min(max(shift, -0.5), 0.5) * (places[1] - places[0]))


def _stretch(
    similarity: Vectors, times: Floats, speed: float, offset: float, segment: float, step: float
) -> Line | None:
    """Return the line on the run of vectors whose similarity exceeds UNRELATED the most."""
    excess = similarity.astype(np.float64) - UNRELATED
    total = np.concatenate([[0.0], np.cumsum(excess)])
    lowest = np.minimum.accumulate(total[:-1])
    end = int((total[1:] - lowest).argmax())
    start = int(total[: end + 1].argmin())
    if total[end + 1] - total[start] <= 0:
        return None
    run = slice(start, end + 1)
    return Line(
        speed,
        offset,
        float(times[start]),
        float(times[end]) + segment,
        float(similarity[run].mean()),
        (end + 1 - start) * step,
        float(total[end + 1] - total[start]) * step,
    )
