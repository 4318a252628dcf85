"""Pictures of the tables of AMG-Embedding: what runs of each length find, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spolia.errors import MissingDependency
from spolia.evaluation.amg import Measured

MOST = 14  # systems that can be told apart
MARKS = {"2": "v", "5": "s", "10": "o", "30": "D"}  # query lengths of the second picture, seconds


def plot(path: Path, rows: Sequence[Measured]) -> None:
    """Write Top-1 over query length, and over bytes per hour, a line or mark per system.

    Of many rows only those of the first kind of index are drawn, runs alone by place.
    """
    rows = rows if len(rows) <= MOST else _fewer(rows)
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingDependency("matplotlib", "plot") from error
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 6), sharey=True)
    colours = pyplot.get_cmap("tab20")
    for number, row in enumerate(rows):
        colour = colours(number % 20)
        lengths = [float(key) for key in row.top1]
        values = [100 * rate.value for rate in row.top1.values()]
        style = "--" if "then segments" in row.name else "-"
        left.plot(lengths, values, style, marker=".", color=colour, label=row.name)
        for key, mark in MARKS.items():
            if key in row.top1:
                size, height = row.bytes_per_hour / 1000, 100 * row.top1[key].value
                right.scatter(size, height, marker=mark, color=colour)
    ticks = sorted({float(key) for row in rows for key in row.top1})
    left.set(xscale="log", xlabel="query length, s", ylabel="Top-1, %")
    left.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    right.set(xscale="log", xlabel="index, kB per hour")
    shown = [key for key in MARKS if any(key in row.top1 for row in rows)]
    for key in shown:
        right.scatter([], [], marker=MARKS[key], color="grey", label=f"queries of {key} s")
    right.legend(fontsize=8, loc="lower right")
    for axes in (left, right):
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), fontsize=8, ncols=3, loc="lower center")
    figure.tight_layout(rect=(0, 0.03 + 0.028 * -(-len(rows) // 3), 1, 1))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _fewer(rows: Sequence[Measured]) -> list[Measured]:
    """Return the rows of the first row's kind of index, without sums over recordings."""
    parts = [row.name.split(", ") for row in rows]
    kind = next((words[1] for words in parts if len(words) > 1), "")
    placed = {words[0] for words in parts if words[-1] == "by place"}
    return [
        row
        for row, words in zip(rows, parts, strict=True)
        if kind in words and (len(words) > 2 or words[0] not in placed)
    ]
