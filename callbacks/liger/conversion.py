"""Turning the attention of a model into Liger attention and back, in place, without a parameter more or less."""

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
"""Under which name a config of transformers records what its weights were trained for."""


def attentions(model: nn.Module) -> list[str]:
    """Names of the softmax attention layers that can be converted, in the model's order."""
    return [name for name, module in model.named_modules() if kind_of(module) is not None]


def converted(model: nn.Module) -> dict[str, LigerAttention]:
    """The converted layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LigerAttention)}


def select(model: nn.Module, layers: Sequence[str] | None = None, hybrid_every: int = 0) -> list[str]:
    """The layers to convert.

    Args:
        model: Any model.
        layers: Names or patterns; all that can be converted by default.
        hybrid_every: Every so many-th of them stays as it is (8 in the paper's "-H"); 0 for none.

    Raises:
        UserError: there is none.
    """
    if hybrid_every < 0 or hybrid_every == 1:
        raise UserError(f"liger.hybrid_every: {hybrid_every} is not accepted; 0 (none stays), or 2 and more")
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
    """Replaces softmax attention by α · recurrence + β · attention to a window, in place; weights stay as they are.

    Args:
        model: With attention layers of transformers' Llama, Mistral, Qwen2 or Qwen3, or of our own TransformerLM.
        variant: ``gla``, ``hgrn2``, ``gsa``, ``rwkv6``, ``mamba2``, ``retention``, ``mlstm``, or ``linear`` (no decay).
        tau: Temperature of the decays; the variant's own by default, 16 for gla.
        window: w, tokens that the attention still sees.
        alpha: Weight of the recurrence.
        beta: Weight of the windowed attention.
        hybrid_every: Every so many-th attention stays as it is; 0 for none.
        layers: Names or patterns of the attention layers; all by default.
        gate_projection: Whether the decays come from a random projection of the input, a new parameter ``gate_proj``
            in each layer, rather than from the key (the paper's ablation).
        slots: Of ``gsa``.
        lower_bound: Of the decays of ``hgrn2``.
        chunk: Positions in a chunk.

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
    """Converts the named layers, and says so in the config of a model of transformers.

    Args:
        model: Changed in place.
        names: Of attention layers of softmax.
        recipe: What they compute from now on.
    """
    for name in names:
        convert(model.get_submodule(name), recipe)
    for prefix, part in _pretrained(model).items():
        inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        if inside:
            setattr(part.config, RECORD, {**recipe.to_plain(), "layers": inside})


def add_gate_projections(model: nn.Module, names: Sequence[str]) -> None:
    """Gives each layer a random projection to as many numbers as a key has."""
    for name in names:
        layer: Any = model.get_submodule(name)
        weight = layer.k_proj.weight
        layer.gate_proj = nn.Linear(weight.shape[1], weight.shape[0], bias=False).to(weight)


def restore(model: nn.Module) -> nn.Module:
    """Gives every converted layer its softmax attention back, in place, with the weights of now."""
    for layer in converted(model).values():
        revert(layer)
    for part in _pretrained(model).values():
        if hasattr(part.config, RECORD):
            delattr(part.config, RECORD)
    return model


@contextlib.contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within it every converted layer computes softmax attention again."""
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
    """Converts a model of transformers as its config records it: one that was linearised, trained and written to a
    folder, which transformers by itself reads as softmax attention.

    Raises:
        UserError: its config records nothing.
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
    """The outermost models of transformers within a model, by the prefix of their names."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(prefix) for prefix in found)
        if not inside and hasattr(module, "save_pretrained") and hasattr(module, "config"):
            found[f"{name}." if name else ""] = module
    return found


__all__ = ["attentions", "convert_layers", "converted", "disabled", "linearize", "linearize_as_recorded", "restore"]
