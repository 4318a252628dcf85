"""Fine-grained annotations of one sample: spans of both tracks, in layers that belong together.

A layer's type stands with its first span. Layers of the type "absence" tell where the sample is
not heard; then as a rule only the first time that it is heard is marked.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spolia.errors import ParameterError

SIDES = ("query_time_annotations", "target_time_annotations")


@dataclass(frozen=True)
class Span:
    """A stretch of a track."""

    start: float  # seconds
    end: float
    layer: str


@dataclass(frozen=True)
class Annotation:
    """Where a sample is heard."""

    query: tuple[Span, ...]  # in the track that samples
    target: tuple[Span, ...]  # in the track that is sampled
    absences: bool  # whether it is marked where the sample is not heard


def read_annotation(path: Path) -> Annotation | None:
    """Return an annotation, None where there is no file.

    Raises ParameterError where the folder is missing or the file is malformed.
    """
    if not path.parent.is_dir():
        raise ParameterError(f"{path.parent} does not exist; put the JSON files of samples there")
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ParameterError(f"{path} is no JSON ({error}); copy it again") from error
    query, target = (_entries(path, content, side) for side in SIDES)
    absent = {layer for layer, kind in _types(query).items() if kind == "absence"}
    heard = tuple(span for span in _spans(path, SIDES[0], query) if span.layer not in absent)
    return Annotation(heard, _spans(path, SIDES[1], target), absences=bool(absent))


def _entries(path: Path, content: Any, side: str) -> list[dict[str, Any]]:
    entries = content.get(side) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ParameterError(
            f"{path} has no list {side} of start_time, end_time and id; copy it again"
        )
    return entries


def _types(entries: list[dict[str, Any]]) -> dict[str, str]:
    """Return the types of layers that have one."""
    typed = [entry for entry in reversed(entries) if entry.get("type")]
    return {str(entry.get("id")): str(entry["type"]).strip().lower() for entry in typed}


def _spans(path: Path, side: str, entries: list[dict[str, Any]]) -> tuple[Span, ...]:
    """Return the spans of entries, without those of no length."""
    spans = []
    for number, entry in enumerate(entries, 1):
        times = [entry.get("start_time"), entry.get("end_time")]
        numbers = [float(t) for t in times if isinstance(t, int | float)]
        if len(numbers) != 2 or not 0 <= numbers[0] <= numbers[1] < float("inf"):
            raise ParameterError(
                f"{path}: entry {number} of {side} lasts from {times[0]} to {times[1]}; give "
                "seconds, start_time before end_time"
            )
        spans.append(Span(numbers[0], numbers[1], str(entry.get("id"))))
    return tuple(span for span in spans if span.end > span.start)
