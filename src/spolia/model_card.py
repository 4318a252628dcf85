"""Model cards for people, from a model file's own metadata."""

from __future__ import annotations

import json
from typing import Any

from spolia.encoders import ModelCard


def render(card: ModelCard) -> str:
    """Return a model card as Markdown."""
    front = card.architecture.get("front_end", {})
    parts = [
        f"# {card.name} ({card.id})",
        "",
        f"- kind: {card.kind}, {card.n_parameters:,} parameters, vectors of {card.dim}",
        f"- audio: {card.sample_rate} Hz mono; a vector sees "
        f"{card.segment / card.sample_rate:.3f} s, "
        f"one every {card.hop / card.sample_rate:.3f} s",
        f"- front end: {json.dumps(front)}",
        f"- trained for {card.training.get('steps', 0)} steps with spolia "
        f"{card.training.get('spolia', '?')}, torch {card.training.get('torch', '?')}",
        f"- calibration: {json.dumps(card.calibration) if card.calibration else 'none'}",
        "",
        "## Results",
        "",
        *([line for result in card.results for line in _result(result)] or ["- none recorded"]),
        "",
        "## Training data and attributions",
    ]
    for kind, data in card.training.get("data", {}).items():
        parts += ["", f"### {kind}: {data['files']} files", ""]
        parts += [f"- {text}" for text in data["attributions"]]
    return "\n".join(parts)


def _result(result: dict[str, Any]) -> list[str]:
    """Return a run of the benchmark as a table; see spolia.evaluation.record."""
    figures = result["figures"]
    lines = [f"`{result['command']}`", "", f"- library: {result['library']}"]
    lines += [f"- {result['note']}"] if result["note"] else []
    lines += ["", f"| % [95 % interval] | {' | '.join(figures['columns'])} |"]
    lines.append("|---" * (len(figures["columns"]) + 1) + "|")
    for label, cells in figures["rows"]:
        shown = (f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, low, high in cells)
        lines.append(f"| {label} | {' | '.join(shown)} |")
    return [*lines, ""]
