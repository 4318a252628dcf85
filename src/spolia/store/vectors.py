"""Search among all vectors of one method: a FAISS index derived from the catalog.

Exact inner products below about 10⁶ vectors, inverted lists with 8-bit scalar quantisation above
(137 bytes a vector, memory-mapped). The flat index is rebuilt from the catalog when the library is
opened rather than stored: reading 130,000 vectors in int8 from SQLite takes less time than their
single-precision copy would take from disk, and leaves nothing that can be stale.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from spolia.store.catalog import Catalog
from spolia.store.derived import read_stamp, write_stamp, write_whole
from spolia.store.hits import Hits

logger = logging.getLogger(__name__)

FLAT_BELOW = 1_000_000
N_PROBE = 32
TRAINING_PER_LIST = 64

Vectors = npt.NDArray[np.float32]


@dataclass
class VectorIndex:
    """Nearest neighbours among all vectors of a method; see :func:`open_vectors`."""

    index: Any  # faiss.Index
    recording_ids: list[str]
    recordings: npt.NDArray[np.int32]  # position in recording_ids of each row [shape=(n,)]
    times: npt.NDArray[np.int32]  # milliseconds [shape=(n,)]
    generation: int  # of the catalog it was built from

    def __len__(self) -> int:
        """Return the number of vectors."""
        return len(self.times)

    def search(self, vectors: Vectors, times: npt.NDArray[np.float64], k: int) -> Hits:
        """Return the ``k`` most similar stored vectors of each query vector.

        vectors: float32 [shape=(n, dim)], unit norm; times: seconds [shape=(n,)].
        """
        k = min(k, len(self))
        if k == 0 or not len(vectors):
            return Hits(np.zeros(0, np.int32), np.zeros(0), np.zeros(0), np.zeros(0, np.float32))
        scores, rows = self.index.search(np.ascontiguousarray(vectors, np.float32), k)
        found = rows >= 0
        rows = rows[found]
        return Hits(
            self.recordings[rows],
            np.broadcast_to(times[:, None], found.shape)[found],
            self.times[rows] / 1000.0,
            scores[found],
        )


def open_vectors(
    catalog: Catalog, method: str, *, flat_below: int = FLAT_BELOW, threads: int | None = None
) -> VectorIndex:
    """Return the index of a method, rebuilding it where it is missing, stale or damaged."""
    if threads:
        faiss.omp_set_num_threads(threads)
    generation = catalog.generation
    file = catalog.path.parent / f"{method}.faiss"
    stamp = file.with_suffix(".json")
    ids, recordings, times, codes = _gather(catalog, method)
    if len(times) < flat_below:
        index = faiss.IndexFlatIP(codes[0].shape[1] if codes else 1)
        for part in codes:
            index.add(_unit(part))
        return VectorIndex(index, ids, recordings, times, generation)
    loaded: Any = _load(file, stamp, generation, len(times))
    if loaded is None:
        loaded = _build_inverted(codes, len(times))
        content = faiss.serialize_index(loaded)
        write_whole(file, content.tobytes())
        write_stamp(stamp, generation, [file], n=len(times))
        loaded = faiss.read_index(str(file), faiss.IO_FLAG_MMAP)
    loaded.nprobe = N_PROBE
    return VectorIndex(loaded, ids, recordings, times, generation)


def _gather(
    catalog: Catalog, method: str
) -> tuple[list[str], npt.NDArray[np.int32], npt.NDArray[np.int32], list[npt.NDArray[np.int8]]]:
    """Return ids, and for each vector its recording, time, and the int8 values in parts."""
    ids: list[str] = []
    counts: list[int] = []
    times: list[npt.NDArray[np.int32]] = [np.zeros(0, np.int32)]
    codes: list[npt.NDArray[np.int8]] = []
    for stored in catalog.sequences(method):
        ids.append(stored.recording_id)
        counts.append(len(stored.times))
        if counts[-1]:
            times.append(stored.times)
            codes.append(stored.values)
    recordings = np.repeat(np.arange(len(ids), dtype=np.int32), counts)
    return ids, recordings, np.concatenate(times), codes


def _unit(codes: npt.NDArray[np.int8]) -> Vectors:
    values = codes.astype(np.float32)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9))


def _load(file: Path, stamp: Path, generation: int, n: int) -> Any | None:
    facts = read_stamp(stamp, generation)
    if facts is None or facts.get("n") != n:
        return None
    try:
        return faiss.read_index(str(file), faiss.IO_FLAG_MMAP)
    except RuntimeError:
        logger.warning("%s is damaged and is rebuilt", file)
        return None


def _build_inverted(codes: list[npt.NDArray[np.int8]], n: int) -> Any:
    """Return an IVF-SQ8 index; trained on an even spread of the vectors."""
    dim = codes[0].shape[1]
    n_lists = max(1, int(4 * np.sqrt(n)))
    quantizer = faiss.IndexFlatIP(dim)
    index = faiss.IndexIVFScalarQuantizer(
        quantizer, dim, n_lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    step = max(1, n // (n_lists * TRAINING_PER_LIST))
    index.train(np.concatenate([_unit(part[::step]) for part in codes]))
    for part in codes:
        index.add(_unit(part))
    return index
