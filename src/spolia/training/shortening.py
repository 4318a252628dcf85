"""Makes a trained encoder's nodes short enough to be stored.

The trunk's nodes have hundreds of numbers each, much of which says the same. A linear map, fitted
on windows of the training recordings, keeps the directions in which they differ most
(:func:`spolia.networks.node_matching.compression`). Vectors stay as they are.
"""

from __future__ import annotations

from pathlib import Path

import torch

from spolia.errors import TrainingError
from spolia.networks.architectures import build_encoder
from spolia.networks.node_matching import compression
from spolia.networks.sample_encoder import SampleEncoder
from spolia.training.classifying import frozen_batches
from spolia.training.initial import load_checkpoint, network_of
from spolia.training.mining import CHUNK, drawn_places
from spolia.training.recipe import DataConfig, Recipe, SamplingConfig
from spolia.training.running import RunOptions

PER_GROUP = 1  # windows that the map is fitted on


@torch.no_grad()
def shorten_nodes(
    checkpoint: Path, target: Path, options: RunOptions, *, dim: int = 64, seed: int = 1
) -> float:
    """Write a checkpoint of the same encoder with nodes of ``dim`` numbers.

    Returns the share of the standardised nodes' variance that is kept. Raises TrainingError where
    the encoder is not of the architecture "sample" or its nodes are short already.
    """
    torch.set_num_threads(options.threads)
    state = load_checkpoint(checkpoint)
    encoder = network_of(state).eval()
    if not isinstance(encoder, SampleEncoder) or encoder.shorten is not None:
        raise TrainingError(
            f"{checkpoint} is not of an encoder of samples whose nodes can be shortened; "
            'give one of the architecture "sample" as it was trained'
        )
    data = DataConfig(1, 1, offset=0.0, context=0.0, simulated_rooms=1)
    recipe = Recipe("short-nodes", seed=seed, data=data, sampling=SamplingConfig(use=True))
    batches = frozen_batches(encoder, recipe, options, "train")
    starts = drawn_places(batches, PER_GROUP, seed=seed).starts
    nodes = torch.cat([encoder.nodes(batches.spectrogram(some)) for some in starts.split(CHUNK)])
    weight, bias, kept = compression(nodes.flatten(0, 2), dim)
    settings = {**state["recipe"]["model"], "node_dim": dim}
    short = build_encoder("sample", settings)
    average = {**state["average"], "shorten.weight": weight, "shorten.bias": bias}
    short.load_state_dict(average)
    recipe_of = {**state["recipe"], "model": settings}
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    torch.save({**state, "recipe": recipe_of, "average": average, "model": {}}, partial)
    partial.replace(target)
    return kept
