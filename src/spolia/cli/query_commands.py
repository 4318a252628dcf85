"""identify, samples."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spolia.cli.options import (
    N_CORES,
    CompressorOption,
    JsonOption,
    LibraryOption,
    ModelOption,
    SampleModelOption,
    ThreadsOption,
    library_folder,
)

if TYPE_CHECKING:
    from spolia.identify import Identification, Match
    from spolia.library import Library
    from spolia.sample_page import Windows
    from spolia.samples import SampleMatch, Samples


TopOption = Annotated[
    int, typer.Option(min=0, help="Also show candidates below the threshold, up to this many.")
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Probability from which a match counts; default: the model's.",
        show_default=False,
    ),
]
MOST_SHOWN = 8  # occurrences of a sample


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("identify")(identify)
    app.command("samples")(samples)


def identify(
    files: Annotated[list[Path], typer.Argument(help="Clips.", show_default=False)],
    library: LibraryOption = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="segments, compressed, compressed+segments or landmarks; default: the first that "
            "the library holds.",
            show_default=False,
        ),
    ] = None,
    top: TopOption = 0,
    threshold: ThresholdOption = None,
    model: ModelOption = None,
    compressor: CompressorOption = None,
    threads: ThreadsOption = N_CORES,
    as_json: JsonOption = False,
) -> None:
    """Say which recordings clips are from, and where in them."""
    from spolia.cli.output import report_failures
    from spolia.errors import AudioError
    from spolia.library import Library

    failed: list[tuple[str, str]] = []
    opened = Library(
        library_folder(library), create=False, model=model, compressor=compressor, threads=threads
    )
    with opened:
        for file in files:
            try:
                answer = opened.identify(file, method=method, top=top, threshold=threshold)
            except AudioError as error:
                failed.append((str(file), error.reason))
                if as_json:
                    typer.echo(json.dumps({"query": str(file), "error": error.reason}))
                continue
            if as_json:
                typer.echo(json.dumps(answer.to_dict(), ensure_ascii=False))
            else:
                typer.echo("\n".join(lines(answer)))
    report_failures(failed)


def samples(
    files: Annotated[
        list[Path], typer.Argument(help="Tracks, and folders of them.", show_default=False)
    ],
    library: LibraryOption = None,
    top: TopOption = 0,
    threshold: ThresholdOption = None,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Folder for label tracks (Audacity, Sonic Visualiser) and CSV.",
            show_default=False,
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "--html", help="Page with pictures and sounds; a folder if there are several tracks."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="PNG of the similarity to the first match.")
    ] = None,
    graph: Annotated[
        Path | None,
        typer.Option(
            help="Write who samples whom: a file that ends with .json or .graphml.",
            show_default=False,
        ),
    ] = None,
    sample_model: SampleModelOption = None,
    threads: ThreadsOption = N_CORES,
    as_json: JsonOption = False,
) -> None:
    """Say which recordings tracks sample, where, and what was done to them."""
    from spolia.cli.output import Bar, report_failures
    from spolia.errors import AudioError
    from spolia.ingest import find_files
    from spolia.library import Library
    from spolia.sample_graph import check_graph_name, write_graph

    if graph is not None:
        check_graph_name(graph)
    failed: list[tuple[str, str]] = []
    answers: list[Samples] = []
    files = [path for file in files for path in (find_files([file]) if file.is_dir() else [file])]
    opened = Library(
        library_folder(library), create=False, sample_model=sample_model, threads=threads
    )
    with opened:
        for file in files:
            own = opened.catalog.find_path(os.path.abspath(file))
            try:
                with Bar(file.name) as bar:
                    answer = opened.find_samples(
                        file,
                        top=top,
                        threshold=threshold,
                        without=[own.id] if own else [],
                        progress=bar.show,
                    )
            except AudioError as error:
                failed.append((str(file), error.reason))
                if as_json:
                    typer.echo(json.dumps({"query": str(file), "error": error.reason}))
                continue
            answers.append(answer)
            if export is not None:
                from spolia.labels import write_labels

                write_labels(export, answer)
            if page is not None:
                _write_page(page if len(files) == 1 else page / f"{file.stem}.html", opened, answer)
            if plot is not None:
                _write_plot(plot if len(files) == 1 else plot / f"{file.stem}.png", opened, answer)
            if as_json:
                typer.echo(json.dumps(answer.to_dict(), ensure_ascii=False))
            else:
                typer.echo("\n".join(sample_lines(answer)))
    if graph is not None:
        write_graph(graph, answers)
    report_failures(failed)


def _windows(library: Library, answer: Samples) -> list[Windows | None]:
    from spolia.sample_page import Windows

    seconds = library.fingerprinter("samples").segment_seconds
    return [
        Windows(answer.fingerprint, library.catalog.fingerprint(m.recording.id, "samples"), seconds)
        if answer.fingerprint is not None
        else None
        for m in answer.matches
    ]


def _write_page(path: Path, library: Library, answer: Samples) -> None:
    from spolia.audio import Audio
    from spolia.sample_page import write_page

    write_page(path, answer, Audio.load(answer.query, sample_rate=16000), _windows(library, answer))


def _write_plot(path: Path, library: Library, answer: Samples) -> None:
    from spolia.encoding import write_whole
    from spolia.sample_page import matrix_png

    if (windows := next(iter(_windows(library, answer)), None)) is None:
        typer.echo(f"{answer.query}: nothing was found, so {path} is not written", err=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, matrix_png(windows))


def sample_lines(answer: Samples) -> list[str]:
    """Return an answer as lines for people."""
    from spolia.timing import format_seconds

    head = (
        f"{answer.query}  ({format_seconds(answer.duration)}, answered in {answer.seconds:.1f} s)"
    )
    if not answer.decided:
        head += "\n  no sample found"
    return [head, *(line for match in answer.matches for line in _sample_lines(match))]


def _sample_lines(match: SampleMatch) -> list[str]:
    from spolia.timing import format_seconds

    change = 100 * (match.tempo_ratio - 1)
    played: list[str] = [match.transformation]
    if match.transformation != "untouched":
        played.append(f"{change:+.1f} % tempo, {match.semitones:+.1f} semitones")
    if match.part:
        played.append(match.part)
    times = "once" if len(match.occurrences) == 1 else f"{len(match.occurrences)} times"
    head = f"  {match.probability:.3f}  {match.recording.name}: {times}, {'; '.join(played)}"
    shown = [
        f"           {format_seconds(o.query_start)}–{format_seconds(o.query_end)} "
        f"= {format_seconds(o.reference_start)}–{format_seconds(o.reference_end)} of the recording"
        for o in match.occurrences[:MOST_SHOWN]
    ]
    left = len(match.occurrences) - len(shown)
    return [head, *shown, *([f"           and {left} more"] if left else [])]


def lines(answer: Identification) -> list[str]:
    """Return an answer as lines for people."""
    from spolia.timing import format_seconds

    head = (
        f"{answer.query}  ({format_seconds(answer.duration)}, answered in {answer.seconds:.2f} s)"
    )
    if not answer.decided:
        head += "\n  unknown"
    return [head, *(_line(match) for match in answer.matches)]


def _line(match: Match) -> str:
    from spolia.timing import format_seconds

    reference = f"{format_seconds(match.reference_start)}–{format_seconds(match.reference_end)}"
    query = f"{format_seconds(match.query_start)}–{format_seconds(match.query_end)}"
    change = 100 * (match.speed - 1)
    speed = f", {change:+.1f} % speed" if abs(change) >= 0.5 else ""
    semitones = match.semitones or 0.0
    pitch = f", {semitones:+.1f} semitones" if abs(semitones) >= 0.3 else ""
    return (
        f"  {match.probability:.3f}  {match.recording.name}: {reference} of the recording "
        f"= {query} of the clip{speed}{pitch}"
    )
