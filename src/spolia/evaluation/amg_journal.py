"""What an interrupted ``spolia evaluate amg`` has measured, so that it goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spolia.evaluation.amg import Measured
from spolia.evaluation.metrics import Rate


class AmgJournal:
    """Measured rows by the key of their system, in a file that begins with what they depend on."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        """Read what was measured with the same header; whatever else the file holds is dropped."""
        self.path, self.header = path, json.dumps(header, sort_keys=True)
        self.done = dict(self._read())
        lines = [self.header, *(_line(key, row) for key, row in self.done.items())]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines))

    def add(self, key: str, row: Measured) -> None:
        """Keep a row."""
        self.done[key] = row
        with self.path.open("a") as file:
            file.write(_line(key, row) + "\n")

    def _read(self) -> Iterator[tuple[str, Measured]]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        if not lines or lines[0] != self.header:
            return
        for line in lines[1:]:
            try:
                key, values = json.loads(line)
            except ValueError:  # the line that was being written
                return
            yield key, _measured(values)


def _line(key: str, row: Measured) -> str:
    return json.dumps([key, asdict(row)])


def _measured(values: dict[str, Any]) -> Measured:
    rates = {k: {s: Rate(**r) for s, r in values[k].items()} for k in ("top1", "near")}
    index_ms = values["index_ms"] and tuple(values["index_ms"])
    return Measured(**{**values, **rates, "index_ms": index_ms})
