"""The shipped model on synthesised music: the main job, degraded, shifted, and unknown."""

from __future__ import annotations

import numpy as np
import pytest

from spolia import degradation
from spolia.audio import Audio
from spolia.encoders import open_classifier, open_encoder, open_model, shipped_models
from spolia.encoding import write_wav
from spolia.library import Library
from spolia.model_card import render
from spolia.synthesis import crate, piece

pytestmark = pytest.mark.skipif("segment" not in shipped_models(), reason="no model is shipped")


@pytest.fixture(scope="module")
def pieces():
    return [audio for _, _, audio in crate(8, seed=3)]


@pytest.fixture(scope="module")
def library(pieces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shipped")
    for i, audio in enumerate(pieces):
        write_wav(folder / f"{i}.wav", audio)
    with Library(folder / "library") as library:
        library.add([folder])
        yield library


def clip(pieces, i, seconds=8.0):
    return pieces[i].slice(9.0, 9.0 + seconds)


CHANGES = {
    "clean": (lambda a: a, 1.0),
    "two semitones up": (lambda a: degradation.shift_pitch(a, 2.0), 1.0),
    "two semitones down": (lambda a: degradation.shift_pitch(a, -2.0), 1.0),
    "4 % fast": (lambda a: degradation.change_speed(a, 1.04), 1.04),
    "10 % slow in tempo": (lambda a: degradation.stretch(a, 0.9), 0.9),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_clip_is_found_at_its_place(library, pieces, change):
    apply, speed = CHANGES[change]
    n_found = 0
    for i in range(len(pieces)):
        answer = library.identify(apply(clip(pieces, i)))
        if answer.decided and answer.matches[0].recording.path.endswith(f"{i}.wav"):
            match = answer.matches[0]
            n_found += 1
            assert match.speed == pytest.approx(speed, abs=0.03)
            place = match.reference_start - match.speed * match.query_start
            assert place == pytest.approx(9.0, abs=0.25)
    assert n_found >= len(pieces) - 2


def test_strangers_are_unknown(library):
    for seed in range(8):
        stranger = piece(np.random.default_rng([5, seed]), seconds=8.0)
        assert not library.identify(stranger).decided


def test_a_copy_in_the_library_does_not_hide_the_recording(library, pieces, tmp_path):
    for name in ("one", "two"):
        write_wav(tmp_path / f"{name}.wav", pieces[2].slice(0.3, 25.0))
    report = library.add([tmp_path])
    try:
        rng = np.random.default_rng(0)
        answer = library.identify(degradation.add_noise(clip(pieces, 2), rng, snr_db=5.0))
    finally:
        library.remove([r.id for r in library if str(tmp_path) in r.path])
    assert report.added == 2
    assert answer.decided


def test_a_library_whose_runs_overlap_by_half_says_so_itself(pieces, tmp_path):
    for i, audio in enumerate(pieces[:3]):
        write_wav(tmp_path / f"{i}.wav", audio)
    files = sorted(tmp_path.glob("*.wav"))
    with Library(tmp_path / "library", compressor="compressed+half") as library:
        library.add(files)
        n_runs = len(library.index("compressed"))
    with Library(tmp_path / "alone") as library:
        library.add(files)
        assert 1.3 < n_runs / len(library.index("compressed")) < 2.4
    with Library(tmp_path / "library") as library:
        assert "+half" in repr(library)
        for method in ("compressed", "compressed+segments"):
            answer = library.identify(clip(pieces, 1), method=method)
            assert answer.matches[0].recording.path == str(files[1])
        assert library.add(files).unchanged == 3
        assert library.verify() == []


@pytest.mark.skipif("sample" not in shipped_models(), reason="no model of samples is shipped")
def test_a_loop_buried_in_new_music_is_found_by_the_shipped_encoder(pieces, tmp_path):
    for i, audio in enumerate(pieces):
        write_wav(tmp_path / f"{i}.wav", audio)
    tempo, starts = 1.06, [3.0, 5.0, 7.0, 14.0]
    loop = degradation.change_speed(pieces[2].slice(9.0, 9.0 + 2.0 * tempo), tempo).samples
    bed = piece(np.random.default_rng([9, 1]), seconds=20.0)
    mix = 0.5 * bed.samples / np.abs(bed.samples).max()
    loop = loop * (np.sqrt(np.mean(mix**2)) / np.sqrt(np.mean(loop**2)))
    for start in starts:
        place = round(start * bed.sample_rate)
        mix[place : place + len(loop)] += loop[: len(mix) - place]
    track = Audio((mix / np.abs(mix).max()).astype(np.float32), bed.sample_rate)
    with Library(tmp_path / "library", methods=["samples"]) as library:
        library.add([tmp_path])
        found = library.find_samples(track, top=1).matches[0]
    assert found.recording.path.endswith("2.wav")
    assert found.tempo_ratio == pytest.approx(tempo, rel=0.01)
    assert found.semitones == pytest.approx(12 * np.log2(tempo), abs=0.25)
    assert len(found.occurrences) == len(starts)
    for occurrence, start in zip(found.occurrences, starts, strict=True):
        offset = occurrence.reference_start - tempo * occurrence.query_start
        assert offset == pytest.approx(9.0 - tempo * start, abs=0.1)


@pytest.mark.skipif("sample" not in shipped_models(), reason="no model of samples is shipped")
def test_a_recording_that_is_a_loop_is_found(pieces, tmp_path):
    loop = piece(np.random.default_rng([9, 4]), seconds=12.0).slice(4.0, 6.5)
    for name, audio in (("loop", loop), *((f"{i}", audio) for i, audio in enumerate(pieces))):
        write_wav(tmp_path / f"{name}.wav", audio)
    track = 0.5 * piece(np.random.default_rng([9, 5]), seconds=20.0).samples
    for number in range(5):
        place = round((3.0 + 2.5 * number) * loop.sample_rate)
        track[place : place + len(loop)] += loop.samples
    with Library(tmp_path / "library", methods=["samples"]) as library:
        assert library.add([tmp_path]).failed == []
        answer = library.find_samples(Audio(track.astype(np.float32), loop.sample_rate))
    assert [m.recording.name for m in answer.found] == ["loop.wav"]
    assert len(answer.found[0].occurrences) == 5
    assert all(o.reference_end <= 2.5 for o in answer.found[0].occurrences)


@pytest.mark.skipif("classifier" not in shipped_models(), reason="no classifier is shipped")
def test_the_shipped_classifier_belongs_to_the_shipped_encoder_and_tells_sound_apart(pieces):
    encoder = open_encoder("sample", kind="sample")
    classifier = open_classifier("classifier", encoder)
    assert classifier.verify() < 1e-3
    assert encoder.has_short_nodes
    size = encoder.path.stat().st_size + classifier.path.stat().st_size
    assert size < 12e6  # bytes
    card = encoder.card
    cut = [p.resample(card.sample_rate).samples[: 2 * card.segment] for p in pieces]
    beds = [0.5 * (one + other) for one, other in zip(cut, cut[1:] + cut[:1], strict=True)]
    clean = np.concatenate([encoder.nodes(c[None, : card.segment])[:, 0] for c in cut])
    heard = np.concatenate([encoder.nodes(b[None, : card.segment])[:, 0] for b in beds])
    right = classifier.compare(heard, clean)
    wrong = classifier.compare(heard, np.roll(clean, 3, axis=0))
    assert np.mean(right > wrong) > 0.8
    assert np.median(right) > np.median(wrong) + 1.0


@pytest.mark.parametrize("name", ["segment", "compressed", "sample", "classifier"])
def test_shipped_models_say_how_good_they_are(name):
    card = open_model(name).card
    assert card.results
    for result in card.results:
        assert result["command"].startswith("spolia evaluate")
        assert card.id in result["library"] or card.kind == "classifier"
    assert "- none recorded" not in render(card)
