"""Answers about stretches of a long track are put together, nothing twice and nothing lost."""

from __future__ import annotations

import itertools

import pytest

from spolia.recording import Recording
from spolia.sample_stretches import LONGEST, OVERLAP, STRETCH, joined, moved, stretches
from spolia.sample_tracing import Occurrence
from spolia.samples import SampleMatch


def match(name, probability, *spans, tempo=1.0, semitones=0.0):
    recording = Recording(name, f"{name}.wav", 100.0)
    occurrences = tuple(
        Occurrence(start, end, tempo * start - shift, tempo * end - shift, 0.5)
        for start, end, shift in spans
    )
    return SampleMatch(recording, probability, 0.5, tempo, semitones, None, occurrences)


@pytest.mark.parametrize("duration", [20.0, 300.0, 301.0, 480.0, 3600.0, 7201.5])
def test_stretches_cover_a_track_and_overlap(duration):
    parts = stretches(duration)
    assert (parts[0][0], parts[-1][1]) == pytest.approx((0.0, duration))
    assert (len(parts) == 1) == (duration <= LONGEST)
    for (_, end), (start, _) in itertools.pairwise(parts):
        assert end - start == pytest.approx(OVERLAP)
    if len(parts) > 1:
        assert all(STRETCH / 2 < end - start <= STRETCH for start, end in parts)


def test_a_recording_sampled_alike_in_two_stretches_is_one_match():
    first = match("a", 0.99, (10.0, 12.0, 3.0), (225.0, 232.0, 218.0))
    second = match("a", 0.95, (229.0, 232.5, 220.24), (300.0, 302.0, 293.0), tempo=1.01)
    (found,) = joined([[first], [second]], 0.9)
    assert found.probability == 0.99
    spans = [(o.query_start, o.query_end) for o in found.occurrences]
    assert spans == [(10.0, 12.0), (225.0, 232.0), (300.0, 302.0)]  # what is cut off is left out


def test_two_places_of_a_recording_at_one_time_are_both_kept():
    one, other = match("a", 0.99, (10.0, 12.0, 3.0)), match("a", 0.95, (10.0, 12.0, 7.0))
    (found,) = joined([[one], [other]], 0.9)
    assert len(found.occurrences) == 2
    assert found.coverage == pytest.approx(2.0)


def test_different_uses_stay_apart_and_what_is_doubtful_stands_once():
    fast = match("a", 0.97, (500.0, 502.0, 0.0), tempo=1.2, semitones=3.16)
    doubtful = match("a", 0.5, (700.0, 702.0, 0.0), tempo=1.4)
    found = joined(
        [[match("a", 0.99, (10.0, 12.0, 3.0)), match("b", 0.2, (1.0, 2.0, 0.0))], [fast, doubtful]],
        0.9,
    )
    assert [(m.recording.id, m.tempo_ratio) for m in found] == [("a", 1.0), ("a", 1.2), ("b", 1.0)]


def test_occurrences_are_moved_in_the_query_alone():
    later = moved(match("a", 0.9, (10.0, 12.0, 3.0)), 60.0).occurrences[0]
    assert (later.query_start, later.query_end) == (70.0, 72.0)
    assert (later.reference_start, later.reference_end) == (7.0, 9.0)
