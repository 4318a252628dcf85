"""Search for equal landmark hashes: a sorted array of all postings, derived from the catalog."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spolia.store.catalog import Catalog
from spolia.store.derived import derived_file, facts_of, store
from spolia.store.hits import Hits

LONGEST = 2000  # hashes with more postings say nothing and are skipped, as in audfprint's buckets


@dataclass
class PostingsIndex:
    """All (hash, recording, time) of a library, sorted by hash; see :func:`open_postings`."""

    hashes: npt.NDArray[np.uint32]  # ascending [shape=(n,)]
    recordings: npt.NDArray[np.int32]  # position in recording_ids [shape=(n,)]
    times: npt.NDArray[np.int32]  # milliseconds [shape=(n,)]
    recording_ids: list[str]
    generation: int

    def __len__(self) -> int:
        """Return the number of postings."""
        return len(self.hashes)

    def search(self, hashes: npt.NDArray[np.uint32], times: npt.NDArray[np.float64]) -> Hits:
        """Return every place with one of the query's hashes; times in seconds [shape=(n,)]."""
        first = np.searchsorted(self.hashes, hashes, "left")
        counts = np.searchsorted(self.hashes, hashes, "right") - first
        counts[counts > LONGEST] = 0
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        within = np.arange(total) - np.repeat(ends - counts, counts)
        rows = np.repeat(first, counts) + within
        return Hits(
            np.asarray(self.recordings[rows], np.int32),
            np.repeat(times, counts),
            self.times[rows] / 1000.0,
            np.ones(total, np.float32),
        )


def open_postings(catalog: Catalog, method: str) -> PostingsIndex:
    """Return the index of a method, rebuilding its file where missing, stale or damaged."""
    generation = catalog.generation
    file = derived_file(catalog.path.parent, method, generation)
    facts = facts_of(file)
    if facts is not None:
        with suppress(OSError, ValueError):  # deleted since by another process
            table = np.load(file, mmap_mode="r", allow_pickle=False)
            return _index(table, facts["recording_ids"], generation)
    with catalog.snapshot() as generation:
        ids, table = _gather(catalog, method)
    content = io.BytesIO()
    np.save(content, table, allow_pickle=False)
    file = derived_file(catalog.path.parent, method, generation)
    store(file, content.getbuffer(), recording_ids=ids)
    return _index(table, ids, generation)


def _index(table: npt.NDArray[np.uint32], ids: list[str], generation: int) -> PostingsIndex:
    return PostingsIndex(
        table[0].view(np.uint32), table[1].view(np.int32), table[2].view(np.int32), ids, generation
    )


def _gather(catalog: Catalog, method: str) -> tuple[list[str], npt.NDArray[np.uint32]]:
    """Return recording ids and the sorted table [shape=(3, n)]: hash, recording, time."""
    ids: list[str] = []
    parts: list[npt.NDArray[np.uint32]] = [np.zeros((3, 0), np.uint32)]
    for stored in catalog.sequences(method):
        rows = np.full(len(stored.times), len(ids), np.uint32)
        parts.append(np.stack([stored.values, rows, stored.times.view(np.uint32)]))
        ids.append(stored.recording_id)
    table = np.concatenate(parts, axis=1)
    return ids, np.ascontiguousarray(table[:, np.argsort(table[0], kind="stable")])
