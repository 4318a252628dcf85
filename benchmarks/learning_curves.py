"""Draws the loss and the validation of training runs over their steps, and prints a table.

    python benchmarks/learning_curves.py RUN… [--plot FILE]

RUN: a folder with the ``log.jsonl`` of `spolia train fingerprint`. Validation: the share of changed
`val` excerpts whose clean counterpart is the most similar of all, with its 95 % Wilson interval.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

SMOOTH = 25  # steps over which the loss is averaged
VALIDATED = "val_top1_run"

Entries = list[dict[str, Any]]


def read(folder: Path) -> Entries:
    """Return the entries of a run's log, one a step, or leave with a sentence."""
    log = folder / "log.jsonl"
    if not log.is_file():
        raise SystemExit(f"{log} does not exist; give folders of `spolia train fingerprint --run`")
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    if not any(VALIDATED in e for e in entries):
        raise SystemExit(f"{log} has no validation yet; train on")
    return entries


def row(name: str, entries: Entries) -> str:
    """Return a row of the table: minutes of training, the last losses, the last validation."""
    minutes = sum(e["batch_seconds"] + e["network_seconds"] for e in entries) / 60
    loss = float(np.mean([e["loss"] for e in entries[-2 * SMOOTH :]]))
    last = next(e for e in reversed(entries) if VALIDATED in e)
    n = int(last["val_n"])
    share = binomtest(round(last[VALIDATED] * n), n)
    low, high = share.proportion_ci(method="wilson")
    network = 1000 * float(np.median([e["network_seconds"] for e in entries]))
    found = f"{100 * last[VALIDATED]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    return f"| {name} | {len(entries)} | {minutes:.1f} | {network:.0f} | {loss:.2f} | {found} |"


def plot(path: Path, runs: dict[str, Entries]) -> None:
    """Draw losses on the left, validations on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.0, 3.8))
    for name, entries in runs.items():
        loss = np.convolve([e["loss"] for e in entries], np.full(SMOOTH, 1 / SMOOTH), "valid")
        left.plot(np.arange(len(loss)) + SMOOTH, loss, label=name)
        validated = [(e["step"], 100 * e[VALIDATED]) for e in entries if VALIDATED in e]
        right.plot(*zip(*validated, strict=True), "o-", label=name)
    left.set(xlabel="step", ylabel=f"loss, mean of {SMOOTH} steps")
    right.set(xlabel="step", ylabel="Top-1 of val excerpts, %", ylim=(0, None))
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print the table and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    runs = {folder.name: read(folder) for folder in arguments.runs}
    print("| run | steps | minutes | network, ms a step | loss | Top-1 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, entries in runs.items():
        print(row(name, entries))
    if arguments.plot:
        plot(arguments.plot, runs)


if __name__ == "__main__":
    main()
