"""Calibration orders, bounds and reports what it was fitted on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spolia.alignment import Line
from spolia.calibration import UNFITTED, Calibration, _overlapping, fit, threshold_for
from spolia.errors import ParameterError
from spolia.rivals import overlapping


def made_up(rng, n=2000, n_rivals=4, longest=10):
    """Return queries with lines of a right or a wrong recording and of its rivals."""
    right = rng.random(n) < 0.5
    queries = []
    for is_right in right:
        support = rng.uniform(0.5, longest)
        spread = 0.12 / np.sqrt(max(support, 0.5))
        scores = np.sort(rng.normal(0.4, spread, n_rivals + 1))[::-1]
        if is_right:
            scores[0] = rng.normal(0.75, spread)
        evidence = np.maximum((scores - 0.3) * support, 0.0)
        stretch = [np.full(n_rivals + 1, v) for v in (support, 0.0, support)]
        queries.append(np.stack([evidence, scores, *stretch], axis=1))
    return queries, right


def probabilities(calibration, queries):
    return np.array(
        [
            calibration.probability(
                evidence=q[0, 0],
                score=q[0, 1],
                support=q[0, 2],
                rival=q[1:, 0].max(initial=0.0),
                n_entries=100_000,
            )
            for q in queries
        ]
    )


def fitted(seed, **options):
    return fit(*made_up(np.random.default_rng(seed)), 100_000, **options)


def test_probabilities_are_calibrated():
    queries, right = made_up(np.random.default_rng(10))
    p = probabilities(fitted(0), queries)
    assert p[right].mean() > 0.9
    assert p[~right].mean() < 0.1


def test_several_matches_have_the_probabilities_of_each():
    calibration, (queries, _) = fitted(0), made_up(np.random.default_rng(10), 20)
    lines = [[*q[0, :3], q[1:, 0].max(initial=0.0)] for q in queries]
    together = calibration.probabilities(np.array(lines), 100_000)
    assert together == pytest.approx(probabilities(calibration, queries), abs=1e-12)
    assert len(calibration.probabilities(np.zeros((0, 4)), 100_000)) == 0


def test_the_threshold_keeps_false_accepts_on_fresh_data():
    calibration = fitted(1, false_accepts=0.01)
    queries, right = made_up(np.random.default_rng(11), 5000)
    p = probabilities(calibration, queries)
    assert (p[~right] >= calibration.threshold).mean() < 0.02
    assert (p[right] >= calibration.threshold).mean() > 0.6


def test_the_threshold_holds_in_a_small_library_too():
    calibration = fitted(2, false_accepts=0.01)
    queries, right = made_up(np.random.default_rng(12), 5000)
    alone = probabilities(calibration, [q[:1] for q in queries])  # no rivals at all
    assert (alone[~right] >= calibration.threshold).mean() < 0.05


def test_a_higher_score_is_more_probable_and_a_stronger_rival_less():
    calibration = fitted(3)
    for support in (0.5, 2.0, 10.0):
        rows = [[[(s - 0.3) * support, s, support]] for s in np.linspace(0.35, 1, 9)]
        p = probabilities(calibration, np.array(rows))
        assert (np.diff(p) >= 0).all()
    rows = [[[1.0, 0.6, 4.0], [rival, 0.5, 4.0]] for rival in (0.1, 0.5, 0.9)]
    p = probabilities(calibration, np.array(rows))
    assert (np.diff(p) <= 0).all()
    assert p[0] > p[-1]


def test_round_trip_through_plain_values():
    calibration = fitted(4)
    assert Calibration.from_dict(calibration.to_dict()) == calibration
    with pytest.raises(ParameterError, match="calibrate"):
        Calibration.from_dict({"threshold": 0.5})
    with pytest.raises(ParameterError, match="5"):
        Calibration.from_dict({"weights": [0.0] * 5, "threshold": 0.5})


def test_one_class_is_refused():
    queries, right = made_up(np.random.default_rng(5))
    with pytest.raises(ParameterError, match="absent"):
        fit(queries, np.ones_like(right), 1000)


def test_a_stricter_rate_gives_a_higher_threshold():
    wrong = np.random.default_rng(5).beta(1, 8, 3000)
    assert threshold_for(wrong, 0.001) > threshold_for(wrong, 0.01) > np.quantile(wrong, 0.9)


def test_the_rough_calibration_is_monotone():
    queries = np.array([[[0.6 * 4, 0.9, 4.0]], [[0.1, 0.4, 1.0]]])
    sure, unsure = probabilities(UNFITTED, queries)
    assert sure > 0.9 > 0.1 > unsure


def test_each_length_has_a_threshold_of_its_own():
    queries, right = made_up(np.random.default_rng(2), 4000)
    seconds = np.array([1.0 if q[0, 2] < 3 else 10.0 for q in queries])
    calibration = fit(queries, right, 100_000, seconds=seconds)
    whole = [(length, p) for length, n, p in calibration.thresholds if n == 100_000]
    (one, short), (ten, long) = whole
    assert (one, ten) == (1.0, 10.0)
    assert calibration.threshold_at(1.0, 100_000) == pytest.approx(short, abs=1e-6)
    assert calibration.threshold_at(60.0, 10**7) == pytest.approx(long, abs=1e-6)
    assert long < calibration.threshold_at(3.0, 100_000) < short
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    assert again == calibration
    assert (
        fit(queries, right, 100_000).threshold_at(3.0, 10) == fit(queries, right, 100_000).threshold
    )


def test_a_small_part_of_the_library_has_thresholds_of_its_own():
    queries, right = made_up(np.random.default_rng(2))
    seconds = np.full(len(right), 5.0)
    calibration = fit(queries, right, 100_000, seconds=seconds, false_accepts=0.01)
    fresh, is_right = made_up(np.random.default_rng(22), 8000)
    rng = np.random.default_rng(3)
    for share in (1.0, 0.5, 0.2, 0.05):
        n_entries = round(share * 100_000)
        level, accepted = calibration.threshold_at(5.0, n_entries), 0
        for lines in (q for q, r in zip(fresh, is_right, strict=True) if not r):
            kept = lines[rng.random(len(lines)) < share]
            if len(kept):
                evidence, score, support = kept[0, :3]
                rival = kept[1:, 0].max(initial=0.0)
                accepted += level <= calibration.probability(
                    evidence=evidence,
                    score=score,
                    support=support,
                    rival=rival,
                    n_entries=n_entries,
                )
        assert 0.002 < accepted / (~is_right).sum() < 0.025, share


def test_a_rival_elsewhere_in_the_query_is_none_and_short_stretches_of_long_queries_count():
    """Wrong matches of long queries are short: such a stretch is judged as strictly as it is there.

    A calibration by the query's length alone took the strongest line anywhere for the rival, and
    accepted 1 % of absent clips of 10 s by a line over 1.5 s of them.
    """
    rng = np.random.default_rng(7)
    queries, right = made_up(rng, 3000)
    seconds = np.full(len(right), 10.0)
    for lines, is_right in zip(queries, right, strict=True):
        if not is_right and rng.random() < 0.5:  # a strong line over a short stretch, alone there
            lines[0] = (0.6, 0.8, 1.2, 0.0, 1.2)
            lines[1:, 3] = 1.2
            lines[1:, 4] = 1.2 + lines[1:, 2]
        elif is_right:
            lines[:, 4] = lines[:, 2] = np.maximum(lines[:, 2], 7.2)
            lines[:, 0] = np.maximum((lines[:, 1] - 0.3) * lines[:, 2], 0.0)
    short = [[0.5, 0.75, 1.1, 0.0, 1.1], [0.1, 0.5, 0.5, 0.0, 1.0]]
    lines = [np.array(short)] * 1500
    calibration = fit(
        [*queries, *lines],
        np.concatenate([right, np.zeros(1500, bool)]),
        100_000,
        seconds=np.concatenate([seconds, np.ones(1500)]),
    )
    alone = calibration.probability(
        evidence=0.6, score=0.8, support=1.2, rival=0.0, n_entries=100_000
    )
    assert alone < calibration.threshold_at(1.2, 100_000)
    assert calibration.threshold_at(10.0, 100_000) <= calibration.threshold_at(1.2, 100_000)


def test_queries_without_a_match_count_as_not_accepted():
    wrong = np.random.default_rng(5).beta(1, 8, 3000)
    assert threshold_for(wrong, 0.001, 30_000) == pytest.approx(threshold_for(wrong, 0.01))
    assert threshold_for(wrong, 0.01, 150_000) == pytest.approx(np.quantile(wrong, 0.5), abs=1e-3)
    assert threshold_for(wrong[:0], 0.01, 10) == 0.5


def test_lines_overlap_in_the_fit_as_they_do_in_the_search():
    rng = np.random.default_rng(9)
    start = rng.uniform(0, 10, 40)
    end = start + rng.uniform(0, 5, 40)
    lines = [Line(1.0, 0.0, a, b, 0.5, b - a, 1.0) for a, b in zip(start, end, strict=True)]
    found = _overlapping(start, end)
    for i, j in zip(*np.triu_indices(40, 1), strict=True):
        assert found[i, j] == found[j, i] == overlapping(lines[i], lines[j])
    assert not found.diagonal().any()
