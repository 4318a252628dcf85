"""The library keeps what it acknowledged, skips what it knows and answers."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fakes import BandEnergies, tune
from spolia.audio import Audio, Tags
from spolia.encoding import encode, write_wav
from spolia.errors import (
    AudioError,
    CorruptLibrary,
    IncompatibleModel,
    LibraryNotFound,
    ParameterError,
    UnknownRecording,
)
from spolia.fingerprints.landmarks import LandmarkFingerprinter
from spolia.ingest import find_files
from spolia.library import Library


@pytest.fixture(scope="module")
def crate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crate")
    for i in range(8):
        place = folder / ("more" if i % 2 else ".")
        place.mkdir(exist_ok=True)
        if i == 3:
            data = encode(tune(i), codec="flac", container="flac", tags=Tags("Third", "Ann", "One"))
            (place / "tune3.flac").write_bytes(data)
        else:
            write_wav(place / f"tune{i}.wav", tune(i))
    (folder / "notes.txt").write_text("not music")
    (folder / ".hidden.wav").write_bytes(b"")
    return folder


@pytest.fixture
def library(tmp_path):
    with Library(tmp_path / "lib", fingerprinters=[BandEnergies()]) as opened:
        yield opened


def test_add_finds_the_folder_and_reads_tags(library, crate):
    seen = []
    report = library.add([crate], progress=seen.append)
    assert (report.added, report.failed) == (8, [])
    assert report.seconds_of_audio == pytest.approx(160, abs=0.1)
    assert [p.done for p in seen] == list(range(1, 9))
    tagged = [r for r in library if r.title]
    assert [(r.title, r.artist, r.album) for r in tagged] == [("Third", "Ann", "One")]
    assert tagged[0].name == "Ann – Third"
    assert "8 recordings" in repr(library)


def test_unchanged_files_are_skipped_and_changed_ones_added_again(library, crate, tmp_path):
    copy = shutil.copytree(crate, tmp_path / "copy")
    library.add([copy])
    assert library.add([copy]).unchanged == 8
    write_wav(copy / "tune0.wav", tune(99, seconds=5))
    report = library.add([copy])
    assert (report.updated, report.unchanged) == (1, 7)
    assert library.catalog.find_path(str(copy / "tune0.wav")).duration == pytest.approx(5)
    assert library.verify() == []


def test_failures_are_reported_and_the_rest_is_added(library, crate, tmp_path):
    copy = shutil.copytree(crate, tmp_path / "copy")
    (copy / "a_broken.mp3").write_bytes(b"nonsense" * 100)
    (copy / "b_empty.wav").write_bytes(b"")
    write_wav(copy / "c_silent.wav", Audio(np.zeros(40000, np.float32), 8000))
    write_wav(copy / "d_short.wav", tune(1, seconds=0.3))
    report = library.add([copy, copy / "missing.wav"])
    reasons = {Path(path).name: reason for path, reason in report.failed}
    assert report.added == 8
    assert set(reasons) == {
        "a_broken.mp3",
        "b_empty.wav",
        "c_silent.wav",
        "d_short.wav",
        "missing.wav",
    }
    assert "not audio" in reasons["a_broken.mp3"]
    assert "empty" in reasons["b_empty.wav"]
    assert "silent" in reasons["c_silent.wav"]
    assert "too short (0.30 s)" in reasons["d_short.wav"]
    assert "does not exist" in reasons["missing.wav"]


def test_an_excerpt_is_found_at_its_place(library, crate):
    library.add([crate])
    for number, start in ((0, 3.3), (5, 11.0), (6, 0.2)):
        answer = library.identify(tune(number).slice(start, start + 6.0), threshold=0.5)
        best = answer.matches[0]
        assert Path(best.recording.path).stem == f"tune{number}"
        assert best.reference_start - best.query_start == pytest.approx(start, abs=0.3)
        assert answer.decided


def test_two_tunes_in_one_query_are_both_found(library, crate):
    library.add([crate])
    medley = np.concatenate([tune(1).slice(2, 10).samples, tune(4).slice(5, 13).samples])
    answer = library.identify(Audio(medley, 8000), threshold=0.5)
    found = {Path(m.recording.path).stem: m for m in answer.matches}
    assert {"tune1", "tune4"} <= set(found)
    assert found["tune4"].query_start == pytest.approx(8.0, abs=1.1)
    assert found["tune4"].reference_end == pytest.approx(13.0, abs=1.1)


def test_the_answer_does_not_depend_on_the_order_of_adding(crate, tmp_path):
    answers = []
    files = list(find_files([crate]))
    for name, order in (("a", files), ("b", files[::-1])):
        with Library(tmp_path / name, fingerprinters=[BandEnergies()]) as library:
            library.add(order)
            answer = library.identify(tune(5).slice(4, 9), top=3)
            answers.append([(m.recording.path, m.score, m.reference_start) for m in answer.matches])
    assert answers[0] == answers[1]


def test_an_empty_library_answers_unknown(library):
    answer = library.identify(tune(0))
    assert (answer.decided, answer.matches) == (False, [])


def test_bad_queries_get_one_sentence(library, crate, tmp_path):
    library.add([crate])
    with pytest.raises(AudioError, match=r"0\.5 s long; at least 1\.0 s"):
        library.identify(tune(0, seconds=0.5))
    with pytest.raises(AudioError, match="silent"):
        library.identify(Audio(np.zeros(20000, np.float32), 8000))
    with pytest.raises(AudioError, match="does not exist"):
        library.identify(tmp_path / "nowhere.wav")
    with pytest.raises(AudioError, match="is a directory"):
        library.identify(tmp_path)


def test_added_then_removed_is_never_added(library, crate):
    library.add([crate])
    before = library.identify(tune(2).slice(3, 9), threshold=0.5)
    gone = library.remove([before.matches[0].recording.id])
    assert Path(gone[0].path).stem == "tune2"
    after = library.identify(tune(2).slice(3, 9), threshold=0.0)
    assert all(m.recording.id != gone[0].id for m in after.matches)
    with pytest.raises(UnknownRecording):
        library.remove([gone[0].id])
    assert len(library) == 7


def test_removing_checks_all_ids_first(library, crate):
    library.add([crate])
    known = next(iter(library)).id
    with pytest.raises(UnknownRecording, match="nonsense"):
        library.remove([known, "nonsense"])
    assert len(library) == 8


def test_ids_may_be_shortened_if_unambiguous(library, crate):
    library.add([crate])
    recording = next(iter(library))
    assert library.get(recording.id[:8]) == recording
    with pytest.raises(UnknownRecording):
        library.get("")


def test_another_model_is_refused(library, crate):
    library.add([crate])
    other = BandEnergies("bands-000000000002")
    with Library(library.folder, fingerprinters=[other]) as opened:
        with pytest.raises(IncompatibleModel, match=r"000001.*000002"):
            opened.add([crate])
        with pytest.raises(IncompatibleModel):
            opened.identify(tune(0))


def test_a_method_it_does_not_hold_is_refused(library, crate):
    library.add([crate])
    with pytest.raises(ParameterError, match="--methods landmarks"):
        library.identify(tune(0), method="landmarks")


def test_a_second_method_is_made_for_files_already_added(library, crate):
    library.add([crate])
    both = [BandEnergies(), LandmarkFingerprinter()]
    with Library(library.folder, fingerprinters=both) as opened:
        report = opened.add([crate])
        assert (report.updated, report.unchanged) == (8, 0)
        assert opened.add([crate]).unchanged == 8
        assert opened.verify() == []
        clip = tune(5).slice(4.0, 10.0)
        assert opened.identify(clip, threshold=0.1).matches[0].method == "segments"
        found = opened.identify(clip, method="landmarks", threshold=0.1).matches[0]
        assert Path(found.recording.path).stem == "tune5"
        assert found.reference_start - found.query_start == pytest.approx(4.0, abs=0.05)


def test_no_library_no_folder_made(tmp_path):
    with pytest.raises(LibraryNotFound, match="spolia add"):
        Library(tmp_path / "nowhere", create=False)
    assert not (tmp_path / "nowhere").exists()


def test_a_damaged_database_is_named(library, crate):
    library.add([crate])
    library.close()
    file = library.folder / "library.sqlite"
    file.write_bytes(b"garbage" * 1000)
    for extra in ("-wal", "-shm"):
        Path(f"{file}{extra}").unlink(missing_ok=True)
    with pytest.raises(CorruptLibrary, match="damaged"):
        Library(library.folder, fingerprinters=[BandEnergies()])


def test_a_damaged_fingerprint_is_found_by_verify(library, crate):
    library.add([crate])
    with sqlite3.connect(library.folder / "library.sqlite") as database:
        database.execute(
            "UPDATE fingerprints SET content = zeroblob(length(content)) WHERE rowid = 3"
        )
    assert any("damaged" in problem for problem in library.verify())


def test_links_and_repeated_paths_are_added_once(crate, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path)
    files = list(find_files([crate, crate, crate / "tune0.wav", tmp_path]))
    assert len(files) == len(set(files)) == 8


WORKER = """
import sys
sys.path.insert(0, {tests!r})
from fakes import BandEnergies
from spolia.library import Library
with Library({folder!r}, fingerprinters=[BandEnergies()]) as library:
    print("ready", flush=True)
    library.add({paths!r}, progress=lambda p: print(p.path, flush=True))
"""


def start_worker(folder, paths):
    code = WORKER.format(
        tests=str(Path(__file__).parent), folder=str(folder), paths=[str(p) for p in paths]
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_two_processes_add_into_one_library(crate, tmp_path):
    files = list(find_files([crate]))
    workers = [start_worker(tmp_path / "lib", part) for part in (files[:4], files[4:])]
    assert [w.wait(60) for w in workers] == [0, 0]
    for worker in workers:
        worker.stdout.close()
    with Library(tmp_path / "lib", fingerprinters=[BandEnergies()]) as library:
        assert len(library) == 8
        assert library.verify() == []


def test_kill_at_ten_random_moments_loses_nothing_acknowledged(tmp_path):
    rng = np.random.default_rng(11)
    crate = tmp_path / "crate"
    crate.mkdir()
    for i in range(60):
        write_wav(crate / f"{i:02d}.wav", tune(i, seconds=4))
    acknowledged: set[str] = set()
    for _ in range(10):
        worker = start_worker(tmp_path / "lib", [crate])
        assert worker.stdout.readline() == "ready\n"
        wait = int(rng.integers(1, 8))
        lines = [worker.stdout.readline().strip() for _ in range(wait)]
        worker.kill()
        lines += worker.stdout.read().split()
        worker.wait()
        worker.stdout.close()
        acknowledged |= {line for line in lines if line}
        with Library(tmp_path / "lib", fingerprinters=[BandEnergies()]) as library:
            assert library.verify() == []
            assert acknowledged <= {r.path for r in library}
    assert acknowledged
    with Library(tmp_path / "lib", fingerprinters=[BandEnergies()]) as library:
        library.add([crate])
        assert len(library) == 60
        assert os.listdir(tmp_path / "lib")
