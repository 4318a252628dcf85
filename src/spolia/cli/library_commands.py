"""add, list, show, remove, verify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from spolia.timing import format_seconds

if TYPE_CHECKING:
    from spolia.ingest import AddReport


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("add")(add)
    app.command("list")(list_recordings)
    app.command("show")(show)
    app.command("remove")(remove)
    app.command("verify")(verify)


def add(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders.", show_default=False)],
    library: LibraryOption = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="What to hold, separated by commas: segments, compressed, landmarks, samples.",
            show_default=False,
        ),
    ] = None,
    model: ModelOption = None,
    compressor: CompressorOption = None,
    sample_model: SampleModelOption = None,
    threads: ThreadsOption = N_CORES,
    as_json: JsonOption = False,
) -> None:
    """Add recordings: files, and folders with all audio that is in them.

    Hidden files, and folders that are links, are left out.
    """
    from spolia.cli.output import AddBar, report_failures
    from spolia.fingerprints.registry import check_methods, check_models
    from spolia.library import Library

    chosen = [m.strip() for m in methods.split(",") if m.strip()] if methods else None
    check_methods(chosen or ())  # before a folder is made
    check_models(model, compressor, sample_model)
    folder = library_folder(library)
    opened = Library(
        folder,
        methods=chosen,
        model=model,
        compressor=compressor,
        sample_model=sample_model,
        threads=threads,
    )
    with opened, AddBar() as bar:
        report = opened.add(paths, progress=bar.update)
    typer.echo(_as_json(report) if as_json else _in_words(report))
    if report.lost > 0 and not as_json:
        typer.echo(f"{format_seconds(report.lost)} of audio could not be decoded", err=True)
    report_failures(report.failed)


def _as_json(report: AddReport) -> str:
    facts = {
        "added": report.added,
        "updated": report.updated,
        "unchanged": report.unchanged,
        "failed": [{"path": path, "reason": reason} for path, reason in report.failed],
        "seconds_of_audio": round(report.seconds_of_audio, 3),
        "lost": round(report.lost, 3),
        "elapsed": round(report.elapsed, 3),
    }
    return json.dumps(facts)


def _in_words(report: AddReport) -> str:
    rate = report.seconds_of_audio / max(report.elapsed, 1e-9)
    return (
        f"{report.added} added, {report.updated} updated, {report.unchanged} unchanged, "
        f"{len(report.failed)} failed; {format_seconds(report.seconds_of_audio)} of audio in "
        f"{format_seconds(report.elapsed)} ({rate:.0f} x real time)"
    )


def list_recordings(library: LibraryOption = None, as_json: JsonOption = False) -> None:
    """List the recordings of the library."""
    from spolia.cli.output import table
    from spolia.library import Library

    with Library(library_folder(library), create=False) as opened:
        recordings = list(opened)
    if as_json:
        for recording in recordings:
            typer.echo(json.dumps(recording.to_dict(), ensure_ascii=False))
        return
    rows = [(r.id, format_seconds(r.duration), r.name, r.path) for r in recordings]
    table(("id", "length", "recording", "path"), rows)
    total = format_seconds(sum(r.duration for r in recordings))
    typer.echo(f"{len(recordings)} recordings, {total}")


def show(
    recording_id: Annotated[str, typer.Argument(help="Id, or its beginning.", show_default=False)],
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show all that is known of a recording."""
    from spolia.cli.output import table
    from spolia.errors import UnknownRecording
    from spolia.library import Library

    with Library(library_folder(library), create=False) as opened:
        recording = opened.get(recording_id)
        facts: dict[str, Any] = {**recording.to_dict(), "lost": recording.lost}
        for method, model_id in opened.catalog.methods().items():
            try:
                stored = opened.catalog.sequence(recording.id, method)
            except UnknownRecording:  # it was added before the method was
                facts[method] = None
                continue
            facts[method] = {"model": model_id, "entries": len(stored.times)}
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
    else:
        table(("", ""), [(k, "–" if v is None else str(v)) for k, v in facts.items()])


def remove(
    recording_ids: Annotated[
        list[str], typer.Argument(help="Ids, or their beginnings.", show_default=False)
    ],
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove recordings from the library; their files are not touched."""
    from spolia.library import Library

    with Library(library_folder(library), create=False) as opened:
        removed = opened.remove(recording_ids)
    for recording in removed:
        typer.echo(json.dumps(recording.to_dict()) if as_json else f"removed {recording.name}")


def verify(library: LibraryOption = None, as_json: JsonOption = False) -> None:
    """Check the library's database, fingerprints and indexes."""
    from spolia.library import Library

    with Library(library_folder(library), create=False) as opened:
        problems = opened.verify()
        n = len(opened)
    if as_json:
        typer.echo(json.dumps({"recordings": n, "problems": problems}))
    else:
        for problem in problems:
            typer.echo(problem, err=True)
        typer.echo(f"{n} recordings, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)
