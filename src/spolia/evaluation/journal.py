"""What a long evaluation has done so far, on disk, so that it goes on where it was interrupted."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LineJournal(ABC, Generic[K, V]):
    """Values by key: a header that says what they depend on, and a line of JSON for each.

    It is continued only with the same header; otherwise it begins anew.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.header = json.dumps(header, sort_keys=True)
        self.done: dict[K, V] = dict(self._read())
        lines = [self.header, *(self._line(key, value) for key, value in self.done.items())]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines))

    @abstractmethod
    def to_json(self, key: K, value: V) -> list[Any]:
        """Return a key and its value as JSON values."""

    @abstractmethod
    def from_json(self, key: Any, value: Any) -> tuple[K, V]:
        """Return what :meth:`to_json` described."""

    def add(self, key: K, value: V) -> None:
        """Keep a value."""
        self.done[key] = value
        with self.path.open("a") as file:
            file.write(self._line(key, value) + "\n")

    def remove(self) -> None:
        """Remove the file, once its content is elsewhere."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> Iterator[tuple[K, V]]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        if not lines or lines[0] != self.header:
            return
        for line in lines[1:]:
            try:
                key, value = json.loads(line)
            except ValueError:  # the line that was being written
                return
            yield self.from_json(key, value)

    def _line(self, key: K, value: V) -> str:
        return json.dumps(self.to_json(key, value))
