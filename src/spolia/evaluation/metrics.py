"""Figures of identification: hit rates, false accepts, recall, and their bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spolia.errors import ParameterError

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % bootstrap interval."""

    value: float  # in [0, 1]; NaN of nothing
    low: float
    high: float
    n: int  # queries

    def __str__(self) -> str:
        """Return it in per cent."""
        if self.n == 0:
            return "–"
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def rate(
    right: Booleans | Floats,
    clusters: npt.NDArray[np.int64] | Sequence[str],
    *,
    seed: int = 0,
    n_resamples: int = 1000,
) -> Rate:
    """Return the share of ``right`` with a bootstrap over ``clusters``.

    right: [shape=(n,)], or values whose mean is wanted; clusters: the recording of each query, by
    name or number [shape=(n,)]; queries of one recording are not independent, so whole recordings
    are drawn with replacement.
    """
    if len(right) != len(clusters):
        raise ParameterError(
            f"{len(right)} outcomes but {len(clusters)} clusters; give one for each"
        )
    if len(right) == 0:
        return Rate(float("nan"), float("nan"), float("nan"), 0)
    _, number = np.unique(np.asarray(clusters), return_inverse=True)
    n_clusters = int(number.max()) + 1
    hits = np.bincount(number, weights=right.astype(np.float64), minlength=n_clusters)
    sizes = np.bincount(number, minlength=n_clusters).astype(np.float64)
    rng = np.random.default_rng(seed)
    draws = rng.integers(n_clusters, size=(n_resamples, n_clusters))
    shares = hits[draws].sum(1) / sizes[draws].sum(1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return Rate(float(right.mean()), float(low), float(high), len(right))


def recall_at(
    known: Floats, right: Booleans, absent: Floats, false_accepts: float
) -> tuple[float, float]:
    """Return (recall, threshold) where at most a share ``false_accepts`` of absent queries pass.

    known: probability of each known query's first match [shape=(n,)], 0 without one; right:
    whether it is the recording; absent: the same of absent queries [shape=(m,)].
    """
    if len(absent) == 0 or len(known) == 0:
        return float("nan"), float("nan")
    allowed = int(np.floor(false_accepts * len(absent)))
    threshold = float(np.sort(absent)[::-1][allowed]) if allowed < len(absent) else 0.0
    return float((right & (known > threshold)).mean()), threshold


def correlation_offset(
    reference: npt.NDArray[np.float32], place: int, truth: int, length: int, reach: int
) -> tuple[float, int]:
    """Return (correlation, lag) of the sound at ``place`` with that at ``truth`` in one recording.

    The largest normalised cross-correlation over lags within ± ``reach`` samples, and its lag: the
    sound at ``place + lag`` equals the sound at ``truth``. Loops repeat exactly, so an answer that
    points to another repetition is right.
    """
    wanted = reference[truth : truth + length].astype(np.float64)
    first = max(0, place - reach)
    field = reference[first : place + len(wanted) + reach].astype(np.float64)
    if len(field) < len(wanted) or not wanted.any():
        return 0.0, 0
    size = 1 << (len(field) + len(wanted) - 1).bit_length()
    product = np.fft.irfft(np.fft.rfft(field, size) * np.conj(np.fft.rfft(wanted, size)), size)
    n_lags = len(field) - len(wanted) + 1
    energy = np.concatenate([[0.0], np.cumsum(field**2)])
    local = energy[len(wanted) : len(wanted) + n_lags] - energy[:n_lags]
    similarity = product[:n_lags] / np.sqrt(np.maximum(local * (wanted**2).sum(), 1e-12))
    best = int(similarity.argmax())
    return float(similarity[best]), first + best - place
