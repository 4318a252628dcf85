"""Model files: ONNX graphs to vectors, from waveform or from vectors, run by ONNX Runtime.

A model file describes itself. Its metadata key ``spolia`` holds one JSON document with the fields
of :class:`ModelCard`. Weights are stored in half precision and computed in single precision: the
graph casts them once when the session starts.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from spolia.errors import ModelError, ModelNotFound

DEFAULT_SEGMENT_MODEL = "segment"
DEFAULT_COMPRESSOR = "compressed"
DEFAULT_SAMPLE_MODEL = "sample"
MODEL_FORMAT = 1

Vectors = npt.NDArray[np.float32]
M = TypeVar("M", bound="ModelFile")


@dataclass(frozen=True)
class ModelCard:
    """What a model file says of itself."""

    id: str  # kind and the first 12 hex digits of the SHA-256 of architecture and weights
    kind: str  # "segment", "compressed", "sample" or "classifier"
    name: str  # the recipe's name
    sample_rate: int  # Hz of the waveform it takes
    segment: int  # samples that one vector sees
    hop: int  # samples between vectors
    margin: int  # vectors at either end of a block that are influenced by the block's border
    dim: int  # size of a vector
    n_parameters: int
    architecture: dict[str, Any]  # complete settings of the network and its front end
    training: dict[str, Any]  # recipe, steps, seed, data with licences and attributions, version
    results: list[dict[str, Any]] = field(default_factory=list)  # measured figures with command
    calibration: dict[str, Any] = field(default_factory=dict)  # see spolia.calibration
    base: str = ""  # id of the model whose vectors this one takes; "" if it takes sound
    delay: dict[str, Any] = field(default_factory=dict)  # of rooms, see spolia.delay
    check: list[float] = field(default_factory=list)  # first vector's start for check_waveform()
    format: int = MODEL_FORMAT

    @classmethod
    def from_json(cls, text: str, path: Path) -> ModelCard:
        """Read the metadata; raises ModelError for another format."""
        known = {f.name for f in fields(cls)}
        try:
            values = json.loads(text)
            if values.get("format", 0) > MODEL_FORMAT:
                raise ModelError(
                    f"{path} has model format {values['format']}, this spolia reads "
                    f"{MODEL_FORMAT}; upgrade spolia"
                )
            return cls(**{k: v for k, v in values.items() if k in known})
        except (ValueError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{path} describes itself in a way that spolia cannot read ({error}); export it "
                "again"
            ) from error

    def to_json(self) -> str:
        """Return the metadata as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)


def check_waveform(sample_rate: int, n_samples: int) -> npt.NDArray[np.float32]:
    """Return the chirp with which a model file checks itself, float32 [shape=(n_samples,)]."""
    time = np.arange(n_samples) / sample_rate
    phase = 2 * np.pi * (200.0 * time + 350.0 * time**2)
    return (0.5 * np.sin(phase) * (1.0 + 0.5 * np.sin(2 * np.pi * 3.0 * time))).astype(np.float32)


def check_run(n_vectors: int, dim: int) -> Vectors:
    """Return the run with which a compressing model checks itself [shape=(n_vectors, dim)]."""
    angle = np.outer(np.arange(1, n_vectors + 1), np.arange(1, dim + 1)) * 0.37
    run = np.sin(angle)
    return np.asarray(run / np.linalg.norm(run, axis=1, keepdims=True), np.float32)


def open_session(path: Path, threads: int = 1) -> Any:
    """Return a session of ONNX Runtime; raises ModelNotFound or ModelError."""
    _must_exist(path)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"{path} is not a readable ONNX model: {error}") from error


def read_card(path: Path, session: Any = None) -> ModelCard:
    """Return what a model file says of itself; session: of the file, if one is open."""
    metadata = (session or open_session(path)).get_modelmeta().custom_metadata_map
    if "spolia" not in metadata:
        raise ModelError(f"{path} is an ONNX model but not one of spolia's; give another")
    return ModelCard.from_json(metadata["spolia"], path)


class ModelFile(ABC):
    """A model file, opened; its session starts when it is first needed."""

    tolerance = 1e-3  # of the self-check's values, about 0.1 each

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        _must_exist(path)
        self.path = path
        self.threads = threads

    @cached_property
    def _session(self) -> Any:
        return open_session(self.path, self.threads)

    @cached_property
    def card(self) -> ModelCard:
        """The model's description of itself."""
        return read_card(self.path, self._session)

    @abstractmethod
    def check(self) -> Vectors:
        """Return the vector of a fixed input, float32 [shape=(dim,)]."""

    def verify(self) -> float:
        """Return the largest deviation from the self-check vector stored in the file.

        Raises ModelError above ``tolerance``: this machine would make other fingerprints.
        """
        known = np.asarray(self.card.check, np.float32)
        deviation = float(np.abs(self.check()[: len(known)] - known).max())
        if not deviation < self.tolerance:
            raise ModelError(
                f"{self.path}: the self-check vector differs by {deviation:.2g}; "
                "the file or this machine's ONNX Runtime is faulty, reinstall both"
            )
        return deviation


class Encoder(ModelFile):
    """A network from waveform to vectors of segments, or of windows of samples."""

    @cached_property
    def can_warp(self) -> bool:
        """Whether the model can undo changes of pitch and tempo."""
        return "frames" in {i.name for i in self._session.get_inputs()}

    @cached_property
    def has_nodes(self) -> bool:
        """Whether the model gives node matrices beside vectors."""
        return "nodes" in {o.name for o in self._session.get_outputs()}

    @cached_property
    def has_short_nodes(self) -> bool:
        """Whether nodes are short enough to be stored, and columns of them make up windows."""
        return self.has_nodes and int(self.card.architecture.get("node_dim", 0)) > 0

    def n_frames(self, n_samples: int) -> int:
        """Return the number of frames of a waveform's spectrogram."""
        front = self.card.architecture["front_end"]
        return int(1 + (n_samples - front["n_fft"]) // front["hop_length"])

    def encode(
        self,
        waveforms: npt.NDArray[np.float32],
        *,
        semitones: float = 0.0,
        frames: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return vectors of waveforms, float32 [shape=(n_batch, n_segments, dim)], unit norm.

        waveforms: float32 [shape=(n_batch, n_samples)], n_samples ≥ card.segment. semitones: how
        much higher the sound shall be first; frames: fractional numbers of the spectrogram's
        frames to read instead of all, at least as many as a segment has. Both only where
        :attr:`can_warp`.
        """
        inputs = self._inputs(waveforms, semitones, frames)
        return np.asarray(self._session.run(["vectors"], inputs)[0], np.float32)

    def nodes(self, waveforms: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return what a classifier compares, float32 [shape=(n_batch, n_segments, n_nodes, d)].

        waveforms: as of :meth:`encode`. Only where :attr:`has_nodes`.
        """
        return self.with_nodes(waveforms)[1]

    def with_nodes(self, waveforms: npt.NDArray[np.float32]) -> tuple[Vectors, Vectors]:
        """Return what :meth:`encode` and :meth:`nodes` return, at the cost of one."""
        if not self.has_nodes:
            raise ModelError(f"{self.path} gives vectors alone; give a model with nodes")
        inputs = self._inputs(waveforms, 0.0, None)
        vectors, nodes = self._session.run(["vectors", "nodes"], inputs)
        return np.asarray(vectors, np.float32), np.asarray(nodes, np.float32)

    def _inputs(
        self,
        waveforms: npt.NDArray[np.float32],
        semitones: float,
        frames: npt.NDArray[np.float32] | None,
    ) -> dict[str, Any]:
        inputs = {"waveform": np.ascontiguousarray(waveforms)}
        if self.can_warp:
            front = self.card.architecture["front_end"]
            shift = semitones * front["bands_per_octave"] / 12
            inputs["bands"] = np.arange(front["n_bands"], dtype=np.float32) - np.float32(shift)
            everything = np.arange(self.n_frames(waveforms.shape[1]), dtype=np.float32)
            inputs["frames"] = everything if frames is None else frames
        elif semitones or frames is not None:
            raise ModelError(f"{self.path} cannot undo changes of pitch or tempo; give another")
        return inputs

    def check(self) -> Vectors:
        """Return the vector of a fixed sound, float32 [shape=(dim,)]."""
        card = self.card
        sound = check_waveform(card.sample_rate, card.segment + card.hop)
        return np.asarray(self.encode(sound[None])[0, 0])


class Compressor(ModelFile):
    """A network from a run of another model's vectors to one vector (AMG-Embedding)."""

    tolerance = 5e-3  # in int8: a last bit that another processor's sums differ by becomes a step

    @property
    def longest(self) -> int:
        """The most vectors that a run may have."""
        return int(self.card.architecture["longest"])

    def compress(self, runs: Vectors, padding: npt.NDArray[np.bool_]) -> Vectors:
        """Return a vector per run, float32 [shape=(n_runs, dim)], unit norm.

        runs: float32 [shape=(n_runs, n_vectors, dim_in)], n_vectors ≤ longest; padding: True behind
        a run's end [shape=(n_runs, n_vectors)].
        """
        inputs = {"runs": np.ascontiguousarray(runs, np.float32), "padding": padding}
        return np.asarray(self._session.run(["vectors"], inputs)[0], np.float32)

    def check(self) -> Vectors:
        """Return the vector of a fixed run, float32 [shape=(dim,)]."""
        run = check_run(self.longest, int(self.card.architecture["dim_in"]))
        return np.asarray(self.compress(run[None], np.zeros((1, len(run)), bool))[0])


class Classifier(ModelFile):
    """A network from the nodes of two windows of another model to the logit that they share sound.

    The model is the one that the card names as base; see :meth:`Encoder.nodes`.
    """

    def compare(self, queries: Vectors, candidates: Vectors) -> Vectors:
        """Return a logit per pair, float32 [shape=(n_pairs,)].

        queries, candidates: node matrices, float32 [shape=(n_pairs, n_nodes, d)].
        """
        inputs = {
            "query": np.ascontiguousarray(queries, np.float32),
            "candidate": np.ascontiguousarray(candidates, np.float32),
        }
        return np.asarray(self._session.run(["logits"], inputs)[0], np.float32)

    def check(self) -> Vectors:
        """Return the logits of fixed pairs, float32 [shape=(4,)]."""
        shape = self.card.architecture["n_nodes"], self.card.architecture["dim_in"]
        nodes = np.abs(check_run(5 * shape[0], shape[1])).reshape(5, *shape)
        return self.compare(nodes[:4], nodes[1:])


def shipped_models() -> list[str]:
    """Return the names of the models inside the package."""
    folder = resources.files("spolia") / "weights"
    return sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".onnx"))


KINDS: dict[str, type[ModelFile]] = {
    "segment": Encoder,
    "compressed": Compressor,
    "sample": Encoder,
    "classifier": Classifier,
}


def open_model(name: str, *, threads: int = 1) -> ModelFile:
    """Open a shipped model by name, or any model file by path, as what it is."""
    path = _path(name)
    kind = read_card(path).kind
    if kind not in KINDS:
        raise ModelError(f"{path} is a model of kind {kind!r}, unknown here; upgrade spolia")
    return KINDS[kind](path, threads=threads)


def open_encoder(
    name: str = DEFAULT_SEGMENT_MODEL, *, kind: str = "segment", threads: int = 1
) -> Encoder:
    """Open a model from sound to vectors, by name or path; kind: "segment" or "sample"."""
    return _checked(Encoder(_path(name), threads=threads), kind)


def open_compressor(name: str, *, threads: int = 1) -> Compressor:
    """Open a compressing model, by name or path."""
    return _checked(Compressor(_path(name), threads=threads), "compressed")


def open_classifier(name: str, encoder: Encoder) -> Classifier:
    """Open a classifier of an encoder's nodes, by name or path; ModelError for another's."""
    model = _checked(Classifier(_path(name)), "classifier")
    if model.card.base != encoder.card.id:
        raise ModelError(
            f"{model.path} compares nodes of {model.card.base}, not of {encoder.card.id}; "
            "give the classifier that was trained with the encoder"
        )
    return model


def check_exists(*names: str | None) -> None:
    """Raise ModelNotFound for the first name that stands for no model; None is passed over."""
    for name in names:
        if name is not None:
            _must_exist(_path(name))


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise ModelNotFound(
            f"{path} is not a model file; give a path or one of: {', '.join(shipped_models())}"
        )


def _path(name: str) -> Path:
    shipped = Path(str(resources.files("spolia") / "weights")) / f"{name}.onnx"
    return shipped if shipped.is_file() else Path(name)


def _checked(model: M, kind: str) -> M:
    if model.card.kind != kind:
        raise ModelError(
            f"{model.path} is a model of kind {model.card.kind!r}; give one of kind {kind!r}"
        )
    return model
