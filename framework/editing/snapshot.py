"""Saves a model's structure by reference, copying only dicts, so that it can be restored."""

from __future__ import annotations

from typing import Any

from torch import nn

_STRUCTURE = ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set")


def _held(key: str, value: Any) -> Any:
    """Copies containers that an edit changes in place; keeps everything else by reference."""
    return type(value)(value) if key in _STRUCTURE or (key.endswith("_hooks") and isinstance(value, dict)) else value


class Snapshot:
    """The modules, parameters, buffers, hooks, attributes and ``requires_grad`` flags of a model.

    Values are not saved: a tensor that was written to is not restored.
    """

    def __init__(self, model: nn.Module) -> None:
        self._root = model
        self._parts = [(m, type(m), {k: _held(k, v) for k, v in vars(m).items()}) for m in model.modules()]
        self._flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]

    def restore(self) -> None:
        """Restores everything; of the root module only the structure, as its other attributes belong to the run."""
        for module, kind, attributes in self._parts:
            fresh = {key: _held(key, value) for key, value in attributes.items()}
            if module is self._root:
                vars(module).update({k: v for k, v in fresh.items() if k in _STRUCTURE or k.endswith("_hooks")})
            else:
                module.__class__ = kind
                vars(module).clear()
                vars(module).update(fresh)
        for parameter, flag in self._flags:
            parameter.requires_grad_(flag)
