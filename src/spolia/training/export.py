"""Export of a trained encoder to one self-describing ONNX file."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import spolia
from spolia.corpus import read_manifests, trainable
from spolia.encoders import ModelCard, open_encoder, open_model, read_card
from spolia.errors import MissingDependency
from spolia.networks.nafp import Nafp
from spolia.networks.run_encoder import RunEncoder, RunEncoderConfig
from spolia.networks.windows import NodeEncoder, WindowEncoder
from spolia.training.classifying import NodeClassifier, build_classifier, load_encoder
from spolia.training.initial import load_checkpoint, network_of

HALF_PRECISION_FROM = 4096  # elements; smaller tensors stay in single precision


def export_checkpoint(checkpoint: Path, target: Path, *, corpora: Sequence[Path] = ()) -> ModelCard:
    """Write a checkpoint's averaged weights as a model file and return its card."""
    state = load_checkpoint(checkpoint)
    training = _history(state, corpora)
    model = network_of(state).eval()
    return export_encoder(model, target, name=state["recipe"]["name"], training=training)


def _history(state: dict[str, Any], corpora: Sequence[Path]) -> dict[str, Any]:
    """Return what a card tells of the training behind a checkpoint."""
    return {
        "recipe": state["recipe"],
        "steps": int(state["step"]),
        "spolia": spolia.__version__,
        "torch": str(torch.__version__),
        "data": describe_data(corpora) if corpora else {},
    }


def export_encoder(model: Any, target: Path, *, name: str, training: dict[str, Any]) -> ModelCard:
    """Write an encoder as ONNX with its card; the file appears whole or not at all."""
    proto = _to_onnx(model)
    card = ModelCard(
        id=encoder_id(model),
        kind=_kind(model),
        name=name,
        sample_rate=model.config.front_end.sample_rate,
        segment=model.config.segment_samples,
        hop=model.config.hop_samples,
        margin=_margin(model),
        dim=model.config.dim,
        n_parameters=sum(p.numel() for p in model.parameters()),
        architecture=json.loads(json.dumps(asdict(model.config))),
        training=training,
    )
    _store_half(proto)
    write_card(proto, card)
    _save(proto, target)
    return _checked(target)


def encoder_id(model: Any) -> str:
    """Return the id of an encoder's model file: its kind and the hash of what it is."""
    return f"{_kind(model)}-{_content_hash(model)}"


def _kind(model: Any) -> str:
    return "sample" if isinstance(model, NodeEncoder) else "segment"


def _margin(model: Any) -> int:
    """Return the vectors at a block's ends that the running means beyond them reach."""
    if isinstance(model, Nafp | WindowEncoder):
        return 0
    return -(-(model.standardise.n_frames // 2) // model.config.hop_frames)


def export_embedding(checkpoint: Path, target: Path, *, corpora: Sequence[Path] = ()) -> ModelCard:
    """Write a checkpoint of an embedding encoder as a model file and return its card.

    The weights of linear layers are stored as int8 and computed so (dynamic quantisation), which
    on a CPU takes about half the time.
    """
    state = load_checkpoint(checkpoint)
    recipe = state["recipe"]
    base = open_encoder(recipe["fingerprint"]).card
    config = RunEncoderConfig(**{"dim_in": base.dim, **recipe["model"]})
    model = RunEncoder(config)
    model.load_state_dict(state["model"])
    training = _history(state, corpora)
    return export_run_encoder(
        model.eval(), target, name=recipe["name"], base=base, training=training
    )


def export_run_encoder(
    model: RunEncoder,
    target: Path,
    *,
    name: str,
    base: ModelCard,
    training: dict[str, Any],
    quantised: bool = True,
) -> ModelCard:
    """Write an embedding encoder over the vectors of ``base``; the file appears whole or not."""
    config = model.config
    proto = _quantised(_runs_to_onnx(model)) if quantised else _runs_to_onnx(model)
    card = ModelCard(
        id=f"compressed-{_content_hash(model)}",
        kind="compressed",
        name=name,
        sample_rate=base.sample_rate,
        segment=base.segment + (config.longest - 1) * base.hop,
        hop=base.hop,
        margin=0,
        dim=config.dim,
        n_parameters=sum(p.numel() for p in model.parameters()),
        architecture=json.loads(json.dumps(asdict(config))),
        training=training,
        base=base.id,
    )
    write_card(proto, card)
    _save(proto, target)
    return _checked(target)


def export_classifier(checkpoint: Path, target: Path, *, corpora: Sequence[Path] = ()) -> ModelCard:
    """Write a checkpoint of a classifier as a model file and return its card."""
    state = load_checkpoint(checkpoint)
    recipe = state["recipe"]
    encoder = load_encoder(recipe["encoder"])
    model = build_classifier(recipe["model"], encoder).eval()
    model.load_state_dict(state["model"])
    proto = _pairs_to_onnx(model)
    config = encoder.config
    card = ModelCard(
        id=f"classifier-{_content_hash(model)}",
        kind="classifier",
        name=recipe["name"],
        sample_rate=config.front_end.sample_rate,
        segment=config.segment_samples,
        hop=config.hop_samples,
        margin=0,
        dim=1,
        n_parameters=sum(p.numel() for p in model.parameters()),
        architecture=json.loads(json.dumps(asdict(model.config))),
        training=_history(state, corpora),
        base=encoder_id(encoder),
    )
    write_card(proto, card)
    _save(proto, target)
    return _checked(target)


def _pairs_to_onnx(model: NodeClassifier) -> Any:
    _onnx()
    shape = 2, model.config.n_nodes, model.config.dim_in
    n_pairs = torch.export.Dim("n_pairs")
    return _proto(
        torch.onnx.export(
            model,
            (torch.zeros(shape), torch.zeros(shape)),
            dynamo=True,
            opset_version=18,
            input_names=["query", "candidate"],
            output_names=["logits"],
            dynamic_shapes=({0: n_pairs}, {0: n_pairs}),
            verbose=False,
        )
    )


def _proto(program: Any) -> Any:
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    return program.model_proto


def _checked(target: Path) -> ModelCard:
    """Put the self-check vector into a model file's card."""
    check = open_model(str(target)).check()
    return update_card(target, check=[round(float(v), 6) for v in check[:8]])


def _runs_to_onnx(model: RunEncoder) -> Any:
    config = model.config
    example = torch.zeros(2, 3, config.dim_in), torch.zeros(2, 3, dtype=torch.bool)
    n_runs, n_vectors = (
        torch.export.Dim("n_runs"),
        torch.export.Dim("n_vectors", min=1, max=config.longest),
    )
    program = torch.onnx.export(
        model,
        example,
        dynamo=True,
        opset_version=18,
        input_names=["runs", "padding"],
        output_names=["vectors"],
        dynamic_shapes=({0: n_runs, 1: n_vectors}, {0: n_runs, 1: n_vectors}),
        verbose=False,
    )
    return _proto(program)


def _quantised(proto: Any) -> Any:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        whole, small = Path(folder) / "whole.onnx", Path(folder) / "small.onnx"
        _onnx().save(proto, str(whole))
        quantize_dynamic(whole, small, weight_type=QuantType.QInt8)
        return _onnx().load(str(small))


def update_card(path: Path, **changes: Any) -> ModelCard:
    """Change fields of a model file's card (results, calibration); weights and id stay."""
    onnx = _onnx()
    proto = onnx.load(str(path))
    card = replace(read_card(path), **changes)
    write_card(proto, card)
    _save(proto, path)
    return card


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise MissingDependency("onnx", "train") from error
    return onnx


def _to_onnx(model: Any) -> Any:
    _onnx()
    example: tuple[torch.Tensor, ...] = (
        torch.zeros(2, model.config.segment_samples + 3 * model.config.hop_samples),
    )
    names, shapes = ["waveform"], [{0: torch.export.Dim("n_batch"), 1: _dim("n_samples", 9000)}]
    if not isinstance(model, Nafp):  # its bands are not logarithmic: no shift undoes a pitch
        config = model.config
        example += (
            torch.arange(float(config.front_end.n_bands)),
            torch.arange(float(config.segment_frames + 2 * config.hop_frames)),
        )
        names += ["bands", "frames"]
        shapes += [{}, {0: _dim("n_frames", config.segment_frames)}]
    has_nodes = isinstance(model, NodeEncoder)
    program = torch.onnx.export(
        WithNodes(model) if has_nodes else model,
        example,
        dynamo=True,
        opset_version=18,
        input_names=names,
        output_names=["vectors", "nodes"] if has_nodes else ["vectors"],
        dynamic_shapes=tuple(shapes),
        verbose=False,
    )
    return _proto(program)


class WithNodes(torch.nn.Module):
    """An encoder that gives the nodes beside the vectors."""

    def __init__(self, encoder: NodeEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, waveform: torch.Tensor, bands: torch.Tensor, frames: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map as ``LogBandEncoder.forward``, to vectors and nodes."""
        return self.encoder.with_nodes(self.encoder.spectrogram(waveform, bands, frames))


def _dim(name: str, least: int) -> Any:
    return torch.export.Dim(name, min=least)


def _content_hash(model: Any) -> str:
    digest = hashlib.sha256(json.dumps(asdict(model.config), sort_keys=True).encode())
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().half().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _store_half(proto: Any) -> None:
    """Store large network weights in half precision with a cast behind each.

    The front end's Fourier matrices stay in single precision: their smallest values, times the
    window, are below the range of halves.
    """
    onnx = _onnx()
    casts = []
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.ndim < 4 or values.size < HALF_PRECISION_FROM:
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(
            onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT)
        )
    for cast in reversed(casts):
        proto.graph.node.insert(0, cast)


def write_card(proto: Any, card: ModelCard) -> None:
    """Put the card into the model's metadata."""
    del proto.metadata_props[:]
    entry = proto.metadata_props.add()
    entry.key, entry.value = "spolia", card.to_json()


def _save(proto: Any, target: Path) -> None:
    """Write a model, without the exporter's traces of where its code stood."""
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.write_bytes(proto.SerializeToString())
    partial.replace(target)


def describe_data(corpora: Sequence[Path]) -> dict[str, Any]:
    """Return counts, licences and attributions of all that was trained on."""
    return {
        kind: {
            "files": len(files),
            "attributions": sorted({f.attribution for f in files}),
        }
        for kind in ("track", "noise", "ir")
        for files in [trainable(read_manifests(corpora, kind))]
    }
