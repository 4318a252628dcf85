"""Calibration orders, bounds and reports what it was fitted on."""

from __future__ import annotations

import numpy as np
import pytest

from spolia.calibration import UNFITTED, Calibration, fit, threshold_for
from spolia.errors import ParameterError


def made_up(rng, n=4000):
    right = rng.random(n) < 0.5
    support = rng.uniform(0.2, 10, n)
    spread = 0.12 / np.sqrt(np.maximum(support, 0.5))
    score = np.where(right, 0.75, 0.45) + spread * rng.normal(size=n)
    lines = np.stack([(score - 0.3) * support, score, support], axis=1)
    return lines, np.full(n, 100_000), right


def probabilities(calibration, lines, n_vectors):
    return np.array(
        [
            calibration.probability(evidence=e, score=s, support=t, n_vectors=n)
            for (e, s, t), n in zip(lines, n_vectors, strict=True)
        ]
    )


def test_probabilities_are_calibrated():
    rng = np.random.default_rng(0)
    calibration = fit(*made_up(rng))
    lines, n_vectors, right = made_up(rng)
    p = probabilities(calibration, lines, n_vectors)
    for low in np.arange(0, 1, 0.2):
        inside = (p >= low) & (p < low + 0.2)
        assert right[inside].mean() == pytest.approx(p[inside].mean(), abs=0.12)


def test_the_threshold_keeps_false_accepts_on_fresh_data():
    rng = np.random.default_rng(1)
    calibration = fit(*made_up(rng), false_accepts=0.01)
    lines, n_vectors, right = made_up(rng, 20_000)
    p = probabilities(calibration, lines, n_vectors)
    assert (p[~right] >= calibration.threshold).mean() < 0.02
    assert (p[right] >= calibration.threshold).mean() > 0.6


def test_a_higher_score_is_more_probable():
    calibration = fit(*made_up(np.random.default_rng(2)))
    for support in (0.5, 2.0, 10.0):
        scores = np.linspace(0.2, 1, 9)
        lines = np.stack([(scores - 0.3) * support, scores, np.full(9, support)], axis=1)
        p = probabilities(calibration, lines, np.full(9, 10**5))
        assert (np.diff(p) >= 0).all()


def test_round_trip_through_plain_values():
    calibration = fit(*made_up(np.random.default_rng(3)))
    assert Calibration.from_dict(calibration.to_dict()) == calibration
    with pytest.raises(ParameterError, match="calibrate"):
        Calibration.from_dict({"threshold": 0.5})


def test_one_class_is_refused():
    lines, n_vectors, right = made_up(np.random.default_rng(4))
    with pytest.raises(ParameterError, match="absent"):
        fit(lines, n_vectors, np.ones_like(right))


def test_a_stricter_rate_gives_a_higher_threshold():
    wrong = np.random.default_rng(5).beta(1, 8, 3000)
    assert threshold_for(wrong, 0.001) > threshold_for(wrong, 0.01) > np.quantile(wrong, 0.9)


def test_the_rough_calibration_is_monotone():
    lines = np.array([[0.9 * 4, 0.9, 4.0], [0.1, 0.4, 1.0]])
    sure, unsure = probabilities(UNFITTED, lines, np.full(2, 1000))
    assert sure > 0.9 > 0.1 > unsure
