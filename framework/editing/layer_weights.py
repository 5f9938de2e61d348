"""The weights of linear and convolutional layers and embeddings that a technique may draw afresh, and their fans."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from framework.editing.capabilities import CLAIMED_LAYERS
from framework.editing.names import choose, matches, nothing_matches
from framework.editing.technique import Context, Edit
from framework.errors import UserError
from framework.protocols import HasWeightParts, WeightPart

_LINEAR = (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear)
_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _weights(module: Any) -> Iterator[tuple[str, WeightPart]]:
    """Yields the kind and description of each weight of one layer."""
    kind: Any = type(module)  # a subclass may need its own initialisation
    if kind in _LINEAR:
        yield "linear", WeightPart("weight", module.in_features, module.out_features, bias="bias")
    elif kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers."):  # stores (in, out)
        inputs, outputs = module.weight.shape
        yield "linear", WeightPart("weight", inputs, outputs, bias="bias")
    elif kind is nn.MultiheadAttention:  # its output projection is a separate linear layer
        for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            weight = getattr(module, name)
            if weight is not None:
                yield "linear", WeightPart(name, weight.shape[1], module.embed_dim, bias="in_proj_bias")
    elif kind in _CONV + _TRANSPOSED:
        taps = math.prod(module.kernel_size)
        inputs, outputs = (n // module.groups for n in (module.in_channels, module.out_channels))
        yield "conv", WeightPart("weight", inputs * taps, outputs * taps, bias="bias")
    elif kind is nn.Embedding:
        yield "embedding", WeightPart("weight", module.embedding_dim, module.num_embeddings)
    elif isinstance(module, HasWeightParts):
        for part in module.weight_parts():
            yield "conv" if getattr(module, part.name).ndim > 3 else "linear", part


def _opted_out(model: nn.Module) -> set[str]:
    """Returns the names of modules that initialise themselves, or are adapters, with their submodules."""
    out: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        prefix = f"{name}." if name else ""
        if name.rpartition(".")[0] in out or getattr(module, "own_initialisation", False):
            out.add(name)
        if any(part.startswith("lora_") for part in name.split(".")):
            out.add(name)
        # PEFT's layers list their adapters' submodules
        out.update(prefix + child for child in getattr(module, "adapter_layer_names", ()))
    return out


def choose_weights(
    model: nn.Module,
    mode: str = "fan_in",
    kinds: Sequence[str] = ("linear", "conv"),
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    *,
    key: str,
) -> dict[str, dict[str, Any]]:
    """Maps the name of each weight to initialise to ``kind``, ``fan``, ``gain``, ``bias`` (or ``None``).

    A layer whose weight is computed from others (:class:`framework.protocols.HasWeightParts`) is initialised through
    these; ``gain`` is the ratio of its weight's standard deviation to theirs.

    Args:
        model: The model.
        mode: Definition of n: ``fan_in``, ``fan_out`` or ``official`` (the first dimension).
        kinds: Which layers: any of ``linear``, ``conv``, ``embedding``.
        include: Patterns of module names; all for ``None``.
        exclude: Patterns of module names to leave out.
        key: Name of the technique, for messages.

    Raises:
        UserError: nothing is found, or a pattern matches nothing; the message lists the nearest names.
    """
    out = _opted_out(model)
    known: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    taken: dict[int, dict[str, Any]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        parent = name.rpartition(".")[0]
        if parent in out:
            out.add(name)
        if name in out:
            continue
        for kind, part in _weights(module):
            weight = getattr(module, part.name)
            if not isinstance(weight, nn.Parameter) or not weight.is_floating_point():
                continue
            # a stack of templates counts as its matrices
            first = weight.shape[1] if isinstance(module, HasWeightParts) else weight.shape[0]
            fan = {"fan_in": part.fan_in, "fan_out": part.fan_out, "official": first}[mode]
            if id(weight) in taken:  # tied; a tie with an embedding makes it one
                if kind == "embedding":
                    taken[id(weight)].update(kind=kind, fan=fan)
                continue
            prefix = f"{name}." if name else ""
            found = isinstance(getattr(module, part.bias or "", None), nn.Parameter)
            bias = f"{prefix}{part.bias}" if found else None
            entry = {"kind": kind, "fan": fan, "gain": part.gain, "bias": bias}
            taken[id(weight)] = entry
            known.setdefault(name, []).append((prefix + part.name, entry))
    modules = [name for name, entries in known.items() if any(entry["kind"] in kinds for _, entry in entries)]
    if not modules:
        names = [name for name, _ in model.named_modules() if name]
        raise nothing_matches(" or ".join(kinds) + " layers", names, f"{key}.kinds")
    chosen = choose(modules, include, exclude, f"{key}.include")
    if not chosen:
        raise nothing_matches(", ".join(include or ("*",)), modules, f"{key}.exclude leaves nothing of include")
    return {weight: entry for name in chosen for weight, entry in known[name] if entry["kind"] in kinds}


def claimed_layers(technique: Edit, model: nn.Module, context: Context, include: Sequence[str] | None) -> list[str]:
    """Returns the layers whose own initialisation another technique needs (WINNER adds its noise to it).

    Args:
        technique: The technique that would draw them.
        model: The model.
        context: Of the run.
        include: Its patterns of module names, if there are any.

    Raises:
        UserError: ``include`` names one of them.
    """
    names: list[str] = []
    for other in context.offering(CLAIMED_LAYERS, technique):
        claimed = list(other.claimed(model))
        if both := [name for name in claimed if include and matches(name, include)]:
            raise UserError(
                f"{technique.name}.include: {both[0]!r} is not accepted with {other.name}, which needs the "
                "initialisation that this layer has; exclude it from one of them"
            )
        names += claimed
    return names
