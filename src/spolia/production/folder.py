"""Folders of productions: audio files and ``productions.jsonl``, one line of ground truth each.

Production ``i`` depends on the crate, the settings, the seed and ``i`` only, so that a folder can
be interrupted, continued and extended.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from spolia.encoding import encode, write_whole
from spolia.errors import ParameterError
from spolia.production.crate import Crate
from spolia.production.plan import Habits
from spolia.production.produce import Production, produce, sample_free
from spolia.production.truth import Overlay, Use

MANIFEST = "productions.jsonl"
BIT_RATE = 48000  # of Opus: what a good stream of such a track would have


@dataclass(frozen=True)
class Written:
    """One line of the manifest."""

    file: str  # relative to the folder
    duration: float  # seconds
    made: str  # digest of the crate and the settings
    uses: tuple[Use, ...]  # none: it samples nothing
    overlays: tuple[Overlay, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the line as JSON values."""
        fields = {name: getattr(self, name) for name in ("file", "duration", "made")}
        uses, overlays = [u.to_dict() for u in self.uses], [asdict(o) for o in self.overlays]
        return {**fields, "uses": uses, "overlays": overlays}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Written:
        """Return the line that ``to_dict`` described."""
        uses = tuple(map(Use.from_dict, values["uses"]))
        overlays = tuple(Overlay(**o) for o in values["overlays"])
        return cls(values["file"], values["duration"], values["made"], uses, overlays)


def write_productions(
    folder: Path,
    crate: Crate,
    n: int,
    *,
    seed: int,
    n_free: int = 0,
    seconds: tuple[float, float] = (20.0, 60.0),
    habits: Habits | None = None,
    report: Callable[[int, int], None] | None = None,
) -> list[Written]:
    """Write ``n`` productions and ``n_free`` tracks that sample nothing; return their lines.

    What is there already is kept. seconds: the shortest and the longest track; report: gets
    (done, all). Raises ParameterError where the folder was made with another crate or settings.
    """
    made = _digest(crate, seconds, habits or Habits())
    wanted = [_Wanted(crate.split, seed, i, samples=True) for i in range(n)]
    wanted += [_Wanted(crate.split, seed, i, samples=False) for i in range(n_free)]
    lines = {line.file: line for line in read_productions(folder)}
    if other := [w.file for w in wanted if w.file in lines and lines[w.file].made != made]:
        raise ParameterError(
            f"{folder / other[0]} was made from another crate or with other settings; "
            "choose another folder or seed"
        )
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    _save(folder, lines.values())  # without a line that was cut off
    for done, item in enumerate(wanted):
        if report is not None:
            report(done, len(wanted))
        if item.file not in lines or not (folder / item.file).is_file():
            production = item.make(crate, seconds, habits)
            lines[item.file] = _write(folder, item.file, production, made)
    if report is not None:
        report(len(wanted), len(wanted))
    _save(folder, lines.values())
    return sorted((lines[item.file] for item in wanted), key=lambda line: line.file)


def read_productions(folder: Path) -> list[Written]:
    """Return the lines of a folder's manifest, none where there is no manifest.

    A last line that was cut off by an interruption is left out. Raises ParameterError where any
    other line is damaged.
    """
    path = folder / MANIFEST
    rows = path.read_text().splitlines(keepends=True) if path.is_file() else []
    if rows and not rows[-1].endswith("\n"):
        rows.pop()
    try:
        return [Written.from_dict(json.loads(row)) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise ParameterError(
            f"{path} is damaged ({error}); delete it, and the productions are made again"
        ) from error


@dataclass(frozen=True)
class _Wanted:
    """A production by its number."""

    split: str
    seed: int
    i: int
    samples: bool  # False: it samples nothing

    @property
    def file(self) -> str:
        """Its name relative to the folder."""
        kind = "production" if self.samples else "free"
        return f"audio/{kind}-{self.split}-{self.seed}-{self.i:05d}.opus"

    def make(self, crate: Crate, seconds: tuple[float, float], habits: Habits | None) -> Production:
        rng = np.random.default_rng([self.seed, self.split == "val", not self.samples, self.i])
        length = float(rng.uniform(*seconds))
        make = produce if self.samples else sample_free
        return make(crate, rng, seconds=length, habits=habits)


def _write(folder: Path, file: str, production: Production, made: str) -> Written:
    """Write the sound, then its line: a line tells of a whole file."""
    sound = encode(production.audio, codec="libopus", container="ogg", bit_rate=BIT_RATE)
    write_whole(folder / file, sound)
    written = Written(file, production.audio.duration, made, production.uses, production.overlays)
    with (folder / MANIFEST).open("a") as out:
        out.write(_line(written))
    return written


def _save(folder: Path, lines: Iterable[Written]) -> None:
    """Write the whole manifest, by file name."""
    ordered = sorted(lines, key=lambda line: line.file)
    write_whole(folder / MANIFEST, "".join(map(_line, ordered)).encode())


def _line(written: Written) -> str:
    return json.dumps(written.to_dict()) + "\n"


def _digest(crate: Crate, seconds: tuple[float, float], habits: Habits) -> str:
    """Return 16 hex digits that tell crates and settings apart."""
    recordings = [(r.file.file, [f.file for _, f in r.stems]) for r in crate.references]
    overlays = [[m.file.file for m in materials] for materials in crate.layers.values()]
    hits = [f.file for f in crate.hits]
    told = repr((crate.split, recordings, overlays, hits, seconds, habits))
    return sha256(told.encode()).hexdigest()[:16]
