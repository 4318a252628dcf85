"""From lines to probabilities, and the threshold below which the answer is "unknown".

How far a wrong match gets depends on how long the query is and on how many vectors it was the best
of. As for local alignments of sequences (Karlin & Altschul 1990), the tail of the *evidence*, the
sum of similarity above the unrelated level along the best stretch, falls off exponentially. A
logistic function of the evidence, the mean score, the length and the size of the library is fitted
on known and absent queries of recordings that no training has seen (``spolia evaluate identify
--calibrate``); the threshold is the probability that one absent query in a thousand exceeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spolia.errors import ParameterError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """A fitted logistic function and its operating point."""

    weights: tuple[float, ...]  # of features(); see there
    threshold: float  # probability from which a match is decided
    false_accepts: float = 0.001  # share of absent queries above the threshold, by construction
    n_known: int = 0  # queries it was fitted on
    n_absent: int = 0

    def probability(
        self, *, evidence: float, score: float, support: float, n_vectors: int
    ) -> float:
        """Return the probability that a match is right.

        evidence, score, support: of its line; n_vectors: size of the library.
        """
        x = features(np.array([[evidence, score, support]]), np.array([n_vectors]))[0]
        logit = float(x @ np.asarray(self.weights))
        return float(_logistic(np.array(logit)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a model's metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Read what :meth:`to_dict` wrote; raises ParameterError where it is incomplete."""
        try:
            return cls(**{**values, "weights": tuple(values["weights"])})
        except (KeyError, TypeError) as error:
            raise ParameterError(
                f"not a calibration ({error}); calibrate the model again"
            ) from error


# Without a fit: a guess that takes 2 s at a mean similarity of 0.7 for right. In no model file.
UNFITTED = Calibration((-10.5, 12.0, 10.0, 0.0, 0.0), 0.5)


def features(lines: Floats, n_vectors: npt.NDArray[np.int64]) -> Floats:
    """Return what the logistic function sees [shape=(n, 5)].

    One, the evidence, the score, log support, and log10 of the library's size over 10⁵. lines:
    evidence, score and support of each line [shape=(n, 3)].
    """
    evidence, score, support = np.asarray(lines, np.float64).T
    length = np.log(np.maximum(support, 0.1))
    size = np.log10(np.maximum(np.asarray(n_vectors, np.float64), 1.0)) - 5.0
    return np.stack([np.ones_like(score), evidence, score, length, size], axis=1)


def fit(
    lines: Floats,
    n_vectors: npt.NDArray[np.int64],
    right: npt.NDArray[np.bool_],
    *,
    false_accepts: float = 0.001,
    ridge: float = 1e-2,
    n_steps: int = 100,
) -> Calibration:
    """Fit by Newton's method with a little ridge; right and wrong weigh the same.

    lines: evidence, score and support of each query's best line [shape=(n, 3)]; right: whether it
    was the recording. The weight of the library's size is not fitted where only one was seen.
    """
    if right.all() or not right.any():
        raise ParameterError(
            "calibration needs right and wrong matches; evaluate absent queries too"
        )
    x = features(lines, n_vectors)
    balance = np.where(right, 0.5 / right.mean(), 0.5 / (1 - right.mean()))
    free = np.array([True, True, True, True, bool(np.ptp(x[:, 4]) > 0)])
    weights = np.zeros(x.shape[1])
    for _ in range(n_steps):
        p = _logistic(x @ weights)
        gradient = x[:, free].T @ (balance * (p - right)) + ridge * weights[free]
        curvature = (x[:, free] * (balance * p * (1 - p))[:, None]).T @ x[:, free]
        curvature += ridge * np.eye(int(free.sum()))
        weights[free] -= np.linalg.solve(curvature, gradient)
    probability = _logistic(x @ weights)
    return Calibration(
        tuple(float(round(w, 5)) for w in weights),
        threshold_for(probability[~right], false_accepts),
        false_accepts,
        int(right.sum()),
        int((~right).sum()),
    )


def _logistic(x: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -40.0, 40.0))))


def threshold_for(wrong: Floats, false_accepts: float) -> float:
    """Return a probability that a share ``false_accepts`` of wrong matches reaches.

    The tail of the logits beyond their 90 % quantile is taken as exponential, so that the answer
    is not the accident of the two or three largest of a few thousand.
    """
    logits = np.log(np.clip(wrong, 1e-12, 1 - 1e-12) / np.clip(1 - wrong, 1e-12, 1))
    start = float(np.quantile(logits, 0.9))
    mean_excess = float(np.maximum(logits[logits >= start] - start, 0).mean())
    level = start + mean_excess * np.log(0.1 / false_accepts)
    return float(np.clip(1 / (1 + np.exp(-level)), 0.01, 0.999999))
