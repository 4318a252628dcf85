"""Measured figures in the words of a model card, from what `spolia evaluate --out` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spolia.encoders import ModelCard
from spolia.errors import ParameterError
from spolia.evaluation.sample_report import LABELS

IDENTIFY = {
    "within_0.1s": "hits within 0.1 s",
    "false_accepts": "false accepts of absent recordings",
    "recall": "recall at the default threshold",
}
SAMPLES = ("map", "hr1", "hr10", "there", "recall", "false_alarms", "hr1_at_0.02")

Figures = dict[str, list[Any]]


def recorded(path: Path, card: ModelCard) -> dict[str, Any]:
    """Return what a card says of a run of `spolia evaluate identify` or `samples`.

    Its command, library and note, and figures: columns, and rows of a label and [value, low, high]
    for each column, in per cent with 95 % intervals. Raises ParameterError for other files and for
    runs of another model.
    """
    try:
        facts = json.loads(path.read_text())
        plan, library, method = facts["plan"], facts["library"], facts["method"]
        identify = "table" in facts
        figures = _of_identify(facts["table"]) if identify else _of_samples(facts["tables"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParameterError(
            f"{path} holds no results ({error}); give a file that evaluate identify --out or "
            "evaluate samples --out wrote"
        ) from error
    if card.id not in f"{library} {facts.get('classifier')}":
        raise ParameterError(
            f"{path} was measured with {library}, not with {card.id}; evaluate this model"
        )
    return {
        "command": _command(plan, method, identify=identify),
        "library": library,
        "note": facts.get("note", ""),
        "figures": figures,
    }


def replaced(results: list[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a card's results with one added, in place of any of the same command and library."""

    def key(result: dict[str, Any]) -> tuple[Any, ...]:
        return result.get("command"), result.get("library")

    return [*(r for r in results if key(r) != key(new)), new]


def _command(plan: dict[str, Any], method: str, *, identify: bool) -> str:
    """Return the command of a run, without folders."""
    if identify:
        what, asked = "identify", f"--known {plan['n_places']} --absent {plan['n_absent']}"
        asked += f" --fold {plan['fold']}"
    elif plan.get("benchmark") == "sample100":
        what, asked = "samples", "--sample100 FOLDER"
    else:
        what, asked = "samples", f"--tracks {plan['n_tracks']} --free {plan['n_free']}"
        asked += f" --split {plan['split']}"
    return f"spolia evaluate {what} --method {method} {asked} --seed {plan['seed']}"


def _of_identify(table: dict[str, Any]) -> Figures:
    """Return Top-1 by condition and the rest, by length."""
    first = next(iter(table.values()))
    top1 = [
        (f"Top-1, {name}", [_percent(t["top1"][name]) for t in table.values()])
        for name in first["top1"]
    ]
    rest = [(label, [_percent(t[key]) for t in table.values()]) for key, label in IDENTIFY.items()]
    return {"columns": [f"{length} s" for length in table], "rows": [*top1, *rest]}


def _of_samples(tables: dict[str, Any]) -> Figures:
    """Return the main figures, by length, "track" for whole ones."""
    keys = [key for key in SAMPLES if all(key in t for t in tables.values())]
    keys += [
        key
        for key in next(iter(tables.values()))
        if key.startswith("map ") and all(key in t for t in tables.values())
    ]
    rows = [
        (
            LABELS.get(key, key.replace("map ", "mAP, ", 1)),
            [_percent(t[key]) for t in tables.values()],
        )
        for key in keys
    ]
    return {"columns": list(tables), "rows": rows}


def _percent(value: dict[str, float]) -> list[float]:
    return [round(100 * value[key], 1) for key in ("value", "low", "high")]
