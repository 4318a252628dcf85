"""Sequences of segment vectors, real and modelled, that systems are compared on.

At the scale of ten million vectors nobody has the music at hand. A modelled recording is a real one
whose principal components have their signs flipped at random: mean, covariance and what follows
what are those of music, but it resembles no recording more than any other does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spolia.errors import ParameterError
from spolia.fingerprints.base import Fingerprint
from spolia.store.rows import Sequence8, unit_vectors
from spolia.store.vectors import gather

Codes = npt.NDArray[np.int8]
Places = npt.NDArray[np.int64]
SAMPLE = 200_000  # vectors from which principal components are computed


@dataclass(frozen=True)
class Collection:
    """Vectors of many recordings, one recording after the other."""

    ids: list[str]
    codes: Codes  # [shape=(n_vectors, dim)]
    places: Places  # recording << 32 | milliseconds [shape=(n_vectors,)], as an index's ids

    def __post_init__(self) -> None:
        """Find where each recording begins."""
        owner = self.places >> 32
        first = np.searchsorted(owner, np.arange(len(self.ids) + 1))
        object.__setattr__(self, "_first", first)

    def __len__(self) -> int:
        """Return the number of vectors."""
        return len(self.codes)

    def sequence(self, number: int, method: str) -> Fingerprint:
        """Return the vectors of a recording, by its place in ``ids``."""
        first = self._first  # type: ignore[attr-defined]
        part = slice(int(first[number]), int(first[number + 1]))
        values = unit_vectors(self.codes[part])
        times = (self.places[part] & 0xFFFFFFFF) / 1000.0
        end = float(times[-1]) + 1.0 if len(times) else 0.0
        return Fingerprint(method, None, times, values, end)

    def sequences(self, method: str) -> Iterator[Fingerprint]:
        """Yield the vectors of all recordings."""
        return (self.sequence(number, method) for number in range(len(self.ids)))


def collect(sequences: Iterable[Sequence8]) -> Collection:
    """Return stored sequences as a collection; those without vectors keep their number."""
    ids, places, codes = gather(sequences)
    if not len(codes):
        raise ParameterError("there is nothing to compare systems on; add recordings first")
    return Collection(ids, codes, places)


def gathered(fingerprints: Iterable[Fingerprint], ids: list[str], dim: int) -> Collection:
    """Return unit vectors of recordings, given in the order of ``ids``, as a collection."""
    codes: list[Codes] = [np.zeros((0, dim), np.int8)]
    places: list[Places] = [np.zeros(0, np.int64)]
    for number, fingerprint in enumerate(fingerprints):
        codes.append(np.round(fingerprint.values * 127).astype(np.int8))
        places.append(number << 32 | np.round(fingerprint.times * 1000).astype(np.int64))
    return Collection(ids, np.concatenate(codes), np.concatenate(places))


def enlarged(real: Collection, n_vectors: int, *, seed: int) -> Collection:
    """Return a collection with modelled recordings added up to ``n_vectors`` vectors."""
    if n_vectors <= len(real):
        return real
    rng = np.random.default_rng(seed)
    mean, axes = _components(real.codes[:: max(1, len(real) // SAMPLE)])
    ids = list(real.ids)
    codes = np.empty((n_vectors, real.codes.shape[1]), np.int8)
    places = np.empty(n_vectors, np.int64)
    codes[: len(real)], places[: len(real)] = real.codes, real.places
    done, n_real = len(real), len(real.ids)
    while done < n_vectors:
        of = real.sequence(int(rng.integers(n_real)), "modelled")
        size = min(len(of), n_vectors - done)
        signs = rng.choice([-1.0, 1.0], len(axes))
        values = mean + (of.values[:size] - mean) @ (axes.T * signs) @ axes
        values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)
        part = slice(done, done + size)
        codes[part] = np.round(values * 127)
        places[part] = len(ids) << 32 | np.round(of.times[:size] * 1000).astype(np.int64)
        ids.append(f"modelled-{len(ids)}")
        done += size
    return Collection(ids, codes, places)


def _components(codes: Codes) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the mean of unit vectors and their principal components [shape=(dim, dim)]."""
    values = unit_vectors(codes)
    mean = values.mean(0)
    _, axes = np.linalg.eigh(np.cov((values - mean).T))
    return mean, np.ascontiguousarray(axes.T, np.float32)
