"""What a frozen encoder made of training windows, kept in files: encoding is most of the work.

A run that is interrupted reads it back instead of encoding anew. A folder is named after all that
its content depends on, so nothing in it is ever out of date.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spolia.training.batches import BatchMaker
from spolia.training.sampling import SampleBatchMaker

EVERY = 9973  # of a pool's samples, one tells it from others
EVERY_BIN = 97  # of a response's bins, likewise

Tensors = dict[str, Tensor]


def heard(batches: BatchMaker) -> bytes:
    """Return a digest of the sound that batches are made of, wherever its files are."""
    responses = batches.degrader.responses
    stems = batches.stems if isinstance(batches, SampleBatchMaker) else None
    tensors = (batches.tracks, batches.noise, batches.coded, stems)
    sampled = [None if of is None else of[..., ::EVERY] for of in tensors]
    sampled += [of[..., ::EVERY_BIN] for of in (responses.rooms, responses.microphones)]
    digest = hashlib.sha256()
    for tensor in sampled:
        digest.update(f"{None if tensor is None else tuple(tensor.shape)}".encode())
        if tensor is not None:
            digest.update(tensor.cpu().numpy().tobytes())
    return digest.digest()


class EncodedFolder:
    """Tensors by name, each made once."""

    def __init__(self, cache: Path, encoder: Any, batches: BatchMaker, *facts: Any) -> None:
        """Take the folder of caches and what the content depends on."""
        digest = hashlib.sha256(json.dumps([asdict(batches.recipe), facts]).encode())
        digest.update(heard(batches))
        for tensor in encoder.state_dict().values():
            digest.update(tensor.detach().cpu().numpy().tobytes())
        self.folder = cache / f"encoded-{digest.hexdigest()[:16]}"

    def get(self, name: str, make: Callable[[], Tensors], device: torch.device) -> Tensors:
        """Return what is kept under a name, made now if it is not there."""
        path = self.folder / f"{name}.pt"
        if path.is_file():
            return dict(torch.load(path, map_location=device, weights_only=True))
        made = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        torch.save({key: tensor.cpu() for key, tensor in made.items()}, partial)
        partial.replace(path)
        return made
