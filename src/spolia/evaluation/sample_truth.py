"""What is known of a use when it is scored: all of it in made tracks, less in annotated ones. Pure.

Spans that were marked by ear stand for whatever is heard in them, the whole stretch, pieces of it
or many repetitions, so that only the stretch of the recording can be checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol


class Said(Protocol):
    """A use that can be written down: ``production.truth.Use`` or :class:`Known`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the use as JSON values."""


class Asked(Protocol):
    """A track that is asked about, and what it samples."""

    @property
    def file(self) -> str:
        """Its name relative to its folder."""

    @property
    def uses(self) -> Sequence[Said]:
        """What it samples; nothing where it is sample-free."""


@dataclass(frozen=True)
class Heard:
    """One span of a track where a sample sounds."""

    start: float  # seconds of the track
    end: float
    source_start: float | None = None  # seconds of the recording; None: not known
    source_end: float | None = None


@dataclass(frozen=True)
class Known:
    """What is known of a use; None where it is not."""

    file: str  # the recording
    occurrences: tuple[Heard, ...]
    tempo_ratio: float | None = None  # seconds of the recording per second of the track
    semitones: float | None = None
    part: str | None = None
    kind: str | None = None
    manner: str | None = None
    transformation: str | None = None
    overlay_db: float | None = None
    complete: bool = True  # whether it sounds nowhere else in the track
    by_ear: bool = False  # whether spans were marked by ear

    def to_dict(self) -> dict[str, Any]:
        """Return the use as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Known:
        """Return what the use said that was written down."""
        fields = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        return cls(**{**fields, "occurrences": tuple(Heard(**o) for o in values["occurrences"])})

    def is_at(self, time: float, place: float, *, within: float) -> bool | None:
        """Tell whether ``place`` of the recording is heard at ``time``; None: not known.

        time: seconds of the track; place: seconds of the recording; within: seconds on both sides.
        """
        near = [o for o in self.occurrences if o.start - within <= time <= o.end + within]
        if not near:
            return False if self.complete else None
        return any_true(self._plays(o, time, place, within) for o in near)

    def _plays(self, heard: Heard, time: float, place: float, within: float) -> bool | None:
        if heard.source_start is None or heard.source_end is None:
            return None
        if self.by_ear:
            return heard.source_start - within <= place <= heard.source_end + within
        ratio = 1.0 if self.tempo_ratio is None else self.tempo_ratio
        return abs(heard.source_start + ratio * (time - heard.start) - place) <= within


def any_true(verdicts: Iterable[bool | None]) -> bool | None:
    """Return True where one verdict is, else None where one is not known, else False."""
    told = list(verdicts)
    return True if True in told else None if None in told else False
