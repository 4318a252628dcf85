"""Measures how much each stage of training a fingerprint encoder does in a second.

    python benchmarks/throughput.py RECIPE.toml --corpus CORPUS [--device cuda] [--compile]

Stages of a batch one by one: sound cut from the pool, degradation, spectrograms, changes of pitch
and tempo, the network forwards and backwards, the optimiser; then music as the generator renders
it on the device. A batch's segments are anchors and positives together.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from spolia.training.fingerprint import Run
from spolia.training.generator import generate_many
from spolia.training.recipe import Recipe, load_recipe
from spolia.training.running import RunOptions

PIECES, PIECE_SECONDS = 64, 12.0
WARM = 2  # batches before the first that counts


class Stopwatch:
    """Adds up the seconds of named stages."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, defaultdict[str, float](float)

    def now(self) -> float:
        """Return the time once the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose time counts for a stage."""

        def of(*args: Any, **options: Any) -> Any:
            started = self.now()
            result = work(*args, **options)
            self.seconds[name] += self.now() - started
            return result

        return of


def watched(run: Run) -> Stopwatch:
    """Return what the stages of a run's batches are timed by."""
    watch, maker = Stopwatch(run.device), run.batches
    maker._cut = watch.timed("cutting", maker._cut)  # type: ignore[method-assign]
    maker.degrader = watch.timed("degrading", maker.degrader)  # type: ignore[assignment]
    bands = maker.log_bands
    bands.forward = watch.timed("spectrograms", bands.forward)  # type: ignore[method-assign]
    maker._change = watch.timed("changing", maker._change)  # type: ignore[method-assign]
    run.embed = watch.timed("forwards", run.embed)
    run.optimiser.step = watch.timed("optimiser", run.optimiser.step)
    return watch


def stages(run: Run, n_batches: int) -> dict[str, Any]:
    """Return seconds of a batch by stage, and segments a second."""
    watch = watched(run)
    for number in range(WARM + n_batches):
        if number == WARM:
            watch.seconds.clear()
            started = watch.now()
        with torch.no_grad():
            batch = watch.timed("batch", run.batches.draw)(number, seed=run.recipe.seed)
        watch.timed("learning", run._learn)(batch)
    total = watch.now() - started
    seconds = {name: value / n_batches for name, value in watch.seconds.items()}
    learning = seconds.pop("learning")
    seconds["backwards"] = learning - seconds["forwards"] - seconds["optimiser"]
    n_segments = 2 * len(batch.groups) * run.recipe.data.n_segments
    return {
        "segments": n_segments,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "segments_per_second": round(n_batches * n_segments / total),
    }


def generated(recipe: Recipe, device: torch.device) -> float:
    """Return seconds of music that the generator renders in a second."""
    watch = Stopwatch(device)
    rendering = watch.timed("pieces", generate_many)
    rendering(PIECES, seconds=PIECE_SECONDS, seed=recipe.seed, device=device, sample_rate=8000)
    return PIECES * PIECE_SECONDS / watch.seconds["pieces"]


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--corpus", type=Path, action="append", required=True)
    parser.add_argument("--run", type=Path, default=Path("runs/throughput"))
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe)
    torch.set_num_threads(arguments.threads)
    options = RunOptions(
        tuple(arguments.corpus),
        arguments.run,
        arguments.cache,
        arguments.device,
        arguments.threads,
        compile=arguments.compile,
    )
    found = stages(Run(recipe, options), arguments.batches)
    found["generator_x_real_time"] = round(generated(recipe, torch.device(arguments.device)), 1)
    print(json.dumps({"recipe": recipe.name, "device": arguments.device, **found}, indent=1))


if __name__ == "__main__":
    main()
