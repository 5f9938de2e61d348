"""The network of a module through which boxes can be propagated, and the units of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from framework.editing.capture import submodule
from framework.protocols.bounds import HasBoundedNetwork

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from torch import nn


def bounded_network(module: pl.LightningModule, name: str | None) -> nn.Module:
    """Returns the submodule with this name; without one the module's own network for bounds, or the module itself.

    Args:
        module: The LightningModule.
        name: Of the submodule.

    Raises:
        UserError: there is none of this name.
    """
    if name is None and isinstance(module, HasBoundedNetwork):
        return module.net
    return submodule(module, name, "net")


def pixel_units(
    trainer: pl.Trainer, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[list[float], list[float]]:
    """Returns mean and deviation by which inputs were normalised: those given, the datamodule's, or 0 and 1.

    Args:
        trainer: Whose datamodule may have ``mean`` and ``std``.
        mean: Of each channel, if it is given.
        std: Of each channel, if it is given.
    """
    data: Any = getattr(trainer, "datamodule", None)
    found = (list(getattr(data, name, None) or (default,)) for name, default in (("mean", 0.0), ("std", 1.0)))
    return tuple(own if given is None else list(given) for given, own in zip((mean, std), found, strict=True))  # type: ignore[return-value]
