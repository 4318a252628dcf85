"""Lines through hits are found where they were put."""

from __future__ import annotations

import numpy as np
import pytest

from spolia import alignment
from spolia.alignment import Proposal, _fit_residual, compare, propose, refine
from spolia.store.hits import Hits

HOP, STEP, SEGMENT = 0.5, 0.125, 1.0625


def smooth_sequence(rng, n, dim=64):
    """Vectors that change gradually, as overlapping segments of sound do; unit norm."""
    steps = rng.normal(size=(n + 16, dim))
    kernel = np.hanning(10)[1:-1]
    smooth = np.apply_along_axis(lambda x: np.convolve(x, kernel, "valid"), 0, steps)[:n]
    return (smooth / np.linalg.norm(smooth, axis=1, keepdims=True)).astype("f")


def recording_and_query(rng, *, start, seconds, speed=1.0, noise=0.3):
    """A recording every 0.5 s and a query every 0.125 s cut from a common 1/32 s sequence."""
    fine = smooth_sequence(rng, 32 * 120)
    reference_times = np.arange(0, 110, HOP)
    query_times = np.arange(0, seconds - SEGMENT + 1e-9, STEP)
    at = np.round((start + speed * query_times) * 4).astype(int)  # the sequence is slow: 1/4 s
    reference = fine[np.round(reference_times * 4).astype(int)]
    query = fine[at] + noise * rng.normal(size=(len(at), 64)) / 8
    return reference_times, reference, query_times, unit(query)


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("f")


def hits_of(query_times, query, reference_times, reference, k=5):
    similarity = query @ reference.T
    best = np.argsort(-similarity, axis=1)[:, :k]
    rows = np.repeat(np.arange(len(query)), k)
    return Hits(
        np.zeros(rows.size, np.int32),
        query_times[rows],
        reference_times[best.ravel()],
        similarity[rows, best.ravel()].astype("f"),
    )


@pytest.mark.parametrize("start", [0.0, 7.25, 33.5, 80.0])
@pytest.mark.parametrize("seconds", [3.0, 10.0])
def test_the_place_is_found(start, seconds):
    rng = np.random.default_rng(5)
    rt, r, qt, q = recording_and_query(rng, start=start, seconds=seconds)
    proposal = propose(hits_of(qt, q, rt, r), resolution=HOP, n_lines=5)[0]
    line = refine(compare(qt, q, rt, r, proposal, hop=HOP, segment=SEGMENT), proposal, step=STEP)
    middle = seconds / 2
    assert line.speed * middle + line.offset == pytest.approx(start + middle, abs=0.15)
    assert line.query_start == 0.0
    assert line.query_end == pytest.approx(qt[-1] + SEGMENT)


@pytest.mark.parametrize("speed", [0.9, 0.96, 1.04, 1.1])
def test_the_speed_is_found(speed):
    rng = np.random.default_rng(6)
    rt, r, qt, q = recording_and_query(rng, start=20.0, seconds=20.0, speed=speed)
    proposal = propose(hits_of(qt, q, rt, r), resolution=HOP, n_lines=5)[0]
    line = refine(compare(qt, q, rt, r, proposal, hop=HOP, segment=SEGMENT), proposal, step=STEP)
    assert line.speed == pytest.approx(speed, rel=0.01)


def test_only_the_stretch_that_matches_is_reported():
    rng = np.random.default_rng(7)
    rt, r, qt, q = recording_and_query(rng, start=40.0, seconds=20.0)
    foreign = unit(rng.normal(size=q.shape))
    q = np.where((qt >= 8.0)[:, None], foreign, q).astype("f")
    proposal = propose(hits_of(qt, q, rt, r), resolution=HOP, n_lines=5)[0]
    line = refine(compare(qt, q, rt, r, proposal, hop=HOP, segment=SEGMENT), proposal, step=STEP)
    assert line.query_end == pytest.approx(8.0 + SEGMENT, abs=0.6)
    assert line.support == pytest.approx(8.0, abs=0.6)


def test_unrelated_sound_has_no_line():
    rng = np.random.default_rng(8)
    r, q = unit(rng.normal(size=(200, 64))), unit(rng.normal(size=(40, 64)))
    rt, qt = np.arange(200) * HOP, np.arange(40) * STEP
    proposal = Proposal(0, 1.0, 12.0, 1.0)
    line = refine(compare(qt, q, rt, r, proposal, hop=HOP, segment=SEGMENT), proposal, step=STEP)
    assert line is None or line.support < 0.5


def test_no_hits_no_proposals():
    empty = Hits(np.zeros(0, np.int32), np.zeros(0), np.zeros(0), np.zeros(0, "f"))
    assert propose(empty, resolution=0.5, n_lines=5) == []


def test_proposals_do_not_depend_on_the_order_of_hits():
    rng = np.random.default_rng(9)
    rt, r, qt, q = recording_and_query(rng, start=10.0, seconds=8.0)
    hits = hits_of(qt, q, rt, r)
    order = rng.permutation(len(hits))
    mixed = Hits(*(getattr(hits, n)[order] for n in vars(hits)))
    first, second = (propose(h, resolution=HOP, n_lines=5) for h in (hits, mixed))
    assert [p.offset for p in first[:2]] == [p.offset for p in second[:2]]


def test_votes_in_a_table_are_those_of_sorted_cells(monkeypatch):
    rng = np.random.default_rng(9)
    n = 3000
    hits = Hits(
        rng.choice([2, 5, 40], n).astype(np.int32),
        rng.uniform(0, 10, n),
        rng.uniform(0, 60, n),
        rng.random(n).astype("f"),
    )
    in_table = propose(hits, resolution=HOP, n_lines=20)
    monkeypatch.setattr(alignment, "TABLE", 0)
    assert propose(hits, resolution=HOP, n_lines=20) == in_table
    assert {line.recording for line in in_table} == {2, 5, 40}


@pytest.mark.parametrize("centre", [-3.0, 0.4, 31.26, 112.0])
def test_similarities_at_rough_places_are_near_the_exact_ones(centre):
    rng = np.random.default_rng(10)
    rt, r, qt, q = recording_and_query(rng, start=30.0, seconds=8.0)
    window = compare(qt, q, rt, r, Proposal(0, 1.0, centre - 4.0, 1.0), hop=HOP, segment=SEGMENT)
    speeds, middle = np.array([0.9, 1.0, 1.13]), float(qt[-1]) / 2
    surface = window.around(speeds, middle, centre, 1.0)
    assert surface.value.shape == (3, len(surface.centres))
    assert surface.centres[[0, -1]] == pytest.approx([centre - 1.0, centre + 1.0])
    for speed, values in zip(speeds, surface.value, strict=True):
        exact = window.along(np.full(len(values), speed), surface.centres, middle).mean(1)
        assert values == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("centre", [-20.0, -0.3, 31.26, 109.6, 130.0])
def test_similarities_along_a_line_are_interpolated_and_nothing_beyond_the_recording(centre):
    rng = np.random.default_rng(11)
    rt, r, qt, q = recording_and_query(rng, start=30.0, seconds=8.0)
    near = Proposal(0, 1.0, 30.0, 1.0)
    window = compare(qt, q, rt, r, near, hop=HOP, segment=SEGMENT, slack=200.0)
    assert window.start == 0.0
    speeds, centres = np.array([0.9, 1.0, 1.13]), centre + np.array([0.0, 0.1, 0.37])
    found = window.along(speeds, centres, 3.5)
    for values, speed, place in zip(found, speeds, centres, strict=True):
        at = place + speed * (qt - 3.5)
        grid = np.arange(-1, window.similarity.shape[1] + 1) * HOP
        padded = np.pad(window.similarity, ((0, 0), (1, 1)))
        exact = [
            np.interp(t, grid, row, left=0, right=0) for t, row in zip(at, padded, strict=True)
        ]
        assert values == pytest.approx(np.array(exact), abs=1e-5)


def test_a_query_before_the_beginning_still_aligns():
    rng = np.random.default_rng(10)
    rt, r, qt, q = recording_and_query(rng, start=0.0, seconds=10.0)
    late = qt >= 3.0  # the first 3 s of the query precede the recording
    q = np.where(
        late[:, None], np.roll(q, int(late.argmax()), axis=0), unit(rng.normal(size=q.shape))
    )
    proposal = propose(hits_of(qt, q.astype("f"), rt, r), resolution=HOP, n_lines=5)[0]
    window = compare(qt, q.astype("f"), rt, r, proposal, hop=HOP, segment=SEGMENT)
    line = refine(window, proposal, step=STEP)
    assert line.offset == pytest.approx(-3.0, abs=0.3)
    assert line.reference_start >= -0.6


def residuals(rng, *, slope, seconds, noise):
    times = np.arange(0, seconds, STEP)
    drawn = np.repeat(rng.normal(0, noise, len(times) // 4 + 1), 4)[: len(times)]
    return times, 0.05 + slope * (times - times.mean()) + drawn, np.ones(len(times))


def test_the_slope_of_residuals_is_found_where_it_is_significant():
    rng = np.random.default_rng(0)
    for slope in (-0.03, 0.02, 0.05):
        shift, found = _fit_residual(*residuals(rng, slope=slope, seconds=10.0, noise=0.03))
        assert shift == pytest.approx(0.05, abs=0.03)
        assert found == pytest.approx(slope, abs=0.012)


def test_noise_around_no_slope_gives_a_speed_of_one():
    rng = np.random.default_rng(1)
    found = [
        _fit_residual(*residuals(rng, slope=0.0, seconds=8.0, noise=0.05))[1] for _ in range(50)
    ]
    assert sum(f == 0.0 for f in found) >= 42
    short = residuals(rng, slope=0.1, seconds=1.0, noise=0.001)
    assert _fit_residual(*short)[1] == 0.0


def test_what_is_heard_after_a_stretch_does_not_move_its_line():
    rng = np.random.default_rng(3)
    rt, r, qt, q = recording_and_query(rng, start=30.0, seconds=4.0)
    proposal = Proposal(0, 1.0, 30.0, 1.0)
    alone = refine(compare(qt, q, rt, r, proposal, hop=HOP, segment=SEGMENT), proposal, step=STEP)
    other = unit(rng.normal(size=(24, q.shape[1])))
    times = np.concatenate([qt, qt[-1] + STEP * np.arange(1, 25)])
    window = compare(times, np.concatenate([q, other]), rt, r, proposal, hop=HOP, segment=SEGMENT)
    line = refine(window, proposal, step=STEP)
    assert line.query_end == pytest.approx(alone.query_end, abs=0.3)
    for time in (0.0, 4.0):
        moved = line.speed * time + line.offset - alone.speed * time - alone.offset
        assert abs(moved) < 0.02
    assert window.query_times[window.inside(line)][-1] + SEGMENT <= line.query_end + 1e-6
