"""Model cards for people, from a model file's own metadata."""

from __future__ import annotations

import json

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
        *([f"- {json.dumps(result)}" for result in card.results] or ["- none recorded"]),
        "",
        "## Training data and attributions",
    ]
    for kind, data in card.training.get("data", {}).items():
        parts += ["", f"### {kind}: {data['files']} files", ""]
        parts += [f"- {text}" for text in data["attributions"]]
    return "\n".join(parts)
