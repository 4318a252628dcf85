"""The library keeps what it acknowledged, skips what it knows and answers."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
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
from spolia.fingerprints.registry import searched
from spolia.ingest import find_files
from spolia.library import Library
from spolia.store.catalog import Catalog


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
    assert report.failed == sorted(report.failed)
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


def test_a_librarys_runs_are_compressed_by_its_threads(tmp_path):
    with Library(tmp_path, threads=3) as library:
        assert library.fingerprinter("compressed").compressor.threads == 3


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


@pytest.mark.parametrize(
    "name", ['it\'s "quoted".wav', "two\nlines.wav", "🎵 ünïcode.wav", "[a]%s{b}.wav", "-rf.wav"]
)
def test_a_file_of_any_name_is_added_found_and_skipped(library, tmp_path, name):
    file = tmp_path / name
    write_wav(file, tune(3))
    assert library.add([file]).added == 1
    assert library.add([file]).unchanged == 1
    assert library.identify(tune(3).slice(4, 9)).matches[0].recording.path == str(file)


def test_a_name_that_is_not_text_is_added_and_can_be_printed(library, tmp_path):
    file = os.fsencode(tmp_path) + b"/a\xff.wav"
    write_wav(tmp_path / "a.wav", tune(3))
    try:
        (tmp_path / "a.wav").rename(os.fsdecode(file))
    except OSError:
        pytest.skip("this file system takes no such names")
    assert library.add([tmp_path]).added == 1
    assert library.add([os.fsdecode(file)]).unchanged == 1
    assert next(iter(library)).path.encode().endswith(rb"a\xff.wav")
    assert library.verify() == []


def test_odd_paths_fail_by_name_and_the_rest_is_added(library, tmp_path):
    write_wav(tmp_path / "good.wav", tune(1))
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    (tmp_path / "dangling.wav").symlink_to(tmp_path / "nowhere.wav")
    os.mkfifo(tmp_path / "pipe.wav")  # opening it would wait for ever
    inside, long = tmp_path / "good.wav" / "inside.wav", tmp_path / ("x" * 300 + ".wav")
    report = library.add([tmp_path, inside, long])
    reasons = {Path(path).name: reason for path, reason in report.failed}
    assert report.added == 1
    assert set(reasons) == {"loop.wav", "dangling.wav", "pipe.wav", inside.name, long.name}
    assert "pipe" in reasons["pipe.wav"]
    assert "File name too long" in reasons[long.name]
    assert "does not exist" in reasons["inside.wav"]


def test_the_same_sound_in_two_files_is_held_twice_and_a_path_given_twice_once(library, tmp_path):
    write_wav(tmp_path / "a.wav", tune(1))
    shutil.copy(tmp_path / "a.wav", tmp_path / "b.wav")
    nested = tmp_path / "x" / ".." / "a.wav"
    assert library.add([tmp_path, tmp_path / "a.wav", nested]).added == 2
    assert library.identify(tune(1).slice(3, 9)).decided


def test_a_renamed_file_is_added_under_its_new_name(library, tmp_path):
    write_wav(tmp_path / "old.wav", tune(1))
    library.add([tmp_path])
    (tmp_path / "old.wav").rename(tmp_path / "new.wav")
    assert library.add([tmp_path]).added == 1
    old = library.catalog.find_path(str(tmp_path / "old.wav"))
    library.remove([old.id])
    found = library.identify(tune(1).slice(3, 9)).matches
    assert [Path(m.recording.path).name for m in found] == ["new.wav"]


def test_a_folder_that_cannot_be_read_is_reported(library, crate, tmp_path, monkeypatch):
    scandir = os.scandir

    def guarded(path):
        if Path(path).name == "more":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    report = library.add([crate])
    assert report.added == 4
    [(path, reason)] = report.failed
    assert (Path(path).name, "Permission denied" in reason) == ("more", True)


class Troubled(BandEnergies):
    """Calls ``trouble`` with the number of the file, from 0, before it is fingerprinted."""

    def __init__(self, trouble):
        super().__init__()
        self.trouble = trouble
        self.lock, self.n = threading.Lock(), 0

    def fingerprint_blocks(self, blocks):
        with self.lock:
            number, self.n = self.n, self.n + 1
        self.trouble(number)
        return super().fingerprint_blocks(blocks)


def test_an_error_in_reading_one_file_does_not_end_the_whole_add(crate, tmp_path):
    def broken_disk(number):
        if number == 2:
            raise OSError(5, "Input/output error")

    with Library(tmp_path / "lib", fingerprinters=[Troubled(broken_disk)]) as library:
        report = library.add([crate])
        assert (report.added, len(report.failed)) == (7, 1)
        assert "Input/output error" in report.failed[0][1]
        assert library.add([crate]).added == 1


def test_a_file_that_vanishes_during_add_fails_alone(library, crate, tmp_path):
    copy = shutil.copytree(crate, tmp_path / "copy")
    report = library.add([copy], progress=lambda _: (copy / "tune6.wav").unlink(missing_ok=True))
    assert report.added + len(report.failed) == 8
    assert library.verify() == []


def test_a_slow_file_does_not_hold_up_the_others(crate, tmp_path):
    others_done = threading.Event()
    slow = Troubled(lambda number: number or others_done.wait(20))
    done = []

    def note(progress):
        done.append(progress.path)
        if len(done) == 7:
            others_done.set()

    with Library(tmp_path / "lib", threads=2, fingerprinters=[slow]) as library:
        started = time.monotonic()
        assert library.add([crate], progress=note).added == 8
    assert time.monotonic() - started < 20


def test_what_is_acknowledged_can_be_seen_by_others_at_once(library, crate):
    with Library(library.folder) as other:
        seen = []

        def look(progress):
            seen.append(other.catalog.find_path(str(progress.path)) is not None)

        library.add([crate], progress=look)
    assert seen == [True] * 8


def test_recordings_removed_by_another_process_during_a_search_are_not_found(library, crate):
    library.add([crate])
    clip = tune(5).slice(4, 9)
    with Library(library.folder, fingerprinters=[BandEnergies()]) as other:
        gone = library.identify(clip).matches[0].recording
        index = library.index

        def removed_meanwhile(method):
            found = index(method)
            if gone.id in {r.id for r in other}:
                other.remove([gone.id])
            return found

        library.index = removed_meanwhile
        library._sequence.cache_clear()
        answer = library.identify(clip, threshold=0.0)
    assert all(m.recording.id != gone.id for m in answer.matches)


def test_a_recording_that_changed_is_aligned_with_its_new_sound(library, tmp_path):
    write_wav(tmp_path / "a.wav", tune(1))
    library.add([tmp_path])
    assert library.identify(tune(1).slice(3, 9)).decided
    write_wav(tmp_path / "a.wav", Audio(tune(1).samples[16000:], 8000))
    library.add([tmp_path])
    best = library.identify(tune(1).slice(3, 9)).matches[0]
    assert best.reference_start - best.query_start == pytest.approx(1.0, abs=0.3)


WORKER = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from fakes import BandEnergies
from spolia.library import Library

left = {die_after!r}

def acknowledge(progress):
    global left
    print(progress.path, flush=True)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

with Library({folder!r}, fingerprinters=[BandEnergies()]) as library:
    print("ready", flush=True)
    library.add({paths!r}, progress=acknowledge)
"""


def start_worker(folder, paths, *, die_after=-1):
    code = WORKER.format(
        tests=str(Path(__file__).parent),
        folder=str(folder),
        paths=[str(p) for p in paths],
        die_after=die_after,
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_processes_that_add_at_once_into_a_new_library_lose_nothing(crate, tmp_path):
    files = list(find_files([crate]))
    shares = (files[:3], files[3:6], files[5:], files)  # some files are in several
    workers = [start_worker(tmp_path / "lib", share) for share in shares]
    acknowledged = [set(w.communicate(timeout=60)[0].split()) for w in workers]
    assert [w.returncode for w in workers] == [0, 0, 0, 0]
    assert acknowledged[3] == {"ready", *map(str, files)}
    with Library(tmp_path / "lib", fingerprinters=[BandEnergies()]) as library:
        assert {r.path for r in library} == set(map(str, files))
        assert library.verify() == []


def test_identify_answers_while_another_process_adds(library, crate, tmp_path):
    files = list(find_files([crate]))
    library.add(files[:1])
    with start_worker(library.folder, files) as worker:
        answers = []
        while worker.poll() is None:
            answers.append(library.identify(tune(0).slice(3, 9), threshold=0.5))
    assert worker.returncode == 0
    assert all(Path(a.matches[0].recording.path).stem == "tune0" for a in answers)


def make_crate(folder, n):
    folder.mkdir()
    for i in range(n):
        write_wav(folder / f"{i:02d}.wav", tune(i, seconds=4))
    return folder


def kill_and_check(worker, folder, acknowledged):
    """Note what a killed worker acknowledged; all of it, and nothing half done, is there."""
    acknowledged |= set(worker.communicate(timeout=60)[0].split()) - {"ready"}
    assert worker.returncode == -signal.SIGKILL
    with Library(folder, fingerprinters=[BandEnergies()]) as library:
        assert library.verify() == []
        assert acknowledged <= {r.path for r in library}


def test_kill_at_the_moment_of_acknowledgement_loses_nothing(tmp_path):
    crate = make_crate(tmp_path / "crate", 12)
    acknowledged: set[str] = set()
    for die_after in (1, 3, 6):
        worker = start_worker(tmp_path / "lib", [crate], die_after=die_after)
        kill_and_check(worker, tmp_path / "lib", acknowledged)
        assert len(acknowledged) >= die_after


def test_kill_at_random_moments_loses_nothing_acknowledged(tmp_path):
    rng = np.random.default_rng(11)
    crate = make_crate(tmp_path / "crate", 60)
    acknowledged: set[str] = set()
    for kill in range(10):
        worker = start_worker(tmp_path / "lib", [crate])
        assert worker.stdout.readline() == "ready\n"
        if kill % 3 == 0:  # on a busy machine the others may be killed before their first
            acknowledged.add(worker.stdout.readline().strip())
        time.sleep(rng.uniform(0.0, 0.06))
        worker.kill()
        kill_and_check(worker, tmp_path / "lib", acknowledged)
    assert acknowledged
    with Library(tmp_path / "lib", fingerprinters=[BandEnergies()]) as library:
        assert library.add([crate]).unchanged >= len(acknowledged)
        assert len(library) == 60
        assert library.verify() == []


class Slow(BandEnergies):
    """Takes 0.3 s for each block, a minute of sound."""

    def fingerprint_blocks(self, blocks):
        def slowly():
            for block in blocks:
                yield block
                time.sleep(0.3)

        return super().fingerprint_blocks(slowly())


def test_ctrl_c_in_a_long_file_ends_soon_and_keeps_what_was_acknowledged(tmp_path):
    write_wav(tmp_path / "a.wav", tune(1))
    write_wav(tmp_path / "long.wav", Audio(np.tile(tune(2).samples, 3 * 30), 8000))  # 9 s of work
    stopped_at = []

    def interrupt(_):
        stopped_at.append(time.monotonic())
        raise KeyboardInterrupt

    with Library(tmp_path / "lib", fingerprinters=[Slow()]) as library:
        with pytest.raises(KeyboardInterrupt):
            library.add([tmp_path], progress=interrupt)
        assert time.monotonic() - stopped_at[0] < 2.0
        assert [Path(r.path).name for r in library] == ["a.wav"]
        assert library.verify() == []


def test_a_method_of_a_later_version_does_not_stop_the_others(tmp_path):
    write_wav(tmp_path / "a.wav", tune(0))
    with Library(tmp_path / "lib", fingerprinters=[BandEnergies()]) as library:
        library.add([tmp_path / "a.wav"])
        library.catalog.declare({"samples": "samples-1"})
        answer = library.identify(tune(0).slice(3, 9), threshold=0.0)
    assert answer.matches[0].method == "segments"


def test_what_only_some_recordings_have_is_not_asked_by_default(library, crate):
    library.add([crate])
    both = [BandEnergies(), LandmarkFingerprinter()]
    with Library(library.folder, fingerprinters=both) as opened:
        opened.add([crate / "tune0.wav"])
        assert opened.catalog.counts() == {"landmarks": 1, "segments": 8}
        clip = tune(5).slice(4.0, 10.0)
        assert opened.identify(clip, threshold=0.1).matches[0].method == "segments"
        assert opened.identify(clip, method="landmarks").matches == []


@pytest.mark.parametrize(
    ("counts", "order"),
    [
        ({"segments": 5, "compressed": 5}, ["compressed+segments", "segments", "compressed"]),
        ({"segments": 5, "compressed": 4}, ["segments", "compressed+segments", "compressed"]),
        ({"landmarks": 5, "segments": 2, "samples": 5}, ["landmarks", "segments", "samples"]),
        ({"samples": 5, "sketches": 5}, ["samples"]),
    ],
)
def test_the_default_is_what_all_recordings_have(counts, order):
    assert searched(counts) == order


def test_a_damaged_fingerprint_is_made_anew_by_what_needs_it(library, crate):
    library.add([crate])
    with sqlite3.connect(library.folder / "library.sqlite") as database:
        database.execute("UPDATE fingerprints SET content = x'00' WHERE method = 'segments'")

    class Thinned(BandEnergies):
        method, derives_from, span_seconds = "thinned", "segments", 1.0
        underlying = BandEnergies()

        def derive(self, fingerprint):
            return replace(fingerprint, method=self.method)

        def derive_query(self, fingerprint):
            return fingerprint

    with Library(library.folder, fingerprinters=[BandEnergies(), Thinned()]) as opened:
        assert opened.add([crate]).failed == []
        assert opened.verify() == []


def test_a_recording_removed_while_it_is_extended_fails_alone(library, crate, monkeypatch):
    library.add([crate])
    both = [BandEnergies(), LandmarkFingerprinter()]
    gone = library.catalog.find_path(str(crate / "tune0.wav"))
    extend = Catalog.extend

    def removed_first(catalog, recording_id, fingerprints):
        if recording_id == gone.id:
            catalog.remove(gone.id)
        extend(catalog, recording_id, fingerprints)

    monkeypatch.setattr(Catalog, "extend", removed_first)
    with Library(library.folder, fingerprinters=both) as opened:
        report = opened.add([crate])
    assert report.updated == 7
    assert [(Path(path).name, "meantime" in why) for path, why in report.failed] == [
        ("tune0.wav", True)
    ]


def test_a_first_add_that_fails_settles_nothing(library, tmp_path):
    assert library.add([tmp_path / "typo"]).failed
    assert library.catalog.methods() == {}


def test_almost_silent_sound_is_not_called_short(library, tmp_path):
    samples = np.zeros(8000 * 12, np.float32)
    samples[50] = 0.01
    write_wav(tmp_path / "click.wav", Audio(samples, 8000))

    class Deaf(BandEnergies):
        def fingerprint_blocks(self, blocks):
            return super().fingerprint(Audio(sum(b.samples[:0] for b in blocks), 8000))

    with Library(tmp_path / "deaf", fingerprinters=[Deaf()]) as opened:
        ((_, reason),) = opened.add([tmp_path / "click.wav"]).failed
    assert "as good as silent" in reason
