"""What the recordings' sound adds to the vectors' opinion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spolia.alignment import Line
from spolia.calibration import logistic
from spolia.confirmation import UNFITTED, Confirmation, fit
from spolia.errors import ParameterError
from spolia.placing import confirmed, contenders
from spolia.rivals import Candidate, Place, rivals_removed

RNG = np.random.default_rng(4)


def queries(n=600, lengths=(1.0, 5.0)):
    """Return queries whose vectors are unsure and whose sound is not."""
    heard, right, known = [], [], []
    for i in range(n):
        is_known = i % 2 == 0
        n_candidates = int(RNG.integers(1, 4))
        is_right = np.zeros(n_candidates, bool)
        is_right[0] = is_known
        vectors = logistic(RNG.normal(np.where(is_right, 1.0, -1.0), 1.5))
        length = lengths[i // 2 % len(lengths)]
        noise = 0.08 / np.sqrt(length)
        correlation = np.where(is_right, 0.45, 0.1) + noise * RNG.normal(size=n_candidates)
        prominence = np.where(is_right, 5.0, 3.0) + 0.4 * RNG.normal(size=n_candidates)
        span = np.full(n_candidates, length)
        heard.append(np.column_stack([vectors, correlation, prominence, span]))
        right.append(is_right)
        known.append(is_known)
    return heard, right, np.array(known)


@pytest.fixture(scope="module")
def fitted():
    return fit(*queries())


def test_sound_decides_where_vectors_cannot(fitted):
    heard, right, known = queries()
    passed = []
    for of, is_right, is_known in zip(heard, right, known, strict=True):
        p = [
            fitted.probability(vectors=v, correlation=c, prominence=z, seconds=s)
            for v, c, z, s in of
        ]
        best = int(np.argmax(p))
        ok = p[best] >= fitted.threshold
        passed.append((is_known, ok and (bool(is_right[best]) or not is_known)))
    recall = np.mean([ok for is_known, ok in passed if is_known])
    false_accepts = np.mean([ok for is_known, ok in passed if not is_known])
    by_vectors = np.array([of[0, 0] for of in heard])
    alone = np.mean(by_vectors[known] > by_vectors[~known].max())
    assert recall > 0.95
    assert alone < 0.5
    assert false_accepts < 0.01


def test_it_survives_json_and_names_what_is_wrong(fitted):
    assert Confirmation.from_dict(fitted.to_dict()) == fitted
    assert (fitted.n_known, fitted.n_absent) == (300, 300)
    with pytest.raises(ParameterError, match="has 7 weights, not 2"):
        Confirmation.from_dict({"weights": [1.0, 2.0], "threshold": 0.5})
    for values in ({"weights": [1.0] * 7}, {"weights": [1.0] * 7, "threshold": None}):
        with pytest.raises(ParameterError, match="calibrate the model again"):
            Confirmation.from_dict(values)
    with pytest.raises(ParameterError, match="needs right and wrong matches"):
        fit([np.ones((1, 4))], [np.array([True])], np.array([True]))


def test_without_a_fit_the_vectors_opinion_stands():
    for p in (1e-6, 0.3, 0.999):
        given = UNFITTED.probability(vectors=p, correlation=0.9, prominence=9.0, seconds=2.0)
        assert given == pytest.approx(p, rel=1e-6)


def line(start=0.0, end=5.0, offset=10.0):
    return Line(1.0, offset, start, end, 0.6, end - start, 1.0)


def candidate(name, probability, **changes):
    return Candidate(name, line(**changes), probability=probability)


def test_a_few_contenders_on_every_stretch():
    many = [candidate(f"r{i}", 0.5 - 0.01 * i) for i in range(9)]
    assert [c.recording_id for c in contenders(many)] == ["r0", "r1", "r2", "r3"]
    assert len(contenders([*many, candidate("later", 0.001, start=20.0, end=25.0)])) == 5
    far = [candidate("a", 0.9), candidate("b", 0.5), candidate("c", 1e-4)]
    assert [c.recording_id for c in contenders(far)] == ["a", "b"]
    places = [candidate("a", 0.9 - 0.1 * i, offset=10.0 * i) for i in range(4)]
    assert len(contenders(places)) == 2


def test_the_sound_may_turn_the_order_and_missing_files_change_nothing(fitted):
    wrong, right, gone = candidate("wrong", 0.6), candidate("right", 0.3), candidate("gone", 0.2)
    sounds = {
        "wrong": Place(wrong.line, None, 0.08, 2.9),
        "right": Place(replace(right.line, offset=10.1), 0.0, 0.5, 5.5),
        "gone": Place(gone.line),
    }
    found = confirmed(
        [wrong, right, gone], lambda c: sounds[c.recording_id], fitted, rivals_removed
    )
    assert [c.recording_id for c in found] == ["right", "gone", "wrong"]
    assert found[0].by_vectors == 0.3
    assert found[0].place.line.offset == 10.1
    assert found[1].probability == 0.2


def surely(found):
    """Return what counts as a match: a high bar for what was heard, a low one for the others."""
    return [c for c in rivals_removed(found) if c.probability >= (0.4 if c.place is None else 0.95)]


def test_what_counts_was_heard(fitted):
    many = [candidate(f"wrong{i}", 0.9 - 0.01 * i, offset=10.0 * i) for i in range(7)]
    places = [candidate("wrong0", 0.899, offset=200.0), candidate("wrong0", 0.898, offset=300.0)]
    right, faint = candidate("right", 0.5), candidate("faint", 0.3)
    heard = []

    def align(c):
        heard.append(c.recording_id)
        clear = c.recording_id == "right"
        return Place(c.line, 0.0, 0.6 if clear else 0.02, 6.0 if clear else 1.0)

    wrong = [many[0], *places, *many[1:]]
    found = confirmed([*wrong, right, faint], align, fitted, surely)
    assert surely(found) == found[:1]
    assert found[0].recording_id == "right"
    assert len(heard) == len(wrong) + 1
    heard.clear()
    assert surely(confirmed([*wrong, faint], align, fitted, surely)) == []
    assert len(heard) == len(wrong)  # what would not count need not be heard
