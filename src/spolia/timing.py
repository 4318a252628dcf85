"""Conversion between samples, frames and seconds: the only place that multiplies by a hop."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def seconds_to_samples(seconds: float, sample_rate: int) -> int:
    """Return the nearest sample index to a time in seconds."""
    return round(seconds * sample_rate)


def samples_to_seconds(n_samples: int, sample_rate: int) -> float:
    """Return the duration of ``n_samples`` in seconds."""
    return n_samples / sample_rate


def frames_to_seconds(
    frames: npt.NDArray[np.int64] | npt.NDArray[np.float64], hop: float
) -> npt.NDArray[np.float64]:
    """Return the start times of frames that follow each other every ``hop`` seconds."""
    return np.asarray(frames, dtype=np.float64) * hop


def n_segments(n_samples: int, segment: int, hop: int) -> int:
    """Return how many whole segments of ``segment`` samples fit, one every ``hop`` samples."""
    return 0 if n_samples < segment else 1 + (n_samples - segment) // hop


def format_seconds(seconds: float) -> str:
    """Return a time for people, ``m:ss.t`` or ``h:mm:ss.t``."""
    tenths = round(seconds * 10)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    tail = f"{tenths // 10:02d}.{tenths % 10}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"
