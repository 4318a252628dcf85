"""A bundle is a smaller corpus, in parts: what a file was, whose it is, and on which side."""

from __future__ import annotations

import csv
import logging
from collections import Counter

import numpy as np
import pytest

from corpora import FIELDS, make_corpus
from fakes import tune
from spolia.audio import Audio
from spolia.corpus import read_manifests
from spolia.encoding import write_wav
from spolia.errors import TrainingError
from spolia.production.crate import named_stems
from spolia.training.bundle import BundlePlan, Bundler

PLAN = BundlePlan(seconds=5.0, bit_rate=24000, part_mb=0.1)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Return two corpora whose files have the same names; the first has stems of a track."""
    folder = tmp_path_factory.mktemp("corpora")
    first, second = (make_corpus(folder / name, n_tracks=6, n_val=2) for name in "ab")
    (first / "samples").mkdir()
    with (first / "samples.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow([*FIELDS, "kind"])
        for part in ("drums", "bass"):
            name = f"samples/t3__{part}.wav"
            sound = tune(3, seconds=12.0) if part == "drums" else tune(40, seconds=12.0)
            write_wav(first / name, sound)
            writer.writerow((name, "tracks/t3.wav", "train", "by someone", "", "stem"))
    return [first, second]


def bundled(corpora, folder, plan=PLAN):
    return Bundler(corpora, folder, plan).bundle(threads=2, report=lambda done, of: None)


def test_parts_hold_every_file_once_with_what_is_known_of_it(corpora, tmp_path):
    parts = bundled(corpora, tmp_path / "out")
    assert len(parts) > 2
    for part in parts[:-1]:
        size = sum(f.stat().st_size for f in part.glob("*/*"))
        assert 0.3 * PLAN.part_mb * 1e6 < size <= PLAN.part_mb * 1e6
    for kind in ("track", "noise", "ir"):
        wanted, got = read_manifests(corpora, kind), read_manifests(parts, kind)
        assert Counter((f.split, f.group, f.category, f.attribution) for f in wanted) == Counter(
            (f.split, f.group, f.category, f.attribution) for f in got
        )
        assert len({f.file for f in got}) == len(got)
        assert all(f.licence_class == "train" and f.path.is_file() for f in got)
    assert sum(len(list(p.glob("*/*"))) for p in parts) == 2 * (6 + 4 + 4) + 2


def test_excerpts_are_the_middle_and_stems_lie_under_it(corpora, tmp_path):
    parts = bundled(corpora, tmp_path / "out")
    tracks = read_manifests(parts, "track")
    ((track, stems),) = [
        (track, of) for track, of in named_stems(parts, tracks).items() if len(of) > 0
    ]
    assert track.group == "tracks/t3.wav"
    assert {part for part, _ in stems} == {"drums", "bass"}
    got = Audio.load(track.path, sample_rate=8000)
    assert got.duration == pytest.approx(5.0, abs=0.03)
    wanted = tune(3, seconds=12.0).slice(3.5, 8.5).resample(8000).samples
    drums = Audio.load(dict(stems)["drums"].path, sample_rate=8000)
    for sound in (got, drums):  # this stem is the track itself
        n = min(len(sound.samples), len(wanted))
        assert np.corrcoef(sound.samples[:n], wanted[:n])[0, 1] > 0.9
    response = next(f for f in read_manifests(parts, "ir") if f.group == "ir/r0.wav")
    plain = Audio.load(corpora[0] / "ir/r0.wav", sample_rate=8000).samples
    kept = Audio.load(response.path, sample_rate=8000).samples
    np.testing.assert_allclose(kept, plain, atol=2 / 32768)


def test_an_interrupted_bundle_goes_on(corpora, tmp_path):
    folder, seen = tmp_path / "out", []

    def stop(done, of):
        seen.append((done, of))
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Bundler(corpora, folder, PLAN).bundle(threads=2, report=stop)
    before = {f: f.stat().st_mtime_ns for f in folder.glob("part-*/*/*")}
    assert len(before) >= 9
    bundler = Bundler(corpora, folder, PLAN)
    parts = bundler.bundle(threads=1, report=lambda done, of: seen.append((done, of)))
    assert seen[-1] == (28, 28)
    assert {f: f.stat().st_mtime_ns for f in before} == before
    assert len(read_manifests(parts, "track")) == 12
    again = bundled(corpora, folder)
    assert again == parts
    assert sum(len(list(p.glob("*/*"))) for p in parts) == 30


def test_what_was_made_otherwise_is_not_gone_on_with(corpora, tmp_path):
    bundled(corpora, tmp_path / "out")
    with pytest.raises(TrainingError, match=r'made with \{"seconds": 5\.0.*choose another folder'):
        Bundler(corpora, tmp_path / "out", BundlePlan(seconds=6.0))
    with pytest.raises(TrainingError, match="the same settings and corpora"):
        Bundler(corpora[1:], tmp_path / "out", PLAN)  # whose names the first one's files have


def test_a_file_that_cannot_be_decoded_is_left_out(tmp_path, caplog):
    corpus = make_corpus(tmp_path / "corpus", n_tracks=4, n_val=1)
    (corpus / "tracks/t2.wav").write_bytes(b"no sound")
    with caplog.at_level(logging.WARNING):
        parts = bundled([corpus], tmp_path / "out")
    assert "left out" in caplog.text
    assert "t2.wav" in caplog.text
    assert {f.group for f in read_manifests(parts, "track")} == {
        f"tracks/t{i}.wav" for i in (0, 1, 3)
    }
