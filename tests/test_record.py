"""What a benchmark measured, in a model's card."""

import json
from importlib import resources

import pytest
from typer.testing import CliRunner

from spolia.cli import app
from spolia.encoders import read_card
from spolia.errors import ParameterError
from spolia.evaluation.record import recorded, replaced
from spolia.model_card import render

CONDITIONS = ("all", "clean", "noise")


@pytest.fixture
def model(tmp_path):
    copy = tmp_path / "segment.onnx"
    copy.write_bytes((resources.files("spolia") / "weights/segment.onnx").read_bytes())
    return copy


def rate(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.05, "n": 10}


def written(folder, facts):
    file = folder / "results.json"
    file.write_text(json.dumps({**facts, "outcomes": []}))
    return file


def of_identify(model, value=0.9):
    def at(shift):
        top1 = {name: rate(value + shift) for name in CONDITIONS}
        rest = ("within_0.1s", "within_0.5s", "false_accepts", "recall", "speed")
        return {"top1": top1, **{key: rate(0.5 + shift) for key in rest}}

    return {
        "plan": {"n_places": 38, "n_absent": 8, "seed": 3, "fold": 1},
        "library": f"5634 recordings, 78.6 h, segments ({read_card(model).id})",
        "method": "segments",
        "table": {"1": at(-0.2), "2": at(0.0), "10": at(0.05)},
    }


def of_samples(model, **plan):
    figures = {"map": 0.469, "hr1": 0.49, "hr10": 0.52, "there": 0.9, "recall": 0.4}
    figures |= {"false_alarms": 0.1, "hr1_at_0.02": 0.4, "map both": 0.37, "iou": 0.9}
    return {
        "plan": {"n_tracks": 200, "n_free": 100, "split": "val", "seed": 0, **plan},
        "library": "1916 recordings",
        "method": "samples",
        "classifier": read_card(model).id,
        "tables": {"track": {key: rate(value) for key, value in figures.items()}},
        "note": "crosswise",
    }


def test_measured_figures_are_written_into_a_model_and_its_card(model, tmp_path):
    known = read_card(model)
    file = written(tmp_path, of_identify(model))
    run = CliRunner().invoke(app, ["train", "record", str(model), str(file)])
    assert run.exit_code == 0, run.output
    card = read_card(model)
    assert (card.id, card.calibration, card.check) == (known.id, known.calibration, known.check)
    lines = render(card).splitlines()
    command = "spolia evaluate identify --method segments --known 38 --absent 8 --fold 1 --seed 3"
    assert f"`{command}`" in lines
    assert "| % [95 % interval] | 1 s | 2 s | 10 s |" in lines  # in the order of the table
    row = "| Top-1, noise | 70.0 [60.0, 75.0] | 90.0 [80.0, 95.0] | 95.0 [85.0, 100.0] |"
    assert row in lines
    assert any(line.startswith("| false accepts of absent") for line in lines)
    assert "- none recorded" not in lines


def test_a_run_that_is_repeated_replaces_its_figures_and_another_stands_beside(model, tmp_path):
    first = recorded(written(tmp_path, of_identify(model)), read_card(model))
    again = recorded(written(tmp_path, of_identify(model, value=0.8)), read_card(model))
    other = recorded(written(tmp_path, of_samples(model)), read_card(model))
    assert replaced([first, other], again) == [other, again]
    assert replaced([first], other) == [first, other]


def test_figures_of_samples_are_by_what_was_done_too(model, tmp_path):
    found = recorded(written(tmp_path, of_samples(model)), read_card(model))
    assert found["figures"]["columns"] == ["track"]
    rows = dict(found["figures"]["rows"])
    assert rows["mAP, strict"] == [[46.9, 36.9, 51.9]]
    assert rows["mAP, both"] == [[37.0, 27.0, 42.0]]
    assert "overlap of the spans, of right answers" not in rows
    assert found["note"] == "crosswise"
    assert found["command"].endswith("--tracks 200 --free 100 --split val --seed 0")
    of_users = of_samples(model, benchmark="sample100")
    found = recorded(written(tmp_path, of_users), read_card(model))
    assert "--sample100 FOLDER" in found["command"]


def test_results_of_another_model_and_other_files_are_refused(model, tmp_path):
    before = model.read_bytes()
    other = {**of_identify(model), "library": "3 recordings, segments (segment-000000000000)"}
    for facts, message in (
        (other, "was measured with 3 recordings"),
        ({"plan": {}}, "holds no results"),
    ):
        file = written(tmp_path, facts)
        run = CliRunner().invoke(app, ["train", "record", str(model), str(file)])
        assert isinstance(run.exception, ParameterError)
        assert message in str(run.exception)
    with pytest.raises(ParameterError, match="holds no results"):
        recorded(tmp_path / "missing.json", read_card(model))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ParameterError, match="holds no results"):
        recorded(tmp_path / "list.json", read_card(model))
    assert model.read_bytes() == before
