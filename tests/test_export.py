"""A trained network and its ONNX file agree, and the file describes itself."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("onnx", reason="needs the extra train")

from spolia.audio import Audio
from spolia.encoders import Encoder, open_model, shipped_models
from spolia.errors import ModelError, ModelNotFound
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


def test_calibrating_keeps_the_id(exported, tmp_path):
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(exported[1].read_bytes())
    before = Encoder(copy).card.id
    update_card(copy, calibration={"weights": [0, 1, 0, 0, 0], "threshold": 0.5})
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
    assert len(fingerprinter.fingerprint_query(Audio(waveform(1.0)[0], 8000))) >= 1


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
    assert encoder.verify() < 1e-3
    assert encoder.card.calibration
    assert encoder.card.training["data"]["track"]["attributions"]
    assert encoder.path.stat().st_size <= 8_000_000
