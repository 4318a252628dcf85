"""From scores to probabilities, and the threshold below which the answer is "unknown".

The score of a wrong match depends on how long the query is and on how many vectors it was the best
of. A logistic function of the score, the length and the size of the library is fitted on known and
absent queries of recordings that no training has seen (``spolia evaluate identify --calibrate``);
the threshold is the probability that at most one absent query in a thousand exceeded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    def probability(self, score: float, support: float, n_vectors: int) -> float:
        """Return the probability that a match is right.

        score: of the match; support: seconds compared; n_vectors: size of the library.
        """
        logit = float(features([score], [support], [n_vectors])[0] @ np.asarray(self.weights))
        return float(1.0 / (1.0 + np.exp(-np.clip(logit, -40.0, 40.0))))

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


# Without a fit: scores of 0.5 and more over 5 s are taken as right. Written into no model.
UNFITTED = Calibration((-8.0, 16.0, 0.0, 0.0, 0.0), 0.5)


def features(
    score: Sequence[float] | Floats,
    support: Sequence[float] | Floats,
    n_vectors: Sequence[int] | npt.NDArray[np.int64],
) -> Floats:
    """Return what the logistic function sees [shape=(n, 5)].

    One, the score, the score times log support, log support, log10 of the library's size: a mean
    over more seconds varies less, and the best of more vectors is higher.
    """
    s = np.asarray(score, np.float64)
    length = np.log(np.maximum(np.asarray(support, np.float64), 0.1))
    size = np.log10(np.maximum(np.asarray(n_vectors, np.float64), 1.0))
    return np.stack([np.ones_like(s), s, s * length, length, size - 5.0], axis=1)


def fit(
    score: Floats,
    support: Floats,
    n_vectors: npt.NDArray[np.int64],
    right: npt.NDArray[np.bool_],
    *,
    false_accepts: float = 0.001,
    ridge: float = 1e-2,
    n_steps: int = 100,
) -> Calibration:
    """Fit by Newton's method with a little ridge; classes weigh the same.

    score, support, n_vectors: of each query's best match [shape=(n,)]; right: whether it was the
    recording. The weight of the library's size is not fitted where only one size was seen.
    """
    if right.all() or not right.any():
        raise ParameterError(
            "calibration needs right and wrong matches; evaluate absent queries too"
        )
    x = features(score, support, n_vectors)
    y = right.astype(np.float64)
    balance = np.where(right, 0.5 / right.mean(), 0.5 / (1 - right.mean()))
    free = np.array([True, True, True, True, bool(np.ptp(x[:, 4]) > 0)])
    weights = np.zeros(x.shape[1])
    for _ in range(n_steps):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -40, 40)))
        gradient = x[:, free].T @ (balance * (p - y)) + ridge * weights[free]
        curvature = (x[:, free] * (balance * p * (1 - p))[:, None]).T @ x[:, free]
        curvature += ridge * np.eye(int(free.sum()))
        weights[free] -= np.linalg.solve(curvature, gradient)
    probability = 1 / (1 + np.exp(-np.clip(x @ weights, -40, 40)))
    return Calibration(
        tuple(float(round(w, 5)) for w in weights),
        threshold_for(probability[~right], false_accepts),
        false_accepts,
        int(right.sum()),
        int((~right).sum()),
    )


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
