"""Runs cover a recording, tails included; the coarse stage finds the place, segments the rest."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from fakes import BandEnergies, tune
from spolia.alignment import propose
from spolia.coarse import (
    N_CANDIDATES,
    N_LOCAL,
    RELATED,
    Neighbourhood,
    candidates,
    local_hits,
    located,
    placed,
    recording_scores,
    rough_lines,
)
from spolia.confirmation import Confirmation
from spolia.encoding import write_wav
from spolia.errors import IncompatibleModel, ParameterError
from spolia.fingerprints.base import Fingerprint
from spolia.fingerprints.compressed import RUN_STEP, CompressedFingerprinter
from spolia.library import Library
from spolia.searching import BRIEF, LEAST_CANDIDATES, n_candidates
from spolia.store.hits import NO_HITS, Hits

HOP, LONGEST, DIM = 0.5, 9, 64
SPAN = LONGEST * HOP


class MeanCompressor:
    """Compresses a run to its mean, as the best that is possible without training."""

    card = SimpleNamespace(base="base-1", id="mean-1", dim=DIM, segment=40000, calibration={})
    path, longest = "mean.onnx", LONGEST

    def compress(self, runs, padding):
        heard = ~padding[:, :, None]
        mean = (runs * heard).sum(1) / np.maximum(heard.sum(1), 1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def bands_and_runs():
    """Return what fingerprints sound, and what makes runs of it."""
    segments, compressor = BandEnergies(), MeanCompressor()
    values = {"base": segments.model_id, "dim": 128}
    compressor.card = SimpleNamespace(**{**vars(MeanCompressor.card), **values})
    runs = CompressedFingerprinter(segments, compressor)
    return segments, runs


@pytest.fixture
def fingerprinter():
    segments = SimpleNamespace(model_id="base-1", hop_seconds=HOP, sample_rate=8000)
    return CompressedFingerprinter(segments, MeanCompressor())


def path(seed, seconds):
    """Return unit vectors as a smooth function of time."""
    knots = np.arange(0, seconds + 3, 0.8)
    values = np.random.default_rng(seed).normal(size=(len(knots), DIM))

    def at(times):
        rows = np.stack([np.interp(times, knots, column) for column in values.T], axis=1)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("f")

    return at


def sequence(seed, seconds, silent=()):
    times = np.arange(0, seconds, HOP)
    for start, end in silent:
        times = times[(times < start) | (times >= end)]
    return Fingerprint("segments", "base-1", times, path(seed, seconds)(times), seconds)


def clip(seed, start, seconds, length=60.0):
    times = np.arange(0, seconds - 1.0, 0.125)
    return Fingerprint("segments", "base-1", times, path(seed, length)(start + times), seconds)


@pytest.mark.parametrize("seconds", [1.0, 4.5, 5.0, 9.0, 22.4, 60.0])
def test_runs_cover_all_vectors_once_and_the_tail_is_kept(fingerprinter, seconds):
    whole = sequence(0, seconds)
    runs = fingerprinter.derive(whole)
    n = -(-len(whole) // LONGEST)
    assert len(runs) == n
    assert runs.values.shape == (n, DIM)
    np.testing.assert_allclose(np.linalg.norm(runs.values, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(runs.times[: n - 1], SPAN * np.arange(n - 1))
    tail = len(whole) % LONGEST
    expected = whole.times[-tail] if tail == 0 or tail >= 3 or n == 1 else whole.times[-LONGEST]
    if tail:
        assert runs.times[-1] == pytest.approx(expected)
    assert runs.duration == seconds


@pytest.mark.parametrize("seconds", [1.0, 4.5, 5.0, 9.0, 22.4, 60.0])
def test_runs_that_overlap_by_half_begin_every_half_run_and_reach_the_end(fingerprinter, seconds):
    half = CompressedFingerprinter(fingerprinter.segments, MeanCompressor(), half_overlap=True)
    assert half.model_id == "mean-1+half"
    assert (half.hop_seconds, half.span_seconds) == (2.5, SPAN)
    whole = sequence(0, seconds)
    runs = half.derive(whole)
    assert np.diff(runs.times) == pytest.approx(2.5)
    assert runs.times[-1] + SPAN >= whole.times[-1] + HOP
    assert len(runs) == 1 or runs.times[-2] + SPAN < whole.times[-1] + HOP
    alone = fingerprinter.derive(whole)
    for time in set(np.round(alone.times[:-1], 3)) & set(np.round(runs.times, 3)):
        one, other = (r.values[np.isclose(r.times, time)][0] for r in (alone, runs))
        assert one == pytest.approx(other, abs=1e-6)
    assert not len(half.derive(sequence(0, seconds, silent=[(0.0, seconds)])))


def test_silence_leaves_gaps_but_no_shift(fingerprinter):
    runs = fingerprinter.derive(sequence(0, 40.0, silent=[(3.0, 20.0)]))
    whole = fingerprinter.derive(sequence(0, 40.0))
    there = np.isin(whole.times, runs.times)
    np.testing.assert_allclose(runs.values[-3:], whole.values[there][-3:], atol=1e-6)
    assert not len(fingerprinter.derive(sequence(0, 40.0, silent=[(0.0, 40.0)])))


def test_a_querys_runs_are_a_hop_apart_and_spread_over_time_phases_and_two_lengths(fingerprinter):
    segments = clip(0, 10.0, 8.0)
    query = fingerprinter.derive_query(segments)
    lengths = []
    for time, value in zip(query.times, query.values, strict=True):
        first = int(np.searchsorted(segments.times, time - 1e-6))
        fitting = [n for n in (LONGEST, 5) if first + 4 * (n - 1) < len(segments)]
        means = {n: segments.values[first : first + 4 * n : 4].mean(0) for n in fitting}
        cosines = {n: float(value @ mean / np.linalg.norm(mean)) for n, mean in means.items()}
        lengths.append(max(cosines, key=cosines.get))
        assert max(cosines.values()) == pytest.approx(1.0, abs=1e-5)
    for length in (LONGEST, 5):
        times = query.times[np.array(lengths) == length]
        last = segments.times[len(segments) - 4 * (length - 1) - 1]
        assert (times[0], times[-1]) == (0.0, last)
        assert np.diff(times).max() <= RUN_STEP * LONGEST * HOP + 0.125
        assert len(np.unique(np.mod(times, HOP))) > 1
    assert len(fingerprinter.derive_query(clip(0, 10.0, 30.0))) < 60
    assert len(fingerprinter.derive_query(clip(0, 10.0, 3.0))) == 8  # of 4 and of 3 vectors
    assert len(fingerprinter.derive_query(clip(0, 10.0, 2.0))) == 4  # of 2 only
    none = fingerprinter.derive_query(sequence(0, 20.0, silent=[(0.0, 20.0)]))
    assert len(none) == 0


def test_a_querys_runs_are_compressed_without_padding(fingerprinter, monkeypatch):
    plain, given = MeanCompressor.compress, []

    def compress(self, runs, padding):
        given.append((runs.shape[1], padding.any()))
        return plain(self, runs, padding)

    monkeypatch.setattr(MeanCompressor, "compress", compress)
    fingerprinter.derive_query(clip(0, 10.0, 20.0))
    fingerprinter.derive_query(clip(0, 10.0, 2.0))
    assert given == [(5, False), (LONGEST, False), (2, False)]


def test_models_that_do_not_belong_together_are_refused():
    other = SimpleNamespace(model_id="base-2", hop_seconds=HOP, sample_rate=8000)
    with pytest.raises(IncompatibleModel, match="compresses vectors of base-1, not of base-2"):
        CompressedFingerprinter(other, MeanCompressor())


def search(fingerprinter, stored, query, k=6):
    runs, wanted = [fingerprinter.derive(s) for s in stored], fingerprinter.derive_query(query)
    values = np.concatenate([r.values for r in runs])
    owner = np.concatenate([np.full(len(r), i) for i, r in enumerate(runs)])
    times = np.concatenate([r.times for r in runs])
    similarity = wanted.values @ values.T
    best = np.argsort(-similarity, axis=1)[:, :k]
    rows = np.repeat(np.arange(len(wanted)), k)
    best = best.reshape(-1)
    return Hits(
        owner[best].astype(np.int32), wanted.times[rows], times[best], similarity[rows, best]
    )


@pytest.mark.parametrize("seconds", [3.0, 6.0, 12.0])
def test_two_stages_find_recording_and_exact_offset(fingerprinter, seconds):
    stored = [sequence(seed, 60.0) for seed in range(30)]
    for number, start in ((7, 13.3), (21, 41.9), (0, 2.05)):
        query = clip(number, start, seconds)
        hits = search(fingerprinter, stored, query)
        places = candidates(hits, span=SPAN)
        assert places[0].recording == number
        assert abs(places[0].offset - start) <= SPAN
        found = local_hits(query, places, lambda i: stored[i], span=SPAN, k=30)
        assert 0 < len(found) <= len(query) * 30
        line = propose(found, resolution=HOP, n_lines=3)[0]
        assert line.recording == number
        assert line.offset + line.speed * seconds / 2 == pytest.approx(start + seconds / 2, abs=HOP)


@pytest.mark.parametrize("half_overlap", [False, True])
@pytest.mark.parametrize("seconds", [3.0, 6.0, 12.0, 25.0])
def test_segments_held_against_runs_say_where(fingerprinter, seconds, half_overlap):
    stored = [sequence(seed, 60.0) for seed in range(30)]
    maker = CompressedFingerprinter(
        fingerprinter.segments, MeanCompressor(), half_overlap=half_overlap
    )
    for number, start in ((7, 13.3), (21, 30.9), (0, 2.05), (3, 0.0)):
        query = clip(number, start, seconds)
        places = candidates(search(maker, stored, query), span=SPAN)
        found = placed(query, places, lambda i: maker.derive(stored[i]), span=SPAN, hop=HOP)
        assert found[0].recording == number
        assert found[0].offset == pytest.approx(start, abs=0.5 + max(0.0, SPAN - seconds))
        assert 0.5 < found[0].score < 1.05
        assert all(one.score >= other.score for one, other in pairwise(found))
        offsets = sorted(place.offset for place in found if place.recording == number)
        assert all(later - sooner >= SPAN / 2 - 1e-6 for sooner, later in pairwise(offsets))


def test_a_query_that_begins_before_the_recording_fits_by_what_is_in_it(fingerprinter):
    stored, runs = sequence(0, 60.0), fingerprinter.derive(sequence(0, 60.0))
    late = clip(0, 0.0, 12.0)
    query = replace(late, times=late.times + 9.0, duration=21.0)
    before = replace(clip(1, 0.0, 10.0), duration=21.0)
    both = replace(
        query,
        times=np.concatenate([before.times, query.times]),
        values=np.concatenate([before.values, query.values]),
    )
    place = Neighbourhood(0, -7.0, 1.0)
    (found,) = placed(both, [place], lambda _: runs, span=SPAN, hop=HOP)
    assert found.offset == pytest.approx(-9.0, abs=0.3)
    assert found.score < placed(query, [place], lambda _: runs, span=SPAN, hop=HOP)[0].score
    nowhere = [Neighbourhood(0, offset, 1.0) for offset in (500.0, -500.0)]
    assert placed(query, nowhere, lambda _: runs, span=SPAN, hop=HOP) == []
    silent = sequence(0, 60.0, silent=[(0.0, 60.0)])
    assert placed(query, [place], lambda _: fingerprinter.derive(silent), span=SPAN, hop=HOP) == []
    assert len(stored) > len(runs)


def test_a_query_that_fits_anywhere_in_a_run_is_put_in_its_middle(fingerprinter):
    at = fingerprinter.derive(sequence(0, 60.0))
    query = clip(0, 10.0, 2.0)  # a second of vectors in the run from 9.0 to 13.5
    (found,) = placed(query, [Neighbourhood(0, 11.0, 1.0)], lambda _: at, span=SPAN, hop=HOP)
    assert found.offset == pytest.approx(9.0 - HOP / 2 + (SPAN - 0.875) / 2, abs=0.11)


def test_runs_of_another_space_are_not_compared_with_segments(fingerprinter):
    class Turned(MeanCompressor):
        def compress(self, runs, padding):
            turn = np.linalg.qr(np.random.default_rng(5).normal(size=(DIM, DIM)))[0]
            return (super().compress(runs, padding) @ turn).astype("f")

    stored, query = [sequence(seed, 60.0) for seed in range(30)], clip(21, 30.9, 12.0)
    for compressor in (MeanCompressor(), Turned()):
        maker = CompressedFingerprinter(fingerprinter.segments, compressor)
        hits, runs = search(maker, stored, query), maker.derive_query(query)
        found = located(
            query, runs, hits, lambda i, m=maker: m.derive(stored[i]), span=SPAN, hop=HOP
        )
        assert found[0].recording == 21
        assert found[0].offset == pytest.approx(30.9, abs=SPAN / 2)
        assert 0.4 < found[0].score < 1.0
    nothing = replace(query, times=query.times[:0], values=query.values[:0])
    assert located(nothing, nothing, NO_HITS, lambda i: stored[i], span=SPAN, hop=HOP) == []


def test_a_line_by_runs_ends_with_its_window():
    whole = clip(0, 0.0, 50.0)
    inside = (whole.times >= 15.0) & (whole.times < 45.0)
    window = replace(whole, times=whole.times[inside], values=whole.values[inside])
    ((recording, line),) = rough_lines(window, [Neighbourhood(4, 3.0, 0.8)], segment=1.0)
    assert (recording, line.query_start, line.offset) == (4, 15.0, 3.0)
    assert line.query_end == pytest.approx(45.875)
    assert line.evidence == pytest.approx(0.5 * 30.875)


def test_each_run_counts_once_at_a_place():
    def hits(rows):
        recording, query, reference, score = (np.array(c) for c in zip(*rows, strict=True))
        return Hits(recording.astype(np.int32), query, reference, score.astype("f"))

    rows = [(0, 0.0, 10.0, 0.9), (0, 0.0, 10.5, 0.8), (1, 0.0, 30.0, 0.7), (1, 1.0, 31.0, 0.7)]
    first, second = candidates(hits(rows), span=SPAN)
    assert (first.recording, round(first.score, 3)) == (1, 1.4)
    assert (second.recording, round(second.score, 3)) == (0, 0.9)
    assert first.offset == pytest.approx(30.0)
    assert recording_scores(hits(rows)) == pytest.approx({0: 1.7, 1: 1.4})
    assert candidates(NO_HITS, span=SPAN) == []


@pytest.mark.parametrize("n_hits", [1, 40, 1500])
def test_places_are_those_of_a_plain_count(n_hits):
    rng = np.random.default_rng(n_hits)
    hits = Hits(
        rng.choice([0, 3, 4, 70_000], n_hits).astype(np.int32),
        rng.choice([0.0, 0.125, 1.0, 1.5, 20.0], n_hits),
        np.round(rng.uniform(0, 200, n_hits), 1),
        rng.uniform(-0.1, 1.0, n_hits).astype("f"),
    )
    best = {}
    offsets = hits.reference_times - hits.query_times
    for i, cell in enumerate(np.floor(offsets / (SPAN / 2)).astype(int)):
        for place in ((hits.recordings[i], cell), (hits.recordings[i], cell - 1)):
            run = best.setdefault(place, {}).setdefault(hits.query_times[i], i)
            if hits.scores[i] > hits.scores[run]:
                best[place][hits.query_times[i]] = i
    totals = {place: sum(float(hits.scores[i]) for i in of.values()) for place, of in best.items()}
    kept = []
    for recording, cell in sorted(totals, key=lambda place: -totals[place]):
        counted = list(best[recording, cell].values())
        weights = hits.scores[counted].astype(np.float64)
        offset = (weights @ offsets[counted]) / max(weights.sum(), 1e-9)
        if all(r != recording or abs(o - offset) >= SPAN / 2 for r, o, _ in kept):
            kept.append((recording, offset, totals[recording, cell]))
    found = candidates(hits, span=SPAN, n=1000)
    assert len(found) == len(kept) < 1000
    np.testing.assert_allclose(found, kept, atol=1e-6)
    assert candidates(hits, span=SPAN, n=3) == found[:3]


def test_a_hit_that_two_places_hold_counts_at_both():
    stored, query = sequence(0, 60.0), clip(0, 20.0, 5.0)
    places = [Neighbourhood(0, 20.0, 1.0), Neighbourhood(0, 20.0 + SPAN, 1.0)]
    one = local_hits(query, places[:1], lambda i: stored, span=SPAN, k=100)
    both = local_hits(query, places, lambda i: stored, span=SPAN, k=100)
    second = local_hits(query, places[1:], lambda i: stored, span=SPAN, k=100)
    assert min(len(one), len(second)) > 0
    assert len(both) == len(one) + len(second)
    pair = local_hits(query, [places[0]] * 2, lambda i: stored, span=SPAN, k=3)
    for time in np.unique(pair.query_times):
        of = [x.reference_times[x.query_times == time] for x in (one, pair)]
        assert set(of[1]) <= set(of[0])
        assert len(of[1]) == min(3, 2 * len(of[0]))


def test_runs_alone_name_the_recording_and_its_file_says_where(tmp_path):
    segments, runs = bands_and_runs()
    for number in range(12):
        write_wav(tmp_path / f"{number}.wav", tune(number, seconds=40.0))
    files = sorted(tmp_path.glob("*.wav"))
    with Library(tmp_path / "runs", fingerprinters=[runs]) as library:
        library.add(files)
        assert list(library.catalog.methods()) == ["compressed"]
        for number, start in ((3, 4.2), (8, 30.9), (0, 0.0)):
            clip = tune(number, seconds=40.0).slice(start, start + 8.0)
            match = library.identify(clip, threshold=0.0).matches[0]
            assert match.method == "compressed"
            assert match.recording.path.endswith(f"/{number}.wav")
            assert match.reference_start - match.speed * match.query_start == pytest.approx(
                start, abs=0.05
            )
        rough = library.candidates(clip)[0].line
        for file in files:
            file.unlink()
        match = library.identify(clip, threshold=0.0).matches[0]
        assert match.reference_start == pytest.approx(max(0.0, rough.offset), abs=1e-6)
        assert abs(match.reference_start - start) <= SPAN


def test_runs_alone_are_judged_by_their_own_calibration_and_two_stages_by_the_segments(tmp_path):
    segments, runs = bands_and_runs()
    sound = Confirmation((0.0, 1.0, *[0.0] * 5), 0.25)
    own = {"weights": [3.0, *[0.0] * 8], "threshold": 0.96, "confirmation": sound.to_dict()}
    write_wav(tmp_path / "0.wav", tune(0, seconds=40.0))
    clip = tune(0, seconds=40.0).slice(9.0, 17.0)
    with Library(tmp_path / "lib", fingerprinters=[segments, runs]) as library:
        library.add([tmp_path / "0.wav"])
        (tmp_path / "0.wav").unlink()
        by_segments = library.candidates(clip, method="compressed")[0].probability
        runs.compressor.card.calibration = own
        runs = CompressedFingerprinter(segments, runs.compressor)
    with Library(tmp_path / "lib", fingerprinters=[segments, runs]) as library:
        alone = library.candidates(clip, method="compressed")
        assert alone[0].probability == pytest.approx(1 / (1 + np.exp(-3.0)))
        assert alone[0].probability != pytest.approx(by_segments)
        assert not library.identify(clip, method="compressed").matches
        assert library.identify(clip, method="compressed", threshold=0.95).matches
        both = library.candidates(clip, method="compressed+segments")
        assert both[0].probability == library.candidates(clip, method="segments")[0].probability
        assert runs.confirmation == sound


def test_places_outside_a_recording_and_empty_recordings_give_nothing():
    query = clip(0, 0.0, 4.0)
    empty = sequence(0, 40.0, silent=[(0.0, 40.0)])
    for stored, offset in ((empty, 3.0), (sequence(0, 20.0), 500.0), (sequence(0, 20.0), -90.0)):
        places = [Neighbourhood(0, offset, 1.0)]
        found = local_hits(query, places, lambda _, s=stored: s, span=SPAN, k=30)
        assert found is NO_HITS


def test_a_library_with_runs_answers_as_one_with_segments_alone(tmp_path):
    segments, runs = bands_and_runs()
    for number in range(12):
        write_wav(tmp_path / f"{number}.wav", tune(number))
    files = sorted(tmp_path.glob("*.wav"))
    with (
        Library(tmp_path / "both", fingerprinters=[segments, runs]) as both,
        Library(tmp_path / "one", fingerprinters=[segments]) as one,
    ):
        for library in (both, one):
            library.add(files)
        assert set(both.catalog.methods()) == {"segments", "compressed"}
        assert len(both.index("compressed")) * 4 < len(both.index("segments"))
        for number, start in ((3, 4.2), (8, 10.9)):
            clip = tune(number).slice(start, start + 6.0)
            first, exhaustive = (x.identify(clip, threshold=0.5) for x in (both, one))
            assert first.matches[0].method == "compressed+segments"
            assert exhaustive.matches[0].method == "segments"
            assert first.matches[0].recording.path.endswith(f"{number}.wav")
            for key in ("recording", "reference_start", "speed"):
                of = getattr(exhaustive.matches[0], key)
                assert getattr(first.matches[0], key) == (
                    of if key == "recording" else pytest.approx(of, abs=0.05)
                )
        assert both.identify(clip, method="segments", threshold=0.5).matches[0].method == "segments"
        with pytest.raises(ParameterError, match="holds no 'compressed\\+segments'"):
            one.identify(clip, method="compressed+segments")


def test_short_clips_are_compared_with_every_vector_too(tmp_path, monkeypatch):
    segments, runs = bands_and_runs()
    for number in range(8):
        write_wav(tmp_path / f"{number}.wav", tune(number))
    with Library(tmp_path / "library", fingerprinters=[segments, runs]) as library:
        library.add(sorted(tmp_path.glob("*.wav")))
        short, long = (tune(3).slice(4.2, 4.2 + seconds) for seconds in (3.0, 8.0))
        assert (
            len(segments.fingerprint_query(short)) <= BRIEF < len(segments.fingerprint_query(long))
        )
        places = [(c.recording_id, round(c.line.offset)) for c in library.candidates(short)]
        assert len(places) == len(set(places))  # what both searches find stands once
        assert library.identify(long, threshold=0.5).matches
        index = library.index("compressed")
        monkeypatch.setattr(index, "search_all", lambda vectors, times, k: [NO_HITS] * len(vectors))
        match = library.identify(short, threshold=0.5).matches[0]
        assert match.recording.path.endswith("/3.wav")
        assert match.reference_start - match.query_start == pytest.approx(4.2, abs=0.1)
        assert library.identify(long, threshold=0.5).matches == []
        monkeypatch.setattr("spolia.library.EXACT_BELOW", 0)  # too many vectors
        assert library.identify(short, threshold=0.5).matches == []


@pytest.mark.parametrize("n_places", [4, 50])
@pytest.mark.parametrize("k", [3, 30])
def test_only_the_strongest_hits_of_each_query_vector_are_kept(n_places, k):
    rng = np.random.default_rng(4)
    stored = [sequence(number, 20.0) for number in range(n_places)]
    query = clip(2, 4.0, 5.0)
    places = [Neighbourhood(i, float(rng.uniform(-5, 15)), 1.0) for i in range(n_places)]
    hits = local_hits(query, places, lambda i: stored[i], span=SPAN, k=k)
    for vector, time in zip(query.values, query.times, strict=True):
        expected = []
        for place in places:
            there = stored[place.recording]
            first, last = (
                place.offset + query.times[0] - SPAN,
                place.offset + query.times[-1] + SPAN,
            )
            inside = (there.times >= first) & (there.times < last)
            expected += sorted((there.values[inside] @ vector).tolist())[-N_LOCAL:]
        expected = [score for score in sorted(expected)[-k:] if score > RELATED]
        found = np.sort(hits.scores[hits.query_times == time])
        assert found == pytest.approx(expected, abs=1e-5)


def test_runs_are_added_to_a_library_of_segments_without_decoding(tmp_path, monkeypatch):
    from spolia import ingest

    segments, runs = bands_and_runs()
    for number in range(3):
        write_wav(tmp_path / f"{number}.wav", tune(number))
    files = sorted(tmp_path.glob("*.wav"))
    with Library(tmp_path / "library", fingerprinters=[segments]) as library:
        library.add(files)
        before = [library.catalog.sequence(r.id, "segments").values for r in library]
    decoded = []
    stream = ingest.stream
    monkeypatch.setattr(ingest, "stream", lambda p, **of: decoded.append(p) or stream(p, **of))
    with Library(
        tmp_path / "library", fingerprinters=[segments, runs], methods=("segments", "compressed")
    ) as library:
        write_wav(files[2], tune(7))  # changed since: all of it anew
        report = library.add(files)
        assert (report.updated, report.added, report.unchanged) == (3, 0, 0)
        assert decoded == [files[2]]
        after = [library.catalog.sequence(r.id, "segments").values for r in library]
        assert [np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == [1, 1, 0]
        assert [r.duration for r in library] == [pytest.approx(tune(0).duration)] * 3
        for recording in library:
            stored = library.catalog.fingerprint(recording.id, "segments")
            made = library.catalog.fingerprint(recording.id, "compressed").values
            assert (runs.derive(stored).values * made).sum(1).min() > 0.999
        assert library.add(files).unchanged == 3
        assert library.verify() == []


def test_long_queries_read_fewer_candidates():
    sizes = [n_candidates(clip(0, 1.0, seconds)) for seconds in (1.0, 5.0, 11.0, 21.0, 31.0, 59.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[2], sizes[-1]) == (N_CANDIDATES, N_CANDIDATES, LEAST_CANDIDATES)
    assert LEAST_CANDIDATES < sizes[3] < N_CANDIDATES
