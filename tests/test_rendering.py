"""Scores, arrangements and packs: laws of the transformations, exact stems, reproducible packs."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest

mido = pytest.importorskip("mido", reason="needs the extra train")

from spolia.audio import Audio
from spolia.corpus import read_manifest, read_manifests
from spolia.errors import TrainingError
from spolia.training import pack as packs
from spolia.training import voices
from spolia.training.arrangement import draw_arrangement, perform
from spolia.training.instruments import SoundFont, find_fonts
from spolia.training.pack import Packer, PackPlan
from spolia.training.scores import (
    CONTROL,
    NOTE_OFF,
    NOTE_ON,
    excerpt,
    read_score,
    swung,
    transposed,
)

RATE = 16000


def write_midi(path, *, seed=0, n_beats=64):
    """A melody, a bass and drums in eighths at 120, then from beat 16 on 60 beats a minute."""
    rng = np.random.default_rng(seed)
    file = mido.MidiFile(ticks_per_beat=96)
    tempo = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=500_000, time=0)])
    tempo.append(mido.MetaMessage("set_tempo", tempo=1_000_000, time=16 * 96))
    file.tracks.append(tempo)
    for channel, program, low in ((0, 10, 60), (1, 33, 36), (9, 0, 35)):
        track = mido.MidiTrack([mido.Message("program_change", channel=channel, program=program)])
        track.append(mido.Message("control_change", channel=channel, control=7, value=99))
        for _ in range(2 * n_beats):
            note = int(low + rng.integers(0, 12))
            track.append(mido.Message("note_on", channel=channel, note=note, velocity=90))
            track.append(mido.Message("note_off", channel=channel, note=note, time=48))
        file.tracks.append(track)
    file.save(str(path))
    return path


@pytest.fixture
def score(tmp_path):
    return read_score(write_midi(tmp_path / "a.mid"))


def test_a_score_holds_what_the_file_says(score):
    assert [(p.program, p.is_drum, len(p.notes)) for p in score.parts] == [
        (10, False, 128),
        (33, False, 128),
        (0, True, 128),
    ]
    assert score.n_beats == 64
    np.testing.assert_allclose(score.seconds(np.array([0.0, 8, 16, 20, 64])), [0, 4, 8, 12, 56])
    assert (score.parts[0].events[0] == (CONTROL, 7, 99)).all()


def test_there_and_back_transposes_to_the_same_score(score):
    again = transposed(transposed(score, 5), -5)
    for one, other in zip(score.parts, again.parts, strict=True):
        np.testing.assert_array_equal(one.events, other.events)
    up = transposed(score, 5)
    assert (up.parts[0].notes - score.parts[0].notes == 5).all()
    np.testing.assert_array_equal(up.parts[2].notes, score.parts[2].notes)  # drums


def test_notes_out_of_range_move_by_octaves(score):
    low = transposed(score, -40).parts[1].notes
    assert low.min() >= 0
    assert set((low - score.parts[1].notes + 40) % 12) == {0}


def test_swing_delays_off_beats_and_nothing_else(score):
    late = swung(score, 2 / 3).parts[0]
    straight = score.parts[0]
    on_beat = straight.beats % 1 == 0
    np.testing.assert_array_equal(late.beats[on_beat], straight.beats[on_beat])
    np.testing.assert_allclose(late.beats[~on_beat] - straight.beats[~on_beat], 2 / 3 - 0.5)
    assert (np.diff(late.beats) >= 0).all()
    with pytest.raises(TrainingError, match=r"0\.9"):
        swung(score, 0.9)


@pytest.mark.parametrize("first", [0.0, 6.0, 16.0, 40.0])
def test_an_excerpt_is_that_stretch_at_its_tempo(score, first):
    cut = excerpt(score, first, first + 8)
    whole = score.parts[0]
    wanted = (whole.events[:, 0] == NOTE_ON) & (whole.beats >= first) & (whole.beats < first + 8)
    struck = cut.parts[0].events[:, 0] == NOTE_ON
    np.testing.assert_allclose(cut.parts[0].beats[struck], whole.beats[wanted] - first)
    np.testing.assert_allclose(
        cut.seconds(np.array([0.0, 4.0, 8.0])),
        score.seconds(first + np.array([0.0, 4.0, 8.0])) - score.seconds(np.array([first])),
    )
    assert (cut.parts[0].events[0] == (CONTROL, 7, 99)).all()  # set before, kept


def test_damaged_and_empty_files_are_named(tmp_path):
    (tmp_path / "bad.mid").write_bytes(b"MThd nonsense")
    with pytest.raises(TrainingError, match=r"bad\.mid is not a readable MIDI file"):
        read_score(tmp_path / "bad.mid")
    mido.MidiFile().save(str(tmp_path / "empty.mid"))
    with pytest.raises(TrainingError, match="holds no notes"):
        read_score(tmp_path / "empty.mid")


class Sines:
    """A sound font whose instruments are sines with as many partials as the program says."""

    sample_rate = RATE

    def play(self, part, seconds, program, *, duration):
        sound = np.zeros(round(duration * RATE), np.float32)
        time = np.arange(RATE // 4) / RATE
        for when, (status, note, _) in zip(seconds, part.events.tolist(), strict=True):
            if status == NOTE_ON:
                place = round(when * RATE)
                tone = np.sin(2 * np.pi * 440 * 2 ** ((note - 69) / 12) * time + program)
                tone = (0.1 * tone * np.exp(-8 * time)).astype(np.float32)
                sound[place : place + len(tone)] += tone[: len(sound) - place]
        return sound


def hum(rng):
    return Audio(np.sin(np.arange(RATE) * rng.uniform(0.1, 0.3)).astype(np.float32), RATE)


def test_the_stems_of_a_recording_sum_to_its_mix(score):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        drawn = draw_arrangement(score, rng, seconds=10.0, voices=1.0)
        mix, stems = perform(score, drawn, Sines(), speak=hum, rng=rng)
        total = np.sum([stem.samples for stem in stems.values()], axis=0)
        np.testing.assert_allclose(np.tanh(total), mix.samples, atol=1e-5)
        assert {"drums", "vocals"} <= set(stems)
        assert 5 < mix.duration < 25


def test_a_stretch_where_nothing_is_struck_is_refused(score):
    drawn = draw_arrangement(score, np.random.default_rng(0), seconds=5.0, voices=0.0)
    beyond = dataclasses.replace(drawn, first_beat=1000.0)
    with pytest.raises(TrainingError, match="rests"):
        perform(score, beyond, Sines(), speak=None, rng=np.random.default_rng(0))


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    (folder / "midi").mkdir(parents=True)
    rows = [("file", "group", "licence_class", "attribution")]
    splits = [("kind", "file", "split")]
    for i in range(6):
        write_midi(folder / f"midi/{i}.mid", seed=i)
        rows.append((f"midi/{i}.mid", f"g{i}", "train" if i else "eval-only", f"by {i}"))
        splits.append(("midi", f"midi/{i}.mid", "val" if i > 3 else "train"))
    for name, table in (("midi.csv", rows), ("split.csv", splits)):
        with (folder / name).open("w", newline="") as out:
            csv.writer(out).writerows(table)
    return folder


class SinePacker(Packer):
    def _font(self, path):
        return Sines()


def make_pack(corpus, folder, plan, *, threads=1, report=lambda done, n: None):
    SinePacker(corpus, folder, plan, [corpus / "none.sf2"]).render(threads=threads, report=report)
    return {p.name: p.read_bytes() for p in sorted((folder / "tracks").iterdir())}


@pytest.fixture(autouse=True)
def voice(monkeypatch):
    monkeypatch.setattr(packs, "line", hum)
    monkeypatch.setattr(voices, "speak", lambda text, **how: hum(np.random.default_rng(len(text))))


def test_a_pack_depends_on_its_seed_only(corpus, tmp_path):
    plan = PackPlan(5, 1, seconds=5.0)
    one = make_pack(corpus, tmp_path / "one", plan)
    assert one == make_pack(corpus, tmp_path / "two", plan, threads=2)
    longer = make_pack(corpus, tmp_path / "one", dataclasses.replace(plan, n=7))
    assert one.items() < longer.items()
    other = make_pack(corpus, tmp_path / "three", dataclasses.replace(plan, seed=2))
    assert not set(one.values()) & set(other.values())


def test_an_interrupted_pack_is_continued(corpus, tmp_path):
    plan = PackPlan(5, 1, seconds=5.0)

    def interrupt(done, n):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_pack(corpus, tmp_path / "one", plan, report=interrupt)
    assert make_pack(corpus, tmp_path / "one", plan) == make_pack(corpus, tmp_path / "two", plan)


def test_a_pack_is_a_corpus_of_its_split_alone(corpus, tmp_path):
    for split, groups in (("train", {"g1", "g2", "g3"}), ("val", {"g4", "g5"})):
        make_pack(corpus, tmp_path / split, PackPlan(8, 1, split, 5.0, stems=True, n_talks=3))
        tracks = read_manifest(tmp_path / split, "track")
        assert len(tracks) == 8
        assert {f.group for f in tracks} <= groups  # g0 may not be trained on
        assert {f.split for f in tracks} == {split}
        assert all(f.path.is_file() and f.attribution.startswith("by ") for f in tracks)
        stems = read_manifest(tmp_path / split, "samples")
        assert all(f.path.is_file() for f in stems)
        assert {f.split for f in stems} == {split}
        noises = read_manifest(tmp_path / split, "noise")
        assert [f.category for f in noises] == ["speech", "crowd", "speech"]
        assert {f.split for f in noises} == {split}
        assert all(Audio.load(f.path).duration == pytest.approx(15.0, abs=0.1) for f in noises)
    both = read_manifests([tmp_path / "train", tmp_path / "val"], "track")
    assert len(both) == 16
    with pytest.raises(TrainingError, match="--corpus"):
        read_manifests([tmp_path / "train"], "ir")


@pytest.fixture(scope="module")
def font():
    pytest.importorskip("fluidsynth", reason="needs the system's libfluidsynth")
    fonts = find_fonts()
    if not fonts:
        pytest.skip("no sound font is installed")
    return SoundFont(min(fonts, key=lambda p: p.stat().st_size), sample_rate=RATE)


def test_a_sound_font_plays_the_same_twice_and_in_tune(font, tmp_path):
    part = read_score(write_midi(tmp_path / "a.mid")).parts[0]
    held = dataclasses.replace(
        part,
        beats=np.array([0.0, 4.0]),
        events=np.array([[NOTE_ON, 69, 100], [NOTE_OFF, 69, 0]], np.uint8),
    )
    one = font.play(held, np.array([0.5, 2.5]), 73, duration=4.0)
    again = font.play(held, np.array([0.5, 2.5]), 73, duration=4.0)
    np.testing.assert_allclose(one, again, atol=1e-3)  # a reused voice starts a little differently
    assert len(one) == 4 * RATE
    assert np.abs(one[: RATE // 2 - 200]).max() < 1e-3 < np.abs(one).max()
    spectrum = np.abs(np.fft.rfft(one[RATE : 2 * RATE] * np.hanning(RATE)))
    assert abs(int(spectrum[300:600].argmax()) + 300 - 440) <= 5
