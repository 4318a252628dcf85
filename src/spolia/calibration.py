"""From lines to probabilities, and the threshold below which the answer is "unknown".

How far a wrong match gets depends on how long the query is and on how many vectors it was the best
of. As for local alignments of sequences (Karlin & Altschul 1990), the tail of the *evidence*, the
sum of similarity above the unrelated level along the best stretch, falls off exponentially. A
logistic function of the evidence, the mean score, the length and the size of the library is fitted
on known and absent queries of recordings that no training has seen (``spolia evaluate identify
--calibrate``); the threshold is the probability that one absent query in a thousand exceeds, over
a stretch of that length and in a library of that size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spolia.errors import ParameterError

Floats = npt.NDArray[np.float64]


N_FEATURES = 9
ENOUGH = 100  # absent queries of one length from which they count for thresholds
FEW = 30  # wrong matches of one length of stretch from which it has a threshold
OVERLAP = 0.5  # share of a shorter stretch that must overlap to make two lines rivals
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
    threshold: float  # probability from which a match is decided, whatever its length
    false_accepts: float = 0.001  # share of absent queries above the threshold, by construction
    n_known: int = 0  # queries it was fitted on
    n_absent: int = 0
    # (seconds of the stretch, entries of the library, probability): where a match is decided
    thresholds: tuple[tuple[float, float, float], ...] = ()

    def threshold_at(self, seconds: float, n_entries: int) -> float:
        """Return the probability from which a match over a stretch of ``seconds`` is decided.

        n_entries: vectors or hashes of the library. Between the fitted lengths and sizes the logit
        is interpolated over their logarithms; beyond, held.
        """
        if not self.thresholds:
            return self.threshold
        lengths, sizes, levels = (np.array(column) for column in zip(*self.thresholds, strict=True))
        by_size = [
            np.interp(
                np.log(max(seconds, 1e-3)), np.log(lengths[sizes == n]), logit(levels[sizes == n])
            )
            for n in np.unique(sizes)
        ]
        level = np.interp(np.log(max(n_entries, 1)), np.log(np.unique(sizes)), by_size)
        return float(logistic(np.asarray(level)))

    def probability(
        self, *, evidence: float, score: float, support: float, rival: float, n_entries: int
    ) -> float:
        """Return the probability that a match is right.

        evidence, score, support: of its line; rival: evidence of the strongest line of another
        recording's sound; n_entries: vectors or hashes of the library.
        """
        lines = np.array([[evidence, score, support, rival]])
        return float(self.probabilities(lines, n_entries)[0])

    def probabilities(self, lines: Floats, n_entries: int) -> Floats:
        """Return the probabilities of several matches [shape=(n,)].

        lines: evidence, score, support and rival of each, see :meth:`probability` [shape=(n, 4)].
        """
        x = features(lines, np.full(len(lines), n_entries))
        return logistic(x @ np.asarray(self.weights))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a model's metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Read what :meth:`to_dict` wrote; raises ParameterError where it is incomplete."""
        own = {k: v for k, v in values.items() if k != "confirmation"}  # see spolia.confirmation
        try:
            thresholds = tuple(tuple(cell) for cell in values.get("thresholds", ()))
            changes = {"weights": tuple(values["weights"]), "thresholds": thresholds}
            calibration = cls(**{**own, **changes})
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


def strength(evidence: Any, score: Any) -> Any:
    """Return the number by which lines that explain the same sound are ranked.

    Evidence and mean score. The probability of a calibration is fitted on best lines only and
    ranks rivals worse (docs/decisions/0002-calibration.md).
    """
    return 12.0 * evidence + 10.0 * score


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

    queries: for each query evidence, score, support, and start and end of the stretch, of its best
    line and of the best lines of other recordings (no copies) [shape=(n_lines, 5)]. right: whether
    a query's best line was the recording. seconds: the queries' lengths, for thresholds by the
    length of a line's stretch: one for all would be set by the shortest, which chance favours most.

    Rivals are few and weak in a small library. So that the fit does not lean on them more than
    such a library allows, it also sees every query with random parts of the library (KEPT); a
    right recording always stays. Each part's size has thresholds of its own. Of a wrong query the
    line counts that the library would show first: that is the strongest at first, then, in a
    second fit, the most probable by the first.
    """
    if right.all() or not right.any():
        raise ParameterError(
            "calibration needs right and wrong matches; evaluate absent queries too"
        )
    lengths = np.zeros(len(queries)) if seconds is None else np.asarray(seconds, np.float64)
    table = _drawn_all(queries, right, lengths, n_entries, None, seed)
    x, y = features(table[:, :4], table[:, 4]), table[:, 5] > 0
    weights = newton(x, y, balanced(y, table[:, 6]))
    table = _drawn_all(queries, right, lengths, n_entries, weights, seed)
    x, y = features(table[:, :4], table[:, 4]), table[:, 5] > 0
    weights = newton(x, y, balanced(y, table[:, 6]))
    probability = logistic(x @ weights)
    n_absent = {length: int((~right & (lengths == length)).sum()) for length in np.unique(lengths)}
    return Calibration(
        tuple(float(round(w, 5)) for w in weights),
        threshold_for(probability[~y], false_accepts),
        false_accepts,
        int(right.sum()),
        int((~right).sum()),
        tuple(sorted(_levels(table[~y], probability[~y], n_entries, n_absent, false_accepts))),
    )


def _drawn_all(
    queries: Sequence[Floats],
    right: npt.NDArray[np.bool_],
    lengths: Floats,
    n_entries: int,
    weights: Floats | None,
    seed: int,
) -> Floats:
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [
            _drawn(lines, bool(is_right), float(length), n_entries, weights, rng)
            for lines, is_right, length in zip(queries, right, lengths, strict=True)
        ]
    )


def _drawn(
    lines: Floats,
    is_right: bool,
    seconds: float,
    n_entries: int,
    weights: Floats | None,
    rng: np.random.Generator,
) -> Floats:
    """Return one line of a query for each random part of the library [shape=(n, 9)].

    Evidence, score, support, rival's evidence, entries of the part, whether right, weight, seconds
    of the query and of the line's stretch. A part in which no line is left gives no row.
    """
    repeats = np.array([n for _, n in KEPT])
    share = np.repeat([s for s, _ in KEPT], repeats)
    kept = rng.random((len(share), len(lines))) < share[:, None]
    kept[:, 0] |= is_right
    there = kept.any(1)
    kept, share, repeats = kept[there], share[there], np.repeat(repeats, repeats)[there]
    overlap = _overlapping(lines[:, 3], lines[:, 4])
    rival = np.where(kept[:, None, :] & overlap, lines[:, 0], 0.0).max(2)  # (draws, lines)
    sizes = share * n_entries
    chosen = np.zeros(len(share), np.int64)
    if not is_right:
        chosen = _shown_first(lines, kept, rival, overlap, sizes, weights)
    draw = np.arange(len(share))
    columns = [
        *lines[chosen, :3].T,
        rival[draw, chosen],
        sizes,
        np.full(len(share), is_right),
        1.0 / repeats,
        np.full(len(share), seconds),
        lines[chosen, 4] - lines[chosen, 3],
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def _overlapping(start: Floats, end: Floats) -> npt.NDArray[np.bool_]:
    """Tell which of several lines explain the same stretch as which other."""
    found = overlaps(start[:, None], end[:, None], start, end)
    np.fill_diagonal(found, val=False)
    return found


def overlaps(
    start: Floats, end: Floats, other_start: Floats, other_end: Floats
) -> npt.NDArray[np.bool_]:
    """Tell whether stretches are the same, as :func:`spolia.rivals.overlapping` does for two."""
    common = np.minimum(end, other_end) - np.maximum(start, other_start)
    shorter = np.minimum(end - start, other_end - other_start)
    return np.asarray(common > OVERLAP * np.maximum(shorter, 1e-9))


def _shown_first(
    lines: Floats,
    kept: npt.NDArray[np.bool_],
    rival: Floats,
    overlap: npt.NDArray[np.bool_],
    sizes: Floats,
    weights: Floats | None,
) -> npt.NDArray[np.int64]:
    """Return the line that comes first in each draw: the most probable, or the strongest."""
    strong = strength(lines[:, 0], lines[:, 1])
    if weights is None:
        return np.asarray(np.where(kept, strong, -np.inf).argmax(1), np.int64)
    n_draws, n_lines = kept.shape
    repeated = np.repeat(lines[None, :, :3], n_draws, axis=0)
    x = np.concatenate([repeated, rival[:, :, None]], axis=2).reshape(-1, 4)
    level = (features(x, np.repeat(sizes, n_lines)) @ weights).reshape(n_draws, n_lines)
    level = np.where(kept, level, np.inf)
    order = np.argsort(-strong)
    for place, i in enumerate(order):  # none is more probable than a stronger one there
        stronger = order[:place][overlap[i, order[:place]]]
        if len(stronger):
            level[:, i] = np.minimum(level[:, i], level[:, stronger].min(1))
    return np.asarray(np.where(kept, level, -np.inf).argmax(1), np.int64)


def _levels(
    wrong: Floats,
    probability: Floats,
    n_entries: int,
    n_absent: Mapping[float, int],
    false_accepts: float,
) -> Iterator[tuple[float, float, float]]:
    """Yield (seconds of stretch, entries, threshold), wrong matches of all query lengths in turn.

    A longer query has more stretches of a length, so the strictest of all query lengths counts.
    """
    lengths = np.array([length for length, n in n_absent.items() if length > 0 and n >= ENOUGH])
    if not len(lengths):
        return
    kinds = lengths[np.searchsorted(np.sqrt(lengths[1:] * lengths[:-1]), wrong[:, 8])]
    for share, n_repeats in KEPT:
        sizes = wrong[:, 4] == share * n_entries
        level = 0.0
        for kind in lengths[::-1]:
            for length in lengths[lengths >= kind]:
                of = sizes & (kinds == kind) & (wrong[:, 7] == length)
                if of.sum() >= FEW:
                    n_queries = n_repeats * n_absent[length]
                    level = max(level, threshold_for(probability[of], false_accepts, n_queries))
            if level:
                yield float(kind), float(round(share * n_entries)), round(level, 7)


def balanced(right: npt.NDArray[np.bool_], weight: Floats) -> Floats:
    """Return weights by which right and wrong weigh the same, one on average."""
    return np.asarray(
        weight * np.where(right, 0.5 / weight[right].sum(), 0.5 / weight[~right].sum()) * len(right)
    )


def newton(x: Floats, right: npt.NDArray[np.bool_], weight: Floats, ridge: float = 1e-2) -> Floats:
    """Return the weights of a logistic function."""
    weights = np.zeros(x.shape[1])
    for _ in range(60):
        p = logistic(x @ weights)
        gradient = x.T @ (weight * (p - right)) + ridge * weights
        curvature = (x * (weight * p * (1 - p))[:, None]).T @ x + ridge * np.eye(x.shape[1])
        weights -= np.linalg.solve(curvature, gradient)
    return weights


def logistic(x: Floats) -> Floats:
    """Return 1 / (1 + exp(-x))."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -40.0, 40.0))))


def logit(p: Floats) -> Floats:
    """Return log(p / (1 - p)), within ± 27.6."""
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
    logits = logit(wrong)
    share = false_accepts * (n_queries or len(wrong)) / len(wrong)
    if share >= 0.1:
        level = float(np.quantile(logits, 1.0 - min(share, 1.0)))
    else:
        start = float(np.quantile(logits, 0.9))
        level = start + float(np.maximum(logits[logits >= start] - start, 0).mean()) * np.log(
            0.1 / share
        )
    return float(np.clip(logistic(np.asarray(level)), 0.01, 0.999999))
