"""Catalog and indexes: round trips, exact search, stale and damaged files rebuilt."""

from __future__ import annotations

import numpy as np
import pytest

from spolia.fingerprints.base import Fingerprint
from spolia.recording import Recording
from spolia.store.catalog import Catalog
from spolia.store.postings import open_postings
from spolia.store.vectors import open_vectors


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


def test_flat_search_equals_brute_force(catalog):
    index = open_vectors(catalog, "segments")
    queries = vectors(1000, 15)
    everything = np.concatenate(
        [catalog.fingerprint(r, "segments").values for r in index.recording_ids]
    )
    hits = index.search(queries, np.arange(15.0), 5)
    expected = np.sort(queries @ everything.T, axis=1)[:, ::-1][:, :5]
    assert np.allclose(hits.scores.reshape(15, 5), expected, atol=1e-5)


def test_a_stored_vector_finds_itself(catalog):
    index = open_vectors(catalog, "segments")
    hits = index.search(vectors(7)[40:41], np.array([2.5]), 1)
    assert index.recording_ids[hits.recordings[0]] == recording(7).id
    assert (hits.query_times[0], hits.reference_times[0]) == (2.5, 20.0)


def test_inverted_lists_recall_at_least_nine_in_ten(catalog):
    index = open_vectors(catalog, "segments", flat_below=10)
    found = 0
    for i in range(20):
        noisy = vectors(i)[::10] + 0.1 * vectors(500 + i, 10)
        hits = index.search(noisy.astype("f"), np.arange(10.0), 1)
        right = [index.recording_ids[r] == recording(i).id for r in hits.recordings]
        found += sum(right)
    assert found >= 180


@pytest.mark.parametrize("damage", ["missing", "truncated", "random", "stale", "stamp"])
def test_index_files_are_rebuilt(catalog, damage):
    open_vectors(catalog, "segments", flat_below=10)
    open_postings(catalog, "landmarks")
    folder = catalog.path.parent
    for file in (folder / "segments.faiss", folder / "landmarks.postings.npy"):
        if damage == "missing":
            file.unlink()
        elif damage == "truncated":
            file.write_bytes(file.read_bytes()[:-100])
        elif damage == "random":
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 255
            file.write_bytes(bytes(content))
        elif damage == "stamp":
            file.with_suffix(".json").write_text("{")
    if damage == "stale":
        catalog.add(recording(50), [segments(50), landmarks(50)])
    n = 21 if damage == "stale" else 20
    index = open_vectors(catalog, "segments", flat_below=10)
    assert len(index) == 100 * n
    assert len(index.search(vectors(7)[:3], np.arange(3.0), 1)) == 3
    assert len(open_postings(catalog, "landmarks")) == 300 * n


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
