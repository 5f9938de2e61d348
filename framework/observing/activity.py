"""The activity of a layer of any module for given inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from framework.editing.names import nothing_matches
from framework.errors import UserError


def activity_of(model: nn.Module, x: Tensor, layer: str | None = None, key: str = "layer") -> Tensor:
    """Returns the activity (P, …, flattened) of a layer for inputs x (P, …).

    Args:
        model: The model; called once, without gradients.
        x: The inputs.
        layer: Name of a submodule, whose (first) output is returned; by default the input of the last linear layer.
        key: The setting with the layer's name, for messages.

    Raises:
        UserError: there is no such layer, or it was not called on these inputs.
    """
    seen: list[Any] = []
    modules = dict(model.named_modules())
    if layer is None:
        layers = [m for m in modules.values() if any(p.ndim > 1 for p in m.parameters(recurse=False))]
        if not layers:
            raise nothing_matches("a layer with weights", [name for name in modules if name], key)
        handle = layers[-1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    else:
        if layer not in modules:
            raise nothing_matches(layer, [name for name in modules if name], key)
        handle = modules[layer].register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        with torch.no_grad():
            model(x)
    finally:
        handle.remove()
    found = seen[-1] if seen else None
    while isinstance(found, (tuple, list)):
        found = found[0]
    if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != len(x):
        raise UserError(f"{key}: {layer or 'the last layer with weights'} gives no activity for each point of a batch")
    return found.detach().flatten(1)
