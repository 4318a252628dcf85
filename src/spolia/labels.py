"""Label tracks of what a track samples: for Audacity, Sonic Visualiser, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from spolia.encoding import write_whole
from spolia.recording import one_line
from spolia.sample_tracing import Occurrence
from spolia.samples import SampleMatch, Samples

COLUMNS = (
    "query_start",
    "query_end",
    "reference_start",
    "reference_end",
    "score",
    "recording",
    "path",
    "probability",
    "tempo_ratio",
    "semitones",
    "transformation",
    "part",
)


def write_labels(folder: Path, answer: Samples, name: str | None = None) -> list[Path]:
    """Write NAME.audacity.txt, NAME.sonic-visualiser.csv and NAME.csv; return their paths.

    name: by default that of the track without its suffix.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = name or Path(answer.query).stem
    contents = {
        f"{stem}.audacity.txt": audacity(answer),
        f"{stem}.sonic-visualiser.csv": sonic_visualiser(answer),
        f"{stem}.csv": table(answer),
    }
    for name, text in contents.items():
        write_whole(folder / name, text.encode())
    return [folder / name for name in contents]


def audacity(answer: Samples) -> str:
    """Return labels of regions: start, end and text, separated by tabs."""
    return "".join(
        f"{o.query_start:.6f}\t{o.query_end:.6f}\t{_label(match, o)}\n"
        for match, o in _occurrences(answer)
    )


def sonic_visualiser(answer: Samples) -> str:
    """Return a region layer: start, the recording's start as value, duration and text."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for match, o in _occurrences(answer):
        row = (o.query_start, o.reference_start, o.query_end - o.query_start)
        writer.writerow([*(f"{v:.6f}" for v in row), _label(match, o)])
    return out.getvalue()


def table(answer: Samples) -> str:
    """Return a CSV table with a row for each occurrence."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for match, o in _occurrences(answer):
        writer.writerow(
            [
                *(f"{v:.3f}" for v in (o.query_start, o.query_end)),
                *(f"{v:.3f}" for v in (o.reference_start, o.reference_end, o.score)),
                match.recording.name,
                match.recording.path,
                f"{match.probability:.4f}",
                f"{match.tempo_ratio:.4f}",
                f"{match.semitones:.2f}",
                match.transformation,
                match.part or "",
            ]
        )
    return out.getvalue()


def _occurrences(answer: Samples) -> Iterator[tuple[SampleMatch, Occurrence]]:
    pairs = [(match, o) for match in answer.found for o in match.occurrences]
    return iter(sorted(pairs, key=lambda pair: pair[1].query_start))


def _label(match: SampleMatch, occurrence: Occurrence) -> str:
    name = one_line(match.recording.name)
    return f"{name} {occurrence.reference_start:.2f}-{occurrence.reference_end:.2f} s"
