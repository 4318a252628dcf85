"""Rows of the catalog: how recordings and fingerprint sequences stand in the database."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from spolia.errors import CorruptLibrary
from spolia.fingerprints.base import Fingerprint
from spolia.recording import Recording

COLUMNS = ", ".join(f.name for f in fields(Recording))
TYPES = (str, str, float, *(str | None,) * 3, int, int, float)  # of the columns
SEQUENCE = "recording_id, method, duration, dim, times, content, checksum"


@dataclass(frozen=True)
class Sequence8:
    """A stored sequence as it stands in the database."""

    recording_id: str
    times: npt.NDArray[np.int32]  # milliseconds [shape=(n,)]
    values: npt.NDArray[Any]  # int8 [shape=(n, dim)], or uint32 [shape=(n,)] if dim is 0
    duration: float  # seconds

    def vectors(self) -> npt.NDArray[np.float32]:
        """Return unit vectors, float32 [shape=(n, dim)]."""
        return unit_vectors(self.values)


def unit_vectors(codes: npt.NDArray[np.int8] | npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return what stored codes, or other rows, stand for, unit norm; both [shape=(n, dim)]."""
    values = codes.astype(np.float32)
    norms = np.sqrt(np.einsum("nd,nd->n", values, values))
    values /= np.maximum(norms, 1e-9)[:, None]
    return values


def sequence_to_row(recording_id: str, fingerprint: Fingerprint) -> tuple[Any, ...]:
    """Return a row for the table of fingerprints; vectors become int8."""
    values = fingerprint.values
    times = np.round(fingerprint.times * 1000).astype("<i4").tobytes()
    if values.ndim == 1:
        dim, scale, content = 0, 1.0, values.astype("<u4").tobytes()
    else:
        dim = values.shape[1]
        scale = max(float(np.abs(values).max(initial=0.0)), 1e-9) / 127.0
        content = np.round(values / scale).astype(np.int8).tobytes()
    return (
        recording_id,
        fingerprint.method,
        fingerprint.duration,
        dim,
        scale,
        times,
        content,
        zlib.crc32(times + content),
    )


def sequence_from_row(row: tuple[Any, ...]) -> Sequence8:
    """Read a row of ``SEQUENCE``; raises CorruptLibrary where it is damaged."""
    recording_id, method, duration, dim, times, content, checksum = row
    try:
        intact = zlib.crc32(times + content) == checksum and duration >= 0.0
        at = np.frombuffer(times, "<i4")
        values: npt.NDArray[Any] = (
            np.frombuffer(content, np.int8).reshape(len(at), dim)
            if dim
            else np.frombuffer(content, "<u4").reshape(len(at))
        )
    except (TypeError, ValueError):
        intact = False
    if not intact:
        raise CorruptLibrary(
            f"recording {recording_id}: its {method} fingerprint is damaged; "
            f"run: spolia remove {recording_id}, then add its file again"
        )
    return Sequence8(recording_id, at, values, duration)


def recording_from_row(row: tuple[Any, ...]) -> Recording:
    """Read a row of ``COLUMNS``; raises CorruptLibrary where it is damaged."""
    if not all(map(isinstance, row, TYPES)):
        raise CorruptLibrary(
            f"recording {row[0]}: its description is damaged; restore the library from a backup or "
            "add the files to a new one"
        )
    return Recording(*row)
