"""The synthesiser's pieces are seeded, varied and unambiguous."""

from __future__ import annotations

import numpy as np
import pytest

from spolia.landmarks import find_landmarks
from spolia.synthesis import crate, piece


def test_a_seed_always_gives_the_same_piece():
    first, again, other = (piece(np.random.default_rng(s), seconds=5).samples for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


def test_pieces_are_loud_finite_and_of_the_wanted_length():
    audio = piece(np.random.default_rng(3), seconds=7.5)
    assert audio.duration == pytest.approx(7.5)
    assert np.abs(audio.samples).max() == pytest.approx(0.9, abs=1e-3)
    assert np.isfinite(audio.samples).all()


def test_a_crate_has_distinct_titles_and_lengths():
    pieces = list(crate(24, seed=5, seconds=2.0))
    assert len({title for title, _, _ in pieces}) == 24
    assert len({len(audio) for _, _, audio in pieces}) > 12


def test_no_second_of_a_piece_repeats_another():
    audio = piece(np.random.default_rng(4), seconds=20).resample(8000)
    frames, hashes = find_landmarks(audio.samples)
    seconds = frames // 62
    sets = [set(hashes[seconds == s].tolist()) for s in range(19)]
    shared = [
        len(sets[i] & sets[j]) / max(1, min(len(sets[i]), len(sets[j])))
        for i in range(19)
        for j in range(i)
    ]
    assert max(shared) < 0.5
