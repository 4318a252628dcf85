"""Adding files to a catalog: many at once, decoded and encoded in parallel, one writer."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spolia.audio import AUDIO_SUFFIXES, SILENCE_PEAK, Audio, read_tags, stream
from spolia.errors import AudioError
from spolia.fingerprints.base import Fingerprint, Fingerprinter
from spolia.recording import Recording
from spolia.store.catalog import Catalog

IN_FLIGHT = 2  # files per thread that are being worked on or wait to be stored


@dataclass(frozen=True)
class AddProgress:
    """How far an ``add`` is; passed to the progress callback after every file."""

    path: Path  # the file just finished
    done: int  # files finished, whatever their outcome
    total: int  # files found
    seconds: float  # seconds of audio added so far
    reason: str | None = None  # why this file failed, or None


Progress = Callable[[AddProgress], None]


@dataclass
class AddReport:
    """What an ``add`` did."""

    added: int = 0
    updated: int = 0  # had changed since they were added
    unchanged: int = 0  # same size and time of modification: skipped
    failed: list[tuple[str, str]] = field(default_factory=list)  # (path, reason)
    seconds_of_audio: float = 0.0  # of added and updated files
    lost: float = 0.0  # seconds that could not be decoded
    elapsed: float = 0.0  # seconds


def find_files(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """Yield files named directly, and those in folders that look like audio, each once.

    Folders are walked in order of names; hidden files and folders are left out, and links to
    folders are not followed.
    """
    seen: set[Path] = set()
    for path in map(Path, paths):
        for file in _walk(path) if path.is_dir() else (path,):
            absolute = Path(os.path.abspath(file))
            if absolute not in seen:
                seen.add(absolute)
                yield absolute


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in AUDIO_SUFFIXES:
                yield Path(root) / name


def recording_id(path: Path) -> str:
    """Return the id of the recording at an absolute path, 16 hex digits."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def ingest(
    catalog: Catalog,
    paths: Iterable[str | os.PathLike[str]],
    fingerprinters: Sequence[Fingerprinter],
    *,
    threads: int,
    progress: Progress | None = None,
) -> AddReport:
    """Fingerprint files and store each in one transaction; see ``Library.add``."""
    started = time.monotonic()
    report = AddReport()
    files = list(find_files(paths))
    known = {r.path: r for r in catalog.recordings()}
    complete = catalog.complete([f.method for f in fingerprinters])
    queue = deque(files)
    pending: deque[tuple[Path, Future[tuple[Recording, list[Fingerprint]]] | None]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="add")
    try:
        while queue or pending:
            while queue and len(pending) < threads * IN_FLIGHT:
                path = queue.popleft()
                held = known.get(str(path))
                same = held is not None and held.id in complete and _unchanged(path, held)
                pending.append((path, None if same else pool.submit(analyse, path, fingerprinters)))
            path, future = pending.popleft()
            reason = _store(catalog, path, future, str(path) in known, report)
            if progress:
                done = len(files) - len(queue) - len(pending)
                progress(AddProgress(path, done, len(files), report.seconds_of_audio, reason))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    report.elapsed = time.monotonic() - started
    return report


def _unchanged(path: Path, known: Recording) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (known.size, known.modified)


def _store(
    catalog: Catalog,
    path: Path,
    future: Future[tuple[Recording, list[Fingerprint]]] | None,
    replaces: bool,
    report: AddReport,
) -> str | None:
    """Store a finished file and count it; return why it failed, or None."""
    if future is None:
        report.unchanged += 1
        return None
    try:
        recording, fingerprints = future.result()
    except AudioError as error:
        report.failed.append((str(path), error.reason))
        return error.reason
    catalog.add(recording, fingerprints)
    if replaces:
        report.updated += 1
    else:
        report.added += 1
    report.seconds_of_audio += recording.duration
    report.lost += recording.lost
    return None


class _Watch:
    """Notes duration, loss and peak of the blocks that pass."""

    def __init__(self) -> None:
        self.seconds = self.lost = self.peak = 0.0

    def watch(self, blocks: Iterator[Audio]) -> Iterator[Audio]:
        for block in blocks:
            self.seconds += block.duration
            self.lost += block.lost
            self.peak = max(self.peak, float(np.abs(block.samples).max(initial=0.0)))
            yield block


def analyse(
    path: Path, fingerprinters: Sequence[Fingerprinter]
) -> tuple[Recording, list[Fingerprint]]:
    """Decode a file once per method, in blocks, and return what is to be stored.

    Raises AudioError where nothing can be indexed.
    """
    tags = read_tags(path)
    status = path.stat()
    fingerprints, watch = [], _Watch()
    for fingerprinter in fingerprinters:
        watch = _Watch()
        blocks = stream(path, sample_rate=fingerprinter.sample_rate)
        fingerprint = fingerprinter.fingerprint_blocks(watch.watch(blocks))
        if not len(fingerprint):
            raise AudioError(str(path), _why_empty(watch))
        fingerprints.append(fingerprint)
    recording = Recording(
        recording_id(path),
        str(path),
        watch.seconds,
        tags.title,
        tags.artist,
        tags.album,
        status.st_size,
        status.st_mtime_ns,
        watch.lost,
    )
    return recording, fingerprints


def _why_empty(watch: _Watch) -> str:
    if watch.peak < SILENCE_PEAK:
        return "is silent (nothing above -80 dBFS); give a recording with sound"
    return f"is too short ({watch.seconds:.2f} s); at least 1.1 s is needed"
