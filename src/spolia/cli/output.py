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

from spolia.ingest import AddProgress


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain table on stdout."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    grid = Table(box=None, show_header=any(headings), pad_edge=False, header_style="bold")
    for heading in headings:
        grid.add_column(heading, overflow="fold" if heading == "path" else "ellipsis")
    for row in rows:
        grid.add_row(*(cell.replace("[", r"\[") for cell in row))
    console.print(grid)


def report_failures(failed: Sequence[tuple[str, str]]) -> None:
    """Name every failed input on stderr and exit with 1 if there was one."""
    for path, reason in failed:
        typer.echo(f"spolia: {path}: {reason}", err=True)
    if failed:
        raise typer.Exit(1)


class _Bar:
    """A progress bar on stderr."""

    def __init__(self, description: str) -> None:
        self.started = False
        self.progress = Progress(
            TextColumn(description),
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
            self.task = self.progress.add_task("", total=total, note=note)
        self.progress.update(self.task, completed=done, total=total, note=note)


class Bar(_Bar):
    """A progress bar for anything counted."""


class AddBar(_Bar):
    """The progress bar of ``add``: files, hours and rate."""

    def __init__(self) -> None:
        super().__init__("adding")

    def update(self, progress: AddProgress) -> None:
        """Show how far an ``add`` is, and a failure as soon as it happens."""
        seconds = 1e-9
        if self.task is not None:
            seconds = max(self.progress.tasks[0].elapsed or 0.0, 1e-9)
        note = f"{progress.seconds / 3600:.2f} h, {progress.seconds / seconds:.0f} x real time"
        self.show(progress.done, progress.total, note if self.task is not None else "")
