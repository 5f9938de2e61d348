"""What goes into and what comes out of a layer of any module, for all examples of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from framework.editing.names import nothing_matches
from framework.errors import UserError
from framework.functional.evaluating import evaluating
from framework.observing.probe import pair_of

Features = Literal["pre", "post", "both"]
"""Before a model's projection, after it, or one after the other."""


def find_projection(model: nn.Module, name: str | None = None, key: str = "projection") -> str:
    """Returns the full name of the layer that ends a model's features.

    Args:
        model: Any module.
        name: The layer's name; by default what ``get_classifier()`` of the model or a part returns (timm), else the
            last layer with a weight matrix. A layer with adapters (PEFT's, around a ``base_layer``) is one layer.
        key: The setting, for the message.

    Raises:
        UserError: there is no such layer, or no layer with weights.
    """
    modules = {own: module for own, module in model.named_modules() if own}
    if name is not None:
        if name not in modules:
            raise nothing_matches(name, list(modules), key)
        return name
    getters = [getattr(module, "get_classifier", None) for module in model.modules()]
    named = {id(get()) for get in getters if callable(get)}
    found = [own for own, module in modules.items() if id(module) in named]
    found = found or list(_layers(modules))
    if not found:
        raise nothing_matches("a layer with weights", list(modules), key)
    return found[-1]


def _layers(modules: dict[str, nn.Module]) -> Iterator[str]:
    """Names of the layers with weight matrices, what is around a layer counted and not what is inside."""
    around = ""
    for name, module in modules.items():
        if around and name.startswith(f"{around}."):
            continue
        if isinstance(getattr(module, "base_layer", None), nn.Module):
            around = name
            yield name
        elif any(p.ndim > 1 for p in module.parameters(recurse=False)):
            yield name


def wanted(features: Features) -> tuple[str, ...]:
    """Returns the features that a setting names."""
    return ("pre", "post") if features == "both" else (features,)


@torch.no_grad()
def embed(
    model: nn.Module,
    batches: Iterable[Any],
    projection: str,
    features: Features = "pre",
    device: torch.device | str = "cpu",
    key: str = "projection",
) -> tuple[dict[str, Tensor], Tensor]:
    """Returns embeddings of batches, in ``eval`` mode, on the CPU.

    Args:
        model: The model; called with a batch's inputs.
        batches: The batches, each inputs and targets.
        projection: Full name of the layer: what goes into it is ``pre``, what comes out of it is ``post``.
        features: Which of them.
        device: Of the model.
        key: The setting, for messages.

    Returns:
        Embeddings (N, d) by ``pre`` and ``post``, and targets (N, …).

    Raises:
        UserError: a batch has another form, or the layer is not called with one vector or feature map an example.
    """
    seen: dict[str, Any] = {}
    dtypes = (p.dtype for p in model.parameters() if p.is_floating_point())
    dtype = next(dtypes, torch.float32)  # of weights in half or double precision, as Lightning converts batches

    def keep(module: nn.Module, inputs: Sequence[Any], output: Any) -> None:
        seen.update(pre=inputs[0] if inputs else None, post=output)

    found: dict[str, list[Tensor]] = {name: [] for name in wanted(features)}
    targets: list[Tensor] = []
    handle = model.get_submodule(projection).register_forward_hook(keep)
    try:
        with evaluating(model):
            for batch in batches:
                x, y = pair_of(batch, key.partition(".")[0])
                seen.clear()
                model(x.to(device, dtype) if x.is_floating_point() else x.to(device))
                for name, parts in found.items():
                    value = seen.get(name)
                    while isinstance(value, tuple | list) and value:
                        value = value[0]
                    if not isinstance(value, Tensor) or value.ndim < 2 or len(value) != len(x):
                        raise UserError(
                            f"{key}: {projection} has no {'input' if name == 'pre' else 'output'} for each example of "
                            "a batch"
                        )
                    parts.append(value.flatten(1).float().cpu())
                targets.append(y.cpu())
    finally:
        handle.remove()
    if not targets:
        raise UserError(f"{key.partition('.')[0]}: there is no data")
    return {name: torch.cat(parts) for name, parts in found.items()}, torch.cat(targets)
