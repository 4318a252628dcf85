"""identify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spolia.cli.options import (
    N_CORES,
    CompressorOption,
    JsonOption,
    LibraryOption,
    ModelOption,
    ThreadsOption,
    ThresholdOption,
    TopOption,
    library_folder,
)

if TYPE_CHECKING:
    from spolia.identify import Identification, Match


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("identify")(identify)


def identify(
    files: Annotated[list[Path], typer.Argument(help="Clips.", show_default=False)],
    library: LibraryOption = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="compressed+segments, segments, compressed or landmarks; default: of "
            "those that most recordings hold, the first.",
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
    from spolia.recording import path_text

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
                    typer.echo(json.dumps({"query": path_text(file), "error": error.reason}))
                continue
            if as_json:
                typer.echo(json.dumps(answer.to_dict(), ensure_ascii=False))
            else:
                typer.echo("\n".join(lines(answer)))
    report_failures(failed)


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
        f"= {query} of the clip{speed}{pitch}{'' if match.decided else ' (below the threshold)'}"
    )
