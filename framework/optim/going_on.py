"""Adapts a checkpoint's optimiser and schedule state to a config that may have other settings.

:func:`mark` records in each parameter group which parameters it has and how they were configured. A resumed training
builds its optimiser from its own config, and :func:`adapt` compares the two records: a setting that was changed gets
the config's value, everything else is bit-identical to the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from framework.errors import UserError
from framework.optim.row_adamw import RowAdamW

NOTES = ("params", "param_names", "names", "configured", "schedule")
"""Keys of a parameter group that are not options of the optimiser."""
OWN = "framework.optim.from_config"
"""Qualified name of the functions of a schedule by steps."""
_PLATEAU = ("factor", "patience", "min_lrs", "default_min_lr", "threshold", "mode", "threshold_mode", "cooldown", "eps")


def mark(optimizer: Optimizer, model: nn.Module, name: str) -> None:
    """Records in each group of a new optimiser its parameters' names and their configured options.

    Args:
        optimizer: The optimiser, before a schedule is built on it.
        model: The model whose parameters it has.
        name: The optimiser's configured name.
    """
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        configured = {key: value for key, value in group.items() if key not in NOTES}
        group["names"] = [names[id(parameter)] for parameter in group["params"]]
        group["configured"] = {"name": name.lower(), **configured}


def mark_schedule(optimizer: Optimizer, configured: Mapping[str, Any]) -> None:
    """Records in each group of a marked optimiser the settings of its schedule."""
    for group in optimizer.param_groups:
        if "configured" in group:
            group["schedule"] = dict(configured)


def adapt(
    optimizer: Optimizer,
    scheduler: Any,
    saved: Mapping[str, Any],
    schedule: Mapping[str, Any] | None,
    steps: int | None,
) -> tuple[dict[str, Any], dict[str, Any] | None] | None:
    """Returns the states that ``optimizer`` and ``scheduler``, just built from a config, have to load.

    A schedule that is a function of the step (all but ``plateau``) is the config's, over the config's number of steps,
    continued from the checkpoint's step.

    Args:
        optimizer: The config's optimiser, marked.
        scheduler: The config's scheduler, ``None`` for none.
        saved: The checkpoint's state of the optimiser.
        schedule: The checkpoint's state of the schedule, ``None`` for none.
        steps: Optimiser steps taken so far, for a schedule that the checkpoint does not have; ``None`` if not known.

    Returns:
        The states to load; ``None`` if the optimiser or schedule was not made by :mod:`framework.optim`, so that the
        checkpoint's state is loaded unchanged.

    Raises:
        UserError: the checkpoint's state does not fit the configured optimiser; the message has both values.
    """
    old = _marked(saved, optimizer)
    kinds = _kind(scheduler), _saved_kind(schedule)
    if old is None or "other" in kinds or (kinds[0] == "step" != kinds[1] and steps is None):
        return None
    if _unchanged(old, optimizer.param_groups):  # bit-identical, also if hooks have changed the rates
        return dict(saved), None if schedule is None else dict(schedule)
    _refuse(optimizer, old, kinds)
    place = {name: (group, key) for group in old for name, key in zip(group["names"], group["params"], strict=True)}
    _refuse_strangers(place, [name for group in optimizer.param_groups for name in group["names"]])
    state: dict[Any, Any] = {}
    groups: list[dict[str, Any]] = []
    homes: list[dict[str, Any]] = []
    number = 0
    for group in optimizer.param_groups:
        found = [place[name] for name in group["names"]]
        sources = list({id(source): source for source, _ in found}.values())
        numbers = range(number, number + len(found))
        number += len(found)
        for place_now, (_, key) in zip(numbers, found, strict=True):
            if key in saved["state"]:
                state[place_now] = saved["state"][key]
        options = {key: _option(key, group, sources) for key in group if key not in NOTES}
        if sources[0]["configured"] == group["configured"] and len(sources) == 1:  # includes keys that others added
            options = {key: value for key, value in sources[0].items() if key not in NOTES} | options
        if scheduler is None:
            options.pop("initial_lr", None)
        notes: dict[str, Any] = {key: group[key] for key in ("names", "configured", "schedule") if key in group}
        groups.append({**options, **notes, "params": list(numbers)})
        homes.append(sources[0])
    schedule = _rates(optimizer, scheduler, groups, homes, schedule, steps)
    return {**saved, "state": state, "param_groups": groups}, schedule


def _option(key: str, group: Mapping[str, Any], sources: list[dict[str, Any]]) -> Any:
    """Returns the value of one option: the checkpoint's if it was configured the same, else the config's."""
    wanted = "lr" if key == "initial_lr" else key
    configured = group["configured"].get(wanted)
    kept = [s[key] for s in sources if key in s and _same(s["configured"].get(wanted), configured)]
    own = configured if key == "lr" else group[key]  # a schedule has changed the group's own rate already
    return kept[0] if len(kept) == len(sources) and all(_same(value, kept[0]) for value in kept) else own


def _rates(
    optimizer: Optimizer,
    scheduler: Any,
    groups: list[dict[str, Any]],
    homes: list[dict[str, Any]],
    schedule: Mapping[str, Any] | None,
    steps: int | None,
) -> dict[str, Any] | None:
    """Sets each group's learning rate, and returns the state that the schedule has to load."""
    kind, before = _kind(scheduler), _saved_kind(schedule)
    if kind is None:
        for group in groups:
            group["lr"] = group["configured"]["lr"] if before is not None else group["lr"]
        return None
    if kind == "step":
        last: int = schedule["last_epoch"] if schedule is not None and before == "step" else steps  # type: ignore[assignment]
        kept = dict(schedule) if schedule is not None and before == "step" else {"_step_count": last + 1}
        for group, factor in zip(groups, scheduler.lr_lambdas, strict=True):
            group["lr"] = group["initial_lr"] * factor(last)
        lists = {"base_lrs": [g["initial_lr"] for g in groups], "lr_lambdas": [None] * len(groups)}
        return {
            **scheduler.state_dict(),
            **kept,
            "last_epoch": last,
            **lists,
            "_last_lr": [group["lr"] for group in groups],
        }
    assert schedule is not None
    for group, home, least in zip(groups, homes, scheduler.min_lrs, strict=True):
        start = home["configured"]["lr"]
        if not _same(start, group["configured"]["lr"]) or least != schedule["min_lrs"][0]:
            group["lr"] = max(group["configured"]["lr"] * (home["lr"] / start if start else 1.0), least)
    own = {key: getattr(scheduler, key) for key in _PLATEAU if hasattr(scheduler, key)}
    return {**schedule, **own, "_last_lr": [group["lr"] for group in groups]}


def _marked(saved: Mapping[str, Any], optimizer: Optimizer) -> list[dict[str, Any]] | None:
    """Returns the checkpoint's groups with their records; in an older checkpoint groups are matched by index."""
    old, new = saved["param_groups"], optimizer.param_groups
    if not all("configured" in group for group in new):
        return None
    if all("configured" in group for group in old):
        return list(old)
    if [len(group["params"]) for group in old] != [len(group["params"]) for group in new]:
        return None
    marked = []
    for group, place in zip(old, new, strict=True):
        configured = {key: group.get(key, value) for key, value in place["configured"].items()}
        configured["lr"] = group.get("initial_lr", group["lr"])
        marked.append({**group, "names": place["names"], "configured": configured})
    return marked


def _unchanged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> bool:
    """Returns whether optimiser and schedule were configured as now, for the same parameters."""
    return len(old) == len(new) and all(
        key in was and key in now and _same(was[key], now[key])
        for was, now in zip(old, new, strict=True)
        for key in ("names", "configured", "schedule")
    )


def _kind(scheduler: Any) -> str | None:
    if isinstance(scheduler, LambdaLR):  # the functions of other schedulers are not known
        made_here = all(getattr(function, "__module__", "") == OWN for function in scheduler.lr_lambdas)
        return "step" if type(scheduler) is LambdaLR and made_here else "other"
    return {ReduceLROnPlateau: "plateau", type(None): None}.get(type(scheduler), "other")


def _saved_kind(schedule: Mapping[str, Any] | None) -> str | None:
    if schedule is None:
        return None
    return "step" if "lr_lambdas" in schedule else "plateau" if "num_bad_epochs" in schedule else "other"


def _refuse(optimizer: Optimizer, old: list[dict[str, Any]], kinds: tuple[str | None, str | None]) -> None:
    found, wanted = old[0]["configured"], optimizer.param_groups[0]["configured"]
    if found["name"] != wanted["name"]:
        raise UserError(other_optimizer(found["name"], wanted["name"]))
    if kinds[0] == "plateau" != kinds[1]:
        raise UserError(to_plateau("another schedule" if kinds[1] else "a constant rate"))
    changed = [key for key in wanted if not _same(found.get(key), wanted[key])]
    if changed and (needed := _lacking(optimizer, old[0], optimizer.param_groups[0])):
        lines = [
            f"model.optimizer.{key if key in ('lr', 'weight_decay') else f'args.{key}'}: the checkpoint has "
            f"{found.get(key)}, the config {wanted[key]}"
            for key in changed
        ]
        raise UserError("; ".join(lines) + f"; {needed}")


def other_optimizer(found: Any, wanted: Any) -> str:
    """Returns the message for an optimiser of another class."""
    return (
        f"model.optimizer.name: the checkpoint has {found}, the config {wanted}; one optimiser cannot use the state "
        "of another"
    )


def to_plateau(found: Any) -> str:
    """Returns the message for a schedule that needs earlier validations, which were not recorded."""
    return (
        f"model.schedule.name: the checkpoint has {found}, the config plateau; plateau needs all validations so far, "
        "and the checkpoint does not have them"
    )


def _refuse_strangers(known: Iterable[str], wanted: Iterable[str]) -> None:
    known, wanted = set(known), set(wanted)
    if lacking := sorted(wanted - known):
        raise UserError(
            f"the checkpoint's optimiser has no state of {lacking[0]} ({len(lacking)} such parameters), which the "
            "config trains; a run can only be resumed with the parameters that it has trained so far"
        )
    if gone := sorted(known - wanted):
        raise UserError(
            f"the checkpoint has trained {gone[0]} ({len(gone)} such parameters), which the config does not train; a "
            "run can only be resumed with the parameters that it has trained so far"
        )


def _lacking(optimizer: Optimizer, old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Returns why no step with the options ``new`` can follow one with ``old``, tested on a small parameter."""
    if isinstance(optimizer, RowAdamW) and old["untouched"] != new["untouched"]:
        return "its record of untouched rows belongs to the checkpoint's option"
    parameter = nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.zeros(2, 2)
    options = {key: value for key, value in old.items() if key not in (*NOTES, "initial_lr", "boost")}
    try:
        trial = type(optimizer)([{**options, "params": [parameter]}], lr=options["lr"])  # type: ignore[call-arg]
        trial.step(lambda: 0.0)
    except Exception:  # an optimiser that needs more than a gradient cannot be tested
        return None
    trial.param_groups[0].update({key: value for key, value in new.items() if key in options})
    try:
        trial.step(lambda: 0.0)
    except (KeyError, AttributeError, TypeError, RuntimeError) as error:
        return f"for that the checkpoint's optimiser state lacks {error}"
    return None


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return (
            isinstance(a, Tensor | float | int) and isinstance(b, Tensor | float | int) and bool(float(a) == float(b))
        )
    return bool(a == b)
