"""Lossy renditions of tracks: real codecs at low bit rates, drawn by position."""

from __future__ import annotations

import numpy as np

from spolia.audio import Audio
from spolia.degradation import codec

CODECS: tuple[tuple[str, int], ...] = (
    ("libopus", 6000),
    ("libopus", 8000),
    ("libopus", 12000),
    ("libmp3lame", 16000),
    ("libmp3lame", 24000),
    ("aac", 16000),
    ("aac", 24000),
    ("libopencore_amrnb", 4750),
    ("libopencore_amrnb", 12200),
)


def code_file(audio: Audio, position: int) -> Audio:
    """Return ``audio`` after a lossy codec chosen by ``position``, aligned and of equal length."""
    name, bit_rate = CODECS[int(np.random.default_rng(position).integers(len(CODECS)))]
    return codec(audio, codec=name, bit_rate=bit_rate)
