"""From lines to probabilities, and the threshold below which the answer is "unknown".

How far a wrong match gets depends on how long the query is and on how many vectors it was the best
of. As for local alignments of sequences (Karlin & Altschul 1990), the tail of the *evidence*, the
sum of similarity above the unrelated level along the best stretch, falls off exponentially. A
logistic function of the evidence, the mean score, the length and the size of the library is fitted
on known and absent queries of recordings that no training has seen (``spolia evaluate identify
--calibrate``); the threshold is the probability that one absent query in a thousand exceeds, of
that length and in a library of that size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spolia.errors import ParameterError

Floats = npt.NDArray[np.float64]


N_FEATURES = 9
ENOUGH = 100  # wrong matches of one length from which its threshold is fitted
CHANCE = 0.17  # evidence of the best of a hundred thousand unrelated lines of one second; grows √s
KEPT = (
    (1.0, 1),
    (0.5, 4),
    (0.2, 4),
    (0.05, 4),
    (0.012, 8),
)  # shares of the library, draws per query


@dataclass(frozen=True)
class Calibration:
    """A fitted logistic function and its operating point."""

    weights: tuple[float, ...]  # of features(); see there
    threshold: float  # probability from which a match is decided, whatever the query's length
    false_accepts: float = 0.001  # share of absent queries above the threshold, by construction
    n_known: int = 0  # queries it was fitted on
    n_absent: int = 0
    # (seconds, entries of the library, probability) on a grid: where a match is decided there
    thresholds: tuple[tuple[float, float, float], ...] = ()

    def threshold_at(self, seconds: float, n_entries: int) -> float:
        """Return the probability from which a match of a query of ``seconds`` is decided.

        n_entries: vectors or hashes of the library. Between the fitted lengths and sizes the logit
        is interpolated over their logarithms; beyond, held.
        """
        if not self.thresholds:
            return self.threshold
        lengths, sizes, levels = (np.array(column) for column in zip(*self.thresholds, strict=True))
        by_size = [
            np.interp(
                np.log(max(seconds, 1e-3)), np.log(lengths[sizes == n]), _logit(levels[sizes == n])
            )
            for n in np.unique(sizes)
        ]
        level = np.interp(np.log(max(n_entries, 1)), np.log(np.unique(sizes)), by_size)
        return float(_logistic(np.asarray(level)))

    def probability(
        self, *, evidence: float, score: float, support: float, rival: float, n_entries: int
    ) -> float:
        """Return the probability that a match is right.

        evidence, score, support: of its line; rival: evidence of the strongest line of another
        recording's sound; n_entries: vectors or hashes of the library.
        """
        x = features(np.array([[evidence, score, support, rival]]), np.array([n_entries]))[0]
        return float(_logistic(np.array(x @ np.asarray(self.weights))))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a model's metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Read what :meth:`to_dict` wrote; raises ParameterError where it is incomplete."""
        try:
            thresholds = tuple(tuple(cell) for cell in values.get("thresholds", ()))
            changes = {"weights": tuple(values["weights"]), "thresholds": thresholds}
            calibration = cls(**{**values, **changes})
        except (KeyError, TypeError) as error:
            raise ParameterError(
                f"not a calibration ({error}); calibrate the model again"
            ) from error
        if len(calibration.weights) != N_FEATURES or any(len(cell) != 3 for cell in thresholds):
            raise ParameterError(
                f"a calibration has {N_FEATURES} weights and thresholds by length and size, not "
                f"{len(calibration.weights)} weights; calibrate the model again"
            )
        return calibration


# Without a fit: a guess that takes 2 s at a mean similarity of 0.7 for right. In no model file.
UNFITTED = Calibration((-10.5, 12.0, 10.0, *[0.0] * 6), 0.5)


def features(lines: Floats, n_entries: npt.NDArray[np.float64]) -> Floats:
    """Return what the logistic function sees [shape=(n, 9)].

    One, the evidence, the score, log support, log of the evidence over the rival's (the lead), and
    log10 of the library's size over 10⁵; log² support, log support times score, and lead times
    size. lines: evidence, score, support and rival's evidence of each line [shape=(n, 4)]. A rival
    counts at least as much as in a large library of unrelated music.
    """
    evidence, score, support, rival = np.asarray(lines, np.float64).T
    support = np.maximum(support, 0.1)
    lead = np.log((evidence + 0.1) / (np.maximum(rival, CHANCE * np.sqrt(support)) + 0.1))
    size = np.log10(np.maximum(np.asarray(n_entries, np.float64), 1.0)) - 5.0
    length = np.log(support)
    columns = [np.ones_like(score), evidence, score, length, lead, size]
    return np.stack([*columns, length**2, length * score, lead * size], axis=1)


def fit(
    queries: Sequence[Floats],
    right: npt.NDArray[np.bool_],
    n_entries: int,
    *,
    seconds: npt.NDArray[np.float64] | None = None,
    false_accepts: float = 0.001,
    seed: int = 0,
) -> Calibration:
    """Fit by Newton's method with a little ridge; right and wrong weigh the same.

    queries: for each query, evidence, score and support of its best line and of the best lines of
    other recordings (no copies), strongest first [shape=(n_lines, 3)]. right: whether a query's
    best line was the recording. seconds: the queries' lengths, for a threshold at each of them:
    one for all would be set by the shortest, which chance favours most.

    Rivals are few and weak in a small library. So that the fit does not lean on them more than
    such a library allows, it also sees every query with random parts of the library (KEPT); a
    right recording always stays. Each part's size has thresholds of its own.
    """
    if right.all() or not right.any():
        raise ParameterError(
            "calibration needs right and wrong matches; evaluate absent queries too"
        )
    lengths = np.zeros(len(queries)) if seconds is None else seconds
    table = _drawn(queries, right, lengths, n_entries, np.random.default_rng(seed))
    x, y, weight = features(table[:, :4], table[:, 4]), table[:, 5] > 0, table[:, 6]
    weights = _newton(x, y, weight)
    probability = _logistic(x @ weights)
    levels = []
    for length in np.unique(lengths[lengths > 0]):
        n_queries = int((~right & (lengths == length)).sum())
        for share, n_repeats in KEPT if n_queries >= ENOUGH else ():
            of = ~y & (table[:, 7] == length) & (table[:, 4] == share * n_entries)
            level = threshold_for(probability[of], false_accepts, n_repeats * n_queries)
            levels.append((float(length), float(round(share * n_entries)), round(level, 7)))
    return Calibration(
        tuple(float(round(w, 5)) for w in weights),
        threshold_for(probability[~y], false_accepts),
        false_accepts,
        int(right.sum()),
        int((~right).sum()),
        tuple(levels),
    )


def _drawn(
    queries: Sequence[Floats],
    right: npt.NDArray[np.bool_],
    lengths: Floats,
    n_entries: int,
    rng: np.random.Generator,
) -> Floats:
    """Return the best lines of all queries in random parts of the library [shape=(n, 8)].

    Evidence, score, support, rival's evidence, entries of the part, whether right, weight, seconds.
    A part in which none of a query's lines is left gives no row.
    """
    rows: list[tuple[float, ...]] = []
    for share, n_repeats in KEPT:
        for lines, is_right, length in zip(queries, right, lengths, strict=True):
            for _ in range(n_repeats):
                kept = rng.random(len(lines)) < share
                kept[0] |= is_right
                if kept.any():
                    first, *others = lines[kept]
                    rival = max((float(o[0]) for o in others), default=0.0)
                    size = share * n_entries
                    rows.append((*first, rival, size, is_right, 1.0 / n_repeats, length))
    return np.array(rows, np.float64)


def _newton(x: Floats, right: npt.NDArray[np.bool_], weight: Floats, ridge: float = 1e-2) -> Floats:
    """Return the weights of a logistic function in which right and wrong weigh the same."""
    weight = weight * np.where(right, 0.5 / weight[right].sum(), 0.5 / weight[~right].sum())
    weight *= len(x)
    weights = np.zeros(x.shape[1])
    for _ in range(60):
        p = _logistic(x @ weights)
        gradient = x.T @ (weight * (p - right)) + ridge * weights
        curvature = (x * (weight * p * (1 - p))[:, None]).T @ x + ridge * np.eye(x.shape[1])
        weights -= np.linalg.solve(curvature, gradient)
    return weights


def _logistic(x: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -40.0, 40.0))))


def _logit(p: Floats) -> Floats:
    return np.asarray(np.log(np.clip(p, 1e-12, 1 - 1e-12) / np.clip(1 - p, 1e-12, 1)))


def threshold_for(wrong: Floats, false_accepts: float, n_queries: int | None = None) -> float:
    """Return a probability that a share ``false_accepts`` of absent queries reaches.

    wrong: probability of their best matches; n_queries: how many there were, also those without
    any match; default: as many. The tail of the logits beyond their 90 % quantile is taken as
    exponential, so that the answer is not the accident of the two or three largest of a few
    thousand.
    """
    if not len(wrong):
        return 0.5
    logits = _logit(wrong)
    share = false_accepts * (n_queries or len(wrong)) / len(wrong)
    if share >= 0.1:
        level = float(np.quantile(logits, 1.0 - min(share, 1.0)))
    else:
        start = float(np.quantile(logits, 0.9))
        level = start + float(np.maximum(logits[logits >= start] - start, 0).mean()) * np.log(
            0.1 / share
        )
    return float(np.clip(_logistic(np.asarray(level)), 0.01, 0.999999))
