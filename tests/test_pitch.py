"""The pitch of a match is the middle of the plateau around the shift that undoes it."""

from __future__ import annotations

import numpy as np
import pytest

from spolia.alignment import Line
from spolia.fingerprints.base import Fingerprint
from spolia.pitch import measure_semitones

HOP, SEGMENT = 0.5, 1.0625
REFERENCE_TIMES = np.arange(40) * HOP


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("f")


def line(speed=1.0):
    return Line(speed, 3.0, 0.0, 6.0, 0.8, 6.0, 3.0)


def encoder_that_forgives(width, *, sounds_higher_by, speed=1.0):
    """A query whose vectors turn away from the recording's as a shift undoes too much or little."""
    rng = np.random.default_rng(1)
    reference = unit(rng.normal(size=(len(REFERENCE_TIMES), 64)))
    other = unit(rng.normal(size=(len(REFERENCE_TIMES), 64)))
    # vectors whose middles lie at those of reference vectors
    middles = REFERENCE_TIMES[6:16] + SEGMENT / 2
    query_times = (middles - 3.0) / speed - SEGMENT / 2

    def play(semitones):
        share = np.exp(-(((sounds_higher_by + semitones) / width) ** 4))
        mixed = share * reference[6:16] + (1 - share) * other[6:16]
        return Fingerprint("segments", "m", query_times, unit(mixed), 6.0)

    return play, Fingerprint("segments", "m", REFERENCE_TIMES, reference, 20.0)


@pytest.mark.parametrize("truth", [-4.0, -1.0, 0.0, 0.4, 2.0, 3.3])
@pytest.mark.parametrize("error", [-0.7, 0.0, 0.7])
def test_the_middle_of_the_plateau_is_found(truth, error):
    play, reference = encoder_that_forgives(1.4, sounds_higher_by=truth)
    found = measure_semitones(line(), truth + error, play, reference, hop=HOP, segment=SEGMENT)
    assert found == pytest.approx(truth, abs=0.15)


def test_speed_does_not_matter_where_middles_match():
    play, reference = encoder_that_forgives(1.4, sounds_higher_by=1.0, speed=1.08)
    found = measure_semitones(line(1.08), 1.3, play, reference, hop=HOP, segment=SEGMENT)
    assert found == pytest.approx(1.0, abs=0.15)


def test_nothing_alike_gives_what_the_search_knew():
    play, reference = encoder_that_forgives(1.4, sounds_higher_by=30.0)
    silent = Fingerprint("segments", "m", np.zeros(0), np.zeros((0, 64), np.float32), 6.0)
    found = measure_semitones(line(), 1.3, lambda _: silent, reference, hop=HOP, segment=SEGMENT)
    assert found == 1.3
    assert np.isfinite(measure_semitones(line(), 0.0, play, reference, hop=HOP, segment=SEGMENT))
