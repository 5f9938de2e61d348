"""Pretrained weights from a local file into a backbone, every mismatch reported by tensor."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from framework.errors import UserError

HEADS = ("if_fits", "skip", "strict")
_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
_SHOWN = 40


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads a state dict: ``.safetensors``, or what ``torch.save`` wrote, opened with ``weights_only=True``.

    A state dict inside a checkpoint (under ``state_dict``, ``model``, …; the averaged one first, as timm does) is
    taken out, and a prefix ``module.`` or ``backbone.`` that all names share is dropped.

    Raises:
        UserError: the file is missing, is not of its format, or holds something else than tensors by name.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"weights: {path} not found; expected a local file, .pth, .pt, .ckpt or .safetensors")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"weights: {path} holds more than tensors and plain data, or is broken: {error}") from error
    except Exception as error:  # safetensors and zip raise types of their own
        raise UserError(f"weights: {path} cannot be read: {error}") from error
    if isinstance(content, Mapping):
        inner = (content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping))
        content = next(inner, content)
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"weights: {path} is not a state dict (tensors by name), nor a checkpoint with one inside")
    state = {str(name): value for name, value in content.items()}
    for prefix in ("module.", "backbone."):
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def head_parameters(model: nn.Module) -> set[str]:
    """Names of the tensors of the classifier head, as the backbone's ``get_classifier`` gives it."""
    get_classifier = getattr(model, "get_classifier", None)
    found = get_classifier() if callable(get_classifier) else None
    heads = [part for part in (found if isinstance(found, tuple | list) else [found]) if isinstance(part, nn.Module)]
    names = {name for name, module in model.named_modules() if name and any(module is head for head in heads)}
    return {key for key in model.state_dict() if any(key.startswith(f"{name}.") for name in names)}


def load_weights(model: nn.Module, path: str | Path, head: str = "if_fits") -> list[str]:
    """Loads ``path`` into ``model``, strictly but for the head.

    Where timm has a converter for the model (other naming, position embeddings of another image size) it is applied.

    Args:
        model: The backbone; left as it was when anything does not fit.
        path: See :func:`read_weights`.
        head: ``if_fits`` loads the head where shapes agree, ``skip`` never, ``strict`` insists.

    Returns:
        Names of the head's tensors that keep their initial values.

    Raises:
        UserError: see :func:`read_weights`; or tensors are missing, left over or of another shape: all are listed.
    """
    if head not in HEADS:
        raise UserError(f"weights_head: {head!r} is not one of {', '.join(HEADS)}")
    state = read_weights(path)
    converter = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if callable(converter):
        try:
            state = dict(converter(state, model))
        except Exception as error:  # it was written for checkpoints that fit
            raise UserError(f"weights: {path} is not of a {type(model).__name__}: {error}") from error
    own = model.state_dict()
    kept: list[str] = []
    if head != "strict":
        names = head_parameters(model)
        fits = all(name in state and state[name].shape == own[name].shape for name in names)
        if head == "skip" or not fits:
            kept = sorted(names)
            prefixes = {name.rpartition(".")[0] + "." for name in names}
            state = {name: value for name, value in state.items() if not name.startswith(tuple(prefixes))}
    problems = [f"{name}: missing in the file, {_shape(own[name])} expected" for name in own if name not in state]
    problems = [line for line in problems if line.partition(":")[0] not in kept]
    for name, value in state.items():
        if name not in own:
            problems.append(f"{name}: {_shape(value)} in the file, the model has no such tensor")
        elif value.shape != own[name].shape:
            problems.append(f"{name}: {_shape(value)} in the file, {_shape(own[name])} in the model")
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        lines = "\n  ".join(problems[:_SHOWN] + more)
        raise UserError(f"weights: {path} does not fit {type(model).__name__}:\n  {lines}")
    model.load_state_dict(state, strict=False)
    return kept


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
