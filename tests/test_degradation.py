"""Each degradation does what its name says, by the stated amount, and keeps times."""

from __future__ import annotations

import numpy as np
import pytest

from spolia import degradation
from spolia.audio import Audio
from spolia.errors import ParameterError

RATE = 16000


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def tone(frequency, seconds=4.0):
    time = np.arange(round(seconds * RATE)) / RATE
    return Audio((0.4 * np.sin(2 * np.pi * frequency * time)).astype("f"), RATE)


def clicks(seconds=6.0):
    samples = 0.002 * np.random.default_rng(1).normal(size=round(seconds * RATE))
    for second in range(1, int(seconds)):
        samples[second * RATE : second * RATE + 40] += 0.8 * np.hanning(40)
    return Audio(samples.astype("f"), RATE)


def strongest(audio):
    spectrum = np.abs(np.fft.rfft(audio.samples[RATE // 2 : RATE // 2 + 2 * RATE]))
    return float(np.argmax(spectrum)) / 2


def click_near(audio, second):
    start = round((second - 0.2) * RATE)
    return (start + int(np.abs(audio.samples[start : start + round(0.4 * RATE)]).argmax())) / RATE


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 10.0])
def test_noise_has_the_stated_level(rng, snr_db):
    audio = tone(440)
    added = degradation.add_noise(audio, rng, snr_db=snr_db).samples - audio.samples
    ratio = 10 * np.log10(np.mean(audio.samples**2) / np.mean(added**2))
    assert ratio == pytest.approx(snr_db, abs=0.01)


def test_a_short_noise_is_repeated(rng):
    noise = Audio(rng.normal(size=100).astype("f"), RATE)
    noisy = degradation.add_noise(tone(440), rng, snr_db=0, noise=noise)
    assert np.isfinite(noisy.samples).all()


def test_silence_and_silent_noise_stay_finite(rng):
    silence = Audio(np.zeros(RATE, "f"), RATE)
    assert np.isfinite(degradation.add_noise(silence, rng, snr_db=0, noise=silence).samples).all()
    for change in (degradation.compress, lambda a: degradation.room(a, rng)):
        assert np.isfinite(change(silence).samples).all()


def test_convolution_is_linear_and_the_direct_sound_stays(rng):
    response = np.zeros(3000, "f")
    response[700], response[2700] = 1.0, 0.5
    wet = degradation.convolve(clicks(), response)
    assert click_near(wet, 3.0) == pytest.approx(3.0, abs=0.003)
    echo = wet.samples[3 * RATE + 2000 : 3 * RATE + 2040].max()
    assert echo == pytest.approx(0.5 * wet.samples[3 * RATE : 3 * RATE + 40].max(), rel=0.1)
    assert len(wet) == len(clicks())


def test_a_room_decays_as_told(rng):
    click = np.zeros(2 * RATE, "f")
    click[100] = 1.0
    tail = np.abs(degradation.room(Audio(click, RATE), rng, rt60=0.6).samples)
    early, late = tail[2000:3000].mean(), tail[2000 + 4800 : 3000 + 4800].mean()
    assert 20 * np.log10(early / late) == pytest.approx(30, abs=6)  # 0.3 s of 0.6


def test_band_pass(rng):
    both = Audio(tone(100).samples + tone(1000).samples + tone(6000).samples, RATE)
    spectrum = np.abs(np.fft.rfft(degradation.band_pass(both, 300, 3400, order=6).samples))
    level = {f: spectrum[round(f * 4)] for f in (100, 1000, 6000)}
    assert level[1000] > 20 * max(level[100], level[6000])


def test_gain_control_levels_loud_and_soft():
    audio = Audio(np.concatenate([0.05 * tone(440).samples, tone(440).samples]), RATE)
    levelled = degradation.compress(audio, strength=1.0).samples
    soft, loud = np.std(levelled[: 3 * RATE]), np.std(levelled[5 * RATE :])
    assert loud / soft < 2


def test_clipping_cuts_the_peaks():
    clipped = degradation.clip(tone(440), drive_db=6).samples
    assert np.mean(np.isclose(np.abs(clipped), np.abs(clipped).max(), atol=1e-5)) > 0.5


@pytest.mark.parametrize(
    ("codec", "bit_rate"),
    [("libopus", 8000), ("libmp3lame", 16000), ("aac", 32000), ("libopencore_amrnb", 7950)],
)
def test_codecs_keep_length_and_time(codec, bit_rate):
    coded = degradation.codec(clicks(), codec=codec, bit_rate=bit_rate)
    assert len(coded) == len(clicks())
    assert click_near(coded, 4.0) == pytest.approx(4.001, abs=0.004)


@pytest.mark.parametrize("n_samples", [0, 1, 2, 100, 800, 1599])
def test_codecs_keep_the_length_of_sounds_below_a_tenth_of_a_second(n_samples):
    sound = Audio(clicks().samples[RATE : RATE + n_samples], RATE)
    coded = degradation.codec(sound, codec="libmp3lame", bit_rate=16000)
    assert len(coded) == n_samples
    assert np.isfinite(coded.samples).all()


def test_an_unknown_codec_is_named():
    with pytest.raises(ParameterError, match="unknown codec 'magic'"):
        degradation.codec(clicks(), codec="magic", bit_rate=8000)


@pytest.mark.parametrize("factor", [0.9, 1.04])
def test_speed_changes_pitch_and_tempo(factor):
    assert strongest(degradation.change_speed(tone(440), factor)) == pytest.approx(
        440 * factor, abs=1
    )
    fast = degradation.change_speed(clicks(), factor)
    assert click_near(fast, 4.0 / factor) == pytest.approx(4.0 / factor, abs=0.005)
    with pytest.raises(ParameterError, match="out of range"):
        degradation.change_speed(clicks(), 0)


@pytest.mark.parametrize("tempo", [0.9, 1.1])
def test_stretching_keeps_the_pitch(tempo):
    pytest.importorskip("python_stretch")
    assert strongest(degradation.stretch(tone(440), tempo)) == pytest.approx(440, abs=1)
    stretched = degradation.stretch(clicks(), tempo)
    assert stretched.duration == pytest.approx(6.0 / tempo, abs=0.01)
    assert click_near(stretched, 4.0 / tempo) == pytest.approx(4.0 / tempo, abs=0.01)


@pytest.mark.parametrize("semitones", [-2.0, 1.0])
def test_pitch_shifting_keeps_the_tempo(semitones):
    pytest.importorskip("python_stretch")
    shifted = degradation.shift_pitch(tone(440), semitones)
    assert strongest(shifted) == pytest.approx(440 * 2 ** (semitones / 12), rel=0.005)
    assert click_near(degradation.shift_pitch(clicks(), semitones), 4.0) == pytest.approx(
        4.0, abs=0.01
    )


def test_a_phone_is_seeded_and_band_limited():
    first, again = (
        degradation.phone(clicks(), np.random.default_rng(3), snr_db=13.0) for _ in range(2)
    )
    assert np.array_equal(first.samples, again.samples)
    power = np.abs(np.fft.rfft(first.samples)) ** 2
    frequency = np.fft.rfftfreq(len(first), 1 / RATE)
    inside = (frequency > 250) & (frequency < 3800)
    assert power[inside].sum() > 0.95 * power.sum()
