"""Loads pretrained weights from a local file into a backbone, and reports every tensor that does not fit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor, nn

from framework.checkpoints.weights_file import read_weights_file
from framework.errors import UserError
from framework.functional.matching import compare_tensors, shortened, without_prefix
from framework.settings import one_of

WeightsHead = Literal["if_fits", "skip", "strict"]


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads a state dict as :func:`framework.checkpoints.weights_file.read_weights_file` does.

    A prefix ``module.`` or ``backbone.`` that all names share is removed.

    Raises:
        UserError: the file is missing, is not of its format, or is not a dict of tensors by name.
    """
    state, _ = read_weights_file(path)
    for prefix in ("module.", "backbone."):
        if all(name.startswith(prefix) for name in state):
            state = without_prefix(state, prefix)
    return state


def head_parameters(model: nn.Module) -> set[str]:
    """Returns names of the tensors of the classifier head, as the backbone's ``get_classifier`` gives it."""
    get_classifier = getattr(model, "get_classifier", None)
    found = get_classifier() if callable(get_classifier) else None
    heads = [part for part in (found if isinstance(found, tuple | list) else [found]) if isinstance(part, nn.Module)]
    names = {name for name, module in model.named_modules() if name and any(module is head for head in heads)}
    return {key for key in model.state_dict() if any(key.startswith(f"{name}.") for name in names)}


def load_weights(model: nn.Module, path: str | Path, head: WeightsHead = "if_fits") -> list[str]:
    """Loads ``path`` into ``model``; all tensors except the head must match.

    If timm has a converter for the model (other names, position embeddings of another image size), it is applied.

    Args:
        model: The backbone; not changed if anything does not fit.
        path: See :func:`read_weights`.
        head: ``if_fits`` loads the head if its shapes match, ``skip`` never loads it, ``strict`` raises an error if
            they do not match.

    Returns:
        Names of the head's tensors that keep their initial values.

    Raises:
        UserError: see :func:`read_weights`; or tensors are missing, unexpected or of another shape (the message lists
            all).
    """
    one_of(get_args(WeightsHead), weights_head=head)
    state = read_weights(path)
    converter = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if callable(converter):
        try:
            state = dict(converter(state, model))
        except Exception as error:  # the converter expects checkpoints that fit
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
    fit = compare_tensors({name: value for name, value in own.items() if name not in kept}, state)
    if not fit.complete:
        lines = shortened(fit.problems(own, state))
        raise UserError(f"weights: {path} does not fit {type(model).__name__}:\n  {lines}")
    model.load_state_dict(state, strict=False)
    return kept
