"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

LibraryOption = Annotated[
    Path | None,
    typer.Option(
        "--library",
        envvar="SPOLIA_LIBRARY",
        help="Folder of the library; default: one in your user data folder.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object per line on stdout.")]
ThreadsOption = Annotated[
    int,
    typer.Option("--threads", min=1, help="Threads; default: one per core.", show_default=False),
]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="Segment model, a name or a file.", show_default=False)
]
CompressorOption = Annotated[
    str | None,
    typer.Option(
        "--compressor",
        help="Model of runs, a name or a file; with +half behind it, runs overlap by half.",
        show_default=False,
    ),
]
SampleModelOption = Annotated[
    str | None,
    typer.Option("--sample-model", help="Model of samples, a name or a file.", show_default=False),
]
ClassifierOption = Annotated[
    str | None,
    typer.Option(
        "--classifier",
        help="Classifier that judges what the model of samples finds, a name or a file.",
        show_default=False,
    ),
]
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
CorpusOption = Annotated[
    Path, typer.Option("--corpus", help="Folder of the corpus.", show_default=False)
]
CorporaOption = Annotated[
    list[Path],
    typer.Option(
        "--corpus", help="Folder of a corpus or pack; may be repeated.", show_default=False
    ),
]

N_CORES = os.cpu_count() or 1


def library_folder(chosen: Path | None) -> Path:
    """Return the library's folder: the one chosen, else one in the user's data folder."""
    if chosen is not None:
        return chosen
    from platformdirs import user_data_path

    return user_data_path("spolia", appauthor=False) / "library"


def cache_folder() -> Path:
    """Return the user's cache folder."""
    from platformdirs import user_cache_path

    return user_cache_path("spolia", appauthor=False)
