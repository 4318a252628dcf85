"""Prints parameters, size and speed of every network of sample identification, untrained.

    python benchmarks/sample_networks.py [--seconds 30] [--repeats 5]

Speed is processor time on one thread, the least of some repeats: of the model file in ONNX Runtime
from waveform to vectors and nodes, and of a training step's forward and backward pass in PyTorch.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from spolia.encoders import Encoder
from spolia.networks.architectures import build_encoder
from spolia.networks.cross_attention import SIZES, CrossAttentionClassifier, CrossAttentionConfig
from spolia.networks.node_matching import NodeMatching, NodeMatchingConfig
from spolia.training.export import export_encoder
from spolia.training.recipe import read_values

RECIPES = Path(str(resources.files("spolia.training"))) / "recipes"
SHIPPED = read_values(RECIPES / "sample-stems.toml")["model"]
CONFIGURATIONS = {
    "sample": ("sample", {}),
    "sample as shipped": ("sample", {**SHIPPED, "node_dim": 64}),
    "graph nano": ("graph", {"size": "nano"}),
    "graph nano off": ("graph", {"size": "nano", "graph": False}),
    "graph as-printed": ("graph", {"size": "as-printed"}),
    "graph as-printed off": ("graph", {"size": "as-printed", "graph": False}),
    "sample-resnet small": ("sample-resnet", {"size": "small"}),
    "sample-resnet resnet50": ("sample-resnet", {"size": "resnet50"}),
}
N_PAIRS = 480  # that a classifier compares at once


def least(work: Callable[[], object], repeats: int) -> float:
    """Return the least processor time of a call, in seconds, after one that warms up."""
    work()
    times = []
    for _ in range(repeats):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return min(times)


def parameters(network: torch.nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in network.parameters())


def training(network: torch.nn.Module, repeats: int, n_windows: int = 16) -> float:
    """Return the milliseconds that a window costs in training."""
    config = network.config
    rows = torch.randn(n_windows, config.front_end.n_bands, config.segment_frames)
    network.train()

    def learn() -> None:
        network.embed(rows)[..., 0].sum().backward()

    return 1000 * least(learn, repeats) / n_windows


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    sound = np.random.default_rng(0).normal(0, 0.1, (1, round(16000 * given.seconds)))
    print(
        "| network | parameters | model file, MB | ms per second of sound | ms per window trained |"
    )
    print("|---|---:|---:|---:|---:|")
    for name, (architecture, settings) in CONFIGURATIONS.items():
        network = build_encoder(architecture, settings).eval()
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "network.onnx"
            export_encoder(network, path, name=name, training={})
            encode = partial(Encoder(path, threads=1).encode, sound.astype(np.float32))
            seconds = least(encode, given.repeats)
            size = path.stat().st_size / 1e6
        speed = 1000 * seconds / given.seconds
        trained = training(network, given.repeats)
        print(
            f"| {name} | {parameters(network):,} | {size:.1f} | {speed:.1f} | {trained:.1f} |",
            flush=True,
        )
    classifiers: dict[str, CrossAttentionClassifier | NodeMatching] = {
        k: CrossAttentionClassifier(CrossAttentionConfig(**v)) for k, v in SIZES.items()
    }
    classifiers["matching"] = NodeMatching(NodeMatchingConfig())
    for name, network in classifiers.items():
        nodes = torch.rand(N_PAIRS, network.config.n_nodes, network.config.dim_in)
        with torch.no_grad():
            cost = 1e6 * least(partial(network.eval(), nodes, nodes), given.repeats) / N_PAIRS
        print(f"classifier {name}: {parameters(network):,} parameters, {cost:.0f} µs per pair")


if __name__ == "__main__":
    main()
