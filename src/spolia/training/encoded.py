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

EVERY = 9973  # of the pool's samples, one goes into the name of the folder

Tensors = dict[str, Tensor]


class EncodedFolder:
    """Tensors by name, each made once."""

    def __init__(self, cache: Path, encoder: Any, batches: BatchMaker, *facts: Any) -> None:
        """Take the folder of caches and what the content depends on."""
        digest = hashlib.sha256(json.dumps([asdict(batches.recipe), facts]).encode())
        for tensor in (*encoder.state_dict().values(), batches.tracks[::EVERY]):
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
