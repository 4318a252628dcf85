"""Files derived from the catalog: written whole or not at all, checked, rebuilt at need.

A file's name holds the generation of the catalog that it was derived from, so processes that see
different generations never read each other's. A stamp beside it holds its checksum and facts.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

CHUNK = 1 << 20


def derived_file(folder: Path, kind: str, generation: int) -> Path:
    """Return the name of a derived file, such as ``segments.17.index``."""
    return folder / f"{kind}.{generation}.index"


def store(file: Path, content: memoryview, **facts: Any) -> None:
    """Write a derived file and its stamp, and delete those of other generations.

    Where that is not possible, on a full disk say, a warning is logged: the file can be done
    without.
    """
    body = json.dumps({"size": content.nbytes, "checksum": zlib.crc32(content), **facts}).encode()
    try:
        _write_whole(file, content)
        _write_whole(_stamp(file), b"%08x\n" % zlib.crc32(body) + body)
    except OSError as error:
        logger.warning("%s could not be written (%s); it is made anew next time", file, error)
    kind, generation, _ = file.name.rsplit(".", 2)
    with suppress(OSError):
        for other in list(file.parent.iterdir()):
            if _generation(other.name, kind) not in (None, generation):
                other.unlink(missing_ok=True)


def _generation(name: str, kind: str) -> str | None:
    """Return the generation of a derived file of a kind, whole or partial; None of all others."""
    found = re.fullmatch(rf"\.?{re.escape(kind)}\.(\d+)\.(?:index|json)(?:-\w+)?", name)
    return found[1] if found else None


def facts_of(file: Path) -> dict[str, Any] | None:
    """Return the facts stored with a derived file, or None where it is missing or damaged."""
    try:
        written, body = _stamp(file).read_bytes().split(b"\n", 1)
        if int(written, 16) != zlib.crc32(body):
            return None
        facts: dict[str, Any] = json.loads(body)
        intact = file.stat().st_size == facts["size"] and _checksum(file) == facts["checksum"]
    except (OSError, ValueError):
        return None
    return facts if intact else None


def _stamp(file: Path) -> Path:
    return file.with_suffix(".json")


def _write_whole(target: Path, content: bytes | memoryview) -> None:
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


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value
