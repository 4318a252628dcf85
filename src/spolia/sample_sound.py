"""Sound of recordings and its levels, kept at hand: the next query may compare them too."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import numpy as np

from spolia.audio import Audio
from spolia.errors import AudioError
from spolia.placing import is_unchanged
from spolia.recording import Recording
from spolia.sample_alignment import SAMPLE_RATE, levels
from spolia.sample_patches import Bands

SHORT = 75.0  # seconds up to which a recording is decoded once as a whole
N_HELD, N_LOADED = 40, 16  # stretches of which levels, and sound, stay in memory

Read = TypeVar("Read")


class Sounds:
    """Reads stretches of recordings from their files; None where a file is gone or was changed.

    The last few stay in memory, 120 MB of levels and 80 MB of sound at most. Safe to be asked by
    several threads.
    """

    def __init__(self, recording: Callable[[str], Recording]) -> None:
        """Take what gives a recording by its id."""
        self.recording = recording
        self._loaded = lru_cache(maxsize=N_LOADED)(self._load)
        self._heard = lru_cache(maxsize=N_HELD)(self._measure)

    def load(self, recording_id: str, start: float, end: float) -> Audio | None:
        """Return a stretch of a recording at SAMPLE_RATE; seconds."""
        sound = self._read(recording_id, lambda recording: self._loaded(recording, start, end))
        return sound if sound is not None and len(sound) else None

    def levels(self, recording_id: str, start: float, end: float) -> tuple[Bands, float] | None:
        """Return levels of a stretch, or of more, and the seconds of the first row."""

        def heard(recording: Recording) -> tuple[Bands, float] | None:
            if recording.duration <= SHORT:
                return self._heard(recording, 0.0, recording.duration)
            return self._heard(recording, *whole(start, end))

        return self._read(recording_id, heard)

    def _read(self, recording_id: str, work: Callable[[Recording], Read]) -> Read | None:
        """Return what work reads of a recording; failures are not remembered, only results."""
        recording = self.recording(recording_id)
        try:
            return work(recording) if is_unchanged(recording) else None
        except AudioError:
            return None

    def _measure(
        self, recording: Recording, start: float, end: float
    ) -> tuple[Bands, float] | None:
        sound = self._loaded(recording, start, end)
        return (levels(sound.samples), start) if len(sound) else None

    def _load(self, recording: Recording, start: float, end: float) -> Audio:
        return Audio.load(recording.path, sample_rate=SAMPLE_RATE, start=start, end=end)


def whole(start: float, end: float) -> tuple[float, float]:
    """Return the whole seconds around a stretch."""
    return float(max(0.0, np.floor(start))), float(np.ceil(end))
