"""Tables, plots and calibrations from outcomes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spolia import confirmation
from spolia.calibration import Calibration, features, fit, logistic
from spolia.errors import MissingDependency
from spolia.evaluation.identify import Outcome


def markdown(facts: dict[str, Any]) -> str:
    """Return the measured table as Markdown."""
    table, plan = facts["table"], facts["plan"]
    names = ["all", *plan["conditions"]]
    head = ["Top-1, %", *(f"{length} s" for length in table)]
    rows = [[n, *(_percent(t["top1"][n]) for t in table.values())] for n in names]
    rows += [
        [label, *(_percent(t[key]) for t in table.values())]
        for label, key in (
            ("hits within 0.5 s", "within_0.5s"),
            ("hits within 0.1 s", "within_0.1s"),
            ("hits within 0.5 % of the speed", "speed"),
            ("hits within 0.25 semitones", "semitones"),
            ("false accepts (absent)", "false_accepts"),
            ("recall at the default threshold", "recall"),
            ("wrong recording accepted", "wrong_accepts"),
        )
    ]
    rows += [
        [label, *(f"{100 * t[key]:.1f}" for t in table.values())]
        for label, key in (
            ("recall at 1 % false accepts", "recall_at_1pct"),
            ("recall at 0.1 % false accepts", "recall_at_0.1pct"),
        )
    ]
    rows.append(["median time, ms", *(f"{1000 * t['median_seconds']:.0f}" for t in table.values())])
    lines = [f"Library: {facts['library']}. Method: {facts['method']}. "]
    lines[0] += (
        f"Seed {plan['seed']}, fold {plan['fold']}; 95 % bootstrap intervals over recordings."
    )
    lines += ["", table_row(head), table_row(["---"] * len(head)), *map(table_row, rows)]
    return "\n".join(lines)


def table_row(cells: Sequence[str]) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def _percent(value: dict[str, float]) -> str:
    if not value["n"]:
        return "–"
    return f"{100 * value['value']:.1f} [{100 * value['low']:.0f}, {100 * value['high']:.0f}]"


def plot(path: Path, facts: dict[str, Any]) -> None:
    """Write a picture of Top-1 over query length, a line per condition."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingDependency("matplotlib", "plot") from error
    table = facts["table"]
    lengths = [float(length) for length in table]
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for name in ["all", *facts["plan"]["conditions"]]:
        values = [100 * t["top1"][name]["value"] for t in table.values()]
        axes.plot(lengths, values, marker="o", linewidth=3 if name == "all" else 1.2, label=name)
    axes.set(xscale="log", xlabel="query length, s", ylabel="Top-1, %", ylim=(0, 101))
    axes.set_xticks(lengths, [f"{length:g}" for length in lengths])
    axes.grid(alpha=0.3)
    axes.legend(ncols=2, fontsize=8)
    axes.set_title(f"identify, {facts['method']}:\n{facts['library']}", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def write_calibration(path: Path, outcomes: Sequence[Outcome], n_entries: int) -> None:
    """Fit the calibration on outcomes and write it as JSON.

    Known queries that found another recording are left out: the right one may be among its rivals.
    """
    answered = [o for o in outcomes if o.lines and (o.right_by_vectors or not o.known)]
    calibration = fit(
        [np.array(o.lines) for o in answered],
        np.array([o.right_by_vectors for o in answered]),
        n_entries,
        seconds=np.array([o.length for o in answered]),
    )
    values = calibration.to_dict()
    heard = [o for o in outcomes if o.heard]
    if heard:
        values["confirmation"] = fit_confirmation(heard, calibration, n_entries).to_dict()
    path.write_text(json.dumps(values, indent=1) + "\n")


def fit_confirmation(
    outcomes: Sequence[Outcome], calibration: Calibration, n_entries: int
) -> confirmation.Confirmation:
    """Fit what the recordings' sound adds to a calibration; copies of the right are left out."""
    rows = [np.array(o.heard)[np.array(o.heard)[:, 7] >= 0] for o in outcomes]
    heard = []
    for row in rows:
        level = features(row[:, :4], np.full(len(row), n_entries)) @ np.array(calibration.weights)
        before = logistic(np.minimum.accumulate(level))  # none above a stronger one
        heard.append(np.column_stack([before, row[:, 4:7]]))
    return confirmation.fit(
        heard,
        [row[:, 7] > 0 for row in rows],
        np.array([o.known for o in outcomes]),
    )
