"""Writes docs/reference/cli.md from the command line's own help; ``--check`` only compares."""

from __future__ import annotations

import sys
from pathlib import Path

import typer.main

from spolia.cli import app

TARGET = Path(__file__).parent.parent / "docs" / "reference" / "cli.md"


def commands(command, path):
    """Yield (path, command) of a command and all below it, in order."""
    yield path, command
    for name in sorted(getattr(command, "commands", {})):
        yield from commands(command.commands[name], [*path, name])


def rows(command):
    """Yield the lines that describe a command's arguments and options."""
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            yield f"- `{parameter.name.upper()}`: {parameter.help}"
        elif "--help" not in parameter.opts:
            names = ", ".join(f"`{o}`" for o in [*parameter.opts, *parameter.secondary_opts])
            default = parameter.default
            shown = default is not None and not callable(default) and default is not False
            note = f" (default: {default})" if shown and parameter.name != "threads" else ""
            variable = f" Environment: `{parameter.envvar}`." if parameter.envvar else ""
            yield f"- {names}: {parameter.help}{note}{variable}"


def reference():
    """Return the reference as Markdown."""
    lines = [
        "# Command line",
        "",
        "Written by `scripts/reference.py` from the commands; a test keeps it up to date.",
        "",
        'Exit codes: 0 done (also when the answer is "unknown"), 1 some input failed (the others',
        "are still answered), 2 wrong usage, 130 interrupted (run the command again to continue).",
    ]
    for path, command in commands(typer.main.get_command(app), ["spolia"]):
        lines += ["", f"{'#' * min(2 + (len(path) > 2), 3)} {' '.join(path)}", ""]
        lines += [(command.help or "").strip(), ""]
        lines += list(rows(command))
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


if __name__ == "__main__":
    text = reference()
    if "--check" in sys.argv:
        sys.exit(0 if TARGET.read_text() == text else "docs/reference/cli.md is out of date")
    TARGET.write_text(text)
