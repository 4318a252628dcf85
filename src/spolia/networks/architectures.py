"""The named architectures that recipes and model files refer to."""

from __future__ import annotations

import dataclasses
from typing import Any

from spolia.errors import TrainingError
from spolia.networks.front_end import FrontEndConfig
from spolia.networks.nafp import MelConfig, Nafp, NafpConfig
from spolia.networks.sample_encoder import SampleEncoder, SampleEncoderConfig, SampleFrontEnd
from spolia.networks.segment_encoder import SegmentEncoder, SegmentEncoderConfig

ARCHITECTURES: dict[str, tuple[Any, Any, Any]] = {
    "segment": (SegmentEncoder, SegmentEncoderConfig, FrontEndConfig),
    "sample": (SampleEncoder, SampleEncoderConfig, SampleFrontEnd),
    "nafp": (Nafp, NafpConfig, MelConfig),
}


def build_encoder(architecture: str, settings: dict[str, Any]) -> Any:
    """Return a new encoder; ``settings`` override its config, ``front_end`` being a nested dict.

    Raises TrainingError for an unknown architecture or setting.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise TrainingError(f"unknown architecture {architecture!r}; known: {known}")
    network, config, front_end = ARCHITECTURES[architecture]
    values = dict(settings)
    front = _fill(front_end, values.pop("front_end", {}), architecture)
    return network(_fill(config, {"front_end": front, **values}, architecture))


def _fill(kind: Any, values: dict[str, Any], architecture: str) -> Any:
    known = {f.name for f in dataclasses.fields(kind)}
    if unknown := set(values) - known:
        raise TrainingError(
            f"architecture {architecture!r} has no setting {min(unknown)!r}; "
            f"known: {', '.join(sorted(known))}"
        )
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
