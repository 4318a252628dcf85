"""Trains variants of an embedding recipe on the same clips: other backbones, losses, fewer classes.

    python benchmarks/amg_variants.py BASE.toml VARIANT… --corpus CORPUS --models FOLDER

A variant changes some settings of the base, see VARIANTS; all are trained for the base's steps, or
for --minutes each. Prints the Top-1 of pieces of val clips among all clips, and writes a model file
for each that ``spolia evaluate amg --table 3`` and ``--table 4`` take. A run goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from spolia.cli.output import Bar
from spolia.encoders import open_compressor
from spolia.training.embedding import EmbeddingRecipe, EmbeddingRun
from spolia.training.export import export_embedding
from spolia.training.recipe import build, read_values
from spolia.training.running import RunOptions

PUBLISHED = {"pre_norm": False, "gelu": False, "positions": "none", "from_mean": False}
BACKBONES = ("resnet18", "resnet50", "bilstm", "densenet121", "efficientnet_b3")
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "transformer": {"model": PUBLISHED},
    **{name: {"model": {**PUBLISHED, "backbone": name}} for name in BACKBONES},
    "triplet": {"model": PUBLISHED, "loss": "triplet"},
    "info_nce": {"model": PUBLISHED, "loss": "info_nce"},
    "arcface": {
        "model": PUBLISHED,
        "margin": {"initialise": False, "overlap_margin": False, "align": False},
    },
    "pi": {"model": PUBLISHED, "margin": {"overlap_margin": False, "align": False}},
    "pi-om": {"model": PUBLISHED, "margin": {"align": False}},
    "from_mean-info_nce": {"loss": "info_nce"},
    "from_mean-triplet": {"loss": "triplet"},
    "imitation": {"optimiser": {"imitation": 1.0}},
    "published-imitation": {"model": PUBLISHED, "optimiser": {"imitation": 1.0}},
    "no-positions": {"model": {"positions": "none"}},
    **{f"classes-{n}": {"clips": {"n_classes": n}} for n in (500, 1000, 2000)},
}


def varied(base: dict[str, Any], name: str) -> EmbeddingRecipe:
    """Return the recipe of a variant."""
    values = {**base, "name": f"amg-{name}"}
    for key, change in VARIANTS[name].items():
        values[key] = {**base.get(key, {}), **change} if isinstance(change, dict) else change
    return build(EmbeddingRecipe, values, name)


def row(recipe: EmbeddingRecipe, options: RunOptions, models: Path) -> dict[str, Any]:
    """Train, validate and export one variant."""
    run = EmbeddingRun(recipe, options, None)
    with Bar(recipe.name) as bar:
        checkpoint = run.run(lambda e: bar.show(int(e["step"]), recipe.optimiser.steps))
    file = models / f"{recipe.name}.onnx"
    export_embedding(checkpoint, file, corpora=options.corpora)
    return {
        "name": recipe.name,
        "parameters": open_compressor(str(file)).card.n_parameters,
        "classes": len(run.runs.values),
        "steps": run.step,
        **run.validate(),
    }


def main() -> None:
    """Train variants and print a JSON object each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("variants", nargs="+", choices=VARIANTS)
    parser.add_argument("--corpus", type=Path, action="append", required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("runs"))
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    base = read_values(arguments.base)
    arguments.models.mkdir(parents=True, exist_ok=True)
    for name in arguments.variants:
        recipe = varied(base, name)
        options = RunOptions(
            tuple(arguments.corpus),
            arguments.run / recipe.name,
            arguments.cache,
            arguments.device,
            arguments.threads,
            stop_after=60 * arguments.minutes,
            validate_every=10**9,
        )
        print(json.dumps(row(recipe, options, arguments.models)), flush=True)


if __name__ == "__main__":
    main()
