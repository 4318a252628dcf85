"""Offset, speed and pitch are measured by the recording's sound, and lines kept without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spolia import degradation, placing
from spolia.alignment import Line
from spolia.audio import Audio
from spolia.encoding import encode, write_wav
from spolia.identify import match_of
from spolia.placing import place
from spolia.recording import Recording
from spolia.rivals import Place
from spolia.spectral_alignment import SAMPLE_RATE, Alignment, align
from spolia.synthesis import piece

PLAYS = {
    "unchanged": (lambda a: a, 1.0, 0.0),
    "tape": (lambda a: degradation.change_speed(a, 1.03), 1.03, 12 * np.log2(1.03)),
    "pitched": (lambda a: degradation.shift_pitch(a, -2.0), 1.0, -2.0),
    "stretched": (lambda a: degradation.stretch(a, 0.92), 0.92, 0.0),
}


@pytest.fixture(scope="module")
def music():
    return piece(np.random.default_rng(7), seconds=75.0, sample_rate=16000)


@pytest.fixture(scope="module")
def recording(music, tmp_path_factory):
    path = tmp_path_factory.mktemp("crate") / "piece.wav"
    write_wav(path, music)
    return described(path)


def described(path):
    status = path.stat()
    return Recording("0" * 16, str(path), 75.0, size=status.st_size, modified=status.st_mtime_ns)


def line(start, speed, seconds):
    """Return the line of a query of ``seconds`` that begins at ``start`` of the recording."""
    return Line(speed, start, 0.0, seconds, 0.8, seconds, 4.0)


def at(line, time):
    return line.speed * time + line.offset


@pytest.mark.parametrize("kind", PLAYS)
def test_a_rough_line_becomes_exact(music, recording, kind):
    if kind in ("pitched", "stretched"):
        pytest.importorskip("python_stretch")
    play, speed, semitones = PLAYS[kind]
    query = play(music.slice(12.0, 12.0 + 9.0 * speed)).slice(0.0, 8.0)
    noise = degradation.pink_noise(len(query), query.sample_rate, np.random.default_rng(0))
    heard = degradation.add_noise(query, np.random.default_rng(1), snr_db=6.0, noise=noise)
    rough = line(12.0 + 0.15, speed + 0.008, 8.0)
    placed = place(heard, rough, recording, semitones=semitones + 0.7)
    assert at(placed.line, 4.0) == pytest.approx(12.0 + speed * 4.0, abs=0.02)
    assert placed.line.speed == pytest.approx(speed, abs=0.002)
    assert placed.semitones == pytest.approx(semitones, abs=0.15)
    assert replace(placed.line, offset=0, speed=0) == replace(rough, offset=0, speed=0)


def test_a_time_shift_of_the_query_shifts_the_line(music, recording):
    placed = [
        place(music.slice(t, t + 5.0), line(20.0, 1.0, 5.0), recording).line
        for t in (20.0, 20.2, 19.85)
    ]
    starts = [at(p, 0.0) for p in placed]
    assert starts == pytest.approx([20.0, 20.2, 19.85], abs=0.01)
    assert all(p.speed == 1.0 for p in placed)


def test_a_long_query_is_placed_at_both_ends(music, recording):
    query = degradation.change_speed(music.slice(5.0, 65.0), 1.004)
    placed = place(query, line(5.1, 1.0, query.duration), recording).line
    assert placed.speed == pytest.approx(1.004, abs=2e-4)
    for time in (0.0, 30.0, 59.0):
        assert at(placed, time) == pytest.approx(5.0 + 1.004 * time, abs=0.02)


def test_the_beginning_and_the_end_of_a_recording_can_be_placed(music, recording):
    for start, end in ((0.0, 4.0), (71.0, 75.0)):
        placed = place(music.slice(start, end), line(start + 0.1, 1.0, 4.0), recording)
        assert at(placed.line, 0.0) == pytest.approx(start, abs=0.02)


def test_other_music_and_silence_leave_the_line_alone(recording):
    rough = line(12.3, 1.01, 6.0)
    other = piece(np.random.default_rng(8), seconds=6.0, sample_rate=16000)
    silence = Audio(np.zeros(6 * 16000, np.float32), 16000)
    hiss = degradation.pink_noise(6 * 16000, 16000, np.random.default_rng(2))
    for query in (silence, hiss):
        placed = place(query, rough, recording)
        assert (placed.line, placed.semitones) == (rough, None)
    found = align(
        other.resample(SAMPLE_RATE).samples,
        Audio.load(recording.path, start=11.0, end=20.0).samples,
        start=11.0,
        offset=12.3,
        speed=1.0,
        semitones=0.0,
    )
    assert found is None or found.correlation < 0.3


def test_a_line_stays_where_the_file_is_gone_or_was_changed(music, tmp_path):
    path = tmp_path / "piece.wav"
    write_wav(path, music)
    held, rough, query = described(path), line(12.1, 1.0, 5.0), music.slice(12.0, 17.0)
    assert place(query, rough, held).semitones == pytest.approx(0.0, abs=0.1)
    write_wav(path, music.slice(0.0, 30.0))
    assert place(query, rough, held).line == rough
    path.unlink()
    assert place(query, rough, held) == place(query, rough, replace(held, path=str(tmp_path)))
    assert place(query, rough, held).semitones is None


def test_a_damaged_file_or_a_stretch_without_sound_leaves_the_line_alone(music, tmp_path):
    path = tmp_path / "piece.wav"
    path.write_bytes(b"RIFF not sound at all")
    rough = line(12.1, 1.0, 5.0)
    assert place(music.slice(12.0, 17.0), rough, described(path)).line == rough
    write_wav(path, music)
    for nowhere in (line(500.0, 1.0, 5.0), line(12.1, 1.0, 0.5)):
        assert place(music.slice(12.0, 17.0), nowhere, described(path)).line == nowhere


@pytest.mark.parametrize(("codec", "container"), [("libopus", "ogg"), ("libmp3lame", "mp3")])
def test_compressed_files_are_placed_as_well(music, tmp_path, codec, container):
    path = tmp_path / f"piece.{'opus' if container == 'ogg' else container}"
    path.write_bytes(encode(music, codec=codec, container=container, bit_rate=64000))
    placed = place(music.slice(50.0, 56.0), line(50.1, 1.0, 6.0), described(path))
    assert at(placed.line, 0.0) == pytest.approx(50.0, abs=0.05)
    assert placed.semitones == pytest.approx(0.0, abs=0.1)


def test_files_that_cannot_be_entered_late_are_not_decoded_for_minutes(
    music, tmp_path, monkeypatch
):
    path = tmp_path / "piece.m4a"
    path.write_bytes(encode(music, codec="aac", container="mp4", bit_rate=96000))
    query, rough = music.slice(50.0, 56.0), line(50.1, 1.0, 6.0)
    assert at(place(query, rough, described(path)).line, 0.0) == pytest.approx(50.0, abs=0.06)
    monkeypatch.setattr("spolia.placing.PATIENCE", 10.0)
    assert place(query, rough, described(path)).line == rough


def test_a_recording_that_begins_after_the_query_leaves_the_line(music, recording):
    rough = Line(1.0, -19.0, 0.0, 36.0, 0.5, 36.0, 2.0)  # the first ten seconds are before it
    other = degradation.pink_noise(19 * 16000, 16000, np.random.default_rng(2)).samples
    query = Audio(np.concatenate([0.1 * other, music.slice(0.0, 17.0).samples]), 16000)
    assert place(query, rough, recording).line == rough


def test_two_alignments_that_belong_to_two_places_leave_the_line(music, recording, monkeypatch):
    found = iter([(12.0, 1.0), (40.0, 1.0)])

    def aligned(query, line, known, semitones, start, end, lag):
        offset, speed = next(found)
        return Alignment(offset, speed, 0.0, 0.9, 9.0)

    monkeypatch.setattr(placing, "_aligned", aligned)
    rough = line(12.0, 1.0, 40.0)
    placed = place(music.slice(12.0, 52.0), rough, recording)
    assert placed.line == rough
    assert placed.correlation == 0.9


@pytest.mark.parametrize("seconds", [22.0, 30.0])
def test_a_wrong_recording_is_refuted_however_its_ends_align(recording, seconds):
    for seed in range(3):
        other = piece(np.random.default_rng([8, seed]), seconds=seconds, sample_rate=16000)
        placed = place(other, line(20.0, 1.0, seconds), recording)
        assert placed.correlation is not None
        assert placed.correlation < 0.1


def test_a_match_is_cut_on_both_sides_to_what_the_recording_holds(recording):
    early = Place(Line(1.0, -20.0, 0.0, 36.0, 0.5, 36.0, 2.0))
    match = match_of(recording, 0.9, early, "segments", decided=True)
    assert (match.query_start, match.query_end) == (20.0, 36.0)
    assert (match.reference_start, match.reference_end) == (0.0, 16.0)
    late = Place(Line(1.25, 70.0, 0.0, 9.0, 0.5, 9.0, 2.0))
    match = match_of(recording, 0.9, late, "segments", decided=True)
    assert (match.query_start, match.query_end) == (0.0, 4.0)
    assert (match.reference_start, match.reference_end) == (70.0, 75.0)
