"""Trains recipes one after the other for a stated time and compares them on val excerpts.

    python benchmarks/compare.py RECIPE… --corpus CORPUS --minutes 9 --trained segment [--plot FILE]

All are measured under the same degradation, the default one without changes of pitch and speed:
the share of degraded excerpts of 1 s and 2 s whose clean counterpart is the most similar of 16
clean excerpts from every val group. Speed: audio per second of encoding with ONNX Runtime on the
same number of threads. A run goes on where it stopped, and is not trained again once its time is
used up. --trained: shipped models and model files, measured beside them as they are.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spolia.cli.output import Bar
from spolia.encoders import Encoder, check_waveform, open_encoder
from spolia.evaluation.metrics import Rate, rate
from spolia.networks.architectures import build_encoder
from spolia.training.batches import BatchMaker, plan
from spolia.training.degrade import DegradeConfig
from spolia.training.export import export_checkpoint
from spolia.training.fingerprint import make_batches, train
from spolia.training.initial import load_checkpoint, load_trained, network_of
from spolia.training.recipe import DataConfig, Recipe, load_recipe
from spolia.training.running import RunOptions
from spolia.training.warp import MaskConfig, WarpConfig

N_BATCHES = 16
SEED = 977
UNWARPED = WarpConfig(pitch=0.0, speed=0.0, tempo=0.0)
UNMASKED = MaskConfig(bands=0.0, time=0.0, holes=0.0)


def trained(recipe: Recipe, options: RunOptions, minutes: float) -> tuple[Path, float]:
    """Train for what is left of ``minutes``; return the checkpoint and the minutes used."""
    used_file = options.folder / "minutes.json"
    used = json.loads(used_file.read_text()) if used_file.is_file() else 0.0
    if used < minutes:
        options = replace(options, stop_after=60 * (minutes - used), validate_every=10**9)
        started = time.monotonic()
        try:
            with Bar(recipe.name) as bar:
                train(recipe, options, lambda e: bar.show(int(e["step"]), recipe.optimiser.steps))
        finally:
            used += (time.monotonic() - started) / 60
            used_file.write_text(json.dumps(round(used, 2)))
    return options.folder / "checkpoint.pt", used


def measured(model: Any, options: RunOptions) -> dict[str, Rate]:
    """Return retrieval rates of an encoder under the common degradation."""
    batches = common_batches(model, options)
    clean, heard, groups = [], [], []
    with torch.no_grad():
        for i in range(N_BATCHES):
            batch = batches.draw(i, seed=SEED)
            clean.append(model.embed(batch.anchors))
            heard.append(model.embed(batch.positives))
            groups.append(batch.groups)
    gallery, queries, cluster = torch.cat(clean), torch.cat(heard), torch.cat(groups).numpy()
    right = {n: _right(queries[:, :n], gallery[:, :n]) for n in (1, 3)}
    return {"1 s": rate(right[1], cluster), "2 s": rate(right[3], cluster)}


def common_batches(model: Any, options: RunOptions) -> BatchMaker:
    """Return val batches under the common degradation as a model hears them."""
    recipe = Recipe(
        "common",
        data=DataConfig(n_rows=10**6, n_segments=3),
        degrade=DegradeConfig(),
        warp=UNWARPED,
        mask=UNMASKED,
    )
    frames = model.config.segment_frames, model.config.hop_frames
    geometry = plan(recipe, model.log_bands, segment_frames=frames[0], hop_frames=frames[1])
    return make_batches(recipe, options, model, geometry, "val")


def _right(queries: torch.Tensor, gallery: torch.Tensor) -> np.ndarray:
    similarity = torch.einsum("qsd,gsd->qg", queries, gallery)
    return np.asarray(similarity.argmax(1) == torch.arange(len(queries)))


def speed(model_file: Path, threads: int) -> float:
    """Return seconds of audio encoded per second."""
    encoder = Encoder(model_file, threads=threads)
    sound = check_waveform(encoder.card.sample_rate, 60 * encoder.card.sample_rate)[None]
    encoder.encode(sound)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        encoder.encode(sound)
        times.append(time.perf_counter() - started)
    return 60 / float(np.median(times))


def row(recipe: Recipe, options: RunOptions, minutes: float) -> dict[str, Any]:
    """Train, export and measure one recipe."""
    checkpoint, used = trained(recipe, options, minutes)
    model_file = options.folder / "model.onnx"
    export_checkpoint(checkpoint, model_file)
    state = load_checkpoint(checkpoint)
    training = {"steps": int(state["step"]), "minutes": round(used, 1)}
    return described(recipe.name, model_file, network_of(state).eval(), training, options)


def trained_row(name: str, options: RunOptions) -> dict[str, Any]:
    """Measure a trained model, by name or path, as it is."""
    encoder = open_encoder(name)
    untrained = build_encoder("segment", encoder.card.architecture)

    def example() -> torch.Tensor:
        return common_batches(untrained, options).draw(0, seed=SEED).anchors

    training = {"steps": "–", "minutes": "–"}
    model = load_trained(name, example).eval()
    return described(f"{name}, as trained", encoder.path, model, training, options)


def described(
    name: str, model_file: Path, model: Any, training: dict[str, Any], options: RunOptions
) -> dict[str, Any]:
    """Return what a table's row says of a model."""
    return {
        "name": name,
        "parameters": open_encoder(str(model_file)).card.n_parameters,
        "megabytes": round(model_file.stat().st_size / 1e6, 2),
        **training,
        "x_real_time": round(speed(model_file, options.threads), 1),
        **{k: vars(v) for k, v in measured(model, options).items()},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table."""
    head = "| recipe | parameters | steps | minutes | × real time | 1 s | 2 s |"
    lines = [head, "| --- | --- | --- | --- | --- | --- | --- |"]
    for r in rows:
        rates = " | ".join(str(Rate(**r[k])) for k in ("1 s", "2 s"))
        cells = (r["name"], f"{r['parameters']:,}", r["steps"], r["minutes"], r["x_real_time"])
        lines.append(f"| {' | '.join(map(str, cells))} | {rates} |")
    return "\n".join(lines)


def plot(path: Path, rows: list[dict[str, Any]]) -> None:
    """Draw accuracy over speed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.0, 4.4))
    for number, r in enumerate(rows):
        for length, marker in (("1 s", "o"), ("2 s", "s")):
            of = Rate(**r[length])
            bars = [[100 * (of.value - of.low)], [100 * (of.high - of.value)]]
            label = length if number == 0 else None
            place, colour = (r["x_real_time"], 100 * of.value), f"C{number}"
            axes.errorbar(*place, bars, fmt=marker, color=colour, capsize=3, label=label)
        axes.annotate(r["name"], place, (6, 4), textcoords="offset points", fontsize=8)
    axes.set(xlabel="encoding, × real time", ylabel="Top-1 of val excerpts, %")
    axes.margins(x=0.2)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Compare recipes and print a JSON object each, then a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", type=Path, nargs="*")
    parser.add_argument("--corpus", type=Path, action="append", required=True)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--run", type=Path, default=Path("runs"))
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trained", action="append", default=[])
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    rows = []

    def options(name: str) -> RunOptions:
        return RunOptions(
            tuple(arguments.corpus),
            arguments.run / name,
            arguments.cache,
            arguments.device,
            arguments.threads,
        )

    for path in arguments.recipes:
        recipe = load_recipe(path)
        rows.append(row(recipe, options(recipe.name), arguments.minutes))
        print(json.dumps(rows[-1]), flush=True)
    for name in arguments.trained:
        rows.append(trained_row(name, options(name)))
        print(json.dumps(rows[-1]), flush=True)
    print(table(rows))
    if arguments.plot:
        plot(arguments.plot, rows)


if __name__ == "__main__":
    main()
