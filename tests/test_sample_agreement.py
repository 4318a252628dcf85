"""Places are nominated by rare nodes that agree, whatever lies over the others."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from spolia.sample_agreement import AROUND, STRETCH, NodeSearch, Stretch
from spolia.samples import thinned
from spolia.store.hits import NO_HITS, Hits, chosen

N_ROWS, DIM, WIDTH, HOP = 6, 24, 7, 0.5
HALF = WIDTH * HOP / 2
CARD = SimpleNamespace(
    hop=8000,
    segment=int(2 * HALF * 16000),
    sample_rate=16000,
    architecture={"columns": WIDTH, "node_dim": DIM},
)


def columns(n, seed):
    return np.random.default_rng(seed).standard_normal((n, N_ROWS * DIM)).astype(np.float32)


def grid(rows):
    nodes = rows.reshape(len(rows), N_ROWS, DIM).swapaxes(0, 1)
    return nodes / np.linalg.norm(nodes, axis=2, keepdims=True)


def covered(rows, n_rows, seed):
    """Return columns of which only the first rows are left, under other sounds."""
    bed = columns(len(rows), seed)
    bed[:, : n_rows * DIM] = rows[:, : n_rows * DIM]
    return bed


def hits(*triples):
    """Return hits of (recording, seconds of the query, seconds of the recording)."""
    numbers, query, reference = (np.array(of) for of in zip(*triples, strict=True))
    scores = np.linspace(0.9, 0.5, len(numbers)).astype(np.float32)
    return Hits(numbers.astype(np.int32), query.astype(float), reference.astype(float), scores)


def everywhere(held, seconds):
    """Return hits all over the recordings, at all times of the query."""
    return hits(
        *(
            (number, time, place * HOP)
            for time in np.arange(0.0, seconds, 4.0)
            for number, rows in held.items()
            for place in range(0, len(rows) - WIDTH, 8)
        )
    )


def nominees(query, held, found, n, threads=1):
    """Return nominees, given all hits."""

    def between(start, end):
        return chosen(found, (found.query_times >= start) & (found.query_times < end))

    return thinned(NodeSearch(query, CARD, held.get, len(held), threads).nominees(between), n)


def test_agreement_is_what_the_library_at_large_does_not_have():
    query, library = columns(9, 1), [grid(columns(40, seed)) for seed in range(2, 8)]
    stretch = Stretch(grid(query), library, WIDTH)
    free = stretch.agreement(grid(columns(60, 20)))
    assert free.shape == (3, 54)
    assert abs(float(free.mean())) < 0.3
    assert float(free.max()) < 8.0
    held = columns(60, 21)
    held[30:39] = covered(query, 2, 22)  # two rows of six, the rest is another sound
    found = stretch.agreement(grid(held))
    assert found.argmax(axis=1).tolist() == [30, 31, 32]
    assert {j - i for i, j in np.argwhere(found > 8.0)} <= {29, 30, 31}  # or a column beside


def test_nodes_that_are_common_are_no_evidence():
    query, common = columns(7, 1), columns(1, 2)
    query[:, : 3 * DIM] = common[:, : 3 * DIM]
    library = [grid(columns(40, seed)) for seed in range(3, 9)]
    everywhere = columns(40, 10)
    everywhere[:, : 3 * DIM] = common[:, : 3 * DIM]
    rare = Stretch(grid(query), library, WIDTH).agreement(grid(everywhere)).max()
    usual = Stretch(grid(query), [*library, grid(everywhere)] * 2, WIDTH)
    assert rare > 20.0
    assert usual.agreement(grid(everywhere)).max() < rare / 4


def test_a_column_sooner_or_later_agrees_too():
    query = columns(7, 1)
    stretch = Stretch(grid(query), [grid(columns(40, seed)) for seed in range(2, 8)], WIDTH)
    held = np.concatenate([columns(10, 11), query[[0, 1, 2, 4, 5, 6]], columns(10, 12)])
    assert stretch.agreement(grid(held)).max() > 20.0


def test_silence_agrees_with_nothing():
    quiet, library = np.zeros((7, N_ROWS * DIM), np.float32), [grid(columns(40, 2))]
    with np.errstate(all="raise"):
        made = nominees(quiet, {0: quiet, 1: columns(20, 2)}, hits((0, 0, 0)), 5)
    assert made[0].agreement < 1.0
    assert Stretch(library[0][:, :7], [], WIDTH).agreement(library[0]).shape == (1, 34)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_place_that_agrees_is_the_first_nominee(threads):
    held = {number: columns(60, number) for number in range(12)}
    query = columns(40, 100)
    query[10:22] = covered(held[7][31:43], 3, 101)
    found = nominees(query, held, everywhere(held, 20.0), 20, threads)
    assert len(found) == 20
    assert [n.agreement for n in found] == sorted((n.agreement for n in found), reverse=True)
    first = found[0]
    assert first.recording == 7
    assert first.agreement > 2.0 * max(n.agreement for n in found if n.recording != 7)
    assert first.pairs[0].recording - first.pairs[0].query == pytest.approx(21 * HOP)
    assert 10 * HOP + HALF <= first.pairs[0].query <= 15 * HOP + HALF
    assert 0.5 <= first.score <= 0.9
    assert all(sum(n.recording == r for n in found) <= 3 for r in held)


def test_only_what_vectors_name_is_compared_and_short_recordings_are_too():
    held = {0: columns(200, 0), 1: columns(4, 1), 2: columns(50, 2)}
    query = held[0][150:170].copy()
    near = hits((0, 0.0, 148 * HOP), (1, 0.0, 0.0))
    found = nominees(query, held, near, 9)
    assert {n.recording for n in found} == {0, 1}
    assert found[0].pairs[0].recording == pytest.approx(found[0].pairs[0].query + 150 * HOP)
    far = nominees(query, held, hits((0, 0.0, (150 - 2 * AROUND - WIDTH) * HOP)), 9)
    assert max(n.agreement for n in far) < found[0].agreement / 3
    assert nominees(query, {0: held[0]}, hits((2, 0.0, 0.0)), 9) == []  # no nodes
    assert nominees(query, {}, NO_HITS, 9) == []


def test_a_long_track_is_searched_stretch_by_stretch():
    held = {number: columns(60, number) for number in range(6)}
    query = columns(3 * STRETCH, 50)
    later = 2 * STRETCH + 40
    query[later : later + 9] = held[4][20:29]
    across = STRETCH - 5  # a window that two stretches share
    query[across : across + 9] = held[2][40:49]
    found = nominees(query, held, everywhere(held, len(query) * HOP), 30)
    assert {n.recording for n in found[:2]} == {4, 2}
    for nominee, place in ((n, later if n.recording == 4 else across) for n in found[:2]):
        assert place * HOP + HALF <= nominee.pairs[0].query <= (place + 2) * HOP + HALF
    places = [n.pairs[0].recording for n in found if n.recording == 4]
    assert len(places) == len({round(p / 6.0, 3) for p in places}) <= 3


def test_one_or_two_recordings_do_not_stand_for_a_library():
    query, free = grid(columns(40, 1)), grid(columns(60, 20))
    alone = Stretch(query, [], WIDTH).agreement(free)
    few = Stretch(query, [grid(columns(10, seed)) for seed in (2, 3)], WIDTH).agreement(free)
    many = Stretch(query, [grid(columns(10, seed)) for seed in range(2, 5)], WIDTH).agreement(free)
    assert np.array_equal(alone, few)
    assert not np.array_equal(alone, many)
