"""What an interrupted ``spolia evaluate amg`` has measured."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from spolia.evaluation.amg import Measured
from spolia.evaluation.journal import LineJournal
from spolia.evaluation.metrics import Rate


class AmgJournal(LineJournal[str, Measured]):
    """Measured rows by the key of their system."""

    def to_json(self, key: str, value: Measured) -> list[Any]:
        """Return a row as JSON values."""
        return [key, asdict(value)]

    def from_json(self, key: Any, value: Any) -> tuple[str, Measured]:
        """Return the row that :meth:`to_json` described."""
        rates = {k: {s: Rate(**r) for s, r in value[k].items()} for k in ("top1", "near")}
        index_ms = value["index_ms"] and tuple(value["index_ms"])
        return key, Measured(**{**value, **rates, "index_ms": index_ms})
