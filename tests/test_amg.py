"""The tables of AMG-Embedding: modelled recordings, systems side by side, the paper's figures."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from corpora import make_corpus
from spolia.alignment import Line
from spolia.audio import Audio
from spolia.encoding import write_wav
from spolia.errors import ParameterError
from spolia.evaluation import amg, amg_tables
from spolia.evaluation.amg import Asked, Bench, Measured
from spolia.evaluation.amg_plots import _fewer, plot
from spolia.evaluation.amg_tables import Setting, layout, markdown, measure, paper_figures
from spolia.evaluation.collection import collect, enlarged, gathered
from spolia.evaluation.dejavu import Dejavu, installed
from spolia.evaluation.metrics import Rate, rate
from spolia.fingerprints.base import Fingerprint
from spolia.rivals import Candidate
from spolia.store.rows import Sequence8

LONGEST, DIM = 9, 16


def stored(n_recordings=40, n=60, seed=0):
    """Return smooth sequences of unit vectors in int8 around one mean."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=DIM)
    found = []
    for number in range(n_recordings):
        steps = rng.normal(size=(n + 4, DIM)) * np.linspace(0.3, 1.5, DIM)
        smooth = mean + sum(steps[i : i + n] for i in range(5)) / 2
        smooth /= np.linalg.norm(smooth, axis=1, keepdims=True)
        codes = np.round(smooth * 127).astype(np.int8)
        found.append(Sequence8(f"r{number}", np.arange(n, dtype=np.int32) * 500, codes, n / 2))
    return found


def test_a_collection_returns_what_it_was_given():
    empty = Sequence8("silent", np.zeros(0, np.int32), np.zeros((0, DIM), np.int8), 5.0)
    given = [*stored(3), empty]
    collection = collect(given)
    assert collection.ids == ["r0", "r1", "r2", "silent"]
    for number, one in enumerate(given):
        found = collection.sequence(number, "segments")
        assert np.allclose(found.times, one.times / 1000)
        assert np.allclose(found.values, one.vectors(), atol=1e-6)
    again = gathered(collection.sequences("segments"), collection.ids, DIM)
    assert np.array_equal(again.places, collection.places)
    assert np.abs(again.codes.astype(int) - collection.codes).max() <= 1
    with pytest.raises(ParameterError, match="add recordings first"):
        collect([empty])


def test_modelled_recordings_have_the_statistics_of_real_ones_and_resemble_none():
    real = collect(stored())
    more = enlarged(real, 30_000, seed=1)
    assert len(more) == 30_000
    assert np.array_equal(more.codes[: len(real)], real.codes)
    assert len(more.ids) == len(set(more.ids)) == 500
    assert enlarged(real, 100, seed=1) is real
    assert np.array_equal(enlarged(real, 30_000, seed=1).codes, more.codes)
    before, after = (c.astype(np.float32) / 127 for c in (real.codes, more.codes[len(real) :]))
    assert np.allclose(before.mean(0), after.mean(0), atol=0.06)
    assert np.abs(np.cov(before.T) - np.cov(after.T)).max() < 0.02
    steps = [(x[1:] * x[:-1]).sum(1).mean() for x in (before, after)]
    assert steps[0] == pytest.approx(steps[1], abs=0.05)
    modelled = more.sequence(len(real.ids) + 3, "segments").values
    others = [real.sequence(i, "segments").values for i in range(len(real.ids))]
    likeness = max(np.einsum("td,td->t", modelled, o[: len(modelled)]).mean() for o in others)
    among = max(np.einsum("td,td->t", others[0], o).mean() for o in others[1:])
    assert likeness < among + 0.15


def row(name, seconds=0.0, **values):
    rates = {key: Rate(v, v - 0.05, v + 0.05, 10) for key, v in values.items()}
    return Measured(name, seconds, 1000, 1234.5, 1.0, rates, rates, dict.fromkeys(values, 5.0))


def test_the_papers_figures_stand_beside_the_same_system_only():
    assert paper_figures(row("segments, flat"))["2"] == 89.7
    assert paper_figures(row("compressed-10s, ivf-pq", 9.5))["5"] == 96.0
    assert paper_figures(row("compressed-10s, flat, then segments", 9.5)) == {}
    assert paper_figures(row("amg-bilstm, flat", 9.5))["6"] == 96.8
    assert paper_figures(row("landmarks")) == {}
    text = markdown([row("segments, flat", **{"2": 0.9, "30": 1.0})], (2.0, 30.0))
    assert "90.0 [85.0, 95.0] (paper 89.7)" in text
    with pytest.raises(ParameterError, match="choose from: 1, 2, 3, 4, index"):
        layout("5")


class MeanCompressor:
    """Compresses a run to its mean."""

    path, longest = Path("mean.onnx"), LONGEST

    def __init__(self, base, dim):
        self.card = SimpleNamespace(
            base=base, id="mean-1", name="compressed-5s", dim=dim, segment=40000
        )

    def compress(self, runs, padding):
        heard = ~padding[:, :, None]
        mean = (runs * heard).sum(1) / np.maximum(heard.sum(1), 1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), n_tracks=14, n_val=10)


def test_a_table_compares_all_systems_on_the_same_queries(corpus, tmp_path, monkeypatch):
    from spolia.encoders import open_encoder

    card = open_encoder("segment").card
    monkeypatch.setattr(
        "spolia.encoders.open_compressor", lambda *_, **__: MeanCompressor(card.id, card.dim)
    )
    setting = Setting(
        corpus, tmp_path, None, (), (Path("mean.onnx"),), (), 6, 6_000, seed=3, threads=1
    )
    seen = []
    one = layout("1")
    short = amg_tables.Layout("short", (2.0, 5.0), landmarks=True)
    rows = measure(short, setting, report=lambda done, total: seen.append((done, total)))
    names = [r.name for r in rows]
    assert one.landmarks
    assert names == [
        "landmarks",
        "segments, sq8",
        "compressed-5s, sq8",
        "compressed-5s, sq8, by place",
        "compressed-5s, sq8, then segments",
    ]
    marks, segments, alone, placed, both = rows
    assert segments.n_vectors == 6_000
    assert alone.n_vectors * 7 < segments.n_vectors
    assert alone.bytes_per_hour * 7 < segments.bytes_per_hour
    assert {r.top1["5"].n for r in rows} == {6}
    assert segments.top1["5"].value >= 0.8
    assert both.top1["5"].value >= alone.top1["5"].value - 0.2
    assert placed.top1["5"].value >= alone.top1["5"].value - 0.2
    assert both.near["5"].value == 1.0
    assert not alone.near
    assert set(alone.recall["5"]) == {"1", "10", "200"}
    assert alone.recall["5"]["200"] >= alone.recall["5"]["1"]
    assert marks.index_ms is None
    assert min(segments.index_ms) > 0
    assert seen[-1] == (12, 12)
    assert json.dumps([r.query_ms for r in rows])
    pytest.importorskip("matplotlib")
    plot(tmp_path / "amg.png", rows)
    kinds = [replace(r, name=r.name.replace("sq8", kind)) for kind in ("sq8", "pq") for r in rows]
    names = [row.name for row in _fewer(kinds)]
    assert names == [
        "segments, sq8",
        "compressed-5s, sq8, by place",
        "compressed-5s, sq8, then segments",
    ]
    assert (tmp_path / "amg.png").read_bytes().startswith(b"\x89PNG")


def test_the_first_phase_of_a_query_is_cut_as_a_recording_is():
    runs = SimpleNamespace(
        segments=SimpleNamespace(hop_seconds=0.5), hop_seconds=4.5, derive=lambda f: f
    )
    system = amg.Runs.__new__(amg.Runs)
    system.runs = runs
    times = np.arange(0, 9.0, 0.125)
    query = Fingerprint("segments", None, times, np.zeros((len(times), 2), np.float32), 10.0)
    assert np.array_equal(system.cut(query).times, np.arange(0, 9.0, 0.5))


def peaks_and_hashes(samples, Fs):
    """Hash the loudest band of each frame and of the frame after it, as Dejavu's package would."""
    assert samples.dtype == np.int16
    assert Fs == 44100
    frames = samples[: len(samples) // 2048 * 2048].reshape(-1, 2048).astype(float)
    loudest = np.abs(np.fft.rfft(frames * np.hanning(2048)))[:, 2:300].argmax(1)
    for time, (one, other) in enumerate(pairwise(loudest)):
        yield hashlib.sha1(f"{one}|{other}".encode()).hexdigest()[:20], np.int64(time)


@pytest.fixture
def dejavu_package(monkeypatch):
    settings = SimpleNamespace(
        DEFAULT_FS=44100, DEFAULT_WINDOW_SIZE=4096, DEFAULT_OVERLAP_RATIO=0.5
    )
    for name, module in {
        "dejavu": SimpleNamespace(),
        "dejavu.logic": SimpleNamespace(),
        "dejavu.config": SimpleNamespace(),
        "dejavu.logic.fingerprint": SimpleNamespace(fingerprint=peaks_and_hashes),
        "dejavu.config.settings": settings,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)


def melody(seed, seconds=20.0):
    rng = np.random.default_rng(seed)
    notes = rng.integers(30, 90, int(seconds * 5))
    samples = np.concatenate([np.sin(440 * 2 ** ((n - 69) / 12) * 0.2 * TICKS) for n in notes])
    return Audio(0.3 * samples.astype("f"), 16000)


TICKS = 2 * np.pi * np.arange(3200) / 3200


def test_dejavus_package_answers_where_it_is_installed(dejavu_package, tmp_path):
    recordings = []
    for seed in range(5):
        path = tmp_path / f"{seed}.wav"
        write_wav(path, melody(seed))
        recordings.append(SimpleNamespace(id=f"r{seed}", path=str(path)))
    system = Dejavu(installed(), recordings)
    assert system.n_vectors * 16 == system.n_bytes > 0
    for seed, start in ((3, 7.2), (0, 0.0)):
        sound = melody(seed).slice(start, start + 5.0)
        query = SimpleNamespace(prefix=lambda length, sound=sound: sound.slice(0, length))
        best = system.answer(Asked(query, 5.0, None))
        assert best.recording_id == f"r{seed}"
        assert best.line.reference_start == pytest.approx(start, abs=0.1)
    early = Audio(np.concatenate([np.zeros(32000, "f"), melody(2).samples]), 16000)
    query = SimpleNamespace(prefix=lambda length: early.slice(0, length))
    best = system.answer(Asked(query, 10.0, None))  # begins before the recording
    assert (best.recording_id, best.line.offset < -1.9) == ("r2", True)
    silence = SimpleNamespace(prefix=lambda length: Audio(np.zeros(16000, "f"), 16000))
    nothing = system.answer(Asked(silence, 1.0, None))
    assert nothing is None or nothing.line.evidence >= 1


def test_dejavu_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dejavu", None)
    with pytest.raises(ParameterError, match="leave --dejavu out"):
        installed()


def interrupted(monkeypatch, at):
    """Interrupt the measurement of one system, by its number; return the names as they come."""
    measured, true = [], Bench.measure

    def counted(bench, system, report=None):
        measured.append(system.name)
        if len(measured) == at:
            raise KeyboardInterrupt
        return true(bench, system, report)

    monkeypatch.setattr(Bench, "measure", counted)
    return measured


def test_an_interrupted_table_goes_on_with_the_rows_it_has(corpus, tmp_path, monkeypatch):
    from spolia.encoders import open_encoder

    card = open_encoder("segment").card
    monkeypatch.setattr(
        "spolia.encoders.open_compressor", lambda *_, **__: MeanCompressor(card.id, card.dim)
    )
    setting = Setting(corpus, tmp_path, None, (), (Path("mean.onnx"),), (), 2, 0, seed=3, threads=1)
    short = amg_tables.Layout("short", (3.0,))
    true, measured = Bench.measure, interrupted(monkeypatch, at=3)
    with pytest.raises(KeyboardInterrupt):
        measure(short, setting)
    rows = measure(short, setting)
    names = [row.name for row in rows]
    assert measured == [*names[:3], *names[2:]]
    assert len(names) == 4
    assert not list(tmp_path.glob("*.jsonl"))
    monkeypatch.setattr(Bench, "measure", true)
    again = measure(short, setting)
    assert [r.top1 for r in again] == [r.top1 for r in rows]
    assert [type(r.index_ms) for r in again] == [type(r.index_ms) for r in rows]


def test_modelled_runs_make_the_index_larger_and_not_the_answers_worse(
    corpus, tmp_path, monkeypatch
):
    from spolia.encoders import open_encoder

    card = open_encoder("segment").card
    monkeypatch.setattr(
        "spolia.encoders.open_compressor", lambda *_, **__: MeanCompressor(card.id, card.dim)
    )
    files = (None, (), (Path("mean.onnx"),), ())
    setting = Setting(corpus, tmp_path, *files, 4, 0, seed=3, threads=1, n_runs=3_000)
    short = amg_tables.Layout("short", (5.0,), segments=False)
    alone, _, both = measure(short, setting)
    assert alone.n_vectors == both.n_vectors == 3_000
    assert 600_000 > alone.bytes_per_hour > 3600 / (LONGEST * 0.5) * card.dim
    assert both.top1["5"].value == 1.0
    assert both.near["5"].value == 1.0


def test_a_table_of_a_recalibrated_compressor_begins_anew(corpus, tmp_path, monkeypatch):
    from spolia.encoders import open_encoder

    card = open_encoder("segment").card
    compressor = MeanCompressor(card.id, card.dim)
    monkeypatch.setattr("spolia.encoders.open_compressor", lambda *_, **__: compressor)
    setting = Setting(corpus, tmp_path, None, (), (Path("mean.onnx"),), (), 1, 0, seed=3, threads=1)
    short = amg_tables.Layout("short", (3.0,), segments=False)
    measured = interrupted(monkeypatch, at=2)
    with pytest.raises(KeyboardInterrupt):
        measure(short, setting)
    compressor.card.calibration = {"threshold": 0.5}
    names = [row.name for row in measure(short, setting)]
    assert measured == [*names[:2], *names]


def bench_of(files, *, silent=()):
    """Return a bench of a query of five seconds for each file; those in ``silent`` are empty."""
    plan = SimpleNamespace(lengths=(5.0,))
    known = [SimpleNamespace(known=True, place=i) for i in range(len(files))]

    def query(task):
        sound = SimpleNamespace(resample=lambda rate: task.place)
        return SimpleNamespace(file=files[task.place], prefix=lambda length: sound)

    def fingerprint_query(place):
        n = 0 if place in silent else 4
        return Fingerprint("segments", None, np.arange(n) / 8, np.ones((n, DIM), "f"), 5.0)

    def judge(query, best, length):
        right = best.recording_id == query.file
        return right, best.line.offset if right else None

    evaluation = SimpleNamespace(
        plan=plan,
        tasks=lambda: known,
        query=query,
        judge=judge,
        file_of={file: file for file in files},
    )
    segments = SimpleNamespace(sample_rate=8000, fingerprint_query=fingerprint_query)
    bench = Bench(evaluation, collect(stored(2)), segments, hours=1.0)
    bench.ask()
    return bench


class Known:
    """Answers with a query's own recording, at an offset by file."""

    name, seconds, n_vectors, n_bytes, build_seconds, growth = "known", 0.0, 1, 1, 0.0, 1.0

    def __init__(self, offsets=None, *, recalls=False):
        self.offsets, self.recalls = offsets or {}, recalls

    def answer(self, asked):
        line = Line(1.0, self.offsets.get(asked.query.file, 0.0), 0.0, 5.0, 1.0, 5.0, 1.0)
        return Candidate(asked.query.file, line)

    def recalled(self, asked):
        return [asked.query.file] if self.recalls and asked.query.file != "unheard" else []

    def index_ms(self, asked):
        return float(len(asked)), 0.0


class KnownRuns(Known, amg.Runs):
    """The same of runs, by recording or by place."""

    def __init__(self, *, made):
        super().__init__()
        self.made = made


def test_sums_by_recording_are_not_said_to_be_at_the_beginning():
    bench = bench_of(["a", "b"])
    alone, placed, other = (
        bench.measure(system)
        for system in (KnownRuns(made=None), KnownRuns(made=object()), Known())
    )
    assert alone.top1 == placed.top1 == other.top1
    assert alone.near == {}
    assert placed.near["5"].value == other.near["5"].value == 1.0
    cells = [line.split(" | ")[4] for line in markdown([alone, placed], (5.0,)).splitlines()]
    assert cells == ["within 0.5 s", "---", "–", "100.0"]


def test_queries_of_one_recording_do_not_narrow_the_interval_of_places():
    files = [file for file in "abcd" for _ in range(20)]
    measured = bench_of(files).measure(Known({"a": 3.0}))
    near = np.array([file != "a" for file in files])
    assert measured.near["5"] == rate(near, np.repeat(np.arange(4), 20))
    assert measured.near["5"].high - measured.near["5"].low > 0.5


def test_queries_without_vectors_are_counted_as_not_found():
    bench = bench_of(["a", "b", "c", "d"], silent=(1, 3))
    for system in (Known(), KnownRuns(made=object()), Known(recalls=True)):
        measured = bench.measure(system)
        assert (measured.top1["5"].value, measured.top1["5"].n) == (0.5, 4)
        assert measured.near["5"].n == 2
        assert measured.index_ms == (2.0, 0.0)
        assert measured.recall == (
            {"5": {"1": 0.5, "10": 0.5, "200": 0.5}} if system.recalls else {}
        )
    nothing = bench_of(["a"], silent=(0,)).measure(Known(recalls=True))
    assert nothing.top1["5"].value == 0.0
    assert (nothing.near, nothing.recall, nothing.query_ms) == ({}, {}, {})
    assert "| 0.0 [0.0, 0.0] | – | – |" in markdown([nothing], (5.0,))


def test_a_coarse_stage_that_names_nothing_misses():
    measured = bench_of(["a", "unheard"]).measure(Known(recalls=True))
    assert measured.recall == {"5": {"1": 0.5, "10": 0.5, "200": 0.5}}


def test_hashes_of_real_recordings_take_as_much_an_hour_beside_modelled_ones(
    corpus, tmp_path, dejavu_package
):
    setting = Setting(corpus, tmp_path, None, (), (), (), 1, 0, seed=3, threads=1, dejavu=True)
    short = amg_tables.Layout("short", (2.0,), landmarks=True)
    real = measure(short, setting)
    grown = measure(short, replace(setting, n_vectors=6_000))
    assert [row.name for row in real] == ["landmarks", "Dejavu", "segments, sq8"]
    assert grown[2].n_vectors > 10 * real[2].n_vectors
    for one, other in zip(real, grown, strict=True):
        assert one.bytes_per_hour == pytest.approx(other.bytes_per_hour)
