"""Adding files to a catalog: many at once, decoded and encoded in parallel, one writer."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from spolia.audio import AUDIO_SUFFIXES, SILENCE_PEAK, Audio, read_tags, stream
from spolia.errors import AudioError, CorruptLibrary, UnknownRecording
from spolia.fingerprints.base import (
    Accompanying,
    Beside,
    Derived,
    Fingerprint,
    Fingerprinter,
    Listener,
)
from spolia.recording import Recording, path_text
from spolia.store.catalog import Catalog

LEAST = 1.1  # seconds that a recording must last, by every method
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
Analysis = tuple[Recording, list[Fingerprint]]


@dataclass
class AddReport:
    """What an ``add`` did."""

    added: int = 0
    updated: int = 0  # had changed since they were added, or lacked a method
    unchanged: int = 0  # same size and time of modification: skipped
    failed: list[tuple[str, str]] = field(default_factory=list)  # (path, reason)
    seconds_of_audio: float = 0.0  # of added and updated files
    lost: float = 0.0  # seconds that could not be decoded
    elapsed: float = 0.0  # seconds


def find_files(
    paths: Iterable[str | os.PathLike[str]],
    *,
    on_error: Callable[[OSError], object] | None = None,
) -> Iterator[Path]:
    """Yield files named directly, and those in folders that look like audio, each once.

    Folders are walked in order of names; hidden files and folders are left out, and links to
    folders are not followed. ``on_error`` is called for each folder that cannot be read.
    """
    seen: set[Path] = set()
    for path in map(Path, paths):
        for file in _walk(path, on_error) if is_folder(path) else (path,):
            absolute = Path(os.path.abspath(file))
            if absolute not in seen:
                seen.add(absolute)
                yield absolute


def is_folder(path: Path) -> bool:
    """Tell whether a path is a folder, which one that cannot be looked at is not."""
    try:
        return path.is_dir()
    except OSError:  # a name too long, say: it fails later, by its name
        return False


def _walk(folder: Path, on_error: Callable[[OSError], object] | None) -> Iterator[Path]:
    for root, folders, files in os.walk(folder, onerror=on_error):
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
    work = _Ingest(catalog, fingerprinters)
    files = list(find_files(paths, on_error=work.unreadable))
    with closing(work.run(files, threads)) as finished:
        for done, (path, reason) in enumerate(finished, 1):
            if progress:
                seconds = work.report.seconds_of_audio
                progress(AddProgress(path, done, len(files), seconds, reason))
    work.report.failed.sort()
    work.report.elapsed = time.monotonic() - started
    return work.report


class _Ingest:
    """One call of ``ingest``: what is known before, what was done so far."""

    def __init__(self, catalog: Catalog, fingerprinters: Sequence[Fingerprinter]) -> None:
        self.catalog, self.fingerprinters = catalog, fingerprinters
        self.report = AddReport()
        self.known = {recording.id: recording for recording in catalog.recordings()}
        self.holding = {f.method: catalog.complete([f.method]) for f in fingerprinters}
        self.stopped = threading.Event()

    def unreadable(self, error: OSError) -> None:
        """Count a folder that cannot be read as failed."""
        self.report.failed.append((str(error.filename), why_unreadable(error)))

    def run(
        self, files: Iterable[Path], threads: int
    ) -> Generator[tuple[Path, str | None], None, None]:
        """Yield each file as soon as it is stored, with the reason if it failed."""
        pool = ThreadPoolExecutor(threads, thread_name_prefix="add")
        pending: dict[Future[Analysis], Path] = {}
        try:
            for path in files:
                held = self._unchanged(path)
                missing = self._missing(held)
                if held and not missing:
                    self.report.unchanged += 1
                    yield path, None
                    continue
                pending[pool.submit(self._task(path, held, missing))] = path
                if len(pending) == threads * IN_FLIGHT:
                    yield from self._finished(pending)
            while pending:
                yield from self._finished(pending)
        finally:
            self.stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _unchanged(self, path: Path) -> Recording | None:
        """Return the recording that was made from a file as it is now."""
        held = self.known.get(recording_id(path))
        try:
            return held if held and held.is_made_from(path.stat()) else None
        except OSError:
            return None

    def _missing(self, held: Recording | None) -> list[Fingerprinter]:
        """Return what is still to be made of a recording; everything of an unknown one."""
        made = self.fingerprinters
        return [f for f in made if held is None or held.id not in self.holding[f.method]]

    def _task(
        self, path: Path, held: Recording | None, missing: Sequence[Fingerprinter]
    ) -> Callable[[], Analysis]:
        """Return what makes the fingerprints that are missing, or everything anew."""
        with suppress(UnknownRecording, CorruptLibrary):  # removed meanwhile, or a damaged row
            if held:
                stored = self._stored(held, missing)
                return partial(extended, path, held, missing, stored, self.stopped)
        return partial(analyse, path, self.fingerprinters, self.stopped)

    def _stored(self, held: Recording, missing: Sequence[Fingerprinter]) -> list[Fingerprint]:
        """Return the stored fingerprints of a recording that missing ones derive from."""
        bases = {f.derives_from for f in missing if isinstance(f, Derived)}
        bases &= {method for method, ids in self.holding.items() if held.id in ids}
        return [self.catalog.fingerprint(held.id, method) for method in sorted(bases)]

    def _finished(self, pending: dict[Future[Analysis], Path]) -> Iterator[tuple[Path, str | None]]:
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            path = pending.pop(future)
            yield path, self._store(path, future)

    def _store(self, path: Path, future: Future[Analysis]) -> str | None:
        """Store a finished file and count it; return why it failed, or None."""
        try:
            recording, fingerprints = future.result()
        except AudioError as error:
            return self._failed(path, error.reason)
        except OSError as error:
            return self._failed(path, why_unreadable(error))
        if self.known.get(recording.id) is not recording:
            self.catalog.add(recording, fingerprints)
        else:
            try:
                self.catalog.extend(recording.id, fingerprints)
            except UnknownRecording:
                return self._failed(path, "was removed in the meantime; add it again")
        if recording.id in self.known:
            self.report.updated += 1
        else:
            self.report.added += 1
        self.report.seconds_of_audio += recording.duration
        self.report.lost += recording.lost
        return None

    def _failed(self, path: Path, reason: str) -> str:
        self.report.failed.append((str(path), reason))
        return reason


def why_unreadable(error: OSError) -> str:
    """Return why a file or folder counts as failed."""
    return f"cannot be read ({error.strerror or error}); check the file and its permissions"


class _Watch:
    """Notes duration, loss and peak of the blocks that pass, until told to stop."""

    def __init__(self, stopped: threading.Event) -> None:
        self.seconds = self.lost = self.peak = 0.0
        self.stopped = stopped

    def watch(self, blocks: Iterator[Audio]) -> Iterator[Audio]:
        for block in blocks:
            if self.stopped.is_set():
                raise CancelledError
            self.seconds += block.duration
            self.lost += block.lost
            self.peak = max(self.peak, float(np.abs(block.samples).max(initial=0.0)))
            yield block


def analyse(
    path: Path, fingerprinters: Sequence[Fingerprinter], stopped: threading.Event
) -> Analysis:
    """Decode a file once per method, in blocks, and return what is to be stored.

    A method that can be derived from one before it needs no decoding. Raises AudioError where
    nothing can be indexed, OSError where the file cannot be read, and CancelledError soon after
    ``stopped`` is set.
    """
    tags = read_tags(path)
    status = path.stat()
    fingerprints, watch = _fingerprinted(path, fingerprinters, (), stopped)
    recording = Recording(
        recording_id(path),
        path_text(path),
        watch.seconds,
        tags.title,
        tags.artist,
        tags.album,
        status.st_size,
        status.st_mtime_ns,
        watch.lost,
    )
    return recording, fingerprints


def extended(
    path: Path,
    recording: Recording,
    missing: Sequence[Fingerprinter],
    stored: Sequence[Fingerprint],
    stopped: threading.Event,
) -> Analysis:
    """Return a recording as it is held, and the fingerprints that it lacks.

    stored: what is held already of those that missing ones derive from. Raises as :func:`analyse`.
    """
    return recording, _fingerprinted(path, missing, stored, stopped)[0]


def _fingerprinted(
    path: Path,
    fingerprinters: Sequence[Fingerprinter],
    stored: Sequence[Fingerprint],
    stopped: threading.Event,
) -> tuple[list[Fingerprint], _Watch]:
    fingerprints: list[Fingerprint] = []
    watch = _Watch(stopped)
    listening = {f.beside: f.listener() for f in fingerprinters if isinstance(f, Beside)}
    made = {f.method for f in fingerprinters}
    companions = {f.accompanies: f for f in fingerprinters if isinstance(f, Accompanying)}
    for fingerprinter in fingerprinters:
        if isinstance(fingerprinter, Accompanying) and fingerprinter.accompanies in made:
            continue
        if isinstance(fingerprinter, Beside) and fingerprinter.beside in made:
            fingerprints.append(listening[fingerprinter.beside].fingerprint())
            continue
        if isinstance(fingerprinter, Derived):
            known = [*fingerprints, *stored]
            base = next((f for f in known if f.method == fingerprinter.derives_from), None)
            if base is not None:
                fingerprints.append(fingerprinter.derive(base))
                continue
        watch = _Watch(stopped)
        blocks = watch.watch(stream(path, sample_rate=fingerprinter.sample_rate))
        if fingerprinter.method in listening:
            blocks = _overheard(blocks, listening[fingerprinter.method])
        companion = companions.get(fingerprinter.method)
        found = companion.both(blocks) if companion else (fingerprinter.fingerprint_blocks(blocks),)
        if not len(found[0]):
            raise AudioError(str(path), _why_empty(watch))
        fingerprints.extend(found)
    return fingerprints, watch


def _overheard(blocks: Iterator[Audio], listener: Listener) -> Iterator[Audio]:
    for block in blocks:
        listener.hear(block)
        yield block


def _why_empty(watch: _Watch) -> str:
    if watch.peak < SILENCE_PEAK:
        return "is silent (nothing above -80 dBFS); give a recording with sound"
    if watch.seconds < LEAST:
        return f"is too short ({watch.seconds:.2f} s); at least {LEAST} s is needed"
    return "is as good as silent (no second of it is above -80 dBFS); give a recording with sound"
