"""Catalog and indexes: round trips, exact search, stale and damaged files rebuilt."""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from spolia.errors import (
    CorruptLibrary,
    LibraryError,
    ParameterError,
    SpoliaError,
    UnknownRecording,
)
from spolia.fingerprints.base import Fingerprint
from spolia.recording import Recording, path_text
from spolia.store import derived
from spolia.store.catalog import Catalog
from spolia.store.kinds import KINDS, build, bytes_of, cosines
from spolia.store.postings import open_postings
from spolia.store.rows import unit_vectors
from spolia.store.vectors import VectorIndex, open_vectors


def recording(i):
    return Recording(f"{i:016x}", f"/music/{i}.wav", 60.0, f"Title {i}")


def vectors(seed, n=100, dim=32):
    x = np.random.default_rng(seed).normal(size=(n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("f")


def segments(seed, n=100):
    return Fingerprint("segments", "model-1", np.arange(n) * 0.5, vectors(seed, n), n * 0.5)


def landmarks(seed, n=300):
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**20, n).astype(np.uint32)
    return Fingerprint("landmarks", None, np.sort(rng.integers(0, 5000, n)) * 0.016, hashes, 80.0)


@pytest.fixture
def catalog(tmp_path):
    opened = Catalog(tmp_path)
    for i in range(20):
        opened.add(recording(i), [segments(i), landmarks(i)])
    yield opened
    opened.close()


def test_vectors_survive_in_int8(catalog):
    stored = catalog.fingerprint(recording(3).id, "segments")
    assert (stored.values * vectors(3)).sum(1).min() > 0.999
    assert np.array_equal(stored.times, segments(3).times)
    assert stored.model_id == "model-1"


def test_codes_stand_for_unit_vectors_and_silence_for_nothing():
    codes = np.random.default_rng(2).integers(-127, 128, (50, 96)).astype(np.int8)
    codes[7] = 0
    values = unit_vectors(codes)
    assert values.dtype == np.float32
    norms = np.linalg.norm(codes.astype("f"), axis=1, keepdims=True)
    np.testing.assert_allclose(values * norms, codes, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), np.arange(50) != 7, atol=1e-6)


def test_hashes_survive_exactly(catalog):
    stored = catalog.fingerprint(recording(3).id, "landmarks")
    assert np.array_equal(stored.values, landmarks(3).values)
    assert np.allclose(stored.times, landmarks(3).times)


def test_an_empty_sequence_is_kept(catalog):
    catalog.add(recording(77), [segments(1, n=0)])
    assert len(catalog.fingerprint(recording(77).id, "segments")) == 0
    assert len(open_vectors(catalog, "segments")) == 2000


def test_adding_again_replaces(catalog):
    catalog.add(recording(3), [segments(99), landmarks(3)])
    stored = catalog.fingerprint(recording(3).id, "segments")
    assert (stored.values * vectors(99)).sum(1).min() > 0.999
    assert len(catalog.recordings()) == 20


def test_every_change_raises_the_generation(catalog):
    first = catalog.generation
    catalog.add(recording(50), [segments(50)])
    second = catalog.generation
    catalog.remove(recording(50).id)
    assert first < second < catalog.generation


def test_exact_search_equals_brute_force(catalog):
    index = open_vectors(catalog, "segments")
    queries = vectors(1000, 15)
    everything = np.concatenate(
        [catalog.fingerprint(r, "segments").values for r in index.recording_ids]
    )
    hits = index.search(queries, np.arange(15.0), 5)
    expected = np.sort(queries @ everything.T, axis=1)[:, ::-1][:, :5]
    assert np.allclose(hits.scores.reshape(15, 5), expected, atol=0.01)


def test_a_stored_vector_finds_itself(catalog):
    index = open_vectors(catalog, "segments")
    hits = index.search(vectors(7)[40:41], np.array([2.5]), 1)
    assert index.recording_ids[hits.recordings[0]] == recording(7).id
    assert (hits.query_times[0], hits.reference_times[0]) == (2.5, 20.0)


def test_inverted_lists_recall_at_least_nine_in_ten(catalog):
    index = open_vectors(catalog, "segments", exact_below=10)
    found = 0
    for i in range(20):
        noisy = vectors(i)[::10] + 0.1 * vectors(500 + i, 10)
        hits = index.search(noisy.astype("f"), np.arange(10.0), 1)
        right = [index.recording_ids[r] == recording(i).id for r in hits.recordings]
        found += sum(right)
    assert found >= 180


@pytest.mark.parametrize("damage", ["missing", "truncated", "random", "stale", "stamp", "facts"])
def test_index_files_are_rebuilt(catalog, damage):
    open_vectors(catalog, "segments", exact_below=10)
    open_postings(catalog, "landmarks")
    files = sorted(catalog.path.parent.glob("*.index"))
    assert len(files) == 2
    for file in files:
        stamp = file.with_suffix(".json")
        if damage == "missing":
            file.unlink()
        elif damage == "truncated":
            file.write_bytes(file.read_bytes()[:-100])
        elif damage == "random":
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 255
            file.write_bytes(bytes(content))
        elif damage == "stamp":
            stamp.write_text("{")
        elif damage == "facts":  # still JSON, but other ids
            stamp.write_text(stamp.read_text().replace("000000000000000", "fffffffffffffff"))
    if damage == "stale":
        catalog.add(recording(50), [segments(50), landmarks(50)])
    n = 21 if damage == "stale" else 20
    index = open_vectors(catalog, "segments", exact_below=10)
    assert len(index) == 100 * n
    assert len(index.search(vectors(7)[:3], np.arange(3.0), 1)) == 3
    postings = open_postings(catalog, "landmarks")
    assert len(postings) == 300 * n
    assert postings.recording_ids == index.recording_ids == sorted(index.recording_ids)
    assert {r.id for r in catalog.recordings()} == set(index.recording_ids)
    assert len(list(catalog.path.parent.glob("*.index"))) == 2


def test_a_library_made_anew_does_not_answer_from_the_old_index(tmp_path):
    for first in (0, 50):
        with closing(Catalog(tmp_path)) as made:
            for i in range(first, first + 3):
                made.add(recording(i), [landmarks(i), segments(i)])
            ids = [recording(i).id for i in range(first, first + 3)]
            assert open_postings(made, "landmarks").recording_ids == ids
            assert open_vectors(made, "segments", exact_below=10).recording_ids == ids
        for file in tmp_path.glob("library.sqlite*"):
            file.unlink()


def test_a_fresh_index_is_opened_without_reading_the_fingerprints(catalog, monkeypatch):
    open_vectors(catalog, "segments", exact_below=10)
    open_postings(catalog, "landmarks")
    monkeypatch.setattr(Catalog, "sequences", lambda *_: pytest.fail("read every fingerprint"))
    assert len(open_vectors(catalog, "segments", exact_below=10)) == 2000
    assert len(open_postings(catalog, "landmarks")) == 6000


def test_an_index_that_cannot_be_written_is_used_all_the_same(catalog, monkeypatch, caplog):
    def no_space(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(derived, "_write_whole", no_space)
    assert len(open_vectors(catalog, "segments", exact_below=10)) == 2000
    assert len(open_postings(catalog, "landmarks")) == 6000
    assert "No space left" in caplog.text


def edit(catalog, statement):
    with closing(sqlite3.connect(catalog.path)) as database:
        database.execute(statement)
        database.commit()


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE fingerprints SET dim = 7 WHERE rowid = 3", "fingerprint is damaged; run: spolia"),
        ("UPDATE fingerprints SET duration = 'x' WHERE rowid = 3", "fingerprint is damaged"),
        ("UPDATE fingerprints SET content = 'text' WHERE rowid = 3", "fingerprint is damaged"),
        ("UPDATE recordings SET duration = 'x' WHERE id LIKE '%3'", "description is damaged"),
        ("DELETE FROM fingerprints WHERE rowid = 3", "has no segments fingerprint; add its file"),
        ("UPDATE fingerprints SET recording_id = 'ffff' WHERE rowid = 3", "but nothing else"),
    ],
)
def test_verify_names_a_damaged_row(catalog, statement, problem):
    edit(catalog, statement)
    assert any(problem in sentence for sentence in catalog.verify())


def test_a_damaged_fingerprint_is_an_error_until_it_is_removed(catalog):
    edit(catalog, "UPDATE fingerprints SET dim = 7 WHERE rowid = 3")
    with pytest.raises(CorruptLibrary, match="spolia remove 0000000000000001"):
        open_vectors(catalog, "segments")
    catalog.remove(recording(1).id)
    assert catalog.verify() == []
    assert len(open_vectors(catalog, "segments")) == 1900


def test_fingerprints_of_no_recording_are_never_found_and_can_be_replaced(catalog):
    edit(catalog, f"DELETE FROM recordings WHERE id = '{recording(4).id}'")  # leaves its rows
    assert recording(4).id not in open_vectors(catalog, "segments").recording_ids
    catalog.add(recording(4), [segments(4), landmarks(4)])
    assert catalog.verify() == []


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE meta SET value = 'x' WHERE key = 'format'", "its format is no number"),
        ("UPDATE meta SET value = '9' WHERE key = 'format'", "format 9.*upgrade"),
        ("DELETE FROM meta", "its format is no number"),
        ("DROP TABLE meta", "holds no library"),
        ("DROP TABLE methods", "no such table: methods"),
    ],
)
def test_a_library_of_another_format_is_one_sentence(catalog, statement, message):
    edit(catalog, statement)
    with (
        pytest.raises(CorruptLibrary, match=message),
        closing(Catalog(catalog.path.parent, create=False)) as c,
    ):
        c.methods()


def test_a_folder_that_cannot_be_a_library_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "odd" / "library.sqlite").mkdir(parents=True)
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "odd"):
        with pytest.raises(LibraryError, match="cannot (hold|be used)"):
            Catalog(folder)


def test_a_closed_library_does_not_claim_to_be_damaged(catalog):
    catalog.close()
    with pytest.raises(LibraryError, match="open the library again") as caught:
        catalog.recordings()
    assert not isinstance(caught.value, CorruptLibrary)


def use(folder):
    """Do all that can be done with a library; return whether ``verify`` found nothing."""
    with closing(Catalog(folder, create=False)) as opened:
        clean = opened.verify() == []
        for r in opened.recordings():
            opened.get(r.id)
        open_vectors(opened, "segments")
        open_postings(opened, "landmarks")
        opened.add(recording(99), [segments(99), landmarks(99)])
        opened.remove(recording(99).id)
        return clean


def test_a_damaged_database_gives_our_errors_only(catalog, tmp_path):
    catalog.close()
    content = (tmp_path / "library.sqlite").read_bytes()
    rng = np.random.default_rng(0)
    outcomes = Counter()
    for i in range(150):
        damaged = bytearray(content)
        if i % 3 == 0:
            del damaged[int(rng.integers(0, len(damaged))) :]
        else:
            at = int(rng.integers(0, len(damaged) if i % 3 == 1 else 3 * 8192))
            damaged[at : at + 16] = rng.bytes(16)
        folder = tmp_path / f"{i}"
        folder.mkdir()
        (folder / "library.sqlite").write_bytes(damaged)
        try:
            outcomes["clean" if use(folder) else "found"] += 1
        except SpoliaError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
    assert outcomes["refused"] >= 50  # all that were truncated


def test_a_beginning_of_an_id_is_found_without_reading_all(catalog):
    assert catalog.get("000000000000000f") == recording(15)
    assert catalog.get("0000000000000013"[:16]) == recording(19)
    for text in ("", "00000", "zz", "\udcff", "é", "0000000000000000g", "%"):
        with pytest.raises(UnknownRecording):
            catalog.get(text)


def test_removing_several_removes_all_or_none(catalog):
    with pytest.raises(UnknownRecording):
        catalog.remove(recording(1).id, "nonsense")
    assert len(catalog.recordings()) == 20
    catalog.remove(recording(1).id, recording(2).id)
    assert len(catalog.recordings()) == 18


def test_twenty_thousand_recordings_are_listed_opened_and_removed_in_seconds(tmp_path):
    small = [segments(0, n=5), landmarks(0, n=20)]
    with closing(Catalog(tmp_path)) as catalog:
        catalog._connection.execute("PRAGMA synchronous = OFF")
        for i in range(20_000):
            catalog.add(recording(i), small)
        started = time.perf_counter()
        ids = [r.id for r in catalog.recordings()]
        listed = time.perf_counter()
        assert len(open_vectors(catalog, "segments")) == 100_000
        opened = time.perf_counter()
        assert catalog.verify() == []
        verified = time.perf_counter()
        for recording_id in ids:
            catalog.get(recording_id)
        catalog.remove(*ids)
        removed = time.perf_counter()
    assert listed - started < 5.0
    assert opened - listed < 15.0
    assert verified - opened < 15.0
    assert removed - verified < 30.0  # quadratic, it took a minute where these take a second


def test_postings_return_every_equal_hash(catalog):
    index = open_postings(catalog, "landmarks")
    wanted = landmarks(5)
    hits = index.search(wanted.values, wanted.times)
    own = np.array(index.recording_ids)[hits.recordings] == recording(5).id
    agree = np.abs(hits.reference_times - hits.query_times) < 1e-6
    assert (own & agree).sum() >= 300


def test_postings_of_unknown_hashes_are_empty(catalog):
    index = open_postings(catalog, "landmarks")
    assert len(index.search(np.array([2**31], np.uint32), np.zeros(1))) == 0


def test_searching_at_once_finds_what_searching_one_by_one_does(catalog):
    index = open_vectors(catalog, "segments")
    parts = [vectors(8, 4), vectors(8, 0), vectors(9, 30)]
    times = [np.arange(len(p)) * 1.0 for p in parts]
    for part, when, together in zip(parts, times, index.search_all(parts, times, 3), strict=True):
        alone = index.search(part, when, 3)
        assert len(together) == 3 * len(part)
        assert (together.query_times == alone.query_times).all()
        np.testing.assert_allclose(together.scores, alone.scores, atol=1e-5)


EXACT = ("flat", "sq8")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_index_finds_stored_vectors(kind):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6000, 64))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    codes, ids = np.round(values * 127).astype(np.int8), np.arange(6000, dtype=np.int64) * 7
    index = build(kind, codes, ids)
    queries = (values[::60] + 0.05 * rng.normal(size=(100, 64))).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    _, found = cosines(index, queries, 5)
    assert (found[:, 0] == ids[::60]).mean() > (0.99 if kind in EXACT else 0.5)
    assert (found == ids[::60, None]).any(1).mean() > (0.99 if kind in EXACT else 0.55)
    if kind != "flat":
        assert bytes_of(index) < 0.7 * bytes_of(build("flat", codes, ids))


def test_eight_bits_give_the_same_cosines_in_a_quarter_of_the_memory():
    rng = np.random.default_rng(1)
    codes = rng.integers(-60, 61, (500, 32)).astype(np.int8)
    ids, query = np.arange(500, dtype=np.int64), rng.normal(size=(7, 32)).astype("f")
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    length = np.linalg.norm(codes.astype("f"), axis=1, keepdims=True)
    codes = np.round(codes / length * 127).astype(np.int8)
    flat, small = (VectorIndex(build(k, codes, ids), ["one"], 0) for k in EXACT)
    one, other = (index.search(query, np.arange(7.0), 500) for index in (flat, small))
    assert len(one) == len(other) == 3500
    for found in (one, other):
        found.scores.shape = (7, 500)
    np.testing.assert_allclose(np.sort(one.scores), np.sort(other.scores), atol=0.02)
    assert bytes_of(small.index) * 3 < bytes_of(flat.index)


def test_unknown_kinds_of_index_are_named():
    with pytest.raises(
        ParameterError, match="choose from: flat, sq8, ivf-sq8, ivf-pq, pq-fastscan"
    ):
        build("tree", np.zeros((1, 4), np.int8), np.zeros(1, np.int64))


def test_files_that_are_not_ours_stay(catalog):
    folder = catalog.path.parent
    names = ["city-segments.live.index", "segments.txt", "segments.live.json", "my.segments.7.flac"]
    for name in names:
        (folder / name).write_text("mine")
    open_vectors(catalog, "segments", exact_below=10)
    catalog.add(recording(50), [segments(50), landmarks(50)])
    open_vectors(catalog, "segments", exact_below=10)
    assert all((folder / name).read_text() == "mine" for name in names)
    assert len(list(folder.glob("segments.*.index"))) == 1


def test_a_name_that_is_not_text_is_found_by_its_path(catalog):
    path = os.fsdecode(b"/music/caf\xe9.wav")
    catalog.add(replace(recording(60), path=path_text(path)), [segments(60)])
    assert catalog.find_path(path).id == recording(60).id
