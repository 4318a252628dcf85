"""Which stretch of a recording a query repeats, and where: the explanation that says most. Pure.

A loop is many diagonals over one stretch of the recording. Neither its length nor its repetitions
are known at first: a long stretch explains a track that plays on, a short one a track that begins
anew. Several lengths are tried, those of the distances between diagonals among them; what
agreement each explains decides, and where two explain about as much, the longer stretch does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Rows = npt.NDArray[np.int64]
Span = tuple[int, int]  # rows of the recording, the second excluded

SHARE = 0.5  # of the best place's agreement from which a place counts,
SHARE_ON_GRID = 0.35  # and where it is a whole number of periods from the best
APART = 0.8  # of the stretch's length: two places are at least that far apart
ALIKE = 3  # rows by which equal distances may differ
REGULAR = 0.7  # share of places that must be on a grid of periods
FILL = 1.35  # times its length, up to which a stretch is lengthened to a period
AS_GOOD = 0.9  # share of the best explanation's agreement from which a longer stretch is preferred
QUIET = 0.01  # share of a stretch's agreement that its beginning may lack
N_PERIODS = 6  # that are tried
N_PASSES = 3  # in which places give the stretch, and the stretch places


@dataclass(frozen=True)
class Lags:
    """Places where a recording may be played, and how it agrees with the query there."""

    places: Rows  # rows of the query at which the recording's first row is played [shape=(n,)]
    heights: Floats  # how far each stands out [shape=(n,)]
    curves: Floats  # agreement along each [shape=(n, n_rows_of_recording)]
    baseline: float  # agreement that means nothing
    n_query: int  # rows of the query


@dataclass(frozen=True)
class Explanation:
    """A stretch and the places where it is played."""

    chosen: Rows  # of the places, by number, ascending
    span: Span
    gain: float  # agreement above the baseline that it explains, summed over rows


def explained(lags: Lags, core: Span, *, shortest: int, longest: int) -> Explanation | None:
    """Return the explanation of what agrees around a first guess of the stretch.

    shortest, longest: rows that a stretch may have. None where nothing agrees.
    """
    limits, curve = [longest, *_periods(lags, shortest, longest)], lru_cache(partial(_curve, lags))
    tries = [_tried(lags, curve, core, shortest, limit) for limit in limits]
    found = [one for one in tries if one is not None]
    most = max((one.gain for one in found), default=0.0)
    good = [one for one in found if one.gain >= AS_GOOD * most]
    return max(good, key=lambda one: one.span[1] - one.span[0], default=None)


def stretch(curve: Floats, baseline: float, within: Span, *, shortest: int, longest: int) -> Span:
    """Return the rows, some of them in ``within``, on which a curve is higher than its baseline.

    The largest sum over the root of its length: the likeliest step up and down in noise.
    """
    sums = np.concatenate([[0.0], np.cumsum(curve - baseline)])
    firsts = np.arange(max(0, within[0] - longest), min(within[1], len(curve) - shortest + 1))
    lengths = np.arange(shortest, min(longest, len(curve)) + 1)
    if not len(firsts) or not len(lengths):
        return within
    ends = firsts[:, None] + lengths
    value = (sums[np.minimum(ends, len(curve))] - sums[firsts, None]) / np.sqrt(lengths)
    value[(ends <= within[0]) | (ends > len(curve))] = -np.inf
    i, j = divmod(int(value.argmax()), len(lengths))
    return (int(firsts[i]), int(ends[i, j])) if np.isfinite(value[i, j]) else within


def _tried(
    lags: Lags, curve: Callable[[Span], Floats | None], core: Span, shortest: int, longest: int
) -> Explanation | None:
    """Return the explanation by a stretch of at most ``longest`` rows.

    curve: gives the agreement of the strongest places of a stretch.
    """
    span = core
    for _ in range(N_PASSES):
        agreement = curve(span)
        if agreement is None:
            return None
        span = stretch(agreement, lags.baseline, span, shortest=shortest, longest=longest)
    strength = _strength(lags, span)
    if strength.max() <= 0:
        return None
    chosen = _on_grid(lags.places, strength, _strongest(lags.places, strength, span), span)
    apart, excess = np.diff(lags.places[chosen]), _pooled(lags, chosen, strength) - lags.baseline
    span = _from_onset(excess, apart, _filled(excess, apart, span))
    return Explanation(chosen, span, _gain(lags, chosen, span))


def _curve(lags: Lags, span: Span) -> Floats | None:
    """Return the agreement of the places where a stretch is heard best; None where nowhere."""
    strength = _strength(lags, span)
    if strength.max() <= 0:
        return None
    return _pooled(lags, _strongest(lags.places, strength, span), strength)


def _strength(lags: Lags, span: Span) -> Floats:
    """Return the mean agreement of each place over a stretch."""
    height = lags.curves[:, span[0] : span[1]].mean(1) - lags.baseline
    return np.asarray(np.maximum(height, 0.0))


def _pooled(lags: Lags, chosen: Rows, strength: Floats) -> Floats:
    weights = strength[chosen]
    return np.asarray((lags.curves[chosen] * weights[:, None]).sum(0) / weights.sum())


def _strongest(places: Rows, strength: Floats, span: Span) -> Rows:
    """Return the strongest places that lie apart."""
    least = SHARE * strength.max()
    return _apart([], np.argsort(-strength), places, strength >= least, span)


def _apart(held: Sequence[int], order: Rows, places: Rows, wanted: Floats, span: Span) -> Rows:
    """Return the numbers held and those that are wanted, in an order, and lie apart from them."""
    kept, least = list(held), APART * (span[1] - span[0])
    free = wanted & (np.abs(places[:, None] - places[kept]) >= least).all(1)
    for i in order.tolist():
        if free[i]:
            kept.append(i)
            free &= np.abs(places - places[i]) >= least
    return np.array(sorted(kept), np.int64)


def _on_grid(places: Rows, strength: Floats, chosen: Rows, span: Span) -> Rows:
    """Return the chosen places and weaker ones on their grid, where they have one."""
    if len(chosen) < 2:
        return chosen
    best = places[chosen[strength[chosen].argmax()]]
    period = float(np.diff(places[chosen]).min())
    away = places[chosen] - best
    number = np.round(away / period)
    regular = np.abs(away - number * period) <= ALIKE
    if regular.mean() < REGULAR or not number[regular].any():
        return chosen
    period = float(np.abs(away[regular]).sum() / np.abs(number[regular]).sum())
    away = places - best
    near = np.abs(away - np.round(away / period) * period) <= ALIKE
    wanted = near & (strength >= SHARE_ON_GRID * strength.max())
    return _apart(chosen.tolist(), np.argsort(-strength), places, wanted, span)


def _filled(excess: Floats, apart: Rows, span: Span) -> Span:
    """Return the stretch, lengthened to the period of a loop that it nearly fills.

    excess: agreement above the baseline, a row each; apart: rows between places.
    """
    n = span[1] - span[0]
    if len(apart) < 2:
        return span
    period = int(np.median(apart[apart <= 1.5 * apart.min()]))
    if not n < period <= FILL * n:
        return span
    sums = np.concatenate([[0.0], np.cumsum(excess)])
    firsts = np.arange(max(0, span[1] - period), min(span[0], len(excess) - period) + 1)
    if not len(firsts):
        return span
    first = int(firsts[(sums[firsts + period] - sums[firsts]).argmax()])
    return first, first + period


def _from_onset(excess: Floats, apart: Rows, span: Span) -> Span:
    """Return the stretch without rows at its beginning that say next to nothing.

    Samples begin with an onset; rows before it agree by chance. A stretch that fills a loop's
    period keeps its length. Arguments as of :func:`_filled`.
    """
    sums = np.cumsum(excess[span[0] : span[1]])
    said = np.flatnonzero(sums > QUIET * sums[-1])
    late = int(said[0]) if len(said) else 0
    fills = len(apart) > 0 and apart.min() <= span[1] - span[0] + ALIKE
    return span[0] + late, min(span[1] + late, len(excess)) if fills else span[1]


def extents(lags: Lags, chosen: Rows, span: Span) -> Iterator[tuple[int, int, int]]:
    """Yield each place's number and the rows of the stretch that are played there.

    Those within the query, up to where the next place begins.
    """
    for i, number in enumerate(chosen.tolist()):
        place = int(lags.places[number])
        low, high = max(span[0], -place), min(span[1], lags.n_query - place)
        if i + 1 < len(chosen):
            high = min(high, int(lags.places[chosen[i + 1]]) + span[0] - place)
        yield number, low, high


def _gain(lags: Lags, chosen: Rows, span: Span) -> float:
    return sum(
        float((lags.curves[number, low:high] - lags.baseline).sum())
        for number, low, high in extents(lags, chosen, span)
    )


def _periods(lags: Lags, shortest: int, longest: int) -> list[int]:
    """Return the distances between places that occur most often."""
    strong = lags.places[lags.heights >= SHARE * lags.heights.max()]
    apart = np.unique(np.concatenate([np.diff(strong), strong[2:] - strong[:-2]]))
    distinct: list[int] = []
    for period in apart[(apart >= shortest) & (apart < longest)][::-1].tolist():
        if all(abs(period - other) > ALIKE for other in distinct):
            distinct.append(period)
    every = np.abs(strong[:, None] - strong[None, :])
    distinct.sort(key=lambda period: -int((np.abs(every - period) <= ALIKE).sum()))
    return distinct[:N_PERIODS]
