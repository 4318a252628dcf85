"""The catalog: one SQLite database, the only truth of a library.

Recordings, their fingerprint sequences (vectors in int8) and the ids of the models that made them.
One transaction per recording: kill the process at any moment, and what was acknowledged is there.
Write-ahead logging lets several processes read while one writes; writers wait for each other.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spolia.errors import (
    CorruptLibrary,
    IncompatibleModel,
    LibraryError,
    LibraryNotFound,
    SpoliaError,
    UnknownRecording,
)
from spolia.fingerprints.base import Fingerprint
from spolia.recording import Recording, path_text
from spolia.store.rows import (
    COLUMNS,
    SEQUENCE,
    Sequence8,
    recording_from_row,
    sequence_from_row,
    sequence_to_row,
)

DATABASE = "library.sqlite"
FORMAT = 1
BUSY_SECONDS = 60.0
BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
UNUSABLE = (
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
)

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
INSERT = "INSERT OR REPLACE INTO fingerprints VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


class Catalog:
    """The database of one library folder; usable from several threads."""

    def __init__(self, folder: Path, *, create: bool = True) -> None:
        self.path = folder / DATABASE
        if not create and not self.path.is_file():
            raise LibraryNotFound(f"{folder} is not a library; make one with: spolia add PATH")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LibraryError(
                f"{folder} cannot hold a library ({error.strerror}); choose another folder"
            ) from error
        self._lock = threading.RLock()
        with self._guard():
            self._connection = sqlite3.connect(
                self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            with self._guard():
                self._prepare(create)
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, create: bool) -> None:
        run = self._connection.execute
        if not self._has_schema():
            if not create:
                raise CorruptLibrary(
                    f"{self.path} holds no library; restore it from a backup, or make one with: "
                    "spolia add PATH"
                )
            self._create()
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run("PRAGMA foreign_keys = ON")
        found = self._number("format")
        if found > FORMAT:
            raise CorruptLibrary(
                f"{self.path} has library format {found}, this spolia reads {FORMAT}; "
                "upgrade spolia"
            )

    def _has_schema(self) -> bool:
        query = "SELECT 1 FROM sqlite_master WHERE name = 'meta'"
        return self._connection.execute(query).fetchone() is not None

    def _create(self) -> None:
        run = self._connection.execute
        with self._transaction():
            if self._has_schema():  # another process was faster
                return
            for statement in filter(str.strip, SCHEMA.split(";")):
                run(statement)
            run("INSERT INTO meta VALUES ('format', ?), ('generation', '0')", (str(FORMAT),))

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Serialise threads and turn SQLite's errors into ours."""
        with self._lock:
            try:
                yield
            except (sqlite3.Error, UnicodeDecodeError) as error:
                raise self._explained(error) from error

    def _explained(self, error: Exception) -> LibraryError:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if isinstance(error, sqlite3.ProgrammingError):
            return LibraryError(f"{self.path} cannot be used ({error}); open the library again")
        if code in BUSY:
            return LibraryError(
                f"{self.path} is in use ({error}); wait for the other process and try again"
            )
        if code in UNUSABLE:
            return LibraryError(
                f"{self.path} cannot be used ({error}); check that its folder exists, can be "
                "written and has space left"
            )
        return CorruptLibrary(
            f"{self.path} is damaged ({error}); restore it from a backup or add the files to a new "
            "library"
        )

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        try:
            self._connection.execute(f"BEGIN {kind}")
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def snapshot(self) -> Iterator[int]:
        """Give the generation; until the end, all that is read is of that generation."""
        with self._guard(), self._transaction("DEFERRED"):
            yield self.generation

    def _number(self, key: str) -> int:
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        try:
            return int(row[0])
        except (TypeError, ValueError) as error:
            raise CorruptLibrary(
                f"{self.path} is damaged (its {key} is no number); restore it from a backup or add "
                "the files to a new library"
            ) from error

    def close(self) -> None:
        """Close the database."""
        with self._guard():
            self._connection.close()

    @property
    def generation(self) -> int:
        """A number that rises with every change."""
        with self._guard():
            return self._number("generation")

    def methods(self) -> dict[str, str | None]:
        """Return the methods that the library holds, each with its model's id."""
        with self._guard():
            rows = self._connection.execute("SELECT method, model_id FROM methods").fetchall()
        if not all(isinstance(method, str) for method, _ in rows):
            raise CorruptLibrary(f"{self.path} has a damaged list of methods; restore a backup")
        return dict(rows)

    def counts(self) -> dict[str, int]:
        """Return of how many recordings the library holds each method."""
        with self._guard():
            counted = "SELECT method, COUNT(*) FROM fingerprints GROUP BY method"
            found = dict(self._connection.execute(counted).fetchall())
        return {method: found.get(method, 0) for method in self.methods()}

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
        rows = [sequence_to_row(recording.id, fingerprint) for fingerprint in fingerprints]
        values = tuple(getattr(recording, f.name) for f in fields(Recording))
        with self._guard(), self._transaction():
            self._declare({f.method: f.model_id for f in fingerprints})
            run = self._connection.execute
            run("DELETE FROM recordings WHERE id = ? OR path = ?", (recording.id, recording.path))
            marks = ", ".join("?" * len(values))
            run(f"INSERT INTO recordings ({COLUMNS}) VALUES ({marks})", values)
            self._connection.executemany(INSERT, rows)
            self._advance()

    def extend(self, recording_id: str, fingerprints: Sequence[Fingerprint]) -> None:
        """Store further fingerprints of a recording at once; those of other methods stay.

        Raises UnknownRecording where it was removed.
        """
        rows = [sequence_to_row(recording_id, fingerprint) for fingerprint in fingerprints]
        with self._guard(), self._transaction():
            found = self._connection.execute(
                "SELECT 1 FROM recordings WHERE id = ?", (recording_id,)
            ).fetchone()
            if found is None:
                raise UnknownRecording(
                    f"no recording has the id {recording_id!r}; see: spolia list"
                )
            self._declare({f.method: f.model_id for f in fingerprints})
            self._connection.executemany(INSERT, rows)
            self._advance()

    def _advance(self) -> None:
        # By random steps, so that no other history of the library, made anew or restored from a
        # backup, comes to the same number and takes the derived files of this one for its own.
        self._connection.execute(
            "UPDATE meta SET value = CAST(value AS INTEGER) + 1 + abs(random() % 2147483648) "
            "WHERE key = 'generation'"
        )

    def remove(self, *recording_ids: str) -> None:
        """Remove all these recordings, or none if one is unknown; raises UnknownRecording."""
        with self._guard(), self._transaction():
            for recording_id in recording_ids:
                gone = self._connection.execute(
                    "DELETE FROM recordings WHERE id = ?", (recording_id,)
                )
                if gone.rowcount == 0:
                    raise UnknownRecording(
                        f"no recording has the id {recording_id!r}; see: spolia list"
                    )
            self._advance()

    def recordings(self) -> list[Recording]:
        """Return all recordings, ordered by path."""
        with self._guard():
            rows = self._connection.execute(f"SELECT {COLUMNS} FROM recordings ORDER BY path")
            return [recording_from_row(row) for row in rows]

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
        rows = []
        if recording_id and recording_id.isascii():
            with self._guard():
                rows = self._connection.execute(
                    f"SELECT {COLUMNS} FROM recordings WHERE id >= ? AND id < ? LIMIT 2",
                    (recording_id, recording_id + "g"),  # after all hexadecimal digits
                ).fetchall()
        if len(rows) != 1:
            what = "is the beginning of several ids" if len(rows) > 1 else "is no recording's id"
            raise UnknownRecording(f"{recording_id!r} {what}; see: spolia list")
        return recording_from_row(rows[0])

    def find_path(self, path: str) -> Recording | None:
        """Return the recording that was added from a path."""
        with self._guard():
            row = self._connection.execute(
                f"SELECT {COLUMNS} FROM recordings WHERE path = ?", (path_text(path),)
            ).fetchone()
        return recording_from_row(row) if row else None

    def sequence(self, recording_id: str, method: str) -> Sequence8:
        """Return a stored sequence; raises UnknownRecording, CorruptLibrary."""
        with self._guard():
            row = self._connection.execute(
                f"SELECT {SEQUENCE} FROM fingerprints WHERE recording_id = ? AND method = ?",
                (recording_id, method),
            ).fetchone()
        if row is None:
            raise UnknownRecording(
                f"recording {recording_id!r} has no {method} fingerprint; add it again"
            )
        return sequence_from_row(row)

    def rows(self, recording_id: str, method: str) -> npt.NDArray[np.float32] | None:
        """Return stored rows up to a factor [shape=(n, dim)]; None where there are none."""
        try:
            return self.sequence(recording_id, method).values.astype(np.float32)
        except UnknownRecording:
            return None

    def sequences(self, method: str) -> Iterator[Sequence8]:
        """Yield all stored sequences of a method, ordered by recording id.

        Raises CorruptLibrary at a damaged one; those of no recording are left out.
        """
        last = ""
        while True:
            with self._guard():
                rows = self._connection.execute(
                    f"SELECT {SEQUENCE} FROM fingerprints WHERE method = ? AND recording_id > ? "
                    "AND EXISTS (SELECT 1 FROM recordings WHERE id = recording_id) "
                    "ORDER BY recording_id LIMIT 64",
                    (method, last),
                ).fetchall()
            if not rows:
                return
            yield from map(sequence_from_row, rows)
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
            found = run("PRAGMA integrity_check").fetchall()
            problems = [f"database: {text}" for (text,) in found if text != "ok"]
            missing = run(
                "SELECT r.id, m.method FROM recordings r CROSS JOIN methods m WHERE NOT EXISTS "
                "(SELECT 1 FROM fingerprints f WHERE f.recording_id = r.id AND f.method = m.method)"
            )
            problems += [
                f"recording {r} has no {m} fingerprint; add its file again" for r, m in missing
            ]
            orphans = run(
                "SELECT recording_id, method FROM fingerprints "
                "WHERE recording_id NOT IN (SELECT id FROM recordings)"
            )
            problems += [
                f"recording {r} has a {m} fingerprint but nothing else; add its file again"
                for r, m in orphans
            ]
            problems += _complaints(recording_from_row, run(f"SELECT {COLUMNS} FROM recordings"))
            problems += _complaints(sequence_from_row, run(f"SELECT {SEQUENCE} FROM fingerprints"))
        return problems


def _complaints(read: Callable[[Any], object], rows: Iterable[Any]) -> Iterator[str]:
    for row in rows:
        try:
            read(row)
        except SpoliaError as error:
            yield str(error)
