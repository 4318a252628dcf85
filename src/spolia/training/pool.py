"""Decoded audio of many corpus files in one cache file."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spolia.audio import Audio
from spolia.corpus import CorpusFile
from spolia.errors import AudioError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AudioPool:
    """Many files' audio end to end: int16 samples, and where each file begins."""

    samples: npt.NDArray[np.int16]  # [shape=(n_total,)], perhaps memory-mapped
    offsets: npt.NDArray[np.int64]  # [shape=(n_files + 1,)]
    files: tuple[CorpusFile, ...]
    sample_rate: int

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.files)

    def duration(self) -> float:
        """Return the duration of all files together in seconds."""
        return float(self.offsets[-1]) / self.sample_rate


def extended(pool: AudioPool, pieces: npt.NDArray[np.int16]) -> AudioPool:
    """Return a pool with generated pieces behind its files, each a group of its own.

    pieces: [shape=(n, n_samples)].
    """
    names = [f"generated-{i}" for i in range(len(pieces))]
    files = [CorpusFile(name, "train", name, "train", "", "generated") for name in names]
    ends = pool.offsets[-1] + pieces.shape[1] * np.arange(1, len(pieces) + 1)
    return AudioPool(
        np.concatenate([pool.samples, pieces.ravel()]),
        np.concatenate([pool.offsets, ends]),
        (*pool.files, *files),
        pool.sample_rate,
    )


def identity(path: Path) -> tuple[str, int, int]:
    """Return a file's resolved path, size and time of change in ns; −1 where it is not there."""
    resolved = path.resolve()
    try:
        stat = resolved.stat()
    except OSError:
        return str(resolved), -1, -1
    return str(resolved), stat.st_size, stat.st_mtime_ns


def load_pool(
    files: list[CorpusFile],
    *,
    sample_rate: int,
    cache: Path,
    variant: str = "",
    change: Callable[[Audio, int], Audio] | None = None,
) -> AudioPool:
    """Decode files once into ``cache`` and map them into memory.

    ``change`` may alter each file (given its position) but not its length, as a lossy codec would;
    a file that it cannot alter stays as it is. ``variant`` names that change in the cache's key.
    """
    key = json.dumps([sample_rate, variant, [identity(f.path) for f in files]])
    stem = cache / f"pool-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    data, index = stem.with_suffix(".s16"), stem.with_suffix(".npy")
    if not index.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        _decode_all(files, sample_rate, change, data, index)
    offsets = np.load(index)
    samples = np.fromfile(data, dtype=np.int16)
    return AudioPool(samples, offsets, tuple(files), sample_rate)


def _decode_all(
    files: list[CorpusFile],
    sample_rate: int,
    change: Callable[[Audio, int], Audio] | None,
    data: Path,
    index: Path,
) -> None:
    def decode(item: tuple[int, CorpusFile]) -> npt.NDArray[np.int16]:
        position, file = item
        try:
            audio = Audio.load(file.path, sample_rate=sample_rate)
        except AudioError as error:
            logger.warning("skipped: %s", error)
            return np.zeros(0, np.int16)
        audio = _changed(audio, position, file, change) if change else audio
        return np.round(np.clip(audio.samples, -1, 1) * 32767).astype(np.int16)

    lengths = [0]
    partial = data.with_suffix(".partial")
    with partial.open("wb") as out, ThreadPoolExecutor(2) as pool:
        for samples in pool.map(decode, enumerate(files)):
            out.write(samples.tobytes())
            lengths.append(len(samples))
    partial.replace(data)
    np.save(index, np.cumsum(np.asarray(lengths, np.int64)))


def _changed(
    audio: Audio, position: int, file: CorpusFile, change: Callable[[Audio, int], Audio]
) -> Audio:
    """Return the changed sound, or the sound itself: other files' places must not move."""
    try:
        return change(audio, position)
    except AudioError as error:
        logger.warning("left as it is: %s: %s", file.path, error)
        return audio
