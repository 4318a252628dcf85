"""Sketches: made of blocks beside another method, and what they tell apart."""

from __future__ import annotations

import numpy as np
import pytest

from fakes import tune
from spolia.audio import Audio
from spolia.encoding import write_wav
from spolia.errors import ParameterError
from spolia.fingerprints.base import Change
from spolia.library import Library
from spolia.sample_alignment import FRAME, levels
from spolia.sample_patches import Pair
from spolia.sample_sketch import ROW, WIDTH, Screen, sketch
from spolia.sketches import SIZE, SketchFingerprinter
from spolia.spectral_alignment import rows_at


def music(seconds, seed=0):
    return tune(seed, seconds, 16000)


def test_a_sketch_of_blocks_is_that_of_the_whole():
    audio = music(150.0)
    made = SketchFingerprinter()
    whole = sketch(levels(audio.samples))
    blocks = [Audio(part, 16000) for part in np.array_split(audio.samples, 13)]
    found = made.fingerprint_blocks(iter(blocks))
    assert found.values.shape == (len(audio.samples) // SIZE, WIDTH)
    assert found.times[1] == pytest.approx(ROW)
    assert found.duration == pytest.approx(150.0)
    # silence is judged by the minute, not by the whole: the same but for that
    a, b = found.values.ravel(), whole[: len(found.values)].ravel()
    assert np.corrcoef(a, b)[0, 1] > 0.98
    once = made.fingerprint(audio)
    assert np.array_equal(once.values, found.values)
    with pytest.raises(ParameterError, match="changed"):
        made.fingerprint_query(audio, Change(semitones=1.0))


@pytest.mark.parametrize(("tempo", "semitones"), [(1.0, 0), (1.12, 2), (0.8, -3)])
def test_the_right_place_stands_out_changed_and_under_a_bed(tempo, semitones):
    known = levels(music(60.0, 1).samples)
    played = rows_at(known, 1200 + tempo * np.arange(900))
    heard = np.roll(played, 2 * semitones, axis=1) + levels(music(15.0, 2).samples)[:900]

    def place(seconds):
        return 1200 * FRAME + tempo * seconds

    screen, of = Screen(heard), sketch(known)
    right = screen.standing(of, [Pair(t, place(t) + 2.0) for t in (3.0, 6.0, 10.0)])
    other = sketch(levels(music(60.0, 3).samples))
    wrong = [screen.standing(other, [Pair(t, 8.0 + 4 * k) for t in (3.0, 6.0)]) for k in range(10)]
    assert right > max(wrong) + 1.0


def test_silence_stands_for_nothing():
    screen = Screen(levels(music(10.0).samples))
    nothing = np.zeros((200, WIDTH), np.float32)
    assert screen.standing(nothing, [Pair(5.0, 5.0)]) == -np.inf
    quiet = Screen(np.zeros((600, 156), np.float32))
    assert quiet.standing(sketch(levels(music(20.0).samples)), [Pair(5.0, 5.0)]) == -np.inf


def test_a_library_of_samples_holds_sketches_and_completes_an_old_one(tmp_path):
    class Windows(SketchFingerprinter):
        method, model_id = "samples", "fake"

        def fingerprint_blocks(self, blocks):
            found = super().fingerprint_blocks(blocks)
            return type(found)("samples", "fake", found.times, found.values, found.duration)

    class Alone(Windows):
        beside = "none"

    write_wav(tmp_path / "a.wav", music(12.0))
    with Library(tmp_path / "lib", fingerprinters=[Alone()]) as library:
        library.methods = ["samples"]  # as libraries were before there were sketches
        library.add([tmp_path / "a.wav"])
        assert library.catalog.rows(next(iter(library)).id, "sketches") is None
    with Library(tmp_path / "lib", fingerprinters=[Alone()]) as library:
        assert library.methods == ["samples", "sketches", "nodes"]
        report = library.add([tmp_path / "a.wav"])
        assert (report.updated, report.failed) == (1, [])
        rows = library.catalog.rows(next(iter(library)).id, "sketches")
        expected = SketchFingerprinter().fingerprint(music(12.0)).values
        assert rows.shape == expected.shape
        assert np.corrcoef(rows.ravel(), expected.ravel())[0, 1] > 0.999
        assert library.verify() == []
        with pytest.raises(ParameterError, match="holds no 'sketches'"):
            library.identify(tmp_path / "a.wav", method="sketches")


def test_a_file_is_decoded_once_for_both(tmp_path, monkeypatch):
    from spolia import ingest

    class Windows(SketchFingerprinter):
        method, model_id, beside = "samples", "fake", "none"

        def fingerprint_blocks(self, blocks):
            found = super().fingerprint_blocks(blocks)
            return type(found)("samples", "fake", found.times, found.values, found.duration)

    opened = []
    stream = ingest.stream
    monkeypatch.setattr(ingest, "stream", lambda *a, **k: opened.append(a) or stream(*a, **k))
    write_wav(tmp_path / "a.wav", music(12.0))
    with Library(tmp_path / "lib", fingerprinters=[Windows()]) as library:
        library.add([tmp_path / "a.wav"])
        assert len(opened) == 1
        assert set(library.catalog.methods()) == {"samples", "sketches"}
