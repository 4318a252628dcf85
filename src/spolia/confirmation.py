"""What the sound of a recording adds to the vectors' opinion that a query plays it.

A network that forgives rooms, phones and pitches also forgives being another anthem. The alignment
of a candidate with its recording (:mod:`spolia.spectral_alignment`) is independent evidence: how
well the two spectrograms correlate at the best place, and how far that stands out of what other
places, speeds and pitches reach. Both and the vectors' probability enter a logistic function,
fitted like the vectors' own on recordings that no training has seen. The length of the stretch is
in it, so one threshold serves all lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spolia.calibration import balanced, logistic, logit, newton, threshold_for
from spolia.errors import ParameterError

Floats = npt.NDArray[np.float64]

N_FEATURES = 7
RIDGE = 0.1
PRUDENCE = 0.3  # of the false accepts aimed at: queries of one recording err together


@dataclass(frozen=True)
class Confirmation:
    """A fitted logistic function over the vectors' probability and the sound's agreement."""

    weights: tuple[float, ...]  # of features(); see there
    threshold: float | None  # probability from which a match is decided; None: see calibration
    false_accepts: float = 0.001  # share of absent queries that is aimed at
    n_known: int = 0  # queries it was fitted on
    n_absent: int = 0

    def probability(
        self, *, vectors: float, correlation: float, prominence: float, seconds: float
    ) -> float:
        """Return the probability that a match is right.

        vectors: its probability by vectors alone; correlation, prominence: of the alignment, see
        :class:`spolia.spectral_alignment.Alignment`; seconds: of the stretch.
        """
        x = features(np.array([[vectors, correlation, prominence, seconds]]))[0]
        return float(logistic(np.array(x @ np.asarray(self.weights))))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a model's metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Confirmation:
        """Read what :meth:`to_dict` wrote; raises ParameterError where it is incomplete."""
        try:
            weights = tuple(values["weights"])
            found = cls(**{**values, "weights": weights, "threshold": float(values["threshold"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ParameterError(
                f"not a confirmation by sound ({error}); calibrate the model again"
            ) from error
        if len(weights) != N_FEATURES:
            raise ParameterError(
                f"a confirmation by sound has {N_FEATURES} weights, not {len(weights)}; "
                "calibrate the model again"
            )
        return found


# Without a fit: the vectors' probability as it is, and their thresholds.
UNFITTED = Confirmation((0.0, 1.0, *[0.0] * (N_FEATURES - 2)), None)


def features(heard: Floats) -> Floats:
    """Return what the logistic function sees [shape=(n, 7)].

    heard: probability by vectors, correlation, prominence and seconds [shape=(n, 4)]. One, the
    logit of the probability, the correlation, the prominence, log of the seconds, and the
    correlation and the logit times that.
    """
    probability, correlation, prominence, seconds = np.asarray(heard, np.float64).T
    length = np.log(np.maximum(seconds, 0.1))
    level = logit(probability)
    return np.stack(
        [
            np.ones_like(level),
            level,
            correlation,
            prominence,
            length,
            correlation * length,
            level * length,
        ],
        axis=1,
    )


def fit(
    heard: Sequence[Floats],
    right: Sequence[npt.NDArray[np.bool_]],
    known: npt.NDArray[np.bool_],
    *,
    false_accepts: float = 0.001,
) -> Confirmation:
    """Fit by Newton's method with a little ridge; right and wrong weigh the same.

    heard: of each query its aligned candidates, see :func:`features` [shape=(n_candidates, 4)];
    right: which of them are the recording; known: whether a query's recording was there at all. The
    threshold is what the most probable candidate of a share of absent queries exceeds.
    """
    is_right = np.concatenate([np.zeros(0, bool), *right])
    if is_right.all() or not is_right.any():
        raise ParameterError(
            "confirmation needs right and wrong matches; evaluate absent queries too"
        )
    x = features(np.concatenate(list(heard)))
    weights = newton(x, is_right, balanced(is_right, np.ones(len(x))), ridge=RIDGE)
    wrong = [
        float(logistic(features(of) @ weights).max())
        for of, is_known in zip(heard, known, strict=True)
        if not is_known and len(of)
    ]
    n_absent = int((~known).sum())
    return Confirmation(
        tuple(round(float(w), 5) for w in weights),
        round(threshold_for(np.array(wrong), PRUDENCE * false_accepts, n_absent), 7),
        false_accepts,
        int(known.sum()),
        n_absent,
    )
