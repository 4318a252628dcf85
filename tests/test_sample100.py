"""A folder laid out as Sample100, made here: reading, what is said of faults, and a whole run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from spolia import cli
from spolia.audio import Audio
from spolia.cli import evaluation_commands
from spolia.encoding import write_wav
from spolia.errors import ParameterError
from spolia.evaluation.sample100 import Sample100, part_of
from spolia.evaluation.samples import Ranked, SampleOutcome, errors, is_near, overlap
from spolia.synthesis import piece

RATE = 16000
HEADINGS = [
    *("sample_id", "target_track_id", "query_track_id", "t_target", "t_query", "n_repetitions"),
    *("estimated_tempo_ratio", "target_instruments", "query_interfering_instruments"),
    *("sample_type", "interpolation", "comments"),
]
ROWS = [
    ["S1", "T1", "T3", "4", "2", "2", "1.0", "drums/bass", "vocals", "riff", "no", "made up"],
    ["S2", "T2", "T3", "6", "10", "9", "1.25", "drums?", "", "beat", "yes", ""],
    ["S3", "T2", "T4", "6", "1", "", "", "other", "vocals", "1-note", "maybe", "no file"],
]
ANNOTATIONS = {
    "S1": (
        [
            {"start_time": 2.0, "end_time": 6.0, "id": 1, "type": "occurrence"},
            {"start_time": 6, "end_time": 10.0, "id": 1},
        ],
        [{"start_time": 4.0, "end_time": 8.0, "id": 1}],
    ),
    "S2": (
        [
            {"start_time": 0.0, "end_time": 10.0, "id": 0, "type": "absence"},
            {"start_time": 10.0, "end_time": 12.0, "id": 1, "type": "occurrence"},
            {"start_time": 12.0, "end_time": 13.0, "id": 3, "type": "partial occurrence"},
            {"start_time": 13.0, "end_time": 14.0, "id": 0},
        ],
        [{"start_time": 6.0, "end_time": 8.5, "id": 1, "type": "occurrence"}],
    ),
}


def write_rows(folder, rows, headings=HEADINGS):
    with (folder / "samples.csv").open("w", newline="") as out:
        csv.writer(out).writerows([headings, *rows])


def write_annotation(folder, name, query, target):
    sides = {"query_time_annotations": query, "target_time_annotations": target}
    (folder / "annotations" / f"{name}.json").write_text(json.dumps({**sides, "sample_id": name}))


@pytest.fixture(scope="module")
def sounds():
    """Two recordings, a track that plays stretches of both, and one of the second alone."""
    drawn = [piece(np.random.default_rng(i), seconds=14.0).samples for i in range(4)]
    one, two, own, distractor = drawn
    track = 0.2 * own
    track[2 * RATE : 6 * RATE] += one[4 * RATE : 8 * RATE]
    track[6 * RATE : 10 * RATE] += one[4 * RATE : 8 * RATE]
    track[10 * RATE : 12 * RATE] += two[6 * RATE : 8 * RATE]
    return {"T1": one, "T2": two, "T3": track, "T4": two[5 * RATE : 11 * RATE], "T9": distractor}


@pytest.fixture
def folder(sounds, tmp_path):
    folder = tmp_path / "sample100"
    for name in ("audio", "annotations"):
        (folder / name).mkdir(parents=True)
    for name, sound in sounds.items():
        write_wav(folder / "audio" / f"{name}.wav", Audio(sound.astype("f"), RATE))
    write_rows(folder, ROWS)
    for name, sides in ANNOTATIONS.items():
        write_annotation(folder, name, *sides)
    return folder


def test_tracks_are_what_the_folder_says(folder):
    benchmark = Sample100(folder)
    both, alone = benchmark.make()
    assert (both.file, alone.file) == ("audio/T3.wav", "audio/T4.wav")
    assert benchmark.warning is None
    one, two = both.uses
    assert (one.file, one.tempo_ratio, one.part, one.kind) == ("audio/T1.wav", 1.0, "mix", "riff")
    assert (one.manner, one.semitones, one.complete) == (None, None, True)
    assert [(o.start, o.end, o.source_start) for o in one.occurrences] == [(2, 6, 4), (6, 10, 4)]
    assert (two.tempo_ratio, two.part, two.kind) == (1.25, None, "break")
    assert (two.manner, two.complete) == ("interpolated", False)
    assert [(o.start, o.source_end) for o in two.occurrences] == [(10.0, 8.5), (12.0, None)]
    (three,) = alone.uses
    assert (three.tempo_ratio, three.part, three.kind) == (None, "harmonic", "note")
    assert (three.occurrences, three.complete) == ((), False)


def test_the_library_holds_sampled_recordings_and_no_track_that_is_asked_about(folder):
    benchmark = Sample100(folder, distractors=[folder / "audio"])
    assert benchmark.references == {"audio/T1.wav", "audio/T2.wav"}
    held = {Path(path).stem: name for path, name in benchmark.names.items()}
    assert held == {
        "T1": "audio/T1.wav",
        "T2": "audio/T2.wav",
        "T9": str(folder / "audio" / "T9.wav"),
    }


def test_the_first_edition_is_read_by_its_names(folder):
    older = [{"target_track_id": "original_track_id"}.get(h, h) for h in HEADINGS]
    older = [{"query_track_id": "sample_track_id"}.get(h, h) for h in older]
    new = Sample100(folder).make()
    write_rows(folder, ROWS, older)
    assert Sample100(folder).make() == new


def test_only_tracks_with_a_place_are_asked_about_by_length(folder):
    benchmark = Sample100(folder, lengths=(2.0, 5.0))
    assert [track.file for track in benchmark.make()] == ["audio/T3.wav"]
    assert benchmark.plan.n_tracks == 1


def test_missing_audio_is_counted_and_left_out(folder):
    (folder / "audio" / "T1.wav").unlink()
    benchmark = Sample100(folder)
    assert "1 of 4 tracks have no file in " in benchmark.warning
    assert benchmark.warning.endswith("are left out: T1")
    assert [[use.file for use in t.uses] for t in benchmark.make()] == [["audio/T2.wav"]] * 2
    (folder / "audio" / "T2.wav").unlink()
    with pytest.raises(ParameterError, match="no track of samples.csv together"):
        Sample100(folder)


def changed(row, column, value):
    rows = [list(r) for r in ROWS]
    rows[row][HEADINGS.index(column)] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (changed(1, "estimated_tempo_ratio", "beat"), "line 3: estimated_tempo_ratio is 'beat'"),
        (changed(0, "estimated_tempo_ratio", "0"), "give a number above 0"),
        (changed(2, "n_repetitions", "many"), "line 4: n_repetitions is 'many'"),
        (changed(0, "target_track_id", " "), "line 2: target_track_id is ''"),
        (changed(0, "sample_id", "../S1"), "line 2: sample_id is '../S1'"),
        ([["S1"]], "line 2: target_track_id is ''"),
    ],
)
def test_a_malformed_row_is_named(folder, rows, said):
    write_rows(folder, rows)
    with pytest.raises(ParameterError, match="samples.csv") as error:
        Sample100(folder)
    assert said in str(error.value)


SPAN = {"start_time": 0.0, "end_time": 1.0, "id": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "S1.json is no JSON"),
        ("[]", "S1.json has no list query_time_annotations"),
        (json.dumps({"query_time_annotations": [SPAN]}), "no list target_time_annotations"),
        (
            json.dumps(
                {
                    "query_time_annotations": [SPAN, {**SPAN, "start_time": 2.0}],
                    "target_time_annotations": [SPAN],
                }
            ),
            "S1.json: entry 2 of query_time_annotations lasts from 2.0 to 1.0",
        ),
        (
            json.dumps(
                {"query_time_annotations": [], "target_time_annotations": [{"start_time": 1}]}
            ),
            "entry 1 of target_time_annotations lasts from 1 to None",
        ),
    ],
)
def test_a_malformed_annotation_is_named(folder, content, said):
    (folder / "annotations" / "S1.json").write_text(content)
    with pytest.raises(ParameterError) as error:
        Sample100(folder)
    assert said in str(error.value)


def test_what_is_missing_is_named(folder):
    write_rows(folder, ROWS, [h.replace("query_track", "track") for h in HEADINGS])
    with pytest.raises(ParameterError, match="has no column query_track_id"):
        Sample100(folder)
    write_wav(folder / "audio" / "T1.flac.wav", Audio(np.zeros(9, "f"), RATE))
    write_rows(folder, ROWS)
    (folder / "audio" / "T1.ogg").write_bytes(b"")
    with pytest.raises(ParameterError, match="holds both T1.ogg and T1.wav; keep one"):
        Sample100(folder)
    with pytest.raises(ParameterError, match="samples.csv does not exist"):
        Sample100(folder / "audio")
    (folder / "audio" / "T1.ogg").unlink()
    (folder / "annotations").rename(folder / "elsewhere")
    with pytest.raises(ParameterError, match="annotations does not exist"):
        Sample100(folder)
    (folder / "audio").rename(folder / "sounds")
    with pytest.raises(ParameterError, match="audio does not exist; put one audio file"):
        Sample100(folder)


@pytest.mark.parametrize(
    ("instruments", "part"),
    [
        ("drums", "drums"),
        ("bass", "bass"),
        ("other/vocals", "harmonic"),
        ("drums/other/", "mix"),
        ("drums/bass?", None),
        ("", None),
    ],
)
def test_the_part_follows_from_the_instruments(instruments, part):
    assert part_of(instruments) == part


def test_places_are_judged_as_far_as_they_are_marked(folder):
    both, _ = Sample100(folder).make()
    uses = [use.to_dict() for use in both.uses]

    def said(name, occurrence):
        first = Ranked(f"audio/{name}.wav", 0.9, 1.0, 0.0, "mix", [occurrence])
        return SampleOutcome(both.file, 14.0, 0.0, 0.1, uses, [first])

    assert is_near(said("T1", [3.0, 4.0, 7.0, 8.4]))
    assert is_near(said("T1", [3.0, 4.0, 9.0, 10.0])) is False
    assert is_near(said("T1", [12.0, 13.0, 5.0, 6.0])) is False
    assert is_near(said("T2", [10.0, 11.0, 6.0, 7.0]))
    assert is_near(said("T2", [12.6, 12.8, 6.0, 7.0])) is None
    assert is_near(said("T2", [4.0, 5.0, 6.0, 7.0])) is None
    assert overlap(said("T1", [2.0, 6.0, 4.0, 8.0])) == pytest.approx(0.5, abs=0.01)
    assert overlap(said("T2", [10.0, 12.0, 6.0, 8.0])) is None
    assert errors(said("T1", [2.0, 6.0, 4.0, 8.0])) == {"tempo": True, "part": True, "named": True}
    assert errors(said("T2", [2.0, 6.0, 4.0, 8.0])) == {"tempo": False}


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation_commands, "cache_folder", lambda: tmp_path / "cache")

    def run(*arguments):
        options = ["evaluate", "samples", "--method", "landmarks", *map(str, arguments)]
        return CliRunner().invoke(cli.app, options)

    return run


def test_the_command_measures_a_folder(folder, run, tmp_path):
    (folder / "audio" / "T4.wav").unlink()
    (folder / "audio" / "T8.wav").write_bytes(b"no sound")
    shared = ("--sample100", folder, "--distractors", folder / "audio", "--out", tmp_path / "out")
    answer = run(*shared)
    assert answer.exit_code == 0, answer.output
    assert "1 of 4 tracks have no file" in answer.stderr
    assert "T8.wav" in answer.stderr
    assert "1 tracks of Sample100 (1 files were missing)" in answer.stdout
    assert "| mAP, strict | 100.0 " in answer.stdout
    assert "| mAP, lenient: distractors left out, first 20, mean over " in answer.stdout
    written = json.loads((tmp_path / "out" / "sample100-landmarks-0.json").read_text())
    assert written["tables"]["track"]["map_lenient"]["value"] == 1.0
    (asked,) = written["outcomes"]
    assert asked["ranking"][0]["file"] == "audio/T1.wav"
    assert asked["query"] not in {r["file"] for r in asked["ranking"]}


def test_lengths_and_json(folder, run):
    answer = run("--sample100", folder, "--lengths", "3,6", "--json")
    assert answer.exit_code == 0, answer.output
    facts = json.loads(answer.stdout)
    assert list(facts["tables"]) == ["3 s", "6 s"]
    assert facts["tables"]["6 s"]["map"]["n"] == 1
    assert facts["tables"]["6 s"]["pitch"]["value"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either --corpus or --sample100"),
        (["--corpus", "c", "--sample100", "s"], "either --corpus or --sample100"),
        (["--sample100", "s", "--calibrate", "c.json"], "--calibrate needs sample-free tracks"),
    ],
)
def test_wrong_usage_is_said_at_once(run, arguments, said):
    answer = run(*arguments)
    assert answer.exit_code == 2
    assert said in " ".join(answer.output.replace("│", " ").split())


@pytest.mark.parametrize("what", ["identify", "samples", "amg"])
def test_a_negative_seed_is_wrong_usage(what):
    answer = CliRunner().invoke(cli.app, ["evaluate", what, "--corpus", "c", "--seed", "-1"])
    assert answer.exit_code == 2
    assert "--seed" in answer.output


def test_an_interrupted_run_goes_on(folder, tmp_path):
    benchmark = Sample100(folder)
    asked = []

    def find(audio, without):
        asked.append(audio.duration)
        if len(asked) == 2:
            raise KeyboardInterrupt
        found = [Ranked("audio/T1.wav", 0.5), Ranked("audio/T3.wav", 0.4)]
        return [ranked for ranked in found if ranked.file not in without]

    journal = tmp_path / "journal.jsonl"
    with pytest.raises(KeyboardInterrupt):
        benchmark.run(benchmark.make(), find, journal)
    first, second = benchmark.run(benchmark.make(), find, journal)
    assert [round(seconds) for seconds in asked] == [14, 6, 6]
    assert [r.file for r in first.ranking] == ["audio/T1.wav"]
    assert len(second.ranking) == 2
