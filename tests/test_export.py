"""A trained network and its ONNX file agree, and the file describes itself."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("onnx", reason="needs the extra train")

from fakes import tune
from spolia.audio import Audio
from spolia.degradation import change_speed
from spolia.encoders import Encoder, open_model, shipped_models
from spolia.errors import ModelError, ModelNotFound
from spolia.fingerprints.base import Change
from spolia.fingerprints.segments import SegmentFingerprinter
from spolia.networks.nafp import Nafp, NafpConfig
from spolia.networks.segment_encoder import SegmentEncoder, SegmentEncoderConfig
from spolia.training.export import export_encoder, update_card

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    config = SegmentEncoderConfig(channels=(8, 16, 32, 64), hidden=64, dim=32)
    model = SegmentEncoder(config).eval()
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    export_encoder(model, path, name="tiny", training={"steps": 0})
    return model, path


def test_nafp_exports_too(tmp_path):
    torch.manual_seed(0)
    channels = (4, 4, 8, 8, 8, 8, 16, 16)
    model = Nafp(NafpConfig(channels=channels, dim=16, hidden=4)).eval()
    export_encoder(model, tmp_path / "nafp.onnx", name="nafp", training={})
    x = waveform(5.0, rows=2)
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    assert (expected * Encoder(tmp_path / "nafp.onnx").encode(x)).sum(-1).min() > 0.999


def waveform(seconds, seed=0, rows=1):
    return np.random.default_rng(seed).normal(0, 0.1, (rows, round(8000 * seconds))).astype("f")


@pytest.mark.parametrize(("rows", "seconds"), [(1, 1.2), (3, 2.0), (2, 31.7)])
def test_onnx_equals_torch_at_any_size(exported, rows, seconds):
    model, path = exported
    x = waveform(seconds, rows=rows)
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    found = Encoder(path).encode(x)
    cosine = (expected * found).sum(-1)
    assert cosine.min() > 0.9999  # weights are stored in half precision


@pytest.mark.parametrize("level", [0.0, 1e-6, 1e-4, 1e-2])
def test_quiet_and_silent_sound_is_finite(exported, level):
    """The exporter once dropped the floor under the logarithm: silence became NaN."""
    found = Encoder(exported[1]).encode(level * waveform(3.0))
    assert np.isfinite(found).all()


def test_the_file_describes_itself(exported):
    card = Encoder(exported[1]).card
    assert card.id.startswith("segment-")
    assert (card.sample_rate, card.segment, card.hop, card.dim) == (8000, 8500, 4000, 32)
    assert card.architecture["front_end"]["bands_per_octave"] == 18
    assert len(card.check) == 8


def test_verify_agrees_and_a_tampered_check_fails(exported, tmp_path):
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(exported[1].read_bytes())
    assert Encoder(copy).verify() < 1e-4
    update_card(copy, check=[9.0] * 8)
    with pytest.raises(ModelError, match="self-check"):
        Encoder(copy).verify()


def test_a_file_tells_nothing_of_the_machine_it_was_made_on(exported):
    content = exported[1].read_bytes()
    assert b'.py", line' not in content
    for name in shipped_models():
        assert b'.py", line' not in open_model(name).path.read_bytes()


def test_calibrating_keeps_the_id(exported, tmp_path):
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(exported[1].read_bytes())
    before = Encoder(copy).card.id
    update_card(copy, calibration={"weights": [0, 1, 0, 0, 0, 0, 0, 0], "threshold": 0.5})
    assert Encoder(copy).card.id == before
    assert Encoder(copy).card.calibration["threshold"] == 0.5


def test_a_long_recording_equals_its_blocks(exported):
    """Blocks carry margins: the vectors are those of the whole at once."""
    model, path = exported
    fingerprinter = SegmentFingerprinter(Encoder(path))
    samples = waveform(150.0)[0]
    whole = Encoder(path).encode(samples[None])[0]
    blocks = fingerprinter.fingerprint_blocks(
        Audio(part, 8000) for part in np.split(samples, [70000, 70001, 900000])
    )
    n = min(len(whole), len(blocks))
    assert abs(len(whole) - len(blocks)) <= 1
    assert (whole[:n] * blocks.values[:n]).sum(1).min() > 0.99999
    assert np.allclose(np.diff(blocks.times), 0.5)


def test_silent_segments_are_left_out(exported):
    samples = waveform(12.0)[0]
    samples[32000:64000] = 0
    fingerprint = SegmentFingerprinter(Encoder(exported[1])).fingerprint(Audio(samples, 8000))
    assert not ((fingerprint.times > 4.0) & (fingerprint.times < 6.9)).any()
    assert (
        len(SegmentFingerprinter(Encoder(exported[1])).fingerprint(Audio(0 * samples, 8000))) == 0
    )


def test_a_query_is_denser_and_in_order(exported):
    fingerprinter = SegmentFingerprinter(Encoder(exported[1]))
    audio = Audio(waveform(5.0)[0], 8000)
    query, reference = fingerprinter.fingerprint_query(audio), fingerprinter.fingerprint(audio)
    assert len(query) > 3 * len(reference)
    assert (np.diff(query.times) > 0).all()
    on_grid = np.isin(query.times, reference.times)
    assert np.allclose(query.values[on_grid], reference.values, atol=1e-4)


def test_one_second_is_enough(exported):
    fingerprinter = SegmentFingerprinter(Encoder(exported[1]))
    second = Audio(waveform(1.0)[0], 8000)
    assert len(fingerprinter.fingerprint_query(second)) >= 1
    assert len(fingerprinter.fingerprint_query(second, Change(2.0, 1.1))) >= 1


def test_a_warp_in_the_file_equals_torch(exported):
    model, path = exported
    x = waveform(3.0, rows=2)
    frames = np.arange(50, dtype=np.float32) * 1.1
    bands = torch.arange(80.0) - 1.5 * 2.0
    with torch.no_grad():
        expected = model(torch.from_numpy(x), bands, torch.from_numpy(frames)).numpy()
    found = Encoder(path).encode(x, semitones=2.0, frames=frames)
    assert (expected * found).sum(-1).min() > 0.9999


def test_a_change_by_nothing_gives_the_vectors_of_the_query(exported):
    """Half as many phases, and in stretches of a minute, but the same vectors at the same times."""
    fingerprinter = SegmentFingerprinter(Encoder(exported[1]))
    audio = Audio(waveform(70.0)[0], 8000)
    plain = fingerprinter.fingerprint_query(audio)
    changed = fingerprinter.fingerprint_query(audio, Change(1e-9))
    inside = (changed.times > 1) & (changed.times < 68) & (abs(changed.times - 60) > 2)
    place = np.searchsorted(plain.times, changed.times[inside] - 1e-6)
    np.testing.assert_allclose(plain.times[place], changed.times[inside], atol=1e-6)
    assert (plain.values[place] * changed.values[inside]).sum(1).min() > 0.999
    assert len(plain) - 8 <= 2 * len(changed) <= len(plain) + 8


@pytest.mark.parametrize("speed", [1.06, 0.94])
def test_undoing_a_change_of_speed_brings_vectors_and_times_back(exported, speed):
    fingerprinter = SegmentFingerprinter(Encoder(exported[1]))
    record = tune(3, seconds=20.0)
    query = change_speed(record, speed)
    undo = Change(-12 * float(np.log2(speed)), 1 / speed)
    reference = fingerprinter.fingerprint(record)
    gains = []
    for change in (Change(1e-9), undo):
        changed = fingerprinter.fingerprint_query(query, change)
        middle = (changed.times + fingerprinter.segment_seconds / 2) * speed
        nearest = np.round((middle - fingerprinter.segment_seconds / 2) / 0.5).astype(int)
        near = abs((middle - fingerprinter.segment_seconds / 2) - 0.5 * nearest) < 0.07
        near &= (nearest >= 0) & (nearest < len(reference))
        same = (changed.values[near] * reference.values[nearest[near]]).sum(1)
        gains.append(1 - float(same.mean()))
    assert gains[1] < 0.6 * gains[0]


def test_silence_is_left_out_of_changed_queries_too(exported):
    fingerprinter = SegmentFingerprinter(Encoder(exported[1]))
    samples = waveform(12.0)[0]
    samples[32000:64000] = 0
    times = fingerprinter.fingerprint_query(Audio(samples, 8000), Change(1.0)).times
    assert len(times)
    assert not ((times > 4.0) & (times < 6.9)).any()


def test_a_model_without_a_logarithmic_axis_has_no_changes(tmp_path):
    model = Nafp(NafpConfig(channels=(4, 4, 8, 8, 8, 8, 16, 16), dim=16, hidden=2)).eval()
    export_encoder(model, tmp_path / "nafp.onnx", name="nafp", training={})
    encoder = Encoder(tmp_path / "nafp.onnx")
    assert SegmentFingerprinter(encoder).query_changes == ()
    with pytest.raises(ModelError, match="cannot undo"):
        encoder.encode(waveform(3.0), semitones=1.0)


def test_not_a_model(tmp_path):
    with pytest.raises(ModelNotFound, match="nowhere"):
        open_model(str(tmp_path / "nowhere.onnx"))
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a model")
    with pytest.raises(ModelError, match="not a readable ONNX model"):
        Encoder(bad).card.id


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_models_verify(name):
    encoder = open_model(name)
    assert encoder.verify() < encoder.tolerance
    assert encoder.card.calibration
    assert encoder.card.training["data"]["track"]["attributions"]
    most = 12_000_000 if encoder.card.kind == "sample" else 8_000_000
    assert encoder.path.stat().st_size <= most


@pytest.mark.parametrize("quantised", [False, True])
def test_a_run_encoder_exports_with_its_base_and_checks_itself(exported, tmp_path, quantised):
    from spolia.encoders import open_compressor, open_encoder
    from spolia.networks.run_encoder import RunEncoder, RunEncoderConfig
    from spolia.training.export import export_run_encoder

    torch.manual_seed(0)
    config = RunEncoderConfig(dim_in=32, dim=24, longest=9, n_layers=2, n_heads=2, hidden=32)
    model, base = RunEncoder(config).eval(), Encoder(exported[1]).card
    path = tmp_path / "runs.onnx"
    options = {"name": "runs", "base": base, "training": {}, "quantised": quantised}
    card = export_run_encoder(model, path, **options)
    assert (card.kind, card.base, card.dim) == ("compressed", base.id, 24)
    assert open_model(str(path)).verify() < 1e-5
    runs = np.random.default_rng(0).normal(size=(5, 9, 32)).astype("f")
    runs /= np.linalg.norm(runs, axis=2, keepdims=True)
    padding = np.arange(9) >= np.array([[9], [1], [4], [9], [6]])
    with torch.no_grad():
        expected = model(torch.from_numpy(runs), torch.from_numpy(padding)).numpy()
    compressor = open_compressor(str(path))
    found = compressor.compress(runs, padding)
    assert (found * expected).sum(1).min() > (0.98 if quantised else 0.99999)
    alone = compressor.compress(runs[1:2, :1], padding[1:2, :1])
    np.testing.assert_allclose(alone, found[1:2], atol=0.1 if quantised else 1e-4)
    with pytest.raises(ModelError, match="of kind 'compressed'; give one of kind 'segment'"):
        open_encoder(str(path))


def test_a_calibration_is_written_into_a_model_file_or_refused(exported, tmp_path):
    from typer.testing import CliRunner

    from spolia.cli import app
    from spolia.encoders import read_card
    from spolia.errors import ParameterError

    copy, file = tmp_path / "copy.onnx", tmp_path / "calibration.json"
    copy.write_bytes(exported[1].read_bytes())
    known = read_card(copy)
    sound = {"weights": [0.0, 1.0, *[0.0] * 5], "threshold": 0.5}
    values = {"weights": [0.1] * 9, "threshold": 0.5, "confirmation": sound}
    file.write_text(json.dumps(values))
    run = CliRunner().invoke(app, ["train", "calibrate", str(copy), str(file)])
    assert run.exit_code == 0, run.output
    assert read_card(copy).calibration == values
    assert read_card(copy).id == known.id
    assert SegmentFingerprinter(model=str(copy)).confirmation.threshold == 0.5
    for text, message in (("{}", "not a calibration"), ("no JSON", "give a file of evaluate")):
        file.write_text(text)
        run = CliRunner().invoke(app, ["train", "calibrate", str(copy), str(file)])
        assert isinstance(run.exception, ParameterError)
        assert message in str(run.exception)
    assert read_card(copy).calibration == values


def test_a_classifier_takes_a_calibration_of_samples_and_a_compressor_one_of_clips(tmp_path):
    from importlib import resources

    from typer.testing import CliRunner

    from spolia.cli import app
    from spolia.encoders import read_card
    from spolia.samples import UNFITTED

    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(UNFITTED.to_dict()))
    copies = {name: tmp_path / f"{name}.onnx" for name in ("classifier", "compressed")}
    for name, copy in copies.items():
        copy.write_bytes((resources.files("spolia") / f"weights/{name}.onnx").read_bytes())
    before = copies["compressed"].read_bytes()
    run = CliRunner().invoke(app, ["train", "calibrate", str(copies["classifier"]), str(file)])
    assert run.exit_code == 0, run.output
    assert read_card(copies["classifier"]).calibration["threshold"] == UNFITTED.threshold
    run = CliRunner().invoke(app, ["train", "calibrate", str(copies["compressed"]), str(file)])
    assert "not a calibration" in str(run.exception)
    assert copies["compressed"].read_bytes() == before
    values = {"weights": [0.1] * 9, "threshold": 0.5}
    file.write_text(json.dumps(values))
    run = CliRunner().invoke(app, ["train", "calibrate", str(copies["compressed"]), str(file)])
    assert run.exit_code == 0, run.output
    assert read_card(copies["compressed"]).calibration == values
    assert read_card(copies["compressed"]).id == open_model("compressed").card.id
