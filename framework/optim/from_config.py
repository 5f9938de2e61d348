"""Builds optimisers and learning-rate schedules from plain data, with per-parameter options declared by modules."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from framework.errors import UserError
from framework.optim.going_on import mark, mark_schedule
from framework.optim.row_adamw import RowAdamW
from framework.settings import at_least, brief, one_of

ScheduleName = Literal["constant", "linear", "cosine", "onecycle", "step", "plateau"]
"""The schedules."""


@dataclass(frozen=True)
class OptimizerConfig:
    """The settings of the optimiser.

    Attributes:
        name: A class of ``torch.optim`` in any case (``adamw``, ``sgd``, ``nadam``); ``row_adamw``, for large tables
            with sparse gradients (:class:`framework.optim.row_adamw.RowAdamW`); else a name known to ``timm.optim``
            (``lamb``, ``lion``, ``muon``, …).
        lr: Learning rate of every parameter without one of its own.
        weight_decay: Weight decay of every parameter without one of its own.
        decay_1d: Whether weight decay also applies to parameters with fewer than two dimensions (biases, norms).
        args: Other arguments of the optimiser's constructor, for example ``{betas: [0.9, 0.98]}``. On the CPU torch's
            optimisers use their fused implementation if they have one, unless ``{fused: false}`` is set.
    """

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    decay_1d: bool = True
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScheduleConfig:
    """The settings of the learning-rate schedule, which multiplies each parameter group's own rate by a factor.

    Attributes:
        name: ``constant``, ``linear`` or ``cosine`` (down to ``final`` at the last step), ``onecycle`` (Smith 2019:
            cosine up over ``warmup`` from 1/25, cosine down to 1e-4/25), ``step`` (``gamma`` at each milestone), or
            ``plateau`` (``gamma`` whenever ``val/loss`` has not improved over ``patience`` validations).
        warmup: Linear warm-up: a number of steps if 1 or more, else a fraction of all steps. For ``onecycle`` the
            rising part; 0 means 0.3.
        final: Factor at the end of ``linear`` and ``cosine``.
        milestones: For ``step``: epochs at which the rate is multiplied by ``gamma``.
        gamma: For ``step`` and ``plateau``: the factor.
        every: For ``step``: also multiply after every this many epochs.
        cycles: For ``cosine``: number of cycles, each with the warm-up and an equal share of the steps.
        cycle_decay: For ``cosine``: factor on the peak rate of each cycle after the first.
        patience: For ``plateau``: validations without an improvement (by a ten-thousandth) before the rate is reduced.
        min_lr: For ``plateau``: lower bound of the rate.
    """

    name: ScheduleName = "constant"
    warmup: float = 0.0
    final: float = 0.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    every: int = 0
    cycles: int = 1
    cycle_decay: float = 1.0
    patience: int = 10
    min_lr: float = 0.0


def check(optimizer: OptimizerConfig, schedule: ScheduleConfig) -> None:
    """Checks the numbers of an optimiser and a schedule before any data is read.

    Raises:
        UserError: a number is not accepted.
    """
    at_least(0, **{"optimizer.lr": optimizer.lr, "optimizer.weight_decay": optimizer.weight_decay})
    one_of(get_args(ScheduleName), **{"schedule.name": schedule.name})
    fields = ("warmup", "final", "gamma", "every", "cycle_decay", "patience", "min_lr", "milestones")
    at_least(0, **{f"schedule.{name}": getattr(schedule, name) for name in fields})
    at_least(1, **{"schedule.cycles": schedule.cycles})


Config = TypeVar("Config", OptimizerConfig, ScheduleConfig)


def changed(config: Config, values: Mapping[str, Any], key: str) -> Config:
    """Returns a copy of ``config`` with some fields replaced.

    Args:
        config: The original, which is not changed.
        values: Maps each field to its new value.
        key: Where they were configured, for messages.

    Raises:
        UserError: there is no such field, or its value is of another kind or below 0; the message names it.
    """
    known = [part.name for part in fields(config)]
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{key}.{name}: there is no such setting; accepted: {', '.join(known)}")
        fits, wanted = _fits(config, name, value)
        if not fits:
            raise UserError(f"{key}.{name}: {brief(value)} is not accepted; {wanted}")
    return replace(config, **values)


def _fits(config: OptimizerConfig | ScheduleConfig, name: str, value: Any) -> tuple[bool, str]:
    """Whether a value can replace that of a setting, and what can."""
    if name == "name" and isinstance(config, ScheduleConfig):
        return value in get_args(ScheduleName), f"one of {', '.join(get_args(ScheduleName))}"
    default = next(part.default for part in fields(config) if part.name == name)
    if isinstance(default, str):
        return isinstance(value, str), "a name"
    if isinstance(default, bool):
        return isinstance(value, bool), "true or false"
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and all(type(item) is int for item in value), "a list of epochs"
    if isinstance(default, int):
        least = 1 if name == "cycles" else 0
        return type(value) is int and value >= least, f"an integer of at least {least}"
    if isinstance(default, float):
        return type(value) in (int, float) and value >= 0 and math.isfinite(value), "a number of at least 0"
    return isinstance(value, Mapping), "a mapping"


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Groups the trainable parameters of ``model`` by learning rate and weight decay.

    A submodule declares options for its own parameters with a method ``parameter_options()`` that returns
    ``{parameter name: {"lr": float | "max_lr": float, "weight_decay": float, "boost": (c, ρ)}}``: ``lr`` replaces the
    global rate, ``max_lr`` caps it; ``boost`` multiplies it at ``step`` of T by ``1 + (c−1) max(0, 1 − step/(ρ T))``.
    Options are declared by name, not as attributes of tensors, because ``copy.deepcopy`` drops attributes.

    Returns:
        Groups in order of first appearance, each with ``params``, ``names``, ``lr`` and ``weight_decay``, and ``boost``
        if one is declared; tied parameters appear once, under the first name.

    Raises:
        UserError: a submodule declares options for a parameter that it does not have.
    """
    declared: dict[str, dict[str, Any]] = {}
    for prefix, module in model.named_modules():
        options = getattr(module, "parameter_options", None)
        if module is model or not callable(options):
            continue
        own = dict(module.named_parameters(recurse=False))
        for name, values in options().items():
            if name not in own:
                raise UserError(f"{type(module).__name__}.parameter_options names {name!r}, which is not a parameter")
            declared[f"{prefix}.{name}"] = values
    groups: dict[tuple[float, float, Any], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        values = declared.get(name, {})
        lr = values.get("lr", min(config.lr, values.get("max_lr", math.inf)))
        decay = config.weight_decay if config.decay_1d or parameter.ndim > 1 else 0.0
        decay = values.get("weight_decay", decay)
        boost = {"boost": tuple(values["boost"])} if "boost" in values else {}
        group = groups.setdefault(
            (lr, decay, boost.get("boost")), {"params": [], "names": [], "lr": lr, "weight_decay": decay, **boost}
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Builds the optimiser of ``config`` over :func:`parameter_groups`.

    Raises:
        UserError: the name is known neither to ``torch.optim`` nor to ``timm.optim``, or an argument is refused.
    """
    groups = parameter_groups(model, config)
    if not groups:
        raise UserError("no parameter of the model is trainable, so there is nothing to optimise")
    optimizer = _construct(groups, config)
    mark(optimizer, model, config.name)
    return optimizer


def _construct(groups: list[dict[str, Any]], config: OptimizerConfig) -> Any:
    native = {name.lower(): cls for name, cls in _torch_optimizers()} | {"row_adamw": RowAdamW}
    try:
        if config.name.lower() in native:
            cls = native[config.name.lower()]
            settings = {"lr": config.lr, "weight_decay": config.weight_decay, **config.args}
            if _fuses(cls, groups) and not {"fused", "foreach", "differentiable"} & settings.keys():
                settings["fused"] = True
                optimizer: Any = cls(groups, **settings)
                # if true, Lightning refuses gradient clipping under mixed precision; if false, the scaler unscales
                # before the step, with the same result
                optimizer._step_supports_amp_scaling = False
                return optimizer
            return cls(groups, **settings)
        import timm.optim  # only for names that torch lacks: importing it takes seconds

        known: list[str] = list(map(str, timm.optim.list_optimizers()))
        if config.name.lower() in known:
            return timm.optim.create_optimizer_v2(
                groups, opt=config.name.lower(), lr=config.lr, weight_decay=config.weight_decay, **config.args
            )
    except (TypeError, ValueError) as error:
        given = {"lr": config.lr, "weight_decay": config.weight_decay, **config.args}
        listed = ", ".join(f"{name}={brief(value)}" for name, value in given.items())
        raise UserError(f"optimizer: {config.name!r} refused its arguments {listed}: {error}") from error
    from difflib import get_close_matches

    names = sorted({*native, *known})
    near = get_close_matches(config.name.lower(), names, n=3) or ["adamw"]
    raise UserError(f"optimizer.name: {config.name!r} is not an optimiser; nearest: {', '.join(near)}")


def _fuses(cls: type[torch.optim.Optimizer], groups: list[dict[str, Any]]) -> bool:
    """Returns whether the fused implementation exists and is faster.

    On the CPU torch's default runs operation by operation and tensor by tensor, which for a small model takes as long
    as its backward pass. On other devices the default is fast already.
    """
    parameters = [parameter for group in groups for parameter in group["params"]]
    plain = all(p.device.type == "cpu" and p.is_floating_point() and not p.is_sparse for p in parameters)
    return plain and "fused" in inspect.signature(cls).parameters


def _torch_optimizers() -> Iterator[tuple[str, type[torch.optim.Optimizer]]]:
    for name, value in vars(torch.optim).items():
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer:
            yield name, value


def schedule_factor(config: ScheduleConfig, step: int, total: int, steps_per_epoch: int = 1) -> float:
    """Returns the factor on the learning rate at ``step`` of ``total`` optimiser steps.

    Args:
        config: The schedule, any but ``plateau``.
        step: The optimiser step, counted from 0.
        total: Optimiser steps in the whole training.
        steps_per_epoch: Optimiser steps in an epoch, for milestones given in epochs.
    """
    if config.name == "onecycle":
        rise = max(1, round(_fraction(config.warmup, total) * total)) if config.warmup else max(1, round(0.3 * total))
        if step < rise:
            return 1 / 25 + (1 - 1 / 25) * 0.5 * (1 - math.cos(math.pi * step / rise))
        t = min(1.0, (step - rise) / max(1, total - rise))
        return 1e-4 / 25 + (1 - 1e-4 / 25) * 0.5 * (1 + math.cos(math.pi * t))
    if config.name == "cosine" and config.cycles > 1:
        length = total / config.cycles
        cycle = min(config.cycles - 1, int(step / length))
        once = replace(config, cycles=1, final=0.0)
        share = schedule_factor(once, step - round(cycle * length), max(1, round(length)), steps_per_epoch)
        return config.final + (max(config.final, config.cycle_decay**cycle) - config.final) * share
    warmup = _fraction(config.warmup, total) * total
    if step < warmup:
        return (step + 1) / (warmup + 1)
    t = min(1.0, (step - warmup) / max(1.0, total - warmup))
    if config.name == "linear":
        return 1 + (config.final - 1) * t
    if config.name == "cosine":
        return config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * t))
    if config.name == "step":
        passed = sum(step >= milestone * steps_per_epoch for milestone in config.milestones)
        return config.gamma ** (passed + (step // (config.every * steps_per_epoch) if config.every else 0))
    return 1.0


def _fraction(warmup: float, total: int) -> float:
    return warmup / max(1, total) if warmup >= 1 else warmup


def build_schedule(
    optimizer: torch.optim.Optimizer, config: ScheduleConfig, total: float, steps_per_epoch: int = 1
) -> LRScheduler | None:
    """Builds a scheduler for each step or (``plateau``) each validation; ``None`` if the rate never changes.

    Args:
        optimizer: Its groups keep their ratios; the schedule multiplies each.
        config: The schedule.
        total: Optimiser steps in the whole training; infinite if training has no end.
        steps_per_epoch: Optimiser steps in an epoch, for milestones given in epochs.

    Raises:
        UserError: the name is not known, or the schedule needs the number of steps and the training has no end.
    """
    one_of(get_args(ScheduleName), **{"schedule.name": config.name})
    mark_schedule(optimizer, {**asdict(config), "total": total, "steps_per_epoch": steps_per_epoch})
    if config.name == "plateau":
        if config.warmup or not 0 < config.gamma < 1 or config.patience < 0 or config.min_lr < 0:
            found = f"gamma {config.gamma}, patience {config.patience}, min_lr {config.min_lr}, warmup {config.warmup}"
            raise UserError(f"schedule: {found}; for plateau gamma is between 0 and 1, the others 0 or more, no warmup")
        return ReduceLROnPlateau(
            optimizer, factor=config.gamma, patience=int(config.patience), min_lr=float(config.min_lr)
        )
    at_least(1, **{"schedule.cycles": config.cycles})
    at_least(0, **{"schedule.every": config.every})
    boosts = [group.get("boost") for group in optimizer.param_groups]
    if config.name == "constant" and not config.warmup and not any(boosts):
        return None
    if config.name in ("linear", "cosine", "onecycle") and not (0 < total < math.inf):
        raise UserError(f"schedule.name: {config.name!r} needs trainer.max_epochs or trainer.max_steps")
    if any(boosts) and not (0 < total < math.inf):
        raise UserError("a boosted learning rate needs trainer.max_epochs or trainer.max_steps")
    if total == math.inf and 0 < config.warmup < 1:
        raise UserError(
            f"schedule.warmup: {config.warmup}, a share of all steps, needs trainer.max_epochs or trainer.max_steps; "
            "or give a number of steps"
        )
    steps = int(total) if total < math.inf else 1 << 53  # more than any training takes

    def shape(boost: tuple[float, float] | None) -> Callable[[int], float]:
        if not boost:
            return lambda step: schedule_factor(config, step, steps, steps_per_epoch)
        extra, until = boost[0] - 1, boost[1] * steps
        return lambda step: (
            schedule_factor(config, step, steps, steps_per_epoch) * (1 + extra * max(0.0, 1 - step / until))
        )

    return LambdaLR(optimizer, [shape(boost) for boost in boosts])
