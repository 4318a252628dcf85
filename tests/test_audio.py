"""Decoding keeps the sound and its times, and every bad input gets one sentence."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import wave

import av
import numpy as np
import pytest

from spolia.audio import AUDIO_SUFFIXES, Audio, Tags, is_silent, load_query, read_tags, stream
from spolia.encoding import encode, write_wav
from spolia.errors import AudioError, ParameterError

FORMATS = {
    "wav": ("pcm_s16le", "wav"),
    "flac": ("flac", "flac"),
    "mp3": ("libmp3lame", "mp3"),
    "opus": ("libopus", "ogg"),
    "m4a": ("aac", "mp4"),
}


def noise(seconds=8.0, sample_rate=16000, seed=0):
    rng = np.random.default_rng(seed)
    return Audio((0.1 * rng.normal(size=round(seconds * sample_rate))).astype("f"), sample_rate)


def clicks(seconds=8.0, sample_rate=16000):
    samples = 0.001 * noise(seconds, sample_rate).samples
    for second in range(1, int(seconds)):
        samples[second * sample_rate : second * sample_rate + 16] = 0.8 * np.hanning(16)
    return Audio(samples, sample_rate)


def coded(audio, name, **options):
    codec, container = FORMATS[name]
    return encode(audio, codec=codec, container=container, **options)


def vorbis(audio):
    """Ogg Vorbis by FFmpeg's own encoder, which wants two channels."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ogg") as out:
        track = out.add_stream(
            "vorbis", rate=audio.sample_rate, layout="stereo", options={"strict": "-2"}
        )
        stereo = np.stack([audio.samples, audio.samples])
        frame = av.AudioFrame.from_ndarray(stereo, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = audio.sample_rate, 0
        for piece in (frame, None):
            for packet in track.encode(piece):
                out.mux(packet)
    return buffer.getvalue()


def video(audio, container):
    """A film of grey pictures with the sound as its second stream."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        pictures = out.add_stream("mpeg4", rate=10, width=64, height=48)
        track = out.add_stream("aac", rate=audio.sample_rate, layout="mono")
        for i in range(round(10 * audio.duration)):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), i % 250, np.uint8), "rgb24")
            for packet in pictures.encode(picture):
                out.mux(packet)
        frame = av.AudioFrame.from_ndarray(audio.samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = audio.sample_rate, 0
        for packet in [*track.encode(frame), *track.encode(None), *pictures.encode(None)]:
            out.mux(packet)
    return buffer.getvalue()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_keeps_duration_and_sound(name):
    audio = noise()
    loaded = Audio.load(coded(audio, name, bit_rate=128000), sample_rate=16000)
    assert loaded.duration == pytest.approx(8.0, abs=0.03)
    assert loaded.lost == 0.0
    n = min(len(loaded), len(audio))
    assert np.corrcoef(loaded.samples[:n], audio.samples[:n])[0, 1] > 0.9


@pytest.mark.parametrize("name", FORMATS)
def test_clicks_stay_at_their_times(name):
    loaded = Audio.load(coded(clicks(), name), sample_rate=16000)
    for second in (1, 4, 7):
        near = slice(second * 16000 - 1600, second * 16000 + 1600)
        peak = second + (int(np.abs(loaded.samples[near]).argmax()) - 1600 - 8) / 16000
        assert peak == pytest.approx(second, abs=0.001 if name in ("wav", "flac") else 0.005)


def test_ogg_vorbis():
    loaded = Audio.load(vorbis(noise(sample_rate=44100)), sample_rate=8000)
    assert loaded.duration == pytest.approx(8.0, abs=0.1)


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_the_sound_of_a_video(container):
    loaded = Audio.load(video(clicks(4.0), container), sample_rate=16000)
    assert loaded.duration == pytest.approx(4.0, abs=0.1)
    assert np.abs(loaded.samples[2 * 16000 - 200 : 2 * 16000 + 400]).max() > 0.4


def test_sixteen_bit_round_trip(tmp_path):
    audio = noise()
    write_wav(tmp_path / "a.wav", audio)
    loaded = Audio.load(tmp_path / "a.wav", sample_rate=16000)
    assert np.abs(loaded.samples - audio.samples).max() < 1 / 32000
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_the_mix_of_equal_channels_is_the_channel():
    audio = noise(2.0)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="wav") as out:
        track = out.add_stream("pcm_f32le", rate=16000, layout="stereo")
        interleaved = np.repeat(audio.samples, 2)[None]
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout="stereo")
        frame.sample_rate, frame.pts = 16000, 0
        for packet in [*track.encode(frame), *track.encode(None)]:
            out.mux(packet)
    loaded = Audio.load(buffer.getvalue(), sample_rate=16000)
    assert np.allclose(loaded.samples, audio.samples, atol=1e-4)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("start", "end"), [(0.0, 2.5), (3.0, 5.0), (6.123, None)])
def test_a_part_is_a_slice_of_the_whole(name, start, end):
    data = coded(noise(), name)
    whole = Audio.load(data, sample_rate=16000).slice(start, end)
    part = Audio.load(data, sample_rate=16000, start=start, end=end)
    assert abs(len(part) - len(whole)) <= 1
    n = min(len(part), len(whole))
    assert np.abs(part.samples[:n] - whole.samples[:n]).max() < 1e-3


@pytest.mark.parametrize("name", FORMATS)
def test_blocks_join_to_the_whole(name):
    data = coded(noise(), name)
    blocks = list(stream(data, sample_rate=8000, block_seconds=1.7))
    assert all(b.duration == pytest.approx(1.7) for b in blocks[:-1])
    joined = np.concatenate([b.samples for b in blocks])
    assert np.array_equal(joined, Audio.load(data, sample_rate=8000).samples)


def test_slices_have_the_wanted_number_of_samples():
    audio = noise()
    assert len(audio.slice(1.0, 2.5)) == 24000
    assert np.array_equal(audio.slice(1.0, 2.5).samples, audio.samples[16000:40000])
    assert len(audio.slice(7.5, 99)) == 8000
    assert len(audio.slice(99)) == 0


def test_resampling_keeps_time_and_level():
    time = np.arange(16000) / 16000
    tone = Audio(np.sin(2 * np.pi * 440 * time).astype("f"), 16000)
    low = tone.resample(8000)
    assert len(low) == 8000
    expected = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    assert np.abs(low.samples[500:-500] - expected[500:-500]).max() < 0.01


def test_tags_are_read_and_absent_ones_are_none():
    tags = Tags("Title", "Artist", "Album")
    for name in ("flac", "mp3", "opus", "m4a"):
        assert read_tags(coded(noise(1.0), name, tags=tags)) == tags
    assert read_tags(coded(noise(1.0), "flac")) == Tags()


def test_a_stream_object_can_be_read():
    data = coded(noise(2.0), "flac")
    assert Audio.load(io.BytesIO(data), sample_rate=8000).duration == pytest.approx(2.0)


def bad_inputs(folder):
    (folder / "empty.mp3").write_bytes(b"")
    (folder / "text.mp3").write_text("not music at all " * 50)
    (folder / "folder.wav").mkdir()
    picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24")
    with av.open(str(folder / "silent_film.mp4"), "w") as out:
        film = out.add_stream("mpeg4", rate=5, width=16, height=16)
        for packet in [*film.encode(picture), *film.encode(None)]:
            out.mux(packet)
    return {
        "missing.wav": "does not exist",
        "empty.mp3": r"is empty \(0 bytes\)",
        "text.mp3": "is not audio that FFmpeg can read",
        "folder.wav": "is a directory",
        "silent_film.mp4": "has no audio stream",
    }


def test_bad_inputs_get_one_sentence(tmp_path):
    for name, message in bad_inputs(tmp_path).items():
        with pytest.raises(AudioError, match=message) as caught:
            Audio.load(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(tmp_path):
    write_wav(tmp_path / "a.wav", noise(1.0))
    (tmp_path / "a.wav").chmod(0)
    with pytest.raises(AudioError, match="cannot be read"):
        Audio.load(tmp_path / "a.wav")


def test_bytes_are_named(tmp_path):
    with pytest.raises(AudioError, match="^<bytes>: is empty"):
        Audio.load(b"")


def test_queries_have_a_name_and_a_rate_and_are_neither_short_nor_silent(tmp_path):
    at = {"sample_rate": 8000, "minimum": 1.0}
    with pytest.raises(AudioError, match=r"clip\.wav: is 0\.4 s long; at least 1\.0 s is needed"):
        load_query(noise(0.4), "clip.wav", **at)
    silence = Audio(np.zeros(16000, "f"), 16000)
    assert is_silent(silence)
    with pytest.raises(AudioError, match="is silent"):
        load_query(silence, "clip.wav", **at)
    heard, name = load_query(noise(1.0), None, **at)
    assert (heard.sample_rate, heard.duration, name) == (8000, 1.0, "<audio>")
    write_wav(tmp_path / "clip.wav", noise(1.0))
    heard, name = load_query(tmp_path / "clip.wav", None, **at)
    assert (heard.sample_rate, name) == (8000, str(tmp_path / "clip.wav"))
    assert load_query(tmp_path / "clip.wav", "mine", **at)[1] == "mine"


def test_samples_are_checked():
    for samples in (np.zeros((2, 5), "f"), np.array([np.nan], "f"), [0.0]):
        with pytest.raises(ParameterError):
            Audio(samples, 8000)
    with pytest.raises(ParameterError, match="sample_rate is 0"):
        Audio(np.zeros(5, "f"), 0)


@pytest.mark.parametrize("name", ["wav", "flac", "mp3", "opus"])
def test_a_truncated_file_gives_what_it_has(name):
    data = coded(noise(30.0), name)
    loaded = Audio.load(data[: len(data) // 2], sample_rate=8000)
    assert 8.0 < loaded.duration < 22.0


def test_lost_time_of_a_truncated_flac_is_reported():
    data = coded(noise(30.0), "flac")
    loaded = Audio.load(data[: len(data) // 2], sample_rate=8000)
    assert loaded.duration + loaded.lost == pytest.approx(30.0, abs=0.5)


@pytest.mark.parametrize("name", ["mp3", "opus"])
def test_damage_in_the_middle_does_not_shift_what_follows(name):
    data = bytearray(coded(clicks(20.0), name, bit_rate=32000))
    middle = len(data) // 2
    data[middle : middle + 300] = np.random.default_rng(3).bytes(300)
    loaded = Audio.load(bytes(data), sample_rate=16000)
    near = loaded.samples[18 * 16000 - 4800 : 18 * 16000 + 4800]
    assert np.abs(near).max() > 0.3
    shift = abs(int(np.abs(near).argmax()) - 4808) / 16000
    assert shift < (0.15 if name == "mp3" else 0.01)  # MP3 has no timestamps to keep time by


def test_thirty_six_channels_are_averaged():
    buffer = io.BytesIO()
    channels = np.arange(36) * 500  # planar frames of more than eight channels crashed PyAV
    with wave.open(buffer, "wb") as out:
        out.setnchannels(36)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(np.tile(channels, (16000, 1)).astype("<i2").tobytes())
    audio = Audio.load(buffer.getvalue())
    assert len(audio) == 16000
    assert np.allclose(audio.samples[4000:12000], channels.mean() / 32768, atol=1e-4)


@pytest.mark.parametrize("rate", [16000, 22050])
def test_a_stream_may_change_its_rate(rate):
    first = coded(noise(3.0), "mp3", bit_rate=128000)
    then = coded(noise(5.0, rate, seed=1), "mp3", bit_rate=128000)
    samples = Audio.load(first + then, sample_rate=16000).samples
    assert len(samples) / 16000 == pytest.approx(8.0, abs=0.25)
    for audio, around in ((noise(3.0), samples[:56000]), (noise(5.0, rate, seed=1), samples)):
        wanted = audio.resample(16000).samples[8000:40000]
        size = 1 << (len(around) + len(wanted)).bit_length()
        products = np.fft.irfft(
            np.fft.rfft(around, size) * np.conj(np.fft.rfft(wanted, size)), size
        )
        assert products.max() > 0.8 * np.square(wanted).sum()


def with_frame_count(data, count):
    """Return an MP3 whose header claims another number of frames."""
    damaged = bytearray(data)
    place = max(data.find(b"Xing"), data.find(b"Info"))
    assert place > 0
    damaged[place + 8 : place + 12] = count.to_bytes(4, "big")
    return bytes(damaged)


@pytest.mark.parametrize("count", [0x7FFFFFFF, 20_000_000, 400_000])
def test_a_header_that_claims_years_loses_nothing(count):
    audio = Audio.load(with_frame_count(coded(noise(), "mp3"), count))
    assert audio.duration == pytest.approx(8.0, abs=0.2)
    assert audio.lost == 0.0


def test_a_file_cut_to_a_twentieth_says_what_is_lost():
    data = coded(noise(60.0), "mp3")
    audio = Audio.load(data[: len(data) // 20])
    assert audio.duration == pytest.approx(3.0, abs=0.3)
    assert audio.lost == pytest.approx(57.0, abs=0.3)


def test_suffixes_are_lower_case_with_a_dot():
    assert {".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".mp4"} <= AUDIO_SUFFIXES
    assert all(s.startswith(".") and s == s.lower() for s in AUDIO_SUFFIXES)


# VmHWM and not ru_maxrss, which a child inherits from the process that starts it.
MEMORY = """
import sys
from pathlib import Path
from spolia.audio import stream
seconds = sum(block.duration for block in stream(sys.argv[1]))
status = Path("/proc/self/status").read_text()
print(seconds, status.split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_three_hours_stay_under_150_megabytes(tmp_path):
    path = tmp_path / "long.wav"
    minute = (3000 * np.random.default_rng(0).normal(size=60 * 8000)).astype("<i2").tobytes()
    write_wav(path, Audio(np.zeros(0, "f"), 8000))
    header = bytearray(path.read_bytes())
    size = 180 * len(minute)
    header[4:8], header[40:44] = (size + 36).to_bytes(4, "little"), size.to_bytes(4, "little")
    with path.open("wb") as out:
        out.write(header)
        for _ in range(180):
            out.write(minute)
    output = subprocess.check_output([sys.executable, "-c", MEMORY, str(path)], text=True).split()
    assert float(output[0]) == pytest.approx(3 * 3600)
    assert int(output[1]) < 150_000


@pytest.mark.parametrize(
    ("channels", "rate"), [(1, 2**31 - 1), (70, 8000)], ids=["rate", "channels"]
)
def test_sound_that_cannot_be_converted_is_one_sentence(tmp_path, channels, rate):
    data = np.zeros(70 * 4000, "<i2").tobytes()
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2 % 2**32, 2 * channels, 16)
    chunks = b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data)) + data
    path = tmp_path / "odd.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    with pytest.raises(AudioError, match="cannot be brought to 8000 Hz"):
        Audio.load(path)


def test_pipes_and_names_with_zero_bytes_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match="is a pipe or a device"):
        Audio.load(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match="is no path"):
        Audio.load("a\0b.wav")
