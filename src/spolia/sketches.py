"""Sketches: a recording's levels in small, by which places that ``samples`` finds are heard.

78 bands, one a semitone, every 96 ms: 3 MB an hour. They are not searched, and come with the method
``samples``; see :mod:`spolia.sample_sketch`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from spolia.audio import Audio
from spolia.calibration import UNFITTED, Calibration
from spolia.errors import ParameterError
from spolia.fingerprints.base import UNCHANGED, Change, Fingerprint
from spolia.sample_alignment import HOP, SAMPLE_RATE, levels
from spolia.sample_sketch import FRAMES, ROW, WIDTH, sketch

BLOCK = 625  # rows that are made at once, a minute,
MARGIN = 21  # and those around that they depend on
SIZE = FRAMES * HOP  # samples of a row


class SketchFingerprinter:
    """Makes sketches, one row every 96 ms, silent ones too."""

    method = "sketches"
    model_id = "sketch-1"
    beside = "samples"  # the method that hears the same blocks
    sample_rate = SAMPLE_RATE
    hop_seconds = segment_seconds = ROW
    calibration: Calibration = UNFITTED
    confirmation = None
    delay: Mapping[str, Any] = MappingProxyType({})
    query_changes: Sequence[Change] = ()

    def fingerprint(self, audio: Audio) -> Fingerprint:
        """Return the sketch of a recording."""
        return self.fingerprint_blocks(iter([audio]))

    def fingerprint_blocks(self, blocks: Iterator[Audio]) -> Fingerprint:
        """Return the sketch of consecutive blocks in bounded memory."""
        sketcher = self.listener()
        for block in blocks:
            sketcher.hear(block)
        return sketcher.fingerprint()

    def fingerprint_query(self, audio: Audio, change: Change = UNCHANGED) -> Fingerprint:
        """Return the sketch of a query."""
        if change != UNCHANGED:
            raise ParameterError(f"sketches are not made of changed queries ({change})")
        return self.fingerprint(audio)

    def listener(self) -> Sketcher:
        """Return what makes a sketch of blocks that something else reads too."""
        return Sketcher()


class Sketcher:
    """Makes a sketch of blocks as they come."""

    def __init__(self) -> None:
        self._sound = np.zeros(0, np.float32)
        self._first = 0  # row at which the sound begins
        self._rows = [np.zeros((0, WIDTH), np.float32)]
        self._done = self._n_samples = 0  # rows made, samples heard

    def hear(self, block: Audio) -> None:
        """Take the next block, at SAMPLE_RATE."""
        self._sound = np.concatenate([self._sound, block.samples])
        self._n_samples += len(block)
        while len(self._sound) >= (self._done - self._first + BLOCK + MARGIN) * SIZE:
            self._make(self._done + BLOCK)

    def fingerprint(self) -> Fingerprint:
        """Return the sketch of all that was heard."""
        self._make(self._n_samples // SIZE)
        values = np.concatenate(self._rows)
        times = ROW * np.arange(len(values), dtype=np.float64)
        duration = self._n_samples / SAMPLE_RATE
        return Fingerprint(
            SketchFingerprinter.method, SketchFingerprinter.model_id, times, values, duration
        )

    def _make(self, last: int) -> None:
        """Make the rows up to one, and forget the sound that none after them depends on."""
        if last > self._done:
            sound = self._sound[: (last - self._first + MARGIN) * SIZE]
            rows = sketch(levels(sound))[self._done - self._first : last - self._first]
            self._rows.append(rows)
            self._done += len(rows)
        forget = max(0, self._done - MARGIN - self._first)
        self._sound, self._first = self._sound[forget * SIZE :], self._first + forget
