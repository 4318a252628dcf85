"""The named architectures that recipes and model files refer to."""

from __future__ import annotations

from typing import Any

from spolia.errors import TrainingError
from spolia.networks.front_end import FrontEndConfig
from spolia.networks.segment_encoder import SegmentEncoder, SegmentEncoderConfig


def build_encoder(architecture: str, settings: dict[str, Any]) -> Any:
    """Return a new encoder; ``settings`` override its config, ``front_end`` being a nested dict."""
    values = dict(settings)
    front_end = FrontEndConfig(**values.pop("front_end", {}))
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    if architecture == "segment":
        return SegmentEncoder(SegmentEncoderConfig(front_end=front_end, **values))
    raise TrainingError(f"unknown architecture {architecture!r}; known: segment, nafp")
