"""Converts the attention of a model to Liger attention and back, in place, without adding or removing parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from callbacks.liger.attention import TRANSFORMERS, LigerAttention, Recipe, convert, kind_of, revert
from callbacks.liger.gates import Variant
from framework.editing import choose
from framework.errors import UserError

RECORD = "liger"
"""Key in a config of transformers with the recipe for which its weights were trained."""


def attentions(model: nn.Module) -> list[str]:
    """Returns the names of the softmax attention layers that can be converted, in the model's order."""
    return [name for name, module in model.named_modules() if kind_of(module) is not None]


def converted(model: nn.Module) -> dict[str, LigerAttention]:
    """Returns the converted layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LigerAttention)}


def select(model: nn.Module, layers: Sequence[str] | None = None, hybrid_every: int = 0) -> list[str]:
    """Returns the names of the layers to convert.

    Args:
        model: Any model.
        layers: Names or patterns; all that can be converted by default.
        hybrid_every: Every n-th of them is not converted (8 in the paper's "-H"); 0 converts all.

    Raises:
        UserError: there is no such layer.
    """
    if hybrid_every < 0 or hybrid_every == 1:
        raise UserError(f"liger.hybrid_every: {hybrid_every} is not accepted; 0 (all are converted), or 2 and more")
    known = attentions(model)
    if not known:
        if done := converted(model):
            raise UserError(f"liger: the {len(done)} attention layers are linearised already")
        found = {type(module).__name__ for module in model.modules() if "attention" in type(module).__name__.lower()}
        raise UserError(
            f"liger: {type(model).__name__} has no attention that can be linearised; accepted: that of "
            f"transformers' {', '.join(name.removesuffix('Attention') for name in TRANSFORMERS)} and of "
            f"TransformerLM; found: {', '.join(sorted(found)) or 'none'}"
        )
    names = choose(known, layers, key="liger.layers")
    return [name for i, name in enumerate(names) if not hybrid_every or (i + 1) % hybrid_every]


def linearize(
    model: nn.Module,
    variant: Variant = "gla",
    tau: float | None = None,
    window: int = 64,
    alpha: float = 0.5,
    beta: float = 0.5,
    *,
    hybrid_every: int = 0,
    layers: Sequence[str] | None = None,
    gate_projection: bool = False,
    slots: int = 64,
    lower_bound: float = 0.0,
    chunk: int = 64,
) -> nn.Module:
    """Replaces softmax attention by α · recurrence + β · attention to a window, in place; weights are not changed.

    Args:
        model: A model with attention layers of transformers' Llama, Mistral, Qwen2 or Qwen3, or of this project's
            TransformerLM.
        variant: ``gla``, ``hgrn2``, ``gsa``, ``rwkv6``, ``mamba2``, ``retention``, ``mlstm``, or ``linear`` (no decay).
        tau: Temperature of the decays; the variant's own by default, 16 for gla.
        window: w, number of tokens of the softmax attention.
        alpha: Weight of the recurrence.
        beta: Weight of the windowed attention.
        hybrid_every: Every n-th attention layer is not converted; 0 converts all.
        layers: Names or patterns of the attention layers; all by default.
        gate_projection: Whether the decays are computed from a random projection of the input, a new parameter
            ``gate_proj`` in each layer, rather than from the key (the paper's ablation).
        slots: Number of slots of ``gsa``.
        lower_bound: Lower bound of the decays of ``hgrn2``.
        chunk: Number of positions in a chunk.

    Returns:
        The model.

    Raises:
        UserError: a setting is not accepted, or there is nothing to convert.
    """
    recipe = Recipe(variant, tau, window, alpha, beta, slots, lower_bound, chunk)
    names = select(model, layers, hybrid_every)
    convert_layers(model, names, recipe)
    if gate_projection:
        add_gate_projections(model, names)
    return model


def convert_layers(model: nn.Module, names: Sequence[str], recipe: Recipe) -> None:
    """Converts the named layers, and records it in the config of a model of transformers.

    Args:
        model: The model; changed in place.
        names: Names of softmax attention layers.
        recipe: The settings of the conversion.
    """
    for name in names:
        convert(model.get_submodule(name), recipe)
    for prefix, part in _pretrained(model).items():
        inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        if inside:
            setattr(part.config, RECORD, {**recipe.to_plain(), "layers": inside})


def add_gate_projections(model: nn.Module, names: Sequence[str]) -> None:
    """Adds a random projection to each layer, to as many numbers as a key has."""
    for name in names:
        layer: Any = model.get_submodule(name)
        weight = layer.k_proj.weight
        layer.gate_proj = nn.Linear(weight.shape[1], weight.shape[0], bias=False).to(weight)


def restore(model: nn.Module) -> nn.Module:
    """Restores softmax attention in every converted layer, in place, with the current weights."""
    for layer in converted(model).values():
        revert(layer)
    for part in _pretrained(model).values():
        if hasattr(part.config, RECORD):
            delattr(part.config, RECORD)
    return model


@contextlib.contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """A context manager in which every converted layer computes softmax attention."""
    layers = list(converted(model).values())
    before = [layer.as_original for layer in layers]
    for layer in layers:
        layer.as_original = True
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.as_original = value


def linearize_as_recorded(model: nn.Module) -> nn.Module:
    """Converts a model of transformers as recorded in its config.

    It is for a model that was linearised, trained and saved, which transformers itself loads with softmax attention.

    Raises:
        UserError: its config has no such record.
    """
    for part in _pretrained(model).values():
        record: Mapping[str, Any] | None = getattr(part.config, RECORD, None)
        if record is not None:
            values = dict(record)
            names = values.pop("layers")
            convert_layers(part, names, Recipe(**values))
            return model
    raise UserError(f"liger: the config of {type(model).__name__} has no {RECORD!r}: it was not linearised")


def _pretrained(model: nn.Module) -> dict[str, Any]:
    """Returns the outermost models of transformers within a model, by the prefix of their names."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(prefix) for prefix in found)
        if not inside and hasattr(module, "save_pretrained") and hasattr(module, "config"):
            found[f"{name}." if name else ""] = module
    return found


__all__ = ["attentions", "convert_layers", "converted", "disabled", "linearize", "linearize_as_recorded", "restore"]
