"""From lines to probabilities, and the threshold below which the answer is "unknown".

How far a wrong match gets depends on how long the query is and on how many vectors it was the best
of. As for local alignments of sequences (Karlin & Altschul 1990), the tail of the *evidence*, the
sum of similarity above the unrelated level along the best stretch, falls off exponentially. A
logistic function of the evidence, the mean score, the length and the size of the library is fitted
on known and absent queries of recordings that no training has seen (``spolia evaluate identify
--calibrate``); the threshold is the probability that one absent query in a thousand of that length
exceeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spolia.errors import ParameterError

Floats = npt.NDArray[np.float64]


N_FEATURES = 8
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
    # (seconds, probability), ascending: where a match of a query of that length is decided
    thresholds: tuple[tuple[float, float], ...] = ()

    def threshold_at(self, seconds: float) -> float:
        """Return the probability from which a match of a query of ``seconds`` is decided.

        Between the fitted lengths the logit is interpolated over log seconds; beyond, held.
        """
        if not self.thresholds:
            return self.threshold
        lengths, levels = (np.array(column) for column in zip(*self.thresholds, strict=True))
        level = np.interp(np.log(max(seconds, 1e-3)), np.log(lengths), _logit(levels))
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
            thresholds = tuple(tuple(pair) for pair in values.get("thresholds", ()))
            changes = {"weights": tuple(values["weights"]), "thresholds": thresholds}
            calibration = cls(**{**values, **changes})
        except (KeyError, TypeError) as error:
            raise ParameterError(
                f"not a calibration ({error}); calibrate the model again"
            ) from error
        if len(calibration.weights) != N_FEATURES:
            raise ParameterError(
                f"a calibration has {N_FEATURES} weights, not {len(calibration.weights)}; "
                "calibrate the model again"
            )
        return calibration


# Without a fit: a guess that takes 2 s at a mean similarity of 0.7 for right. In no model file.
UNFITTED = Calibration((-10.5, 12.0, 10.0, *[0.0] * 5), 0.5)


def features(lines: Floats, n_entries: npt.NDArray[np.float64]) -> Floats:
    """Return what the logistic function sees [shape=(n, 8)].

    One, the evidence, the score, log support, log of the evidence over the rival's (the lead), and
    log10 of the library's size over 10⁵; log² support, and log support times score. lines:
    evidence, score, support and rival's evidence of each line [shape=(n, 4)]. A rival counts at
    least as much as in a large library of unrelated
    music.
    """
    evidence, score, support, rival = np.asarray(lines, np.float64).T
    support = np.maximum(support, 0.1)
    lead = np.log((evidence + 0.1) / (np.maximum(rival, CHANCE * np.sqrt(support)) + 0.1))
    size = np.log10(np.maximum(np.asarray(n_entries, np.float64), 1.0)) - 5.0
    length = np.log(support)
    columns = [np.ones_like(score), evidence, score, length, lead, size]
    return np.stack([*columns, length**2, length * score], axis=1)


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
    right recording always stays.
    """
    if right.all() or not right.any():
        raise ParameterError(
            "calibration needs right and wrong matches; evaluate absent queries too"
        )
    rows: list[tuple[float, ...]] = []
    lengths = np.zeros(len(queries)) if seconds is None else seconds
    rng = np.random.default_rng(seed)
    for share, n_repeats in KEPT:
        for lines, is_right, length in zip(queries, right, lengths, strict=True):
            for _ in range(n_repeats):
                kept = rng.random(len(lines)) < share
                kept[0] |= is_right
                if kept.any():
                    first, *others = lines[kept]
                    rival = max((float(o[0]) for o in others), default=0.0)
                    holds = bool(is_right and kept[0])
                    size = share * n_entries
                    rows.append((*first, rival, size, holds, 1.0 / n_repeats, length))
    table = np.array(rows, np.float64)
    x, y, weight = features(table[:, :4], table[:, 4]), table[:, 5] > 0, table[:, 6]
    weights = _newton(x, y, weight)
    probability = _logistic(x @ weights)
    return Calibration(
        tuple(float(round(w, 5)) for w in weights),
        threshold_for(probability[~y], false_accepts),
        false_accepts,
        int(right.sum()),
        int((~right).sum()),
        _thresholds(probability[~y], table[~y, 7], false_accepts),
    )


def _thresholds(
    wrong: Floats, lengths: Floats, false_accepts: float
) -> tuple[tuple[float, float], ...]:
    """Return a threshold for each length that has enough wrong matches to tell."""
    found = []
    for length in np.unique(lengths[lengths > 0]):
        of = wrong[lengths == length]
        if len(of) >= ENOUGH:
            found.append((float(length), round(threshold_for(of, false_accepts), 7)))
    return tuple(found)


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


def threshold_for(wrong: Floats, false_accepts: float) -> float:
    """Return a probability that a share ``false_accepts`` of wrong matches reaches.

    The tail of the logits beyond their 90 % quantile is taken as exponential, so that the answer
    is not the accident of the two or three largest of a few thousand.
    """
    logits = _logit(wrong)
    start = float(np.quantile(logits, 0.9))
    mean_excess = float(np.maximum(logits[logits >= start] - start, 0).mean())
    level = start + mean_excess * np.log(0.1 / false_accepts)
    return float(np.clip(1 / (1 + np.exp(-level)), 0.01, 0.999999))
