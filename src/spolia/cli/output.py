"""What people see: tables, the progress bar, failures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from spolia.ingest import AddProgress
from spolia.recording import one_line


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain table on stdout."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    grid = Table(box=None, show_header=any(headings), pad_edge=False, header_style="bold")
    for heading in headings:
        is_whole = heading in ("id", "path")
        grid.add_column(
            heading, overflow="fold" if is_whole else "ellipsis", no_wrap=heading == "id"
        )
    for row in rows:
        grid.add_row(*map(_plain, row))
    console.print(grid)


def _plain(text: str) -> Text:
    """Return text as it is, whatever a file's name or tags hold that a terminal would obey."""
    return Text(one_line(text))


def report_failures(failed: Sequence[tuple[str, str]]) -> None:
    """Name every failed input on stderr and exit with 1 if there was one."""
    for path, reason in failed:
        typer.echo(f"spolia: {path}: {reason}", err=True)
    if failed:
        raise typer.Exit(1)


class _Bar:
    """A progress bar on stderr."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self.task: TaskID | None = None

    def __enter__(self) -> Any:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def show(self, done: int, total: int, note: str = "") -> None:
        """Move the bar."""
        if self.task is None:
            self.task = self.progress.add_task(self.description, total=total, note=note)
        self.progress.update(self.task, completed=done, total=total, note=note)


class Bar(_Bar):
    """A progress bar for anything counted."""


class AddBar(_Bar):
    """The progress bar of ``add``: files, hours and rate."""

    def __init__(self) -> None:
        super().__init__("adding")

    def update(self, progress: AddProgress) -> None:
        """Show how far an ``add`` is."""
        seconds = 1e-9
        if self.task is not None:
            seconds = max(self.progress.tasks[0].elapsed or 0.0, 1e-9)
        note = f"{progress.seconds / 3600:.2f} h, {progress.seconds / seconds:.0f} x real time"
        self.show(progress.done, progress.total, note if self.task is not None else "")
