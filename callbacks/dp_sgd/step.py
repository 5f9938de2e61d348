"""Replaces ``training_step`` of one module by one that computes clipped per-sample gradients beside it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn
from torchmetrics import Metric


class PrivateStep:
    """Stands in for ``training_step`` of a module; a copy of the module has its own one again.

    Args:
        module: The module, whose present ``training_step`` is called: with the penalties that were added to it.
        function: Called with that step, the batch and the other arguments; returns what Lightning gets.
    """

    def __init__(self, module: pl.LightningModule, function: Callable[..., Any]) -> None:
        self.module, self.function = module, function
        self.step: Callable[..., Any] = module.training_step
        self.__wrapped__ = inspect.unwrap(self.step)  # Lightning reads the signature one wrapper deep
        self._before = vars(module).get("training_step")
        module.training_step = self  # type: ignore[method-assign, assignment]

    def __call__(self, batch: Any, *rest: Any) -> Any:
        """Calls the function with the step that it replaces."""
        return self.function(self.step, batch, rest)

    def __getattr__(self, name: str) -> Any:  # what another wrapper is known by
        if name.startswith("__") or name == "step":
            raise AttributeError(name)
        return getattr(self.step, name)

    def __reduce__(self) -> tuple[Any, ...]:  # called while the copy has no attributes yet, so this is its own method
        return getattr, (self.module, "training_step")

    def remove(self) -> None:
        """Restores the step."""
        if vars(self.module).get("training_step") is not self:
            return  # it was wrapped by other code since, so it stays
        del vars(self.module)["training_step"]
        if self._before is not None:
            vars(self.module)["training_step"] = self._before


class Silence:
    """Makes a module's ``log`` and its metrics do nothing for a while: they see the batch once, in the step itself."""

    def __init__(self, module: pl.LightningModule) -> None:
        metrics = [part for part in module.modules() if isinstance(part, Metric)]
        owners: list[tuple[nn.Module, str]] = [(module, "log"), (module, "log_dict")]
        owners += [(metric, name) for metric in metrics for name in ("forward", "update")]
        self._places = [(vars(owner), name) for owner, name in owners]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """A context manager in which nothing is logged or counted."""
        before = [space.get(name) for space, name in self._places]
        for space, name in self._places:
            space[name] = _nothing if name != "forward" else _zero
        try:
            yield
        finally:
            for (space, name), value in zip(self._places, before, strict=True):
                if value is None:
                    del space[name]
                else:
                    space[name] = value


def _nothing(*args: Any, **kwargs: Any) -> None:
    pass


def _zero(*args: Any, **kwargs: Any) -> torch.Tensor:
    return torch.zeros(())
