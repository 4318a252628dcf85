"""Kinds of FAISS index over unit vectors: exact, or smaller and faster and nearly so.

``flat`` compares with every vector, ``sq8`` too, in the 8 bits that are stored: faster for a few
query vectors, whose cost is reading. The others sort vectors into lists by the nearest of as many
centres and look into the lists nearest to a query: ``ivf-sq8`` keeps 8 bits a dimension, ``ivf-pq``
64 codes of 8 bits (Jégou et al. 2011; with 256 lists the setting of Chang et al. 2021 and of
AMG-Embedding), ``pq-fastscan`` 64 codes of 4 bits that are summed in registers (André et al. 2015).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from spolia.errors import ParameterError
from spolia.store.rows import unit_vectors

KINDS = ("flat", "sq8", "ivf-sq8", "ivf-pq", "pq-fastscan")
N_PROBE = 32  # lists that a search looks into
N_LISTS_PQ, N_PROBE_PQ = 256, 40  # as published
N_CODES = 64
TRAINING_PER_LIST = 64
LEAST_TRAINING = 20_000  # vectors that product quantisers are trained on, where there are so many
DEVIATIONS = 6.0  # of a unit vector's components, beyond which "sq8" cuts them off
BATCH = 65536  # vectors converted at a time

Vectors = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


def build(kind: str, codes: npt.NDArray[np.int8], places: Places) -> Any:
    """Return a FAISS index over int8 vectors [shape=(n, dim)] with their ids [shape=(n,)].

    Inverted kinds are trained on an even spread of the vectors.
    """
    if kind not in KINDS:
        raise ParameterError(f"unknown kind of index {kind!r}; choose from: {', '.join(KINDS)}")
    n, dim = codes.shape
    if kind == "flat":
        index: Any = faiss.IndexIDMap(faiss.IndexFlatIP(dim))
    elif kind == "sq8":
        return _eight_bits(codes, places)
    else:
        index = _untrained(kind, n, dim)
        wanted = index.nlist * TRAINING_PER_LIST
        step = max(1, n // (wanted if kind == "ivf-sq8" else max(wanted, LEAST_TRAINING)))
        sample = batches(codes[::step], places[::step])
        index.train(np.concatenate([vectors for vectors, _ in sample]))
        index.nprobe = n_probe(kind)
    for vectors, where in batches(codes, places):
        index.add_with_ids(vectors, where)
    return index


def _eight_bits(codes: npt.NDArray[np.int8], places: Places) -> Any:
    dim = codes.shape[1]
    direct, product = faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexIDMap(faiss.IndexScalarQuantizer(dim, direct, product))
    for vectors, where in batches(codes, places):
        index.add_with_ids(_whole(vectors), where)
    return index


def cosines(index: Any, queries: Vectors, k: int) -> tuple[Vectors, Places]:
    """Return cosines and ids of the ``k`` stored vectors nearest to unit vectors, -1 for none.

    Shapes: queries (n, dim), both results (n, k). Those of "sq8" are exact to about 0.002.
    """
    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else index
    if not isinstance(inner, faiss.IndexScalarQuantizer):
        scores, ids = index.search(np.ascontiguousarray(queries, np.float32), k)
        return scores, ids
    scores, ids = index.search(_whole(queries), k)
    return np.clip(scores / np.float32(_scale(inner.d) ** 2), -1.0, 1.0), ids


def _whole(vectors: Vectors) -> Vectors:
    """Return unit vectors as whole numbers of 8 bits."""
    return np.clip(np.round(vectors * np.float32(_scale(vectors.shape[1]))), -127, 127)


def _scale(dim: int) -> float:
    return 127 / min(1.0, DEVIATIONS / float(np.sqrt(dim)))


def n_probe(kind: str) -> int:
    """Return the number of lists that a search of a kind looks into."""
    return N_PROBE if kind == "ivf-sq8" else N_PROBE_PQ


def bytes_of(index: Any) -> int:
    """Return the bytes that an index takes: codes, ids and centres."""
    inner: Any = index
    if isinstance(index, faiss.IndexIDMap):
        inner = faiss.downcast_index(index.index)
    centres = 4 * inner.d * getattr(inner, "nlist", 0)
    return int(index.ntotal * (inner.code_size + 8) + centres)


def batches(codes: npt.NDArray[np.int8], places: Places) -> Iterator[tuple[Vectors, Places]]:
    """Yield unit vectors in single precision, and their places, some at a time."""
    for start in range(0, len(codes), BATCH):
        yield unit_vectors(codes[start : start + BATCH]), places[start : start + BATCH]


def _untrained(kind: str, n: int, dim: int) -> Any:
    metric = faiss.METRIC_INNER_PRODUCT
    n_lists = max(1, int(4 * np.sqrt(n))) if kind == "ivf-sq8" else min(N_LISTS_PQ, n)
    centres = faiss.IndexFlatIP(dim)
    if kind == "ivf-sq8":
        eight = faiss.ScalarQuantizer.QT_8bit
        return faiss.IndexIVFScalarQuantizer(centres, dim, n_lists, eight, metric)
    if kind == "ivf-pq":
        return faiss.IndexIVFPQ(centres, dim, n_lists, N_CODES, 8, metric)
    return faiss.IndexIVFPQFastScan(centres, dim, n_lists, N_CODES, 4, metric)
