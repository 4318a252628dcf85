"""Files derived from the catalog: written whole or not at all, checked, rebuilt at need."""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

CHUNK = 1 << 20


def write_whole(target: Path, content: bytes | memoryview) -> None:
    """Write a file to a temporary name, sync it, and rename it to ``target``."""
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        Path(partial).replace(target)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def write_stamp(stamp: Path, generation: int, files: list[Path], **facts: Any) -> None:
    """Record which catalog generation ``files`` were derived from, with their checksums."""
    content = {
        "generation": generation,
        "files": {f.name: [f.stat().st_size, checksum(f)] for f in files},
        **facts,
    }
    write_whole(stamp, json.dumps(content).encode())


def read_stamp(stamp: Path, generation: int) -> dict[str, Any] | None:
    """Return the stamp's facts, or None where its files are missing, stale or damaged."""
    try:
        content = json.loads(stamp.read_bytes())
        if content["generation"] != generation:
            return None
        for name, (size, expected) in content["files"].items():
            file = stamp.parent / name
            if file.stat().st_size != size or checksum(file) != expected:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(content)
