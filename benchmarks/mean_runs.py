"""Writes model files whose vector of a run is the mean of its segment vectors: nothing is trained.

    python benchmarks/mean_runs.py FOLDER --seconds 5 10 15 30

They are what a trained encoder of runs has to beat; ``spolia evaluate amg`` takes them like others.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from spolia.encoders import DEFAULT_SEGMENT_MODEL, open_encoder
from spolia.networks.run_encoder import RunEncoder, RunEncoderConfig
from spolia.training.export import export_run_encoder


def main() -> None:
    """Write a file for each duration and print its name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, nargs="+", default=[5.0, 10.0, 15.0, 30.0])
    parser.add_argument("--model", default=DEFAULT_SEGMENT_MODEL, help="segment model")
    arguments = parser.parse_args()
    base = open_encoder(arguments.model).card
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for seconds in arguments.seconds:
        longest = round((seconds * base.sample_rate - base.segment) / base.hop) + 1
        config = RunEncoderConfig(
            dim_in=base.dim,
            dim=base.dim,
            longest=longest,
            n_layers=0,
            pre_norm=True,
            from_mean=True,
        )
        name = f"mean-{seconds:g}s"
        training = {"corpora": {}, "steps": 0}
        target = arguments.folder / f"{name}.onnx"
        export_run_encoder(
            RunEncoder(config).eval(), target, name=name, base=base, training=training
        )
        print(target)


if __name__ == "__main__":
    main()
