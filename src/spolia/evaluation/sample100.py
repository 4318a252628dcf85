"""Sample100 with its fine-grained annotations: a folder that the user supplies, as a benchmark.

::

    samples.csv              a row for each relation: who samples whom, tempo, instruments, type
    annotations/S001.json    where it is heard in both tracks, marked by ear to ± 0.25 s
    audio/T001.mp3           a file for each track, named after its id

Van Balen et al., "Automatic Identification of Samples in Hip Hop Music", CMMR 2012, extended by
Bhattacharjee et al., "Refining Music Sample Identification with a Self-Supervised Graph Neural
Network", ISMIR 2025. Neither audio nor annotations are ours to give.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spolia.audio import AUDIO_SUFFIXES
from spolia.errors import ParameterError
from spolia.evaluation.sample_annotations import Annotation, read_annotation
from spolia.evaluation.sample_running import Report, Sample100Plan, SampleBenchmark
from spolia.evaluation.sample_truth import Heard, Known

COLUMNS = {  # names of columns, and those of the first edition
    "sample_id": "sample_id",
    "target_track_id": "original_track_id",
    "query_track_id": "sample_track_id",
}
KINDS = {"beat": "break", "riff": "riff", "1-note": "note"}
FULLY_MARKED = 0.5  # share of the counted repetitions that marked spans must be long enough for
MOST_NAMED = 10  # missing tracks


@dataclass(frozen=True)
class Row:
    """One line of samples.csv: that a track samples another; None: not told."""

    sample_id: str
    target: str  # id of the track that is sampled
    query: str  # id of the track that samples
    tempo_ratio: float | None  # seconds of the target per second of the query
    n_repetitions: float | None
    part: str | None
    kind: str | None
    manner: str | None  # "interpolated": played anew


@dataclass(frozen=True)
class Track:
    """A track that samples."""

    file: str  # relative to the folder
    uses: tuple[Known, ...]  # of recordings whose audio is there


class Sample100(SampleBenchmark):
    """The tracks of a user's Sample100 whose audio is there."""

    name = "sample100"

    def __init__(
        self,
        folder: Path,
        *,
        distractors: Sequence[Path] = (),
        lengths: Sequence[float] = (),
        seed: int = 0,
    ) -> None:
        """Read a folder; raises ParameterError where something is missing or malformed."""
        rows, audio = read_rows(folder / "samples.csv"), find_audio(folder / "audio")
        ids = {row.target for row in rows} | {row.query for row in rows}
        missing = sorted(ids - set(audio))
        self.tracks = _tracks(folder, rows, audio, placed=bool(lengths))
        if not self.tracks:
            raise ParameterError(
                f"{folder / 'audio'} holds no track of samples.csv together with one that it "
                "samples; name files after track ids, T001.mp3 for one"
            )
        truth = hashlib.sha256(repr(self.tracks).encode()).hexdigest()[:12]
        plan = Sample100Plan(
            len(self.tracks), len(missing), truth, tuple(map(float, lengths)), seed
        )
        files = [audio[row.target] for row in rows if row.target in audio]
        asked = [audio[row.query] for row in rows if row.query in audio]
        super().__init__(folder, plan, {folder / f: f for f in files}, distractors, asked)
        self.warning = _warning(missing, len(ids), folder / "audio")

    def make(self, report: Report | None = None) -> list[Track]:
        """Return the tracks."""
        return self.tracks


def _warning(missing: Sequence[str], n_tracks: int, folder: Path) -> str | None:
    """Say how many tracks have no audio, and which; None where all have."""
    if not missing:
        return None
    named = ", ".join(missing[:MOST_NAMED]) + ", …" * (len(missing) > MOST_NAMED)
    return f"{len(missing)} of {n_tracks} tracks have no file in {folder} and are left out: {named}"


def _tracks(
    folder: Path, rows: Sequence[Row], audio: Mapping[str, str], *, placed: bool
) -> list[Track]:
    """Return the tracks that sample; placed: only those with a place where a sample is heard."""
    found: dict[str, list[Known]] = {}
    for row in rows:
        if row.target in audio and row.query in audio:
            annotation = read_annotation(folder / "annotations" / f"{row.sample_id}.json")
            use = known(row, audio[row.target], annotation)
            found.setdefault(audio[row.query], []).append(use)
    tracks = [Track(file, tuple(uses)) for file, uses in found.items()]
    return [t for t in tracks if not placed or any(use.occurrences for use in t.uses)]


def known(row: Row, file: str, annotation: Annotation | None) -> Known:
    """Return what a row and its annotation tell; file: of the recording that is sampled.

    A layer of the track is heard in the spans of the same layer of the recording.
    """
    told = annotation or Annotation((), (), absences=True)
    places: list[Heard] = []
    for span in told.query:
        sources = [s for s in told.target if s.layer == span.layer]
        places += [Heard(span.start, span.end, s.start, s.end) for s in sources]
        places += [] if sources else [Heard(span.start, span.end)]
    return Known(
        file,
        tuple(sorted(places, key=lambda place: (place.start, place.end))),
        tempo_ratio=row.tempo_ratio,
        part=row.part,
        kind=row.kind,
        manner=row.manner,
        complete=_is_complete(row, told),
        by_ear=True,
    )


def _is_complete(row: Row, annotation: Annotation) -> bool:
    """Tell whether all that is heard is marked, and not the first time and absences only."""
    if annotation.absences or row.n_repetitions is None or not annotation.target:
        return False
    stretch = annotation.target[0]
    counted = row.n_repetitions * (stretch.end - stretch.start) / (row.tempo_ratio or 1.0)
    return sum(s.end - s.start for s in annotation.query) >= FULLY_MARKED * counted


def find_audio(folder: Path) -> dict[str, str]:
    """Return the audio files of a folder by track id, relative to the folder above."""
    if not folder.is_dir():
        raise ParameterError(
            f"{folder} does not exist; put one audio file for each track there, named after its id"
        )
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith("."):
            if path.stem in found:
                raise ParameterError(
                    f"{folder} holds both {Path(found[path.stem]).name} and {path.name}; keep one"
                )
            found[path.stem] = f"{folder.name}/{path.name}"
    return found


def read_rows(path: Path) -> list[Row]:
    """Return the relations of samples.csv; raises ParameterError where it cannot be read so."""
    if not path.is_file():
        raise ParameterError(f"{path} does not exist; give the folder that holds Sample100")
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as lines:
        reader = csv.DictReader(lines)
        given = list(reader.fieldnames or [])
        names = {name: name if name in given else older for name, older in COLUMNS.items()}
        if absent := [name for name, column in names.items() if column not in given]:
            raise ParameterError(
                f"{path} has no column {absent[0]}; its first line must name the columns"
            )
        rows = []
        for values in reader:
            fields = {name: values[column] for name, column in names.items()}
            rows.append(_row(f"{path}, line {reader.line_num}", {**values, **fields}))
    return rows


def _row(where: str, values: Mapping[str, str | None]) -> Row:
    sample_id, target, query = (_id(where, values, name) for name in COLUMNS)
    replayed = (values.get("interpolation") or "").strip().lower() == "yes"
    return Row(
        sample_id,
        target,
        query,
        _number(where, values, "estimated_tempo_ratio"),
        _number(where, values, "n_repetitions"),
        part_of(values.get("target_instruments") or ""),
        KINDS.get((values.get("sample_type") or "").strip().lower()),
        "interpolated" if replayed else None,
    )


def _id(where: str, values: Mapping[str, str | None], name: str) -> str:
    """Return an id, which names files too."""
    value = (values[name] or "").strip()
    if not value or Path(value).name != value:
        raise ParameterError(f"{where}: {name} is {value!r}; give the id of a track or sample")
    return value


def _number(where: str, values: Mapping[str, str | None], name: str) -> float | None:
    """Return a positive number, None of an empty cell."""
    text = (values.get(name) or "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ParameterError(
            f"{where}: {name} is {text!r}; give a number above 0, or leave it empty"
        )
    return value


def part_of(instruments: str) -> str | None:
    """Return the part that instruments make, "drums/bass" for one; None where one is doubted."""
    names = {name.strip().lower() for name in instruments.split("/") if name.strip()}
    if not names or any("?" in name for name in names):
        return None
    if names in ({"drums"}, {"bass"}):
        return names.pop()
    return "mix" if names & {"drums", "bass"} else "harmonic"
