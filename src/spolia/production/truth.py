"""What a production samples: the ground truth of a made track, and its JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from spolia.samples import Part, Transformation, transformation

Kind = Literal["note", "riff", "break"]
Manner = Literal["once", "loop", "chop"]


@dataclass(frozen=True)
class Occurrence:
    """One place in the new track where a stretch of the source sounds."""

    start: float  # seconds of the new track
    end: float
    source_start: float  # seconds of the recording
    source_end: float


@dataclass(frozen=True)
class Use:
    """What is taken from one recording, what is done to it, and where it sounds.

    Within an occurrence, t_source = source_start + tempo_ratio · (t − start).
    """

    file: str  # the recording, as its corpus names it: the full mix, whatever part is taken
    group: str  # files of a group share material
    part: Part
    kind: Kind
    manner: Manner  # a chopped use re-orders its pieces
    source_start: float  # seconds of the recording: the excerpt that is taken
    source_end: float
    occurrences: tuple[Occurrence, ...]  # ascending, not overlapping
    semitones: float  # how much higher it sounds than in the recording
    tempo_ratio: float  # seconds of the recording per second of the new track
    effects: tuple[str, ...]  # in the order of their application
    overlay_db: float | None  # power of all else over its own where both sound; None: alone

    @property
    def transformation(self) -> Transformation:
        """What the change of pitch and tempo is."""
        return transformation(self.semitones, self.tempo_ratio)

    def to_dict(self) -> dict[str, Any]:
        """Return the use as JSON values, the transformation with it."""
        return {**asdict(self), "transformation": self.transformation}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Use:
        """Return the use that ``to_dict`` described; raises KeyError where a field is missing."""
        fields = {name: values[name] for name in cls.__dataclass_fields__}
        fields["occurrences"] = tuple(Occurrence(**o) for o in fields["occurrences"])
        fields["effects"] = tuple(fields["effects"])
        return cls(**fields)


@dataclass(frozen=True)
class Overlay:
    """One layer of what is laid over the samples."""

    layer: str  # "drums", "bass", "music" or "voice"
    file: str | None  # as its corpus names it; None: synthesised
    group: str | None
