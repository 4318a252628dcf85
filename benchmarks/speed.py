"""Measures ``add`` against the decoder alone, ``identify``, start-up, memory and bytes per hour.

    python benchmarks/speed.py MUSIC_FOLDER [--files 40] [--threads 2]

Ratios come from the same run; absolute times depend on the machine and on what else it does.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from spolia.audio import Audio, stream
from spolia.ingest import find_files
from spolia.library import Library


def decode(path: Path) -> float:
    """Return the seconds of audio of a file, decoded as ``add`` decodes it."""
    return sum(block.duration for block in stream(path, sample_rate=8000))


def timed(work: Callable[[], float]) -> tuple[float, float]:
    """Return (result, elapsed seconds) of a call that returns seconds of audio."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def decode_all(files: list[Path], threads: int) -> float:
    """Decode all files in parallel."""
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(decode, files))


def latencies(library: Library, files: list[Path], seconds: float) -> list[float]:
    """Return the warm time of identifying a clip from the middle of each file, in seconds."""
    times = []
    for path in files:
        start = decode(path) / 2
        clip = Audio.load(path, start=start, end=start + seconds)
        if clip.duration >= seconds - 0.1:
            times.append(library.identify(clip).seconds)
    return times[1:]


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("music", type=Path)
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    files = list(find_files([given.music]))[: given.files]
    decode_all(files, given.threads)  # into the file cache
    with tempfile.TemporaryDirectory() as scratch:
        with Library(Path(scratch) / "lib", threads=given.threads) as library:
            audio, decoding = timed(lambda: decode_all(files, given.threads))
            added, adding = timed(lambda: library.add(files).seconds_of_audio)
            library.index("segments")
            warm = {f"{s:g}": latencies(library, files[:21], s) for s in (2.0, 5.0, 10.0)}
        size = sum(f.stat().st_size for f in (Path(scratch) / "lib").iterdir())
    helps = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "spolia", "--help"], capture_output=True, check=True)
        helps.append(time.perf_counter() - started)
    facts = {
        "hours": round(audio / 3600, 2),
        "threads": given.threads,
        "decode_x_real_time": round(audio / decoding),
        "add_x_real_time": round(added / adding),
        "add_over_decode": round(adding / decoding, 2),
        "identify_ms": {s: round(1000 * statistics.median(t)) for s, t in warm.items()},
        "help_ms": round(1000 * statistics.median(helps)),
        "bytes_per_hour": round(size / (audio / 3600)),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
