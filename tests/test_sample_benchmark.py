"""The strict protocol of samples, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from spolia.errors import ParameterError
from spolia.evaluation.sample_running import fit
from spolia.evaluation.samples import (
    Ranked,
    SampleOutcome,
    average_precision,
    errors,
    hit,
    is_near,
    overlap,
    summarise,
)
from spolia.production.truth import Occurrence, Use


def use(file="a", **changes):
    values = {
        "file": file,
        "group": file,
        "part": "mix",
        "kind": "riff",
        "manner": "loop",
        "source_start": 10.0,
        "source_end": 12.0,
        "occurrences": (Occurrence(4.0, 6.0, 10.0, 12.0), Occurrence(8.0, 10.0, 10.0, 12.0)),
        "semitones": 0.0,
        "tempo_ratio": 1.0,
        "effects": (),
        "overlay_db": 3.0,
        **changes,
    }
    return Use(**values).to_dict()


def outcome(names, uses=None, probabilities=None, **first):
    levels = probabilities or [1.0 - 0.1 * i for i in range(len(names))]
    ranking = [Ranked(name, p) for name, p in zip(names, levels, strict=True)]
    if first and ranking:
        ranking[0] = Ranked(names[0], levels[0], **first)
    return SampleOutcome("q", 20.0, 0.0, 1.0, [use()] if uses is None else uses, ranking)


def test_strict_precision_counts_distractors_and_what_was_not_found():
    assert average_precision(outcome(["a", "b"])) == 1.0
    assert average_precision(outcome(["noise", "a"])) == 0.5
    assert average_precision(outcome(["b"])) == 0.0
    two = [use("a"), use("c")]
    assert average_precision(outcome(["a", "b", "c"], two)) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(outcome(["a"], two)) == 0.5
    lenient = {"a", "b", "c"}
    assert average_precision(outcome(["noise", "a"]), lenient=lenient) == 1.0
    assert average_precision(outcome(["a"], two), lenient=lenient) == 1.0


def test_hits_are_counted_once_per_recording():
    ranked = outcome(["b", "b", "a"])
    assert (hit(ranked, 1), hit(ranked, 2), hit(outcome([]), 1)) == (False, True, False)


@pytest.mark.parametrize(
    ("occurrence", "near"),
    [
        ([4.0, 6.0, 10.0, 12.0], True),
        ([4.5, 5.5, 10.5, 11.5], True),
        ([4.0, 6.0, 10.6, 12.6], False),
        ([15.0, 17.0, 10.0, 12.0], False),
    ],
)
def test_a_place_is_right_within_half_a_second(occurrence, near):
    assert is_near(outcome(["a", "b"], occurrences=[occurrence])) == near
    assert not is_near(outcome(["b", "a"], occurrences=[occurrence]))


def test_errors_and_overlap_by_hand():
    right = outcome(
        ["a"],
        tempo_ratio=1.005,
        semitones=0.2,
        part="mix",
        occurrences=[[4.02, 6.0, 10.0, 12.0], [8.04, 10.0, 10.0, 12.0]],
    )
    assert all(errors(right).values())
    assert overlap(right) == pytest.approx(3.94 / 4.0, abs=0.01)
    wrong = outcome(["a"], tempo_ratio=1.02, semitones=0.3, occurrences=[[4.1, 6.0, 10.0, 12.0]])
    assert not any(errors(wrong).values())
    assert overlap(wrong) == pytest.approx(1.9 / 4.0, abs=0.01)
    assert errors(outcome(["b"], tempo_ratio=1.0, semitones=0.0)) is None
    assert overlap(outcome(["b"])) is None


def test_the_summary_counts_false_alarms_on_sample_free_tracks():
    found = [outcome(["a"], probabilities=[p]) for p in (0.9, 0.8, 0.3)]
    free = [outcome(["b"], [], [p]) for p in (0.95, 0.1, 0.1, 0.1)]
    figures = summarise([*found, *free], 0.5)
    assert figures["map"]["value"] == 1.0
    assert figures["recall"]["value"] == pytest.approx(2 / 3)
    assert figures["false_alarms"]["value"] == 0.25
    assert figures["hr1_at_0.02"]["value"] == 0.0
    assert figures["map loop"]["n"] == 3
    assert figures["map +0…+6 dB"]["n"] == 3


def test_a_fit_tells_right_from_wrong_and_keeps_the_false_alarms():
    rng = np.random.default_rng(0)

    def ranked(name, z):
        row = [1.0, 0.5, 0.0, z, z, 0.3, 1.0, 1.0]
        return Ranked(
            name, 0.5, 1.0, 0.0, features=(np.array(row) + 0.1 * rng.normal(size=8)).tolist()
        )

    outcomes = []
    for i in range(200):
        uses = [use()] if i % 2 else []
        ranking = [ranked("a", 8.0 if uses else 4.0), ranked("b", 4.0)]
        outcomes.append(SampleOutcome(f"{i}", 20.0, 0.0, 1.0, uses, ranking))
    fitted = fit(outcomes)
    assert (fitted.n_tracks, fitted.n_free) == (200, 100)
    level = [1 / (1 + np.exp(-np.dot(fitted.weights, o.ranking[0].features))) for o in outcomes]
    assert min(level[1::2]) > fitted.threshold
    assert np.mean(np.array(level[::2]) > fitted.threshold) <= 0.02
    with pytest.raises(ParameterError, match="tracks that do not"):
        fit(outcomes[1::2])
