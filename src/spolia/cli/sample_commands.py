"""samples."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spolia.cli.options import (
    N_CORES,
    ClassifierOption,
    JsonOption,
    LibraryOption,
    SampleModelOption,
    ThreadsOption,
    ThresholdOption,
    TopOption,
    library_folder,
)
from spolia.errors import AudioError, ParameterError
from spolia.recording import path_text

if TYPE_CHECKING:
    from spolia.library import Library
    from spolia.sample_page import Windows
    from spolia.samples import SampleMatch, Samples

MOST_SHOWN = 8  # occurrences of a sample


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("samples")(samples)


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
    classifier: ClassifierOption = None,
    threads: ThreadsOption = N_CORES,
    as_json: JsonOption = False,
) -> None:
    """Say which recordings tracks sample, where, and what was done to them."""
    from spolia.cli.output import report_failures
    from spolia.library import Library
    from spolia.sample_graph import check_graph_name, write_graph

    if graph is not None:
        check_graph_name(graph)
        _check_file(graph)
    failed: list[tuple[str, str]] = []
    tracks = tracks_of(files, failed)
    if not tracks and not failed:
        given = ", ".join(map(str, files))
        raise ParameterError(f"{given}: nothing looks like audio; give tracks or their folder")
    outputs = _Outputs(export, page, plot, several=len(tracks) > 1)
    outputs.check()
    answers: list[Samples] = []
    opened = Library(
        library_folder(library),
        create=False,
        sample_model=sample_model,
        sample_classifier=classifier,
        threads=threads,
    )
    with opened:
        names = distinct_stems(tracks)
        for track, answer in _answers(opened, tracks, top, threshold, failed, as_json=as_json):
            outputs.write(opened, answer, track, names[track])
            if graph is not None:
                answers.append(replace(answer, fingerprint=None))  # they are large
    if graph is not None:
        write_graph(graph, answers)
    report_failures(failed)


def tracks_of(files: Iterable[Path], failed: list[tuple[str, str]]) -> list[Path]:
    """Return the tracks to ask about, each once; folders that cannot be read count as failed."""
    from spolia.ingest import find_files, is_folder, why_unreadable

    def unreadable(error: OSError) -> None:
        failed.append((str(error.filename), why_unreadable(error)))

    tracks: dict[str, Path] = {}
    for file in files:
        for path in find_files([file], on_error=unreadable) if is_folder(file) else [file]:
            tracks.setdefault(os.path.abspath(path), path)
    return list(tracks.values())


def _answers(
    library: Library,
    tracks: Sequence[Path],
    top: int,
    threshold: float | None,
    failed: list[tuple[str, str]],
    *,
    as_json: bool,
) -> Iterator[tuple[Path, Samples]]:
    """Yield each track and print its answer; a track in the library is not looked for itself."""
    from spolia.cli.output import Bar

    for track in tracks:
        places = (os.path.abspath(track), os.path.realpath(track))
        own = map(library.catalog.find_path, places)
        without = {recording.id for recording in own if recording}
        try:
            with Bar(path_text(track.name)) as bar:
                answer = library.find_samples(
                    track, top=top, threshold=threshold, without=without, progress=bar.show
                )
        except AudioError as error:
            failed.append((str(track), error.reason))
            if as_json:
                typer.echo(json.dumps({"query": path_text(track), "error": error.reason}))
            continue
        if as_json:
            typer.echo(json.dumps(answer.to_dict(), ensure_ascii=False))
        else:
            typer.echo("\n".join(sample_lines(answer)))
        yield track, answer


@dataclass(frozen=True)
class _Outputs:
    """Files that are written for each answer."""

    export: Path | None
    page: Path | None
    plot: Path | None
    several: bool  # paths are folders then

    def check(self) -> None:
        """Raise ParameterError for what cannot be written, before a search begins."""
        if self.export is not None:
            _check_folder(self.export)
        for path in (self.page, self.plot):
            if path is not None:
                (_check_folder if self.several else _check_file)(path)

    def write(self, library: Library, answer: Samples, track: Path, name: str) -> None:
        if self.export is not None:
            from spolia.labels import write_labels

            write_labels(self.export, answer, name)
        if self.page is not None:
            _write_page(self._of(self.page, f"{name}.html"), library, answer, track)
        if self.plot is not None:
            _write_plot(self._of(self.plot, f"{name}.png"), library, answer)

    def _of(self, path: Path, name: str) -> Path:
        return path / name if self.several else path


def _check_folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise ParameterError(f"{path} is a file; give a folder for what is written of the tracks")


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ParameterError(f"{path} is a folder; give the name of a file")


def distinct_stems(tracks: Iterable[Path]) -> dict[Path, str]:
    """Return a name for each track: without its suffix, and numbered where another has it too."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for track in dict.fromkeys(tracks):
        numbered = (f"{track.stem}-{n}" for n in count(2))
        name = next(n for n in chain([track.stem], numbered) if n.casefold() not in taken)
        taken.add(name.casefold())
        names[track] = name
    return names


def _windows(library: Library, answer: Samples) -> list[Windows | None]:
    from spolia.sample_page import Windows

    seconds = library.fingerprinter("samples").segment_seconds
    return [
        Windows(answer.fingerprint, library.catalog.fingerprint(m.recording.id, "samples"), seconds)
        if answer.fingerprint is not None
        else None
        for m in answer.matches
    ]


def _write_page(path: Path, library: Library, answer: Samples, track: Path) -> None:
    from spolia.audio import Audio
    from spolia.sample_page import write_page

    write_page(path, answer, Audio.load(track, sample_rate=16000), _windows(library, answer))


def _write_plot(path: Path, library: Library, answer: Samples) -> None:
    from spolia.encoding import write_whole
    from spolia.sample_page import plot_png

    if (windows := next(iter(_windows(library, answer)), None)) is None:
        typer.echo(f"{answer.query}: nothing was found, so {path} is not written", err=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, plot_png(windows, answer.matches[0].occurrences))


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
    from spolia.samples import in_words
    from spolia.timing import format_seconds

    change = 100 * (match.tempo_ratio - 1)
    played: list[str] = [in_words(match.transformation)]
    if match.transformation != "untouched":
        played.append(f"{change:+.1f} % tempo, {match.semitones:+.1f} semitones")
    if match.part:
        played.append(match.part)
    times = "once" if len(match.occurrences) == 1 else f"{len(match.occurrences)} times"
    doubt = "" if match.decided else " (below the threshold)"
    head = f"  {match.probability:.3f}  {match.recording.name}: {times}, {'; '.join(played)}{doubt}"
    shown = [
        f"           {format_seconds(o.query_start)}–{format_seconds(o.query_end)} "
        f"= {format_seconds(o.reference_start)}–{format_seconds(o.reference_end)} of the recording"
        for o in match.occurrences[:MOST_SHOWN]
    ]
    left = len(match.occurrences) - len(shown)
    return [head, *shown, *([f"           and {left} more"] if left else [])]
