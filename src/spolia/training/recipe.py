"""Recipes: TOML files that say everything about one training run."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from spolia.errors import TrainingError
from spolia.training.degrade import DegradeConfig
from spolia.training.warp import MaskConfig, WarpConfig

T = TypeVar("T")


@dataclass(frozen=True)
class DataConfig:
    """What a batch is made of."""

    n_rows: int = 384  # anchor–positive pairs per batch, one per group
    n_segments: int = 3  # consecutive overlapping segments per row; each is a pair of its own
    offset: float = 0.25  # seconds by which a positive may be shifted, either way
    context: float = 1.0  # seconds of sound before the segment that reverberate into it
    simulated_rooms: int = 150  # shoebox rooms beside the measured responses
    room_variants: int = 0  # further rooms made of each measured one; see responses.vary
    generated: int = 0  # pieces of generated music beside the recordings; see generator.py
    generated_seconds: float = 12.0  # length of each
    coded: float = 0.0  # share of positives cut from tracks that went through a lossy codec


@dataclass(frozen=True)
class OptimiserConfig:
    """How the weights move."""

    steps: int = 3000
    learning_rate: float = 2e-3  # peak; linear warm-up, then cosine to 1 %
    warmup: int = 150  # steps
    weight_decay: float = 0.01
    loss: str = "nt_xent"  # or "triplet", with semi-hard negatives
    temperature: float = 0.05  # NT-Xent
    learn_temperature: bool = False  # beginning there
    margin: float = 0.5  # of the triplet loss, squared distances
    ema: float = 0.995  # decay of the averaged weights that are validated and exported
    chunk: int = 0  # rows that the network holds at once, see caching.py; 0: all
    mixed_precision: bool = (
        True  # bfloat16 in the network, where the device has it; not in features
    )


@dataclass(frozen=True)
class TeacherConfig:
    """A trained network whose similarities the new one imitates."""

    weights: str = ""  # checkpoint, model file or shipped model with the same front end; "": none
    share: float = 0.5  # of the loss that is imitation
    temperature: float = 0.05  # of the teacher's similarities


@dataclass(frozen=True)
class MiningConfig:
    """Hard negatives: places of other groups that a frozen network finds similar."""

    weights: str = ""  # checkpoint, model file or shipped model; "": no mining
    share: float = 0.5  # of a batch's rows that are the neighbours of other rows
    n_places: int = 24  # per group, among which neighbours are looked for
    n_neighbours: int = 8  # of each place, one of which is drawn


@dataclass(frozen=True)
class SamplingConfig:
    """What is done to a sample; probabilities in [0, 1]. Pitch and tempo: see WarpConfig."""

    use: bool = False  # instead of the degradation chain
    bed: float = 0.9  # other music over it
    bed_db: tuple[float, float] = (-12.0, 10.0)  # level of the bed over the sample's
    stems: float = 0.0  # parts of the recording alone, where it has stems; see stems.py
    apart: bool = False  # as a bed, a recording gives other parts than as a sample
    voice: float = 0.0  # speech over mixtures, from noise of the category "speech"
    voice_db: tuple[float, float] = (-9.0, 6.0)  # its level over the mixture's
    left_out: bool = False  # pairs within recordings instead of mixtures; see left_out.py
    chop: float = 0.0  # cut into slices and put into another order
    loop: float = 0.3  # a part of the window, repeated
    loop_seconds: tuple[float, float] = (0.4, 2.2)
    part: float = 0.35  # heard in a part of the window only
    least_part: float = 0.4  # share of the window
    equaliser: float = 0.7
    equaliser_db: float = 6.0  # standard deviation of its control points
    edge: float = 0.4  # high- or low-pass filter
    edge_db: float = 30.0  # what it takes off at the far end, at most
    reverb: float = 0.25
    reverb_seconds: tuple[float, float] = (0.2, 1.2)  # to decay by 60 dB


@dataclass(frozen=True)
class LateConfig:
    """Nodes that learn to find theirs in other windows, see late.py; of the model "sample"."""

    share: float = 0.0  # of the loss; needs ``node_dim`` in [model]
    temperature: float = 1.0  # of agreement, in deviations


@dataclass(frozen=True)
class Recipe:
    """One training run of a fingerprint encoder."""

    name: str
    architecture: str = "segment"  # or "nafp", "sample", "graph", "sample-resnet"
    model: dict[str, Any] = field(default_factory=dict)  # size, and overrides of the config
    seed: int = 0
    initial: str = ""  # weights to start from: a checkpoint, a model file or a shipped model
    data: DataConfig = field(default_factory=DataConfig)
    degrade: DegradeConfig = field(default_factory=DegradeConfig)
    warp: WarpConfig = field(default_factory=WarpConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    mining: MiningConfig = field(default_factory=MiningConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    late: LateConfig = field(default_factory=LateConfig)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe of a fingerprint encoder; see :func:`read_recipe`."""
    return read_recipe(path, Recipe)


def read_recipe(path: Path, kind: type[T]) -> T:
    """Read a recipe; an unknown key or a wrong type raises TrainingError that names the nearest.

    ``base = "FILE"`` in a recipe names another one, relative to it, whose settings hold where the
    recipe says nothing else.
    """
    values = {"name": path.stem} | read_values(path)
    return build(kind, values, str(path))


def read_values(path: Path, readers: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the settings of a recipe on top of its bases'; ``readers`` build on it."""
    if path.resolve() in readers:
        raise TrainingError(f"{path} builds on itself; take out a 'base'")
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise TrainingError(f"{path} does not exist; give the path of a recipe") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TrainingError(f"{path} is not a readable TOML recipe: {error}") from error
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise TrainingError(f"{path}: base: {base!r} is not the name of a file")
    inherited = read_values(path.parent / base, (*readers, path.resolve()))
    inherited.pop("name", None)
    return _merged(inherited, values)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return ``below`` with the settings of ``above`` in place of its own, table by table."""
    result = dict(below)
    for key, value in above.items():
        inner = below.get(key)
        if isinstance(value, dict) and isinstance(inner, dict):
            value = _merged(inner, value)
        result[key] = value
    return result


def build(kind: type[T], values: dict[str, Any], place: str) -> T:
    """Make a dataclass from nested dicts, checking names and types."""
    hints = typing.get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(hints)}"
            raise TrainingError(f"{place}: unknown key {key!r}{hint}")
        arguments[key] = _convert(hints[key], value, f"{place}: {key}")
    return kind(**arguments)


def _convert(hint: Any, value: Any, place: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return build(typing.cast(type[Any], hint), value, place)
    origin = typing.get_origin(hint) or hint
    if origin is tuple and isinstance(value, list):
        return tuple(value)
    if origin is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    fits = isinstance(value, origin) and (origin is bool or not isinstance(value, bool))
    if isinstance(origin, type) and not fits:
        raise TrainingError(f"{place}: {value!r} is not of type {origin.__name__}")
    return value
