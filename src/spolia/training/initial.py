"""Weights to start from: a checkpoint, or a model file with its batch norms folded away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from pickle import PickleError
from typing import Any

import torch
from torch import Tensor, nn

from spolia.encoders import Encoder, open_encoder, open_model
from spolia.errors import MissingDependency, TrainingError
from spolia.networks.architectures import build_encoder
from spolia.networks.sample_encoder import SampleEncoder


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running code from it; raises TrainingError where it is none."""
    if not path.is_file():
        raise TrainingError(f"{path} does not exist; give a checkpoint of a run")
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, EOFError, KeyError, RuntimeError, TypeError, ValueError, PickleError) as error:
        reason = str(error).partition("\n")[0]
        raise TrainingError(
            f"{path} is not a checkpoint ({reason}); give the checkpoint of a run"
        ) from error


def network_of(state: dict[str, Any]) -> Any:
    """Return the encoder of a checkpoint, as :func:`load_checkpoint` reads it, averaged weights."""
    recipe = state["recipe"]
    model = build_encoder(recipe["architecture"], recipe["model"])
    model.load_state_dict(state["average"])
    return model


def load_initial(model: Any, source: str, example: Callable[[], Tensor]) -> None:
    """Put the weights that a recipe names into ``model``.

    source: a checkpoint (``.pt``, whose averaged weights are taken), a model file, or the name of a
    shipped model. example: returns log power of real sound, on which the batch norms of a model
    file are measured; called only then.
    """
    if source.endswith(".pt"):
        trained = network_of(load_checkpoint(Path(source)))
    else:
        file = open_model(source)
        if not isinstance(file, Encoder):
            raise TrainingError(f"{file.path} does not encode sound; give a model that does")
        trained = _unlike(model, file.card.architecture) or model
        unfold(trained, file, example())
    if trained is model:
        return
    try:
        grown = isinstance(model, SampleEncoder) and isinstance(trained, SampleEncoder)
        model.load_state_dict(model.grown_from(trained) if grown else trained.state_dict())
    except RuntimeError as error:
        raise TrainingError(
            f"{source} is of another architecture than the recipe's; "
            "give the recipe the architecture of the file, or no initial weights"
        ) from error


def _unlike(model: Any, architecture: dict[str, Any]) -> Any:
    """Return an untrained network with the blocks and inputs of a smaller one; None: the same."""
    if not isinstance(model, SampleEncoder):
        return None
    held = {"n_blocks": tuple(architecture["n_blocks"]), "peaks": architecture.get("peaks", False)}
    smaller = replace(model.config, **held)
    return None if smaller == model.config else SampleEncoder(smaller)


def load_trained(source: str, example: Callable[[], Tensor]) -> Any:
    """Return a trained network; source and example as of :func:`load_initial`."""
    if source.endswith(".pt"):
        return network_of(load_checkpoint(Path(source)))
    encoder = open_encoder(source)
    model = build_encoder("segment", encoder.card.architecture)
    unfold(model, encoder, example())
    return model


def unfold(model: Any, encoder: Encoder, log_power: Tensor) -> None:
    """Load a model file into a trainable network.

    The exporter folds each batch norm into the convolution before it. Here the norms are measured
    on ``log_power`` [shape=(n_batch, n_bands, n_frames)] and given the scale and shift that undo
    them, so that the network computes what the file does and can be trained on.
    Raises TrainingError where the file holds another architecture.
    """
    weights, biases, others = _read_weights(encoder.path)
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    for name in others.keys() & parameters.keys():
        parameters[name].data.copy_(others[name])
    for name, tensor in weights.items():
        module = modules.get(name)
        if not isinstance(module, nn.Conv1d | nn.Conv2d) or module.weight.shape != tensor.shape:
            raise TrainingError(
                f"{encoder.path} is of another architecture than the recipe's (at {name}); "
                "give the recipe the architecture of the file, or no initial weights"
            )
        module.weight.data.copy_(tensor)
        if module.bias is not None:
            module.bias.data.copy_(biases[name])
    shifts = _shifts_by_norm(model, biases)
    handles = [norm.register_forward_pre_hook(_neutralise(shift)) for norm, shift in shifts]
    model.eval()
    with torch.no_grad():
        model.embed(log_power)
    for handle in handles:
        handle.remove()


def _shifts_by_norm(model: Any, biases: dict[str, Tensor]) -> list[tuple[nn.Module, Tensor]]:
    """Pair each batch norm with the folded bias of the convolution that stands before it."""
    pairs: list[tuple[nn.Module, Tensor]] = []
    previous = ""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            previous = name
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            pairs.append((module, biases[previous]))
    return pairs


def _neutralise(shift: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """Return a hook that makes a batch norm add ``shift`` to what it is given, and nothing else."""

    def hook(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        axes = [i for i in range(inputs[0].ndim) if i != 1]
        mean, variance = inputs[0].float().mean(axes), inputs[0].float().var(axes, unbiased=False)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.data.copy_((variance + norm.eps).sqrt())
        norm.bias.data.copy_(mean + shift.to(mean.device))

    return hook


Weights = dict[str, Tensor]


def _read_weights(path: Path) -> tuple[Weights, Weights, Weights]:
    """Return a model file's weights and biases of convolutions by module, and scalars by name."""
    try:
        import onnx
    except ImportError as error:
        raise MissingDependency("onnx", "train") from error
    weights: Weights = {}
    biases: Weights = {}
    others: Weights = {}
    for tensor in onnx.load(str(path)).graph.initializer:
        values = torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
        name = tensor.name.removeprefix("encoder.").removesuffix("_half")  # see export.WithNodes
        if name.endswith(".weight") and values.ndim in (3, 4):
            weights[name.removesuffix(".weight")] = values.float()
        elif name.endswith((".weight_bias", ".bias")):
            biases[name.removesuffix(".weight_bias").removesuffix(".bias")] = values.float()
        elif values.ndim == 0:
            others[name] = values.float()
    return weights, biases, others
