"""Pictures of the tables of AMG-Embedding: what runs of each length find, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spolia.errors import MissingDependency
from spolia.evaluation.amg import Measured

PLACES = ("2", "5", "10")  # query lengths of the second picture, seconds, where measured


def plot(path: Path, rows: Sequence[Measured]) -> None:
    """Write Top-1 over query length, and over bytes per hour, a line or mark per system."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingDependency("matplotlib", "plot") from error
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.6))
    for row in rows:
        lengths = [float(key) for key in row.top1]
        values = [100 * rate.value for rate in row.top1.values()]
        style = "--" if "then segments" in row.name else "-"
        line = left.plot(lengths, values, style, marker="o", label=row.name)[0]
        shown = [key for key in PLACES if key in row.top1]
        sizes = [row.bytes_per_hour / 1000] * len(shown)
        heights = [100 * row.top1[key].value for key in shown]
        right.plot(sizes, heights, style, marker="o", color=line.get_color())
        for key, size, height in zip(shown, sizes, heights, strict=True):
            right.annotate(f"{key} s", (size, height), textcoords="offset points", xytext=(5, -3))
    ticks = sorted({float(key) for row in rows for key in row.top1})
    left.set(xscale="log", xlabel="query length, s", ylabel="Top-1, %")
    left.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    right.set(xscale="log", xlabel="index, kB per hour", ylabel="Top-1, %")
    left.legend(fontsize=7)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
