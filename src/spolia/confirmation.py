"""What the sound of a recording adds to the vectors' opinion that a query plays it.

A network that forgives rooms, phones and pitches also forgives being another anthem. The alignment
of a candidate with its recording (:mod:`spolia.spectral_alignment`) is independent evidence: how
well the two spectrograms correlate at the best place, and how far that stands out of what other
places, speeds and pitches reach. Both and the vectors' probability enter a logistic function,
fitted like the vectors' own on recordings that no training has seen; its thresholds are those that
one absent query in a thousand exceeds, by the length of the stretch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spolia.calibration import ENOUGH, logistic, logit, newton, threshold_for
from spolia.errors import ParameterError

Floats = npt.NDArray[np.float64]

N_FEATURES = 7
RIDGE = 0.1
FEW = 30  # wrong matches of one length from which it has a threshold


@dataclass(frozen=True)
class Confirmation:
    """A fitted logistic function over the vectors' probability and the sound's agreement."""

    weights: tuple[float, ...]  # of features(); see there
    thresholds: tuple[tuple[float, float], ...]  # (seconds of the stretch, probability)
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

    def threshold_at(self, seconds: float) -> float:
        """Return the probability from which a match over that many seconds is decided."""
        lengths, levels = (np.array(column) for column in zip(*self.thresholds, strict=True))
        at = np.interp(np.log(max(seconds, 1e-3)), np.log(lengths), logit(levels))
        return float(logistic(np.asarray(at)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a model's metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Confirmation:
        """Read what :meth:`to_dict` wrote; raises ParameterError where it is incomplete."""
        try:
            weights = tuple(values["weights"])
            thresholds = tuple((float(s), float(p)) for s, p in values["thresholds"])
            found = cls(**{**values, "weights": weights, "thresholds": thresholds})
        except (KeyError, TypeError, ValueError) as error:
            raise ParameterError(
                f"not a confirmation by sound ({error}); calibrate the model again"
            ) from error
        if len(weights) != N_FEATURES or not thresholds:
            raise ParameterError(
                f"a confirmation by sound has {N_FEATURES} weights and at least one threshold, not "
                f"{len(weights)} and {len(thresholds)}; calibrate the model again"
            )
        return found


# Without a fit: the vectors' probability as it is, and their thresholds.
UNFITTED = Confirmation((0.0, 1.0, *[0.0] * (N_FEATURES - 2)), ())


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
    lengths: Floats,
    *,
    false_accepts: float = 0.001,
) -> Confirmation:
    """Fit by Newton's method with a little ridge; right and wrong weigh the same.

    heard: of each query its aligned candidates, see :func:`features` [shape=(n_candidates, 4)];
    right: which of them are the recording; known: whether a query's recording was there at all;
    lengths: of the queries in seconds. The thresholds are those of the most probable candidate of
    absent queries; a longer query has more stretches of a length, so the strictest counts.
    """
    is_right = np.concatenate([np.zeros(0, bool), *right])
    if is_right.all() or not is_right.any():
        raise ParameterError(
            "confirmation needs right and wrong matches; evaluate absent queries too"
        )
    x = features(np.concatenate(list(heard)))
    weights = newton(x, is_right, np.ones(len(x)), ridge=RIDGE)
    best = []  # of absent queries: probability, seconds of the stretch, length of the query
    for of, length, is_known in zip(heard, lengths, known, strict=True):
        if not is_known and len(of):
            probability = logistic(features(of) @ weights)
            i = int(probability.argmax())
            best.append((float(probability[i]), float(of[i, 3]), float(length)))
    n_absent = {s: int((~known & (lengths == s)).sum()) for s in np.unique(lengths)}
    thresholds = _thresholds(np.array(best), n_absent, false_accepts)
    return Confirmation(
        tuple(round(float(w), 5) for w in weights),
        thresholds,
        int(known.sum()),
        int((~known).sum()),
    )


def _thresholds(
    wrong: Floats, n_absent: Mapping[float, int], false_accepts: float
) -> tuple[tuple[float, float], ...]:
    """Return a threshold for each length of stretch that has enough wrong matches."""
    lengths = np.array([s for s, n in n_absent.items() if s > 0 and n >= ENOUGH])
    if not len(lengths) or not len(wrong):
        everything = wrong[:, 0] if len(wrong) else np.zeros(0)
        return ((1.0, threshold_for(everything, false_accepts, sum(n_absent.values()))),)
    kinds = lengths[np.searchsorted(np.sqrt(lengths[1:] * lengths[:-1]), wrong[:, 1])]
    found: list[tuple[float, float]] = []
    level = 0.0
    for kind in lengths[::-1]:
        for length in lengths[lengths >= kind]:
            of = (kinds == kind) & (wrong[:, 2] == length)
            if of.sum() >= FEW:
                level = max(level, threshold_for(wrong[of, 0], false_accepts, n_absent[length]))
        if level:
            found.append((float(kind), round(level, 7)))
    return tuple(sorted(found)) or ((1.0, threshold_for(wrong[:, 0], false_accepts)),)
