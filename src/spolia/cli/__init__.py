"""The command line: parse, call, show. Everything heavy is imported inside the commands."""

from __future__ import annotations

import sys

import typer

from spolia import __version__
from spolia.cli import (
    evaluation_commands,
    library_commands,
    model_commands,
    query_commands,
    sample_commands,
    training_commands,
)
from spolia.errors import ParameterError, SpoliaError

INTERRUPTED = 130  # exit code of Ctrl-C, which typer raises as SystemExit

app = typer.Typer(
    name="spolia",
    help="Says where a piece of audio comes from.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
library_commands.register(app)
query_commands.register(app)
sample_commands.register(app)
app.add_typer(model_commands.app, name="models")
app.add_typer(training_commands.train_app, name="train")
app.add_typer(evaluation_commands.evaluate_app, name="evaluate")


def _version(shown: bool) -> None:
    if shown:
        typer.echo(f"spolia {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    """Say where a piece of audio comes from."""


def main() -> None:
    """Run the command line: 0 done, 1 some input failed, 2 wrong usage, 130 interrupted."""
    try:
        app()
    except SpoliaError as error:
        if "--debug" in sys.argv:
            raise
        typer.echo(f"spolia: {error}", err=True)
        sys.exit(2 if isinstance(error, ParameterError) else 1)
    except (SystemExit, KeyboardInterrupt) as ended:
        interrupted = isinstance(ended, KeyboardInterrupt) or ended.code == INTERRUPTED
        if not interrupted:
            raise
        typer.echo("spolia: interrupted; run the same command again to continue", err=True)
        sys.exit(INTERRUPTED)
    except OSError as error:  # of a file that is written, mostly
        if "--debug" in sys.argv or error.strerror is None:
            raise
        place = f"{error.filename}: " if error.filename else ""
        reason = f"{error.strerror[:1].lower()}{error.strerror[1:]}"
        typer.echo(f"spolia: {place}{reason}; check the path, its rights and the disk", err=True)
        sys.exit(1)
