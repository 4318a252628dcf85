"""Which part of a recording a track samples: named under other layers, or left open."""

from __future__ import annotations

import numpy as np
import pytest

from spolia.audio import Audio
from spolia.degradation import change_speed
from spolia.sample_alignment import SAMPLE_RATE, Played
from spolia.sample_parts import (
    ALONE,
    HOP,
    N_FEATURES,
    N_GROUPS,
    PARTS,
    compared,
    dominance,
    features,
    part_of,
    probabilities,
)
from spolia.sample_tracing import Occurrence
from spolia.synthesis import stems

START, END = 3.0, 8.0  # seconds of the recording that are sampled
PLACES = (1.0, 6.5, 12.0)  # seconds of the track at which they are played
UNCHANGED = Played(0.0, 1.0, 0.0, 3.5, 0.5, 8.0, 8.0)


def layers(seed: int, seconds: float) -> dict[str, np.ndarray]:
    """Return the parts of a piece and their sum."""
    parts = stems(np.random.default_rng([seed, 8]), seconds=seconds)
    return {k: (0.2 * v).astype("f") for k, v in {**parts, "mix": sum(parts.values())}.items()}


def occurrences(speed: float = 1.0) -> list[Occurrence]:
    """Return where the sample is played, ``speed`` times as fast."""
    length = (END - START) / speed
    return [Occurrence(place, place + length, START, END, 0.5) for place in PLACES]


def reused(sample: np.ndarray, over: np.ndarray, decibels: float) -> np.ndarray:
    """Return a track that plays a sample at all PLACES under another layer, so much louder."""
    track = np.zeros(18 * SAMPLE_RATE, np.float32)
    for place in PLACES:
        first = round(place * SAMPLE_RATE)
        track[first : first + len(sample)] += sample
    level = np.sqrt(np.square(sample).mean() / np.square(over).mean()) * 10 ** (decibels / 20)
    return track + np.float32(level) * over[: len(track)]


@pytest.fixture(scope="module")
def pieces():
    return layers(2, 12.0), layers(102, 18.0)


def excerpt(sound: np.ndarray, speed: float = 1.0) -> np.ndarray:
    """Return what is sampled of a sound, ``speed`` times as fast."""
    sample = Audio(sound[round(START * SAMPLE_RATE) : round(END * SAMPLE_RATE)], SAMPLE_RATE)
    return change_speed(sample, speed).samples


OVER = {"drums": "harmonic", "bass": "drums", "harmonic": "drums", "mix": "harmonic"}


@pytest.mark.parametrize("part", PARTS)
def test_the_part_that_is_reused_under_another_layer_is_named(part):
    said = []
    for seed, speed in ((1, 1.0), (2, 1.1), (3, 1.0), (4, 0.9)):
        recording, other = layers(seed, 12.0), layers(seed + 100, 18.0)
        played = Played(0.0, speed, 12 * float(np.log2(speed)), 3.5, 0.5, 8.0, 8.0)
        track = reused(excerpt(recording[part], speed), other[OVER[part]], -3.0)
        said.append(part_of(track, recording["mix"], occurrences(speed), played))
    assert said.count(part) >= 3, said


def test_pitched_and_stretched_samples_are_compared_as_they_are_played(pieces):
    recording, other = pieces
    speed = 2.0 ** (3 / 12)
    sample = excerpt(recording["drums"], speed)
    track = reused(sample, other["harmonic"], -3.0)
    found = occurrences(speed)
    right = compared(track, recording["mix"], found, Played(0.0, speed, 3.0, 0.0, 0.0, 0.0, 0.0))
    wrong = compared(track, recording["mix"], found, Played(0.0, speed, -3.0, 0.0, 0.0, 0.0, 0.0))
    struck = slice(0, 2 * N_GROUPS, 2)
    assert features(right)[struck].sum() > features(wrong)[struck].sum() + 0.3


def test_loudness_changes_nothing(pieces):
    recording, other = pieces
    track = reused(excerpt(recording["mix"]), other["harmonic"], 0.0)
    loud, soft = (
        features(compared(gain * track, recording["mix"], occurrences(), UNCHANGED))
        for gain in (1.0, 0.3)
    )
    assert loud.shape == (N_FEATURES,)
    np.testing.assert_allclose(soft, loud, atol=0.1)
    assert probabilities(loud).sum() == pytest.approx(1.0)


def test_a_recording_that_begins_later_is_the_same_recording(pieces):
    recording, other = pieces
    track = reused(excerpt(recording["bass"]), other["drums"], -3.0)
    whole = features(compared(track, recording["mix"], occurrences(), UNCHANGED))
    first = 30 * HOP
    cut = recording["mix"][first : 10 * SAMPLE_RATE]
    origin = first / SAMPLE_RATE
    near = features(compared(track, cut, occurrences(), UNCHANGED, origin=origin))
    np.testing.assert_allclose(near, whole, atol=0.05)


SILENCE = np.zeros(12 * SAMPLE_RATE, np.float32)
TONE = 0.3 * np.sin(2 * np.pi * 440 * np.arange(12 * SAMPLE_RATE) / SAMPLE_RATE).astype("f")


def test_silence_has_no_part(pieces):
    recording, _ = pieces
    assert part_of(SILENCE, SILENCE, occurrences(), UNCHANGED) is None
    assert part_of(recording["mix"], SILENCE, occurrences(), UNCHANGED) is None
    assert part_of(SILENCE, recording["mix"], occurrences(), UNCHANGED) is None
    assert part_of(SILENCE[:0], recording["mix"], occurrences(), UNCHANGED) is None
    assert part_of(recording["mix"], SILENCE[:0], occurrences(), UNCHANGED) is None


def test_a_recording_of_one_component_has_no_part_that_could_be_told_from_the_whole():
    cells = compared(TONE, TONE, [Occurrence(1.0, 4.0, 1.0, 4.0, 1.0)], UNCHANGED)
    assert dominance(cells) > ALONE
    assert part_of(TONE, TONE, [Occurrence(1.0, 4.0, 1.0, 4.0, 1.0)], UNCHANGED) is None


def test_too_little_has_no_part(pieces):
    recording, _ = pieces
    mix = recording["mix"]
    assert part_of(mix, mix, [], UNCHANGED) is None
    assert part_of(mix, mix, [Occurrence(1.0, 1.1, 1.0, 1.1, 1.0)], UNCHANGED) is None
    assert part_of(mix, mix, [Occurrence(40.0, 44.0, 3.0, 7.0, 1.0)], UNCHANGED) is None
    assert part_of(mix, mix, [Occurrence(1.0, 5.0, 40.0, 44.0, 1.0)], UNCHANGED) is None
    assert part_of(mix, mix, [Occurrence(1.0, 1.0, 2.0, 2.0, 1.0)], UNCHANGED) is None
