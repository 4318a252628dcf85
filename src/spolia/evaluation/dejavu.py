"""Dejavu, an open tool of many users, as a system of the comparison.

Its package makes the hashes; they are kept in sorted arrays instead of a database server. The
answer is its own: the recording, and the difference of times, that most hashes agree on. Both sides
are brought to the rate of the queries first: peaks that only the recordings have would pair with
those that both have, and change their hashes.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spolia.alignment import Line
from spolia.audio import Audio
from spolia.errors import ParameterError
from spolia.evaluation.amg import Asked
from spolia.recording import Recording
from spolia.rivals import Candidate

DIGITS = 16  # of a hash's 20 that are kept: 64 bits
RATE = 16000  # Hz of the queries

Report = Callable[[int, int], None]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Package:
    """What is used of the installed package."""

    fingerprint: Callable[..., Iterable[tuple[str, int]]]
    sample_rate: int  # Hz
    hop: float  # seconds between its frames


def installed() -> Package:
    """Return the package; raises ParameterError where it is not installed."""
    try:
        module: Any = importlib.import_module("dejavu.logic.fingerprint")
        settings: Any = importlib.import_module("dejavu.config.settings")
    except (ImportError, SyntaxError) as error:
        raise ParameterError(
            f"Dejavu cannot be imported ({error}); install it from its repository, since the "
            "release on PyPI is for Python 2, or leave --dejavu out"
        ) from error
    hop = settings.DEFAULT_WINDOW_SIZE * (1 - settings.DEFAULT_OVERLAP_RATIO)
    return Package(module.fingerprint, settings.DEFAULT_FS, hop / settings.DEFAULT_FS)


class Dejavu:
    """Answers queries by the package's hashes."""

    name, seconds, growth = "Dejavu", 0.0, 1.0

    def __init__(
        self, package: Package, recordings: Sequence[Recording], report: Report | None = None
    ) -> None:
        self.package, self.ids = package, [recording.id for recording in recordings]
        started = time.perf_counter()
        parts = []
        for number, recording in enumerate(recordings):
            hashes, offsets = self._hashes(Audio.load(Path(recording.path), sample_rate=RATE))
            parts.append((hashes, number << 32 | offsets))
            if report:
                report(number + 1, len(recordings))
        hashes = np.concatenate([np.zeros(0, np.uint64), *(part[0] for part in parts)])
        places = np.concatenate([np.zeros(0, np.int64), *(part[1] for part in parts)])
        order = np.argsort(hashes, kind="stable")
        self.hashes, self.places = hashes[order], places[order]
        self.build_seconds = time.perf_counter() - started
        self.n_vectors = len(self.hashes)
        self.n_bytes = self.hashes.nbytes + self.places.nbytes

    def answer(self, asked: Asked) -> Candidate | None:
        """Return the recording and offset with most votes, or None without any."""
        heard = asked.query.prefix(asked.length).resample(RATE)
        hashes, offsets = self._hashes(heard)
        low, high = (np.searchsorted(self.hashes, hashes, side) for side in ("left", "right"))
        counts = high - low
        if not counts.sum():
            return None
        first = np.repeat(low - np.cumsum(counts) + counts, counts)
        places = self.places[first + np.arange(counts.sum())]
        votes, times = np.unique(places - np.repeat(offsets, counts), return_counts=True)
        best = int(times.argmax())
        recording = int(votes[best] + (1 << 31)) >> 32  # the difference may be negative
        offset = int(votes[best]) - (recording << 32)
        line = Line(
            1.0,
            offset * self.package.hop,
            0.0,
            asked.length,
            float(times[best]) / len(hashes),
            asked.length,
            float(times[best]),
        )
        return Candidate(self.ids[recording], line)

    def recalled(self, asked: Asked) -> list[str]:
        """Return nothing: there is one stage."""
        return []

    def index_ms(self, asked: Sequence[Asked]) -> tuple[float, float] | None:
        """Return nothing: hashes are looked up in another way."""
        return None

    def _hashes(self, audio: Audio) -> tuple[npt.NDArray[np.uint64], Numbers]:
        """Return each different hash with its frame, as Dejavu's set of them."""
        samples = np.round(audio.resample(self.package.sample_rate).samples * 32767)
        pairs = set(self.package.fingerprint(samples.astype(np.int16), Fs=self.package.sample_rate))
        hashes = np.array([int(text[:DIGITS], 16) for text, _ in pairs], np.uint64)
        return hashes, np.array([int(frame) for _, frame in pairs], np.int64)
