"""Carries the state of optimisers and schedulers over an edit during training.

``configure_optimizers`` is called again for the edited model, exactly as in a resumed run, so that both have the same
groups; then the state of the old optimisers is moved to the new ones: each parameter's state, each group's learning
rate and options, each scheduler's state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from framework.editing.names import unique_parameters
from framework.errors import UserError
from framework.optim import NOTES

_PER_GROUP = (  # lists in a scheduler's state with one item per group
    *("base_lrs", "_last_lr", "lr_lambdas", "min_lrs", "max_lrs", "base_momentums", "max_momentums"),
)


def reset_optimizers(trainer: pl.Trainer) -> None:
    """Builds new optimisers and schedulers, as at the start of training."""
    trainer.strategy.setup_optimizers(trainer)


def carry_over(trainer: pl.Trainer, before: Mapping[str, nn.Parameter]) -> None:
    """Builds the optimisers of the edited model and moves the old ones' state to them.

    A parameter continues an old one if it is the same object, or has the name of one that was removed; if it grew, its
    state is padded with zeros at the end of each dimension.

    Args:
        trainer: The Trainer during training, with the model already edited.
        before: The model's parameters by name before the edit.

    Raises:
        UserError: it cannot be decided which old parameter or group a new one continues; the message names it.
    """
    strategy = trainer.strategy
    optimizers, configs = list(strategy.optimizers), list(strategy.lr_scheduler_configs)
    strategy.setup_optimizers(trainer)
    if len(strategy.optimizers) != len(optimizers) or len(strategy.lr_scheduler_configs) != len(configs):
        raise UserError(
            f"configure_optimizers gave {len(optimizers)} optimisers and {len(configs)} schedulers before the edit and "
            f"{len(strategy.optimizers)} and {len(strategy.lr_scheduler_configs)} after it"
        )
    after = unique_parameters(trainer.lightning_module)
    origins = _origins(before, after)
    names = {id(parameter): name for name, parameter in after.items()}
    matches = [transplant(old, new, origins, names) for old, new in zip(optimizers, strategy.optimizers, strict=True)]
    for old_config, new_config in zip(configs, strategy.lr_scheduler_configs, strict=True):
        optimizer: Any = getattr(new_config.scheduler, "optimizer", None)
        index = next((i for i, item in enumerate(strategy.optimizers) if item is optimizer), None)
        if index is None:
            raise UserError(
                f"{type(new_config.scheduler).__name__} belongs to no optimiser, so it cannot be carried over"
            )
        state = _remap(
            old_config.scheduler.state_dict(), new_config.scheduler.state_dict(), matches[index], optimizer.param_groups
        )
        new_config.scheduler.load_state_dict(state)


def _origins(before: Mapping[str, nn.Parameter], after: Mapping[str, nn.Parameter]) -> dict[int, nn.Parameter]:
    """Maps each parameter after the edit (by identity) to the one before the edit that it continues."""
    alive = {id(parameter) for parameter in after.values()}
    origins = {}
    old_ids = {id(parameter) for parameter in before.values()}
    for name, parameter in after.items():
        if id(parameter) in old_ids:
            origins[id(parameter)] = parameter
        elif name in before and id(before[name]) not in alive:
            origins[id(parameter)] = before[name]
    return origins


def transplant(
    old: Optimizer, new: Optimizer, origins: Mapping[int, nn.Parameter], names: Mapping[int, str]
) -> list[int | None]:
    """Moves the states and the groups' options of ``old`` into ``new``.

    Args:
        old: The optimiser before the edit.
        new: A new one over the edited parameters.
        origins: Maps a parameter of ``new`` (by identity) to the one of ``old`` that it continues.
        names: Parameters' names, for errors.

    Returns:
        For each group of ``new`` the index of the group of ``old`` that it continues, or ``None``.

    Raises:
        UserError: a group's parameters come from groups with different options, or a state cannot be resized.
    """
    home = {id(p): index for index, group in enumerate(old.param_groups) for p in group["params"]}
    fresh = [_options(group) for group in new.param_groups]
    matched: list[int | None] = []
    for group in new.param_groups:
        sources: dict[int, str] = {}
        for parameter in group["params"]:
            origin = origins.get(id(parameter))
            if origin is not None and id(origin) in home:
                sources.setdefault(home[id(origin)], names.get(id(parameter), "?"))
                if origin in old.state:
                    name = names.get(id(parameter), "?")
                    new.state[parameter] = _resized(old.state[origin], origin, parameter, name)
        first = min(sources) if sources else None
        for index, name in sources.items():
            if first is not None and _options(old.param_groups[index]) != _options(old.param_groups[first]):
                raise UserError(
                    f"the edit would put {sources[first]} and {name} in one group of the optimiser, and their "
                    "options differ so far"
                )
        matched.append(first)
    for index, group in enumerate(new.param_groups):
        source = matched[index]
        if source is None:  # entirely new: it joins a group that started with the same options, if there is one
            source = next(
                (i for i, match in enumerate(matched) if match is not None and fresh[i] == fresh[index]), None
            )
            source = matched[source] if source is not None else None
            matched[index] = source
        if source is not None:
            group.update(_options(old.param_groups[source]))
        else:
            group["lr"] = group.get("initial_lr", group["lr"]) * _factor(old)
    return matched


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in NOTES}


def _factor(optimizer: Optimizer) -> float:
    """Returns the schedule's current factor on the learning rate."""
    group = optimizer.param_groups[0]
    start = group.get("initial_lr")
    return float(group["lr"] / start) if start else 1.0


def _resized(state: Mapping[str, Any], old: Tensor, new: Tensor, name: str) -> dict[str, Any]:
    """Returns the state of ``old`` for ``new``: moved if the shape is the same, padded with zeros if it grew."""
    if old.shape == new.shape:
        return dict(state)
    if old.ndim != new.ndim or any(a > b for a, b in zip(old.shape, new.shape, strict=True)):
        raise UserError(
            f"{name} went from {tuple(old.shape)} to {tuple(new.shape)}; an optimiser's state is carried over only "
            "where a tensor keeps its shape or grows"
        )
    resized: dict[str, Any] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.ndim == 0:
            resized[key] = value
        elif value.shape == old.shape:
            resized[key] = torch.zeros(new.shape, dtype=value.dtype, device=value.device)
            resized[key][tuple(slice(size) for size in old.shape)] = value
        else:
            raise UserError(f"{name} grew, and {key!r} of its optimiser state, {tuple(value.shape)}, cannot be resized")
    return resized


def _remap(
    old: dict[str, Any], new: dict[str, Any], matched: list[int | None], groups: list[dict[str, Any]]
) -> dict[str, Any]:
    """Returns a scheduler's state with its per-group lists in the order of the new groups."""
    state = dict(old)
    for key in _PER_GROUP:
        if key in state and isinstance(state[key], list):
            state[key] = [
                old[key][source] if source is not None else new[key][index] for index, source in enumerate(matched)
            ]
    if "_last_lr" in state:
        state["_last_lr"] = [group["lr"] for group in groups]
    if "_schedulers" in state:
        parts = zip(old["_schedulers"], new["_schedulers"], strict=True)
        state["_schedulers"] = [_remap(a, b, matched, groups) for a, b in parts]
    return state
