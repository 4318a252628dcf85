"""Samples → audio files: 16-bit WAV, and whatever FFmpeg encodes."""

from __future__ import annotations

import io
import os
import threading
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from spolia.audio import Audio, Tags

RATES = {"libopencore_amrnb": [8000]}  # Hz; of encoders that do not tell


def write_whole(target: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all; threads may write one at the same time."""
    unfinished = target.with_name(f"{target.name}.partial-{threading.get_ident()}")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_wav(path: str | os.PathLike[str], audio: Audio) -> None:
    """Write 16-bit PCM; the file appears whole or not at all."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(audio.sample_rate)
        out.writeframes((np.clip(audio.samples, -1, 1) * 32767).round().astype("<i2").tobytes())
    write_whole(Path(path), buffer.getvalue())


def encode(
    audio: Audio,
    *,
    codec: str,
    container: str,
    bit_rate: int | None = None,
    tags: Tags | None = None,
) -> bytes:
    """Return the sound as a file of a codec ("libmp3lame", "libopus", "aac", "flac", …)."""
    buffer = io.BytesIO()
    # bit-exact: no random serial numbers, so that equal sound gives equal files
    with av.open(buffer, "w", format=container, options={"fflags": "+bitexact"}) as out:
        for key, value in vars(tags or Tags()).items():
            if value:
                out.metadata[key] = value
        rate = _supported_rate(codec, audio.sample_rate)
        track: Any = out.add_stream(codec, rate=rate, layout="mono")
        if bit_rate:
            track.bit_rate = bit_rate
        samples = audio.resample(rate).samples
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        frame.time_base = Fraction(1, rate)
        for piece in (frame, None):
            for packet in track.encode(piece):
                out.mux(packet)
    return buffer.getvalue()


def _supported_rate(codec: str, wanted: int) -> int:
    rates = RATES.get(codec) or av.codec.Codec(codec, "w").audio_rates
    if not rates:
        return wanted
    above = [r for r in rates if r >= wanted]
    return int(min(above) if above else max(rates))
