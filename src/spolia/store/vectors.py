"""Search among all vectors of one method: a FAISS index derived from the catalog.

All vectors in the 8 bits that are stored below about 10⁶ of them, inverted lists above (137 bytes a
vector, memory-mapped). The index of all is rebuilt from the catalog when the library is
opened rather than stored: reading 130,000 vectors in int8 from SQLite takes less time than their
single-precision copy would take from disk, and leaves nothing that can be stale.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from spolia.store.catalog import Catalog
from spolia.store.derived import derived_file, facts_of, store
from spolia.store.hits import NO_HITS, Hits
from spolia.store.kinds import N_PROBE, Places, Vectors, build, cosines
from spolia.store.rows import Sequence8

EXACT_BELOW = 1_000_000
LEAST_FOR_SQ8 = 64  # dimensions; the errors of fewer do not cancel out


@dataclass
class VectorIndex:
    """Nearest neighbours among all vectors of a method; see :func:`open_vectors`."""

    index: Any  # faiss.Index; its ids are recording << 32 | milliseconds
    recording_ids: list[str]
    generation: int  # of the catalog it was built from

    def __len__(self) -> int:
        """Return the number of vectors."""
        return int(self.index.ntotal)

    def search(self, vectors: Vectors, times: npt.NDArray[np.float64], k: int) -> Hits:
        """Return the ``k`` most similar stored vectors of each query vector.

        vectors: float32 [shape=(n, dim)], unit norm; times: seconds [shape=(n,)].
        """
        return self.search_all([vectors], [times], k)[0]

    def search_all(
        self, vectors: Sequence[Vectors], times: Sequence[npt.NDArray[np.float64]], k: int
    ) -> list[Hits]:
        """Return the hits of several searches; many vectors at once cost little more than few."""
        k = min(k, len(self))
        lengths = [len(v) for v in vectors]
        if k == 0 or not sum(lengths):
            return [NO_HITS] * len(lengths)
        scores, places = cosines(self.index, np.concatenate(vectors), k)
        ends = np.cumsum(lengths)[:-1]
        return [
            _hits(score, place, of)
            for score, place, of in zip(
                np.split(scores, ends), np.split(places, ends), times, strict=True
            )
        ]


def _hits(scores: Vectors, places: Places, times: npt.NDArray[np.float64]) -> Hits:
    found = places >= 0
    places = places[found]
    return Hits(
        (places >> 32).astype(np.int32),
        np.broadcast_to(times[:, None], found.shape)[found],
        (places & 0xFFFFFFFF) / 1000.0,
        scores[found],
    )


def open_vectors(
    catalog: Catalog, method: str, *, exact_below: int = EXACT_BELOW, threads: int | None = None
) -> VectorIndex:
    """Return the index of a method, rebuilding it where it is missing, stale or damaged."""
    if threads:
        faiss.omp_set_num_threads(threads)
    loaded = _load(catalog, method)
    if loaded is not None:
        return loaded
    with catalog.snapshot() as generation:
        ids, places, codes = gather(catalog.sequences(method))
    if len(places) < exact_below:
        kind = "sq8" if codes.shape[1] >= LEAST_FOR_SQ8 else "flat"
        return VectorIndex(build(kind, codes, places), ids, generation)
    index = build("ivf-sq8", codes, places)
    file = derived_file(catalog.path.parent, method, generation)
    store(file, faiss.serialize_index(index).data, recording_ids=ids)
    loaded = _load(catalog, method)  # mapped into memory, not held there
    if loaded is not None and loaded.generation == generation:
        return loaded
    return VectorIndex(index, ids, generation)


def _load(catalog: Catalog, method: str) -> VectorIndex | None:
    generation = catalog.generation
    file = derived_file(catalog.path.parent, method, generation)
    facts = facts_of(file)
    if facts is None:
        return None
    try:
        index: Any = faiss.read_index(str(file), faiss.IO_FLAG_MMAP)
    except RuntimeError:  # deleted since by another process
        return None
    index.nprobe = N_PROBE
    return VectorIndex(index, facts["recording_ids"], generation)


def gather(sequences: Iterable[Sequence8]) -> tuple[list[str], Places, npt.NDArray[np.int8]]:
    """Return recording ids, and all vectors' places and values in int8 [shape=(n, dim)]."""
    ids: list[str] = []
    places: list[Places] = [np.zeros(0, np.int64)]
    codes: list[npt.NDArray[np.int8]] = []
    for stored in sequences:
        if len(stored.times):
            places.append(len(ids) << 32 | stored.times.astype(np.int64))
            codes.append(stored.values)
        ids.append(stored.recording_id)
    return ids, np.concatenate(places), np.concatenate(codes or [np.zeros((0, 1), np.int8)])
