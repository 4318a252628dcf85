"""The catalog: one SQLite database, the only truth of a library.

Recordings, their fingerprint sequences (vectors in int8) and the ids of the models that made them.
One transaction per recording: kill the process at any moment, and what was acknowledged is there.
Write-ahead logging lets several processes read while one writes; writers wait for each other.
"""

from __future__ import annotations

import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spolia.errors import CorruptLibrary, IncompatibleModel, LibraryNotFound, UnknownRecording
from spolia.fingerprints.base import Fingerprint
from spolia.recording import Recording

DATABASE = "library.sqlite"
FORMAT = 1
BUSY_SECONDS = 60.0

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE recordings (
    id TEXT PRIMARY KEY, path TEXT NOT NULL UNIQUE, duration REAL NOT NULL, title TEXT,
    artist TEXT, album TEXT, size INTEGER NOT NULL, modified INTEGER NOT NULL, lost REAL NOT NULL
);
CREATE TABLE fingerprints (
    recording_id TEXT NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
    method TEXT NOT NULL, duration REAL NOT NULL, dim INTEGER NOT NULL, scale REAL NOT NULL,
    times BLOB NOT NULL, content BLOB NOT NULL, checksum INTEGER NOT NULL,
    PRIMARY KEY (recording_id, method)
);
CREATE TABLE methods (method TEXT PRIMARY KEY, model_id TEXT) WITHOUT ROWID;
"""

COLUMNS = ", ".join(f.name for f in fields(Recording))


@dataclass(frozen=True)
class Sequence8:
    """A stored sequence as it stands in the database."""

    recording_id: str
    times: npt.NDArray[np.int32]  # milliseconds [shape=(n,)]
    values: npt.NDArray[Any]  # int8 [shape=(n, dim)], or uint32 [shape=(n,)] if dim is 0
    scale: float  # vectors are values · scale, then normalised
    duration: float  # seconds

    def vectors(self) -> npt.NDArray[np.float32]:
        """Return unit vectors, float32 [shape=(n, dim)]."""
        values = self.values.astype(np.float32)
        return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9))


class Catalog:
    """The database of one library folder; usable from several threads."""

    def __init__(self, folder: Path, *, create: bool = True) -> None:
        self.path = folder / DATABASE
        if not self.path.is_file():
            if not create:
                raise LibraryNotFound(f"{folder} is not a library; make one with: spolia add PATH")
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        with self._guard():
            self._prepare()

    def _prepare(self) -> None:
        run = self._connection.execute
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run("PRAGMA foreign_keys = ON")
        with self._transaction():
            known = run("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
            if not known:
                for statement in filter(str.strip, SCHEMA.split(";")):
                    run(statement)
                run("INSERT INTO meta VALUES ('format', ?), ('generation', '0')", (str(FORMAT),))
        found = int(self._meta("format"))
        if found > FORMAT:
            raise CorruptLibrary(
                f"{self.path} has library format {found}, this spolia reads {FORMAT}; "
                "upgrade spolia"
            )

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Serialise threads and turn SQLite's errors into ours."""
        with self._lock:
            try:
                yield
            except sqlite3.OperationalError as error:
                reason = (
                    "wait for the other process or try again"
                    if "locked" in str(error)
                    else ("check that the folder exists and can be written")
                )
                raise CorruptLibrary(f"{self.path} cannot be used ({error}); {reason}") from error
            except sqlite3.DatabaseError as error:
                raise CorruptLibrary(
                    f"{self.path} is damaged ({error}); restore it from a backup or add the files "
                    "to a new library"
                ) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _meta(self, key: str) -> str:
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise CorruptLibrary(f"{self.path} has no {key!r}; restore it from a backup")
        return str(row[0])

    def close(self) -> None:
        """Close the database."""
        with self._guard():
            self._connection.close()

    @property
    def generation(self) -> int:
        """A number that rises with every change."""
        with self._guard():
            return int(self._meta("generation"))

    def methods(self) -> dict[str, str | None]:
        """Return the methods that the library holds, each with its model's id."""
        with self._guard():
            return dict(self._connection.execute("SELECT method, model_id FROM methods").fetchall())

    def declare(self, methods: dict[str, str | None]) -> None:
        """Say which methods and models the library holds; raises IncompatibleModel."""
        with self._guard(), self._transaction():
            self._declare(methods)

    def _declare(self, methods: dict[str, str | None]) -> None:
        run = self._connection.execute
        for method, model_id in methods.items():
            row = run("SELECT model_id FROM methods WHERE method = ?", (method,)).fetchone()
            if row is None:
                run("INSERT INTO methods VALUES (?, ?)", (method, model_id))
            elif row[0] != model_id:
                raise IncompatibleModel(
                    f"the library's {method} fingerprints were made by model {row[0]}, not "
                    f"{model_id}; use that model, or add the files to a new library"
                )

    def add(self, recording: Recording, fingerprints: Sequence[Fingerprint]) -> None:
        """Store a recording with its fingerprints at once, replacing an older version."""
        rows = [_row(recording.id, fingerprint) for fingerprint in fingerprints]
        values = tuple(getattr(recording, f.name) for f in fields(Recording))
        with self._guard(), self._transaction():
            self._declare({f.method: f.model_id for f in fingerprints})
            run = self._connection.execute
            run("DELETE FROM recordings WHERE id = ? OR path = ?", (recording.id, recording.path))
            marks = ", ".join("?" * len(values))
            run(f"INSERT INTO recordings ({COLUMNS}) VALUES ({marks})", values)
            self._connection.executemany(
                "INSERT INTO fingerprints VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows
            )
            self._advance()

    def _advance(self) -> None:
        self._connection.execute(
            "UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'generation'"
        )

    def remove(self, recording_id: str) -> None:
        """Remove a recording and its fingerprints; raises UnknownRecording."""
        with self._guard(), self._transaction():
            gone = self._connection.execute("DELETE FROM recordings WHERE id = ?", (recording_id,))
            if gone.rowcount == 0:
                raise UnknownRecording(
                    f"no recording has the id {recording_id!r}; see: spolia list"
                )
            self._advance()

    def recordings(self) -> list[Recording]:
        """Return all recordings, ordered by path."""
        with self._guard():
            rows = self._connection.execute(f"SELECT {COLUMNS} FROM recordings ORDER BY path")
            return [Recording(*row) for row in rows]

    def summary(self) -> tuple[int, float]:
        """Return the number of recordings and their duration in seconds."""
        with self._guard():
            query = "SELECT COUNT(*), COALESCE(SUM(duration), 0) FROM recordings"
            n, duration = self._connection.execute(query).fetchone()
            return int(n), float(duration)

    def complete(self, methods: Sequence[str]) -> set[str]:
        """Return the ids of recordings that have a fingerprint of every one of ``methods``."""
        marks = ", ".join("?" * len(methods))
        with self._guard():
            rows = self._connection.execute(
                f"SELECT recording_id FROM fingerprints WHERE method IN ({marks}) "
                "GROUP BY recording_id HAVING COUNT(*) = ?",
                (*methods, len(methods)),
            )
            return {row[0] for row in rows}

    def get(self, recording_id: str) -> Recording:
        """Return a recording by its id or the unambiguous beginning of its id."""
        with self._guard():
            rows = self._connection.execute(
                f"SELECT {COLUMNS} FROM recordings WHERE substr(id, 1, ?) = ? LIMIT 2",
                (len(recording_id), recording_id),
            ).fetchall()
        if not recording_id or len(rows) != 1:
            what = "is the beginning of several ids" if len(rows) > 1 else "is no recording's id"
            raise UnknownRecording(f"{recording_id!r} {what}; see: spolia list")
        return Recording(*rows[0])

    def find_path(self, path: str) -> Recording | None:
        """Return the recording that was added from a path."""
        with self._guard():
            row = self._connection.execute(
                f"SELECT {COLUMNS} FROM recordings WHERE path = ?", (path,)
            ).fetchone()
        return Recording(*row) if row else None

    def sequence(self, recording_id: str, method: str) -> Sequence8:
        """Return a stored sequence; raises UnknownRecording."""
        with self._guard():
            row = self._connection.execute(
                "SELECT recording_id, duration, dim, scale, times, content FROM fingerprints "
                "WHERE recording_id = ? AND method = ?",
                (recording_id, method),
            ).fetchone()
        if row is None:
            raise UnknownRecording(
                f"recording {recording_id!r} has no {method} fingerprint; add it again"
            )
        return _sequence(row)

    def sequences(self, method: str) -> Iterator[Sequence8]:
        """Yield all stored sequences of a method, ordered by recording id."""
        last = ""
        while True:
            with self._guard():
                rows = self._connection.execute(
                    "SELECT recording_id, duration, dim, scale, times, content FROM fingerprints "
                    "WHERE method = ? AND recording_id > ? ORDER BY recording_id LIMIT 64",
                    (method, last),
                ).fetchall()
            if not rows:
                return
            yield from map(_sequence, rows)
            last = rows[-1][0]

    def fingerprint(self, recording_id: str, method: str) -> Fingerprint:
        """Return a stored fingerprint with unit vectors in single precision."""
        stored = self.sequence(recording_id, method)
        values = stored.values if stored.values.ndim == 1 else stored.vectors()
        return Fingerprint(
            method, self.methods().get(method), stored.times / 1000.0, values, stored.duration
        )

    def verify(self) -> list[str]:
        """Return a sentence for each thing that is wrong; an empty list is good news."""
        with self._guard():
            run: Callable[..., Any] = self._connection.execute
            problems = [
                f"database: {row[0]}" for row in run("PRAGMA integrity_check") if row[0] != "ok"
            ]
            missing = run(
                "SELECT r.id, m.method FROM recordings r CROSS JOIN methods m WHERE NOT EXISTS "
                "(SELECT 1 FROM fingerprints f WHERE f.recording_id = r.id AND f.method = m.method)"
            ).fetchall()
            problems += [
                f"recording {r} has no {m} fingerprint; add its file again" for r, m in missing
            ]
            for recording_id, method, times, content, checksum in run(
                "SELECT recording_id, method, times, content, checksum FROM fingerprints"
            ):
                if zlib.crc32(times + content) != checksum:
                    problems.append(
                        f"recording {recording_id}: its {method} fingerprint is damaged; "
                        "add its file again"
                    )
        return problems


def _row(recording_id: str, fingerprint: Fingerprint) -> tuple[Any, ...]:
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


def _sequence(row: tuple[Any, ...]) -> Sequence8:
    recording_id, duration, dim, scale, times, content = row
    values: npt.NDArray[Any] = (
        np.frombuffer(content, np.int8).reshape(-1, dim) if dim else np.frombuffer(content, "<u4")
    )
    return Sequence8(recording_id, np.frombuffer(times, "<i4"), values, scale, duration)
