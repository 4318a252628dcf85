"""The strict protocol of samples, by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest

from fakes import tune
from spolia import sample_stretches
from spolia.audio import Audio
from spolia.cli.evaluation_commands import _measure_samples
from spolia.encoding import write_wav
from spolia.errors import ParameterError
from spolia.evaluation.sample_repeats import levels_of, repeats
from spolia.evaluation.sample_report import clusters, markdown, summarise, tables
from spolia.evaluation.sample_running import SampleEvaluation, SamplePlan, fit, held_for
from spolia.evaluation.samples import (
    Ranked,
    SampleOutcome,
    answer,
    average_precision,
    by_chance,
    by_samples,
    errors,
    hit,
    is_heard_there,
    is_near,
    overlap,
    relevant,
)
from spolia.fingerprints.base import Fingerprint
from spolia.library import Library
from spolia.production.truth import Occurrence, Use
from spolia.sample_alignment import levels
from test_production import make_crate_corpus


def use(file="a", **changes):
    values = {
        "file": file,
        "group": file,
        "part": "mix",
        "kind": "riff",
        "manner": "loop",
        "source_start": 10.0,
        "source_end": 12.0,
        "occurrences": (Occurrence(4.0, 6.0, 10.0, 12.0), Occurrence(8.0, 10.0, 10.0, 12.0)),
        "semitones": 0.0,
        "tempo_ratio": 1.0,
        "effects": (),
        "overlay_db": 3.0,
        **changes,
    }
    return Use(**values).to_dict()


def outcome(names, uses=None, probabilities=None, **first):
    levels = probabilities or [1.0 - 0.1 * i for i in range(len(names))]
    ranking = [Ranked(name, p) for name, p in zip(names, levels, strict=True)]
    if first and ranking:
        ranking[0] = Ranked(names[0], levels[0], **first)
    return SampleOutcome("q", 20.0, 0.0, 1.0, [use()] if uses is None else uses, ranking)


def test_strict_precision_counts_distractors_and_what_was_not_found():
    assert average_precision(outcome(["a", "b"])) == 1.0
    assert average_precision(outcome(["noise", "a"])) == 0.5
    assert average_precision(outcome(["b"])) == 0.0
    two = [use("a"), use("c")]
    assert average_precision(outcome(["a", "b", "c"], two)) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(outcome(["a"], two)) == 0.5
    lenient = {"a", "b", "c"}
    assert average_precision(outcome(["noise", "a"]), lenient=lenient) == 1.0
    assert average_precision(outcome(["a"], two), lenient=lenient) == 1.0


def test_strict_and_lenient_precision_by_hand():
    three = [use("a"), use("c"), use("z")]
    ranked = outcome(["d1", "a", "b", "d2", "c"], three, [1.0 - 0.1 * i for i in range(5)])
    assert average_precision(ranked) == pytest.approx((1 / 2 + 2 / 5) / 3)
    references = {"a", "b", "c", "z"}
    assert average_precision(ranked, lenient=references) == pytest.approx((1 / 1 + 2 / 3) / 2)
    late = outcome([f"r{i}" for i in range(20)] + ["a"])
    assert average_precision(late) == pytest.approx(1 / 21)
    assert average_precision(late, lenient={*(f"r{i}" for i in range(20)), "a"}) == 0.0
    figures = summarise([ranked, late], 0.5, references)
    assert figures["map"]["value"] == pytest.approx((0.3 + 1 / 21) / 2)
    assert figures["map_lenient"]["value"] == pytest.approx((5 / 6 + 1) / 2)


def test_what_is_not_known_is_not_judged():
    unknown = {"file": "a", "occurrences": [{"start": 4.0, "end": 6.0}], "complete": False}
    nothing = {**use(), **dict.fromkeys(("part", "kind", "manner", "semitones", "tempo_ratio"))}
    blank = {**nothing, **unknown, "transformation": None, "overlay_db": None, "by_ear": True}
    found = {"tempo_ratio": 1.0, "semitones": 0.0, "occurrences": [[4.0, 6.0, 10.0, 12.0]]}
    ranked = outcome(["a"], [blank], **found)
    assert errors(ranked) == {}
    assert is_near(ranked) is None
    assert overlap(ranked) is None
    figures = summarise([ranked], 0.5, {"a"})
    assert figures["map"]["value"] == 1.0
    not_judged = ("near", "iou", "pitch", "tempo", "part", "start", "count", "hr1_at_0.01")
    assert {figures[key]["n"] for key in not_judged} == {0}
    assert "NaN" not in json.dumps(figures)


def test_a_recording_sampled_twice_is_right_in_either_way():
    place = (Occurrence(14.0, 16.0, 30.0, 32.0),)
    two = [use(), use(occurrences=place, semitones=3.0, tempo_ratio=1.2, part="drums")]
    found = {"tempo_ratio": 1.2, "semitones": 3.0, "part": "drums"}
    ranked = outcome(["a"], two, **found, occurrences=[[14.0, 16.0, 30.0, 32.4]])
    assert is_near(ranked)
    right = errors(ranked)
    assert (right["pitch"], right["tempo"], right["part"], right["count"]) == (*[True] * 3, False)
    assert overlap(ranked) == pytest.approx(2 / 6, abs=0.01)


def test_occurrences_beyond_the_end_of_a_short_query_are_not_missed():
    known = use(
        occurrences=tuple(Occurrence(t, t + 2.0, 30.0, 32.0) for t in (4.0, 7.5, 12.0, 20.0))
    )
    found = [[0.01, 2.0, 30.0, 32.0], [3.52, 4.0, 30.0, 30.5]]
    ranked = outcome(["a"], [known], tempo_ratio=1.0, semitones=0.0, occurrences=found)
    short = replace(ranked, start=4.0, length=4.0)  # of the second, half a second
    right = errors(short)
    assert (right["start"], right["count"]) == (True, True)
    whole = replace(ranked, start=4.0, length=30.0)
    right = errors(whole)
    assert (right["start"], right["count"]) == (False, False)


def test_recordings_beyond_the_end_of_a_short_query_are_not_missed():
    def at(start, end):
        return (Occurrence(start, end, 0.0, end - start),)

    uses = [use("a"), use("late", occurrences=at(8.5, 9.5)), use("brief", occurrences=at(8.0, 8.3))]
    ranked = replace(outcome(["late", "a"], uses), start=4.0, length=4.3)  # up to 8.3 s
    assert [known.file for known in relevant(ranked)] == ["a", "brief"]
    assert average_precision(ranked) == pytest.approx(1 / 2 / 2)
    assert average_precision(ranked, lenient={"a", "brief", "late"}) == pytest.approx(1 / 2)
    assert (hit(ranked, 1), hit(ranked, 2)) == (False, True)
    longer = replace(ranked, length=5.0)  # half a second of it
    assert [known.file for known in relevant(longer)] == ["a", "late", "brief"]
    assert hit(longer, 1)
    cut = replace(ranked, length=4.2)
    assert [known.file for known in relevant(cut)] == ["a"]


def test_a_use_without_places_is_asked_for_and_an_empty_query_is_not_scored():
    unplaced = replace(outcome(["a"], [use(occurrences=())]), length=1.0)
    assert average_precision(unplaced) == 1.0
    nothing = replace(outcome(["b"]), length=2.0)  # its sample begins later
    figures = summarise([unplaced, nothing], 0.5, {"a", "b"})
    for key in ("map", "map_lenient", "hr1", "hr10"):
        assert (figures[key]["value"], figures[key]["n"]) == (1.0, 1)
    assert figures["false_alarms"]["n"] == 0


def test_what_is_annotated_beyond_the_end_is_asked_for_without_a_place(tmp_path):
    write_wav(tmp_path / "track.wav", tune(1, 5.0, 16000))
    track = SimpleNamespace(file="track.wav", uses=[SimpleNamespace(to_dict=use)])
    found = answer(tmp_path, track, lambda audio, without: [Ranked("a", 0.9)])
    assert [o["start"] for o in found.uses[0]["occurrences"]] == [4.0]
    write_wav(tmp_path / "track.wav", tune(1, 3.0, 16000))
    found = answer(tmp_path, track, lambda audio, without: [])
    assert found.uses[0]["occurrences"] == []
    assert len(relevant(found)) == 1
    assert average_precision(found) == 0.0


def test_hits_are_counted_once_per_recording():
    ranked = outcome(["b", "b", "a"])
    assert (hit(ranked, 1), hit(ranked, 2), hit(outcome([]), 1)) == (False, True, False)


@pytest.mark.parametrize(
    ("occurrence", "near"),
    [
        ([4.0, 6.0, 10.0, 12.0], True),
        ([4.5, 5.5, 10.5, 11.5], True),
        ([4.0, 6.0, 10.6, 12.6], False),
        ([15.0, 17.0, 10.0, 12.0], False),
    ],
)
def test_a_place_is_right_within_half_a_second(occurrence, near):
    assert is_near(outcome(["a", "b"], occurrences=[occurrence])) == near
    assert not is_near(outcome(["b", "a"], occurrences=[occurrence]))


def test_errors_and_overlap_by_hand():
    right = outcome(
        ["a"],
        tempo_ratio=1.005,
        semitones=0.2,
        part="mix",
        occurrences=[[4.02, 6.0, 10.0, 12.0], [8.04, 10.0, 10.0, 12.0]],
    )
    assert all(errors(right).values())
    assert overlap(right) == pytest.approx(3.94 / 4.0, abs=0.01)
    wrong = outcome(["a"], tempo_ratio=1.02, semitones=0.3, occurrences=[[4.1, 6.0, 10.0, 12.0]])
    assert not any(errors(wrong).values())
    other = errors(outcome(["a"], tempo_ratio=1.0, semitones=0.0, part="bass"))
    assert (other["part"], other["named"]) == (False, True)
    assert overlap(wrong) == pytest.approx(1.9 / 4.0, abs=0.01)
    assert errors(outcome(["b"], tempo_ratio=1.0, semitones=0.0)) is None
    assert overlap(outcome(["b"])) is None


def test_the_summary_counts_false_alarms_on_sample_free_tracks():
    found = [outcome(["a"], probabilities=[p]) for p in (0.9, 0.8, 0.3)]
    free = [outcome(["b"], [], [p]) for p in (0.95, 0.1, 0.1, 0.1)]
    figures = summarise([*found, *free], 0.5, {"a"})
    assert figures["map"]["value"] == 1.0
    assert figures["recall"]["value"] == pytest.approx(2 / 3)
    assert figures["false_alarms"]["value"] == 0.25
    assert figures["hr1_at_0.02"]["value"] == 0.0
    assert figures["map loop"]["n"] == 3
    assert figures["map +0…+6 dB"]["n"] == 3


def test_a_share_of_false_alarms_is_used_in_full():
    free = [replace(outcome(["b"], [], [i / 100]), query=f"free {i}") for i in range(100)]
    found = [outcome(["a"], probabilities=[p]) for p in (0.985, 0.975, 0.965)]
    figures = summarise([*found, *free], 0.5, {"a"})
    assert figures["hr1_at_0.02"]["value"] == pytest.approx(2 / 3)  # above 0.97: two alarms
    assert figures["hr1_at_0.01"]["value"] == pytest.approx(1 / 3)


def test_intervals_do_not_take_tracks_of_one_group_for_independent():
    in_groups = [outcome([name] * 5, [use("a", group=name)]) for name in ["a"] * 20 + ["b"] * 20]
    found = summarise(in_groups, 0.5, {"a"})["map"]
    assert (found["value"], found["low"], found["high"], found["n"]) == (0.5, 0.0, 1.0, 40)
    alone = [replace(outcome(["b"], []), query=name) for name in ("q1", "q2")]
    known = {key: value for key, value in use("c").items() if key != "group"}
    several = [*in_groups[:2], outcome([], [known]), *alone, outcome([], [known, use("a")])]
    assert clusters(several).tolist() == [0, 0, 1, 2, 3, 1]


def test_a_fit_tells_right_from_wrong_and_keeps_the_false_alarms():
    rng = np.random.default_rng(0)

    def ranked(name, z):
        row = np.array([1.0, 0.5, 0.0, z, z, 0.3, 1.0, 1.0]) + 0.1 * rng.normal(size=8)
        return Ranked(name, 0.5, 1.0, 0.0, features=[*row.tolist(), *[0.0] * 10])

    outcomes = []
    for i in range(200):
        uses = [use()] if i % 2 else []
        ranking = [ranked("a", 8.0 if uses else 4.0), ranked("b", 4.0)]
        outcomes.append(SampleOutcome(f"{i}", 20.0, 0.0, 1.0, uses, ranking))
    fitted = fit(outcomes)
    assert (fitted.n_tracks, fitted.n_free) == (200, 100)
    assert fitted.weights[8:] == (0.0,) * 10  # no nodes, no changes, no other method, no classifier
    level = [1 / (1 + np.exp(-np.dot(fitted.weights, o.ranking[0].features))) for o in outcomes]
    assert min(level[1::2]) > fitted.threshold
    assert np.mean(np.array(level[::2]) > fitted.threshold) <= 0.02
    with pytest.raises(ParameterError, match="tracks that do not"):
        fit(outcomes[1::2])


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    corpus = make_crate_corpus(folder / "corpus")
    distractor = folder / "far.wav"
    write_wav(distractor, tune(55, 20.0, 16000))
    plan = SamplePlan(3, 2, seconds=(12.0, 14.0), split="train", seed=1)
    return SampleEvaluation([corpus], folder / "made", plan, [distractor])


class Windows:
    """Stands in for the encoder: levels in a few bands and moments."""

    method, model_id, sample_rate = "samples", "levels-1", 16000
    hop_seconds, segment_seconds = 0.512, 4.096
    card = SimpleNamespace(calibration={})

    def fingerprint_blocks(self, blocks):
        audio = Audio(np.concatenate([block.samples for block in blocks]), 16000)
        return self.fingerprint_query(audio)

    def fingerprint_query(self, audio, change=None):
        level = levels(audio.samples)
        level = level[: len(level) // 16 * 16].reshape(-1, 16, 26, 6).mean((1, 3))
        starts = np.arange(0, max(len(level) - 15, 1), 2)
        rows = [level[s : s + 16].ravel() for s in starts]
        values = np.stack([np.resize(row, 16 * 26) for row in rows])
        values = values - values.mean(1, keepdims=True)
        values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)
        times = starts * 0.256
        return Fingerprint(self.method, self.model_id, times, values.astype("f"), audio.duration)


def test_made_tracks_are_asked_about_once_and_scored(evaluation, tmp_path):
    written = evaluation.make()
    assert sorted(bool(w.uses) for w in written) == [False, False, True, True, True]
    with Library(tmp_path / "library", fingerprinters=[Windows()]) as library:
        file_of = evaluation.fill(library)
        n_references = len(evaluation.crate.references)
        assert len(file_of) == n_references + 1 == len(library)
        assert {r.file.file for r in evaluation.crate.references} < set(file_of.values())
        find = evaluation.finder(library, file_of, "samples")
        asked = []

        def counted(audio, without):
            asked.append(audio.duration)
            return find(audio, without)

        journal = tmp_path / "journal.jsonl"
        evaluation.run(written, counted, journal)
        whole = journal.read_text()
        journal.write_text(whole[:-40])  # as a kill leaves it
        outcomes = evaluation.run(written, counted, journal)
        assert len(journal.read_text().splitlines()) == len(whole.splitlines())
        again = evaluation.run(written, counted, journal)
        assert len(asked) == 6
        first, second = (json.dumps([asdict(o) for o in of]) for of in (outcomes, again))
        assert first == second
        facts = {
            "library": "x",
            "method": "samples",
            "plan": {"n_tracks": 3, "n_free": 2, "split": "train", "seed": 1},
            "tables": tables(outcomes, (), library, evaluation.references),
        }
    text = markdown(facts)
    assert "| mAP, strict | " in text
    assert "| mAP, lenient: distractors left out, first 20, mean over found recordings | " in text
    assert evaluation.references == {r.file.file for r in evaluation.crate.references}
    assert "| false alarms at the default threshold | " in text
    assert {r.file for o in outcomes for r in o.ranking} <= set(file_of.values())
    lengths = SampleEvaluation.__new__(SampleEvaluation)
    lengths.__dict__ |= evaluation.__dict__ | {"plan": SamplePlan(3, 2, lengths=(2.0, 5.0))}
    sampling = [w for w in written if w.uses][:1]
    short = lengths.run(sampling, by_chance(["a", "b"], 0), tmp_path / "short.jsonl")
    assert [round(o.length) for o in short] == [2, 5]
    assert short[0].start == pytest.approx(
        min(o.start for use in sampling[0].uses for o in use.occurrences)
    )


@pytest.mark.parametrize(("seconds", "n_stretches"), [(20.0, 1), (60.0, 3)])
def test_a_track_is_measured_as_users_are_answered(tmp_path, monkeypatch, seconds, n_stretches):
    monkeypatch.setattr(sample_stretches, "LONGEST", 30.0)
    monkeypatch.setattr(sample_stretches, "STRETCH", 25.0)
    monkeypatch.setattr(sample_stretches, "OVERLAP", 5.0)
    track = 0.05 * tune(9, seconds, 16000).samples
    for i in range(4):
        sound = tune(i, 15.0, 16000)
        write_wav(tmp_path / f"{i}.wav", sound)
        if i < n_stretches:
            track[(2 + 20 * i) * 16000 :][: 8 * 16000] += sound.samples[3 * 16000 : 11 * 16000]
    audio = Audio(track.astype("f"), 16000)
    with Library(tmp_path / "library", fingerprinters=[Windows()]) as library:
        library.add(sorted(tmp_path.glob("*.wav")))
        answer = library.find_samples(audio, top=99)
        open_finder, asked = library.sample_finder, []

        def counted(part, *rest, **options):
            asked.append(part.duration)
            return open_finder(part, *rest, **options)

        monkeypatch.setattr(library, "sample_finder", counted)
        ranking = by_samples(library, {r.id: r.path for r in library})(audio, ())
    assert len(asked) == n_stretches
    heard = [r for r in ranking if r.features]
    told = [(m.recording.path, m.probability, m.occurrences[0].query_start) for m in answer.matches]
    assert [(r.file, r.probability, r.occurrences[0][0]) for r in heard] == told
    assert [match.recording.name for match in answer.found] == ["0.wav"]
    only_nominated = [r.file for r in ranking[len(heard) :]]
    assert len(set(only_nominated)) == len(only_nominated)
    assert not {r.file for r in heard} & set(only_nominated)


def test_a_silent_query_samples_nothing():
    assert by_samples(None, {})(Audio(np.zeros(16000, "f"), 16000), ()) == []


def test_what_shares_material_is_neither_right_nor_wrong(evaluation, tmp_path):
    track = next(t for t in evaluation.make() if t.uses)
    used = track.uses[0]
    evaluation.groups |= {"cover": used.group, "stranger": "elsewhere"}
    assert "cover" in evaluation.akin(track)
    assert not {"stranger", used.file} & evaluation.akin(track)
    find = by_chance(["cover", "stranger", used.file, "unlisted"], 0)
    (outcome,) = evaluation.run([track], find, tmp_path / "journal.jsonl")
    assert sorted(r.file for r in outcome.ranking) == sorted(["stranger", used.file, "unlisted"])


def test_a_repetition_of_the_sound_is_the_right_place():
    bar = tune(3, 4.0, 16000).samples
    other = tune(4, 4.0, 16000).samples
    known = levels(np.concatenate([bar, other, bar, other]))  # bars begin at 0 and at 8 s
    taken = Use.from_dict(use(source_start=1.0, source_end=3.0, occurrences=[
        {"start": 4.0, "end": 6.0, "source_start": 1.0, "source_end": 3.0}
    ]))  # fmt: skip
    assert repeats(known, [taken], [[4.0, 6.0, 1.0, 3.0]], 0.0)
    assert repeats(known, [taken], [[4.0, 6.0, 9.0, 11.0]], 0.0)
    assert repeats(known, [taken], [[3.0, 5.0, 9.0, 11.0]], 1.0)
    assert not repeats(known, [taken], [[4.0, 6.0, 5.0, 7.0]], 0.0)
    assert not repeats(known, [taken], [[14.0, 16.0, 9.0, 11.0]], 0.0)
    far = {"tempo_ratio": 1.0, "semitones": 0.0, "occurrences": [[4.0, 6.0, 30.0, 32.0]]}
    assert is_heard_there(outcome(["a"], **far)) is False
    assert is_heard_there(outcome(["a"], **far, repeats=True))
    assert not is_heard_there(outcome(["b", "a"], **far, repeats=True))


def test_where_drums_are_sampled_their_repetition_is_the_right_place(tmp_path):
    drums = np.tile(tune(3, 4.0, 16000).samples, 2)  # a bar that is played twice,
    chords = tune(4, 8.0, 16000).samples  # under what goes on
    for name, sound in (("mix", 0.2 * drums + chords), ("drums", drums)):
        write_wav(tmp_path / f"{name}.wav", Audio(sound.astype("f"), 16000))
    mix, stem = (SimpleNamespace(path=tmp_path / f"{name}.wav") for name in ("mix", "drums"))
    judge = SampleEvaluation.__new__(SampleEvaluation)
    judge.sources = {"a": SimpleNamespace(file=mix, stems=(("drums", stem),))}
    judge._known = levels_of
    taken = {"source_start": 1.0, "source_end": 3.0, "occurrences": [
        {"start": 4.0, "end": 6.0, "source_start": 1.0, "source_end": 3.0}
    ]}  # fmt: skip
    found = outcome(["a"], tempo_ratio=1.0, semitones=0.0, occurrences=[[4.0, 6.0, 5.0, 7.0]])
    for part, heard in (("drums", True), ("mix", False), ("harmonic", False)):
        track = SimpleNamespace(uses=[Use.from_dict(use(part=part, **taken))])
        assert judge.scored(track, found).ranking[0].repeats == heard


def test_unknown_methods_are_named(evaluation):
    with pytest.raises(ParameterError, match="choose from: samples, segments"):
        evaluation.finder(None, {}, "ears")


def test_methods_that_say_where_to_listen_stand_behind_samples():
    assert held_for("samples+segments+landmarks") == ["samples", "segments", "landmarks"]
    assert held_for("landmarks") == ["landmarks"]
    assert held_for("random") == ["segments"]
    for method in ("samples+ears", "segments+samples", "landmarks+segments", ""):
        with pytest.raises(ParameterError, match=r"samples\+segments\+landmarks"):
            held_for(method)


def test_an_unknown_method_is_refused_before_tracks_are_made(tmp_path):
    class Benchmark:
        plan = None

        def make(self, report):
            raise AssertionError("tracks were made")

    with pytest.raises(ParameterError, match="unknown method 'wrong'; choose from: samples"):
        _measure_samples(Benchmark(), "wrong", {}, tmp_path, None, None, 1)
