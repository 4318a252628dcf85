"""Rivals lower a probability, copies of the same sound do not."""

from __future__ import annotations

import numpy as np
import pytest

from spolia.alignment import Line
from spolia.calibration import Calibration
from spolia.fingerprints.base import Fingerprint
from spolia.identify import is_sure, match_segments
from spolia.rivals import Candidate, best_per_recording, judged, rivals_removed, same_sound
from spolia.store.hits import Hits

HOP = 0.5
LEANS_ON_RIVALS = Calibration((-3.0, 1.0, 1.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0), 0.5)


def line(evidence, *, start=0.0, end=10.0, offset=0.0, speed=1.0):
    return Line(speed, offset, start, end, 0.5, end - start, evidence)


def vectors(seed, n=60, first=0.0):
    values = np.random.default_rng(seed).normal(size=(n, 128)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return Fingerprint("segments", "m", first + HOP * np.arange(n), values, n * HOP)


def judge(candidates, same=lambda one, other: False):
    return judged(candidates, same, n_entries=10**5, calibration=LEANS_ON_RIVALS)


def test_a_strong_rival_makes_a_match_less_probable():
    alone = judge([Candidate("a", line(2.0))])[0]
    beside = judge([Candidate("a", line(2.0)), Candidate("b", line(1.8))])[0]
    assert alone.recording_id == beside.recording_id == "a"
    assert (alone.rival, beside.rival) == (0.0, 1.8)
    assert beside.probability < alone.probability - 0.1


def test_a_copy_is_no_rival():
    both = [Candidate("a", line(2.0)), Candidate("copy", line(1.9))]
    first, second = judge(both, same=lambda one, other: True)
    assert first.probability == judge(both[:1])[0].probability
    assert (first.is_copy, second.is_copy) == (False, True)


def test_two_candidates_are_compared_once():
    compared = []

    def same(one, other):
        compared.append((one.recording_id, other.recording_id))
        return False

    judge([Candidate(name, line(e)) for name, e in (("a", 3.0), ("b", 2.0), ("c", 1.0))], same)
    assert len(compared) == len(set(compared))


def test_another_stretch_of_the_query_is_no_rival():
    found = judge([Candidate("a", line(2.0, end=5.0)), Candidate("b", line(2.0, start=5.0))])
    assert [c.rival for c in found] == [0.0, 0.0]
    assert len(rivals_removed(found)) == 2


def test_another_place_of_the_same_recording_is_no_rival():
    found = judge([Candidate("a", line(2.0)), Candidate("a", line(1.9, offset=30.0))])
    assert found[0].rival == 0.0
    assert len(best_per_recording(found)) == 1


def test_no_candidate_is_more_probable_than_a_stronger_one():
    found = judge([Candidate(name, line(e)) for name, e in (("a", 1.0), ("b", 3.0), ("c", 2.0))])
    assert [c.recording_id for c in found] == ["b", "c", "a"]
    assert np.all(np.diff([c.probability for c in found]) <= 0)


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.25])
def test_the_same_sound_in_two_recordings_is_seen(shift):
    original = vectors(0)
    between = (1 - shift / HOP) * original.values[:-1] + shift / HOP * original.values[1:]
    between /= np.linalg.norm(between, axis=1, keepdims=True)
    copy = Fingerprint("segments", "m", 7.0 + HOP * np.arange(59), between, 40.0)
    of = {"a": original, "copy": copy, "other": vectors(1)}
    first = Candidate("a", line(2.0, offset=3.0))
    assert same_sound(first, Candidate("copy", line(2.0, offset=10.0 - shift)), of.get, hop=HOP)
    assert not same_sound(first, Candidate("other", line(2.0, offset=3.0)), of.get, hop=HOP)
    assert not same_sound(first, Candidate("copy", line(2.0, offset=18.0)), of.get, hop=HOP)


def test_a_line_beyond_the_end_or_a_silent_recording_is_not_the_same_sound():
    of = {"a": vectors(0), "empty": vectors(0, n=0), "one": vectors(0, n=1)}
    first = Candidate("a", line(2.0))
    for name, offset in (("a", 500.0), ("empty", 0.0), ("one", 0.0)):
        assert not same_sound(first, Candidate(name, line(2.0, offset=offset)), of.get, hop=HOP)


@pytest.mark.parametrize(
    ("score", "seconds", "sure"),
    [(0.65, 6.0, False), (0.72, 6.0, True), (0.72, 2.0, False), (0.8, 2.0, True)],
)
def test_a_short_clip_has_to_fit_better_to_be_sure(score, seconds, sure):
    def found(share):
        return [Candidate("a", Line(1.0, 0.0, 0.0, share * seconds, score, seconds, 1.0))]

    assert is_sure(found(0.9), seconds) is sure
    assert not is_sure(found(0.5), seconds)  # nothing is known of the other half
    assert not is_sure([], seconds)


@pytest.mark.parametrize(("sure", "expected"), [(True, {"a"}), (False, {"a", "b"})])
def test_beside_a_sure_line_faint_proposals_are_left_out(sure, expected):
    """A hit of a single vector is refined only where nothing explains the query."""
    stored = {"a": vectors(1), "b": vectors(2)}
    values = stored["a"].values[10:50].copy()
    values[20] = stored["b"].values[30]
    if not sure:
        values[:19] = values[21:] = vectors(3).values[:19]
    query = Fingerprint("segments", "m", HOP * np.arange(40), values, 20.5)

    def search(parts):
        similarity = query.values @ np.concatenate([of.values for of in stored.values()]).T
        rows, columns = np.nonzero(similarity > 0.5)
        if not sure:
            rows, columns = np.append(rows, 5), np.append(columns, 15)
        times = HOP * (columns % 60)
        scores = similarity[rows, columns]
        return [Hits((columns // 60).astype(np.int32), HOP * rows, times, scores)]

    found = match_segments([query], search, stored.get, list(stored), hop=HOP, segment=1.0)[0]
    assert {c.recording_id for c in found} == expected


def test_many_strong_tracks_elsewhere_do_not_hide_a_rival():
    played = [
        Candidate(f"track{i}", line(20.0 + i, start=20.0 * i, end=20.0 * i + 20)) for i in range(30)
    ]
    doubtful = [
        Candidate(name, line(e, start=700.0, end=710.0)) for name, e in (("a", 3.2), ("b", 3.1))
    ]
    found = {c.recording_id: c for c in judge([*played, *doubtful])}
    alone = {c.recording_id: c for c in judge(doubtful)}
    assert (found["a"].rival, found["b"].rival) == (3.1, 3.2)
    assert found["a"].probability == alone["a"].probability
    assert found["track3"].rival == 0.0


def test_a_copy_is_one_of_what_leads_on_its_own_stretch():
    pairs = [
        Candidate(f"{kind}{i}", line(9.0 - i - (kind == "b"), start=20.0 * i, end=20.0 * i + 20))
        for i in range(2)
        for kind in "ab"
    ]
    found = judge(pairs, same=lambda one, other: one.recording_id[1] == other.recording_id[1])
    assert {c.recording_id for c in found if c.is_copy} == {"b0", "b1"}
    assert all(c.rival == 0.0 for c in found)
