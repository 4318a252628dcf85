"""Metrics by hand, and the protocol on a synthesised corpus."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from corpora import make_corpus
from fakes import BandEnergies, tune
from spolia.corpus import read_manifest
from spolia.encoders import open_encoder
from spolia.encoding import write_wav
from spolia.errors import ParameterError
from spolia.evaluation.conditions import (
    CONDITIONS,
    HARD,
    STANDARD,
    Materials,
    make_query,
    named,
)
from spolia.evaluation.identify import (
    Evaluation,
    Plan,
    read_outcomes,
    summarise,
    val_half,
    write_outcomes,
)
from spolia.evaluation.metrics import correlation_offset, rate, recall_at
from spolia.evaluation.report import markdown, plot, write_calibration
from spolia.evaluation.running import Journal, header, run
from spolia.library import Library


def test_rate_of_all_none_and_nothing():
    clusters = np.arange(10)
    assert (rate(np.ones(10, bool), clusters).value, rate(np.zeros(10, bool), clusters).value) == (
        1,
        0,
    )
    assert np.isnan(rate(np.zeros(0, bool), np.zeros(0, int)).value)
    with pytest.raises(ParameterError):
        rate(np.ones(3, bool), np.arange(4))


def test_the_interval_covers_the_truth_and_widens_with_clusters():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(50):
        alone = rate(rng.random(400) < 0.8, np.arange(400))
        covered += alone.low <= 0.8 <= alone.high
    assert covered >= 43  # 47.5 expected
    same = np.repeat(rng.random(20) < 0.8, 20)
    assert rate(same, np.repeat(np.arange(20), 20)).high - rate(
        same, np.repeat(np.arange(20), 20)
    ).low > (alone.high - alone.low)


def test_recall_at_false_accepts_by_hand():
    known, right = np.array([0.9, 0.8, 0.7, 0.2]), np.array([True, True, False, True])
    absent = np.array([0.75, 0.5, 0.1, 0.0])
    assert recall_at(known, right, absent, 0.0) == (0.5, 0.75)
    assert recall_at(known, right, absent, 0.25) == (0.5, 0.5)
    assert recall_at(known, right, absent, 1.0)[0] == 0.75


def test_a_repetition_is_the_same_sound_and_other_sound_is_not():
    rng = np.random.default_rng(0)
    loop, other = rng.normal(size=8000).astype("f"), rng.normal(size=16000).astype("f")
    recording = np.concatenate([loop, loop, other])
    similarity, lag = correlation_offset(recording, 8030, 0, 6000, 800)
    assert (round(similarity, 3), lag) == (1.0, -30)
    assert correlation_offset(recording, 20000, 0, 3000, 800)[0] < 0.2


@pytest.mark.parametrize("name", CONDITIONS)
def test_queries_are_seeded_and_as_long_as_asked(name):
    if name in ("pitch", "tempo", "pitch-4", "tempo-20", "two"):
        pytest.importorskip("python_stretch")
    recording = tune(1, seconds=20.0).resample(16000)
    noise = Materials([tune(5, 3.0).resample(16000)], [tune(6, 0.2).resample(16000)], [])
    first, again = (
        make_query(recording, "a", CONDITIONS[name], noise, np.random.default_rng(4), seconds=5.0)
        for _ in range(2)
    )
    assert np.array_equal(first.audio.samples, again.audio.samples)
    assert first.audio.duration == pytest.approx(5.0, abs=0.01)
    assert first.start + 5.0 * first.speed <= 20.0
    assert first.prefix(2.0).duration == pytest.approx(2.0)


def test_sets_of_conditions_are_named():
    assert named(["standard"]) == tuple(STANDARD)
    assert named(["hard", "clean", "two"]) == (*HARD, "clean")
    with pytest.raises(ParameterError, match="unknown condition 'rain'.*standard"):
        named(["rain"])


def test_a_clean_query_is_the_recording():
    recording = tune(1, seconds=20.0)
    nothing = Materials([], [], [])
    query = make_query(
        recording, "a", CONDITIONS["clean"], nothing, np.random.default_rng(4), seconds=5.0
    )
    start = round(query.start * 8000)
    assert np.abs(query.audio.samples - recording.samples[start : start + 40000]).max() < 0.8
    shift = [
        np.abs(query.audio.samples[:9000] - recording.samples[s : s + 9000]).max()
        for s in (start - 1, start, start + 1)
    ]
    assert min(shift) < 1e-6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), n_tracks=14, n_val=10)


def test_val_halves_are_disjoint_and_whole(corpus):
    files = read_manifest(corpus, "track")
    halves = [{f.file for f in val_half(files, h)} for h in (0, 1)]
    assert not halves[0] & halves[1]
    assert len(halves[0] | halves[1]) == 10
    assert all(halves)


def test_a_half_of_val_without_groups_is_named(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", n_tracks=3, n_val=1)
    halves = [val_half(read_manifest(corpus, "track"), h) for h in (0, 1)]
    fold = 0 if halves[0] else 1
    with Library(tmp_path / "lib", fingerprinters=[BandEnergies()]) as library:
        with pytest.raises(ParameterError, match=r"split.csv leaves no group to cut 48 absent"):
            Evaluation(corpus, library, Plan(fold=fold))
        with pytest.raises(ParameterError, match="48 known queries.*more groups as val"):
            Evaluation(corpus, library, Plan(fold=1 - fold))
        evaluation = Evaluation(corpus, library, Plan(n_absent=0, fold=fold))
        assert len(evaluation.known) == 1


def test_distractors_join_and_leave_the_library(corpus, tmp_path):
    plan = Plan(n_places=1, n_absent=1, lengths=(2.0,), conditions=("clean",))
    with Library(tmp_path / "lib", fingerprinters=[BandEnergies()]) as library:
        evaluation = Evaluation(corpus, library, plan, [distractors(tmp_path / "d")])
        evaluation.fill()
        n_with = len(library)
        assert {f"{tmp_path}/d/{i}.wav" for i in range(3)} <= set(evaluation.file_of.values())
        assert all(o.right for o in run(evaluation) if o.known)
        Evaluation(corpus, library, plan).fill()
        assert len(library) == n_with - 3


def test_the_recordings_of_a_pack_are_asked_about_in_the_corpus_rooms(corpus, tmp_path):
    pack = tmp_path / "pack"
    (pack / "tracks").mkdir(parents=True)
    names = [f"tracks/{i}.wav" for i in range(6)]
    for i, name in enumerate(names):
        write_wav(pack / name, tune(200 + i))
    (pack / "tracks.csv").write_text("\n".join(["file,group", *(f"{n},{n}" for n in names)]))
    (pack / "split.csv").write_text("\n".join(["file,split", *(f"{n},val" for n in names)]))
    plan = Plan(n_places=2, n_absent=2, lengths=(3.0,), conditions=("clean", "noise"))
    with Library(tmp_path / "lib") as library:
        evaluation = Evaluation(corpus, library, plan, recordings=pack)
        evaluation.fill()
        assert set(evaluation.file_of.values()) == {f.file for f in evaluation.known}
        assert evaluation.known
        assert evaluation.absent
        outcomes = run(evaluation, processes=2)
    assert {o.file for o in outcomes} <= set(names)
    assert all(o.right for o in outcomes if o.known and o.condition == "clean")


def distractors(folder):
    folder.mkdir()
    for i in range(3):
        write_wav(folder / f"{i}.wav", tune(100 + i))
    return folder


def test_a_corpus_path_with_dots_works(corpus, tmp_path):
    dotted = corpus / "tracks" / ".."
    plan = Plan(n_places=1, n_absent=1, lengths=(2.0,), conditions=("clean",))
    with Library(tmp_path / "lib", fingerprinters=[BandEnergies()]) as library:
        evaluation = Evaluation(dotted, library, plan)
        evaluation.fill()
        assert set(evaluation.file_of.values()) < set(evaluation.tracks)


def test_the_protocol_end_to_end(corpus, tmp_path):
    plan = Plan(n_places=6, n_absent=6, lengths=(2.0, 5.0), conditions=("clean", "noise"), seed=1)
    with Library(tmp_path / "lib", fingerprinters=[BandEnergies()]) as library:
        evaluation = Evaluation(corpus, library, plan)
        evaluation.fill()
        left_out = {f.file for f in evaluation.absent}
        assert not left_out & set(evaluation.file_of.values())
        outcomes = run(evaluation)
    table = summarise(outcomes, plan)
    assert len(outcomes) == 2 * 2 * 6 * 2
    assert table["5"]["top1"]["clean"]["value"] == 1.0
    assert table["5"]["top1"]["all"]["n"] == 12
    assert all(not o.right for o in outcomes if not o.known)
    facts = {
        "plan": {"conditions": plan.conditions, "seed": 1, "fold": 0},
        "library": "x",
        "method": "segments",
        "table": table,
    }
    assert "| clean | " in markdown(facts)
    write_outcomes(tmp_path / "o.json", outcomes, seed=1)
    assert read_outcomes(tmp_path / "o.json") == outcomes
    write_calibration(tmp_path / "c.json", outcomes, 300)
    assert 0 < json.loads((tmp_path / "c.json").read_text())["threshold"] < 1
    pytest.importorskip("matplotlib")
    plot(tmp_path / "p.png", facts)
    assert (tmp_path / "p.png").stat().st_size > 5000


def test_several_processes_answer_like_one(corpus, tmp_path):
    plan = Plan(n_places=2, n_absent=2, lengths=(1.0, 3.0), conditions=("clean", "noise"))
    with Library(tmp_path / "lib") as library:
        evaluation = Evaluation(corpus, library, plan)
        evaluation.fill()
        seen = []
        several = run(evaluation, processes=2, progress=lambda *at: seen.append(at))
        alone = run(evaluation)
    assert timeless(several) == timeless(alone)
    assert seen == [(i + 1, 8) for i in range(8)]


def timeless(outcomes):
    return [replace(o, seconds=0.0) for o in outcomes]


def test_an_interrupted_evaluation_goes_on(corpus, tmp_path):
    plan = Plan(n_places=3, n_absent=2, lengths=(2.0,), conditions=("clean",))
    with Library(tmp_path / "lib", fingerprinters=[BandEnergies()]) as library:
        evaluation = Evaluation(corpus, library, plan)
        evaluation.fill()
        path, stamp = tmp_path / "journal", header(evaluation, None)

        def interrupt(done, _):
            if done == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(evaluation, journal=Journal(path, stamp), progress=interrupt)
        path.write_text(path.read_text() + '[[true, 0, 2], [{"condi')  # killed while writing
        seen = []
        continued = run(
            evaluation, journal=Journal(path, stamp), progress=lambda done, _: seen.append(done)
        )
        assert seen == [4, 5]
        assert timeless(continued) == timeless(run(evaluation))
        assert len(Journal(path, stamp).done) == 5
        assert not Journal(path, {**stamp, "code": "another"}).done


def test_an_evaluation_of_a_recalibrated_model_begins_anew(corpus, tmp_path):
    pytest.importorskip("onnx")
    from spolia.training.export import update_card

    model = tmp_path / "model.onnx"
    model.write_bytes(open_encoder().path.read_bytes())
    first = stamp(corpus, tmp_path, model)
    assert stamp(corpus, tmp_path, model) == first
    card = open_encoder(str(model)).card
    fitted = {**card.calibration, "threshold": 0.123}
    assert update_card(model, calibration=fitted).id == card.id
    recalibrated = stamp(corpus, tmp_path, model)
    update_card(model, delay={"fitted": 1.0})
    changed = [first, recalibrated, stamp(corpus, tmp_path, model)]
    assert len({json.dumps(header) for header in changed}) == 3


def test_an_evaluation_on_another_corpus_begins_anew(corpus, tmp_path):
    other = make_corpus(tmp_path / "other", n_tracks=14, n_val=10)
    one, another, mixed = (
        stamp(of, tmp_path, None, recordings)
        for of, recordings in ((corpus, None), (other, None), (other, corpus))
    )
    assert len({json.dumps(header) for header in (one, another, mixed)}) == 3
    assert one == stamp(corpus / "tracks" / "..", tmp_path, None)


def stamp(corpus, folder, model, recordings=None):
    with Library(folder / "lib", model=model and str(model)) as library:
        return header(Evaluation(corpus, library, Plan(), recordings=recordings), None)
