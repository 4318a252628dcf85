"""The named architectures that recipes and model files refer to."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from spolia.errors import TrainingError
from spolia.networks import graph_encoder, sample_resnet
from spolia.networks.front_end import FrontEndConfig
from spolia.networks.nafp import MelConfig, Nafp, NafpConfig
from spolia.networks.sample_encoder import SampleEncoder, SampleEncoderConfig, SampleFrontEnd
from spolia.networks.segment_encoder import SegmentEncoder, SegmentEncoderConfig


class Architecture(NamedTuple):
    """A network, its settings and those of its front end, and the sizes that have a name."""

    network: Any
    config: Any
    front_end: Any
    sizes: dict[str, dict[str, Any]] = {}  # noqa: RUF012


ARCHITECTURES = {
    "segment": Architecture(SegmentEncoder, SegmentEncoderConfig, FrontEndConfig),
    "sample": Architecture(SampleEncoder, SampleEncoderConfig, SampleFrontEnd),
    "nafp": Architecture(Nafp, NafpConfig, MelConfig),
    "graph": Architecture(
        graph_encoder.GraphEncoder,
        graph_encoder.GraphEncoderConfig,
        SampleFrontEnd,
        graph_encoder.SIZES,
    ),
    "sample-resnet": Architecture(
        sample_resnet.SampleResnet,
        sample_resnet.SampleResnetConfig,
        SampleFrontEnd,
        sample_resnet.SIZES,
    ),
}


def build_encoder(architecture: str, settings: dict[str, Any]) -> Any:
    """Return a new encoder; ``settings`` override its config, ``front_end`` being a nested dict.

    Where the architecture has named sizes, ``size`` may be one of them; settings beside it count.
    Raises TrainingError for an unknown architecture, size or setting.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise TrainingError(f"unknown architecture {architecture!r}; known: {known}")
    chosen = ARCHITECTURES[architecture]
    values = sized(chosen.sizes, settings)
    front = _fill(chosen.front_end, values.pop("front_end", {}), architecture)
    return chosen.network(_fill(chosen.config, {"front_end": front, **values}, architecture))


def sized(sizes: dict[str, dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with those that their ``size`` stands for, if they have one."""
    values = dict(settings)
    if not sizes or "size" not in values:
        return values
    size = values.pop("size")
    if size not in sizes:
        raise TrainingError(f"unknown size {size!r}; known: {', '.join(sizes)}")
    return {**sizes[size], **values}


def _fill(kind: Any, values: dict[str, Any], architecture: str) -> Any:
    known = {f.name for f in dataclasses.fields(kind)}
    if unknown := set(values) - known:
        raise TrainingError(
            f"architecture {architecture!r} has no setting {min(unknown)!r}; "
            f"known: {', '.join(sorted(known))}"
        )
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
