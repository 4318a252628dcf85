"""Laws of the front end and the encoder."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")

from spolia.errors import TrainingError
from spolia.networks.architectures import build_encoder
from spolia.networks.front_end import (
    FrontEndConfig,
    LocalStandardisation,
    LogBands,
    band_centres,
    resampled,
)
from spolia.networks.nafp import Nafp, NafpConfig
from spolia.networks.segment_encoder import SegmentEncoder, SegmentEncoderConfig

SMALL = SegmentEncoderConfig(channels=(4, 8, 8, 16), hidden=32, dim=16)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    model = SegmentEncoder(SMALL)
    for module in model.modules():  # running statistics as after some training
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()


@pytest.fixture
def noise():
    return torch.from_numpy(np.random.default_rng(1).normal(0, 0.1, (3, 40000)).astype("f"))


def test_matrix_products_equal_the_fft(noise):
    bands = LogBands(FrontEndConfig())
    by_fft, by_matmul = bands.spectrum.by_fft(noise), bands.spectrum.by_matmul(noise)
    assert by_fft.shape == by_matmul.shape
    assert torch.allclose(by_fft, by_matmul, rtol=1e-3, atol=1e-9)


def test_frame_count_follows_the_stated_formula(noise):
    config = FrontEndConfig()
    n_frames = 1 + (noise.shape[1] - config.n_fft) // config.hop_length
    assert LogBands(config)(noise).shape == (3, config.n_bands, n_frames)


def test_a_tone_peaks_in_its_band():
    config = FrontEndConfig()
    bands = LogBands(config)
    time = torch.arange(8000) / 8000
    for band in (10, 40, 70):
        tone = 0.5 * torch.sin(2 * torch.pi * band_centres(config)[band].float() * time)
        assert int(bands(tone[None]).mean(2).argmax()) == band


def test_gain_does_not_change_the_standardised_spectrogram(noise):
    bands, standardise = LogBands(FrontEndConfig()), LocalStandardisation(31)
    quiet, loud = standardise(bands(0.2 * noise)), standardise(bands(noise))
    assert (quiet - loud).abs().mean() < 0.005  # but for bins at the floor


def test_reading_at_whole_places_changes_nothing_and_ends_are_held():
    x = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resampled(x, torch.arange(5.0), 1), x)
    shifted = resampled(x, torch.arange(5.0) - 2, 1)
    assert torch.equal(shifted[:, 2:], x[:, :3])
    assert torch.equal(shifted[:, 0], x[:, 0])
    halfway = resampled(x, torch.tensor([2.5]), 2)
    torch.testing.assert_close(halfway[..., 0], (x[..., 2] + x[..., 3]) / 2)
    beyond = resampled(x, torch.tensor([9.3]), 2)
    assert torch.equal(beyond[..., 0], x[..., 6])


def test_silence_is_finite(encoder):
    vectors = encoder(torch.zeros(1, 20000))
    assert torch.isfinite(vectors).all()


def test_vectors_have_unit_norm_and_the_stated_number(encoder, noise):
    vectors = encoder(noise)
    config = encoder.config
    n = 1 + (noise.shape[1] - config.segment_samples) // config.hop_samples
    assert vectors.shape == (3, n, 16)
    assert torch.allclose(vectors.norm(dim=2), torch.ones(3, n), atol=1e-5)


def test_a_vector_does_not_depend_on_its_batch(encoder, noise):
    assert torch.allclose(encoder(noise)[1:2], encoder(noise[1:2]), atol=1e-5)


def test_a_vector_depends_only_on_its_surroundings(encoder, noise):
    config = encoder.config
    changed = noise.clone()
    changed[:, 30000:] = 0.5
    n_same = (30000 - config.segment_samples - config.hop_samples) // config.hop_samples
    assert torch.allclose(encoder(noise)[:, :n_same], encoder(changed)[:, :n_same], atol=1e-5)


def test_a_shift_by_a_hop_shifts_the_vectors(encoder, noise):
    shifted = encoder(noise[:, encoder.config.hop_samples :])
    assert torch.allclose(encoder(noise)[:, 2:-1], shifted[:, 1:-1], atol=1e-4)


def test_gradient_reaches_every_parameter(noise):
    model = SegmentEncoder(SMALL).train()
    model(noise).square().sum().backward()  # constant by unit norm …
    model.zero_grad()
    (model(noise)[..., 0]).sum().backward()  # … so use one coordinate
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.ndim > 1)


def test_default_encoder_is_small():
    n = sum(p.numel() for p in SegmentEncoder(SegmentEncoderConfig()).parameters())
    assert 1_000_000 < n < 2_000_000


def test_nafp_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in Nafp(NafpConfig()).parameters()) == 16_939_008


def test_nafp_variants():
    slim = Nafp(NafpConfig(norm="channel"))
    whole_maps = sum(2 * m.weight.numel() for m in Nafp(NafpConfig()).modules() if is_norm(m))
    channels = 2 * 2 * sum(NafpConfig().channels)
    assert sum(p.numel() for p in slim.parameters()) == 16_939_008 - whole_maps + channels
    for wrong in ({"norm": "batch"}, {"level": "loud"}):
        with pytest.raises(TrainingError, match="choose"):
            NafpConfig(**wrong)


def is_norm(module):
    return isinstance(module, torch.nn.LayerNorm)


def test_published_levels_depend_on_the_batch_and_ours_do_not(noise):
    quiet_first = torch.stack([0.01 * noise[0], noise[1]])
    for level, same in (("batch", False), ("segment", True)):
        torch.manual_seed(0)
        channels = (4, 4, 8, 8, 8, 8, 16, 16)
        model = Nafp(NafpConfig(channels=channels, dim=16, hidden=4, level=level)).eval()
        together, alone = model(quiet_first)[0], model(quiet_first[:1])[0]
        assert torch.allclose(together, alone, atol=1e-5) == same


@pytest.fixture
def nafp():
    torch.manual_seed(0)
    channels = (4, 4, 8, 8, 8, 8, 16, 16)
    return Nafp(NafpConfig(channels=channels, dim=16, hidden=4)).eval()


def test_nafp_vectors(nafp, noise):
    vectors = nafp(noise)
    assert vectors.shape == (3, 1 + (40000 - 8960) // 4000, 16)
    assert torch.allclose(vectors.norm(dim=2), torch.ones(vectors.shape[:2]), atol=1e-5)
    assert torch.allclose(nafp(noise[1:2]), vectors[1:2], atol=1e-5)  # not of its batch mates
    assert torch.isfinite(nafp(torch.zeros(1, 9000))).all()


def test_nafp_embeds_a_spectrogram_as_it_does_a_waveform(nafp, noise):
    segment = noise[:, :8960]
    assert torch.allclose(nafp.embed(nafp.log_bands(segment)), nafp(segment), atol=1e-5)


def test_nafp_gradient_reaches_every_parameter(nafp, noise):
    nafp.train()(noise)[..., 0].sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in nafp.parameters())


def test_unknown_architectures_and_settings_are_named():
    with pytest.raises(TrainingError, match="known: segment, sample, nafp"):
        build_encoder("resnet", {})
    with pytest.raises(TrainingError, match="no setting 'depth'"):
        build_encoder("segment", {"depth": 3})
