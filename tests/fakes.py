"""A small fingerprinter for tests: band energies, numpy only, no model file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from spolia.audio import Audio
from spolia.calibration import UNFITTED
from spolia.fingerprints.base import UNCHANGED, Change, Fingerprint


class BandEnergies:
    """Unit vectors of the peaks among log band energies of one second, every half second."""

    method = "segments"
    sample_rate = 8000
    calibration = UNFITTED
    hop_seconds = 0.5
    segment_seconds = 1.0
    query_changes = ()
    delay: ClassVar = {}
    confirmation = None

    def __init__(self, model_id: str = "bands-000000000001") -> None:
        self.model_id = model_id

    def fingerprint(self, audio: Audio) -> Fingerprint:
        return self._every(audio, 4000)

    def fingerprint_query(self, audio: Audio, change: Change = UNCHANGED) -> Fingerprint:
        return self._every(audio, 1000)

    def fingerprint_blocks(self, blocks: Iterator[Audio]) -> Fingerprint:
        parts = [block.samples for block in blocks]
        return self.fingerprint(Audio(np.concatenate([*parts, np.zeros(0, np.float32)]), 8000))

    def _every(self, audio: Audio, hop: int) -> Fingerprint:
        starts = np.arange(0, max(0, len(audio) - 8000 + 1), hop)
        rows = [self._vector(audio.samples[s : s + 8000]) for s in starts]
        loud = np.array([np.abs(audio.samples[s : s + 8000]).max() > 1e-4 for s in starts], bool)
        values = np.array(rows, np.float32).reshape(len(starts), 128)
        times = starts / 8000.0
        return Fingerprint(self.method, self.model_id, times[loud], values[loud], audio.duration)

    def _vector(self, samples: np.ndarray) -> np.ndarray:
        power = np.abs(np.fft.rfft(samples * np.hanning(8000))) ** 2
        edges = np.geomspace(100, 3500, 129).astype(int)
        bands = np.log(np.add.reduceat(power, edges)[:-1] + 1e-3)
        smooth = np.convolve(bands, np.ones(31) / 31, "same")
        flat = np.maximum(bands - smooth, 0.0)
        flat -= flat.mean()
        return flat / max(np.linalg.norm(flat), 1e-9)


def tune(seed: int, seconds: float = 20.0, sample_rate: int = 8000) -> Audio:
    """A tune of random notes of random length: no two seconds are alike."""
    rng = np.random.default_rng(seed)
    parts = []
    while sum(map(len, parts)) < seconds * sample_rate:
        n = int(rng.uniform(0.1, 0.4) * sample_rate)
        time = np.arange(n) / sample_rate
        pitch = 110 * 2 ** (rng.integers(0, 48) / 12)
        note = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 4))
        parts.append(note * np.exp(-3 * time) * rng.uniform(0.3, 1.0))
    samples = np.concatenate(parts)[: round(seconds * sample_rate)]
    return Audio((0.3 * samples).astype(np.float32), sample_rate)
