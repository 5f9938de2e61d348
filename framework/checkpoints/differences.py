"""Compares a checkpoint's hyperparameters with the configured ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
from jsonargparse import Namespace

from framework.config import explain
from framework.config.moved import moves_of, regroup
from framework.config.places import names_a_path, same_place
from framework.errors import UserError
from framework.optim import OptimizerConfig, ScheduleConfig, other_optimizer, to_plateau
from framework.plain import plain_data

CONFIGS: dict[str, Any] = {"optimizer": OptimizerConfig, "schedule": ScheduleConfig}
"""Arguments that every module of this project has."""


def describe(value: Any) -> str:
    """Returns a setting as one line, for messages."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def report_differences(checkpoint: Mapping[str, Any], settings: Namespace, model: pl.LightningModule) -> list[str]:
    """Returns a line for each hyperparameter that differs between a checkpoint and the config.

    Args:
        checkpoint: The checkpoint, already read.
        settings: The type-checked config.
        model: The module, built from the config.
    """
    saved, configured = _arguments(checkpoint, settings, model)
    # it is not known how another module's optimiser uses an argument, and Lightning restores that optimiser
    ours = isinstance(getattr(model, "optimizer_config", None), OptimizerConfig)
    holds = "the config's is used" if ours else "the module is built with the config's"
    lines: list[str] = []

    def compare(path: str, old: Any, new: Any) -> None:
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            # a missing field is newer than the checkpoint; a free argument was added or removed
            keys = old.keys() | new.keys() if path.endswith("args") else old.keys() & new.keys()
            for key in keys:
                compare(f"{path}.{key}", old.get(key, "nothing"), new.get(key, "nothing"))
        elif plain_data(old, strict=False) != plain_data(new, strict=False):
            lines.append(f"{path}: the checkpoint has {describe(old)}, the config {describe(new)}; {holds}")

    cls: Any = type(model)
    hints = explain.signature(cls)
    for key in saved.keys() & configured.keys():
        if names_a_path(hints.get(key, (None, False))[0]) and same_place(saved[key], configured[key]):
            continue
        compare(f"model.{key}", saved[key], configured[key])
    return sorted(lines)


def refuse_other_optimizer(checkpoint: Mapping[str, Any], settings: Namespace, model: pl.LightningModule) -> None:
    """Refuses an optimiser or a schedule that cannot continue from the checkpoint's, before anything is written.

    Args:
        checkpoint: The checkpoint, already read.
        settings: The type-checked config.
        model: The module, built from the config.

    Raises:
        UserError: the optimiser is of another class, or the schedule is ``plateau`` and was another one.
    """
    saved, configured = _arguments(checkpoint, settings, model)
    names = {
        key: (str(saved[key].get("name")), str(configured[key].get("name")))
        for key in CONFIGS
        if isinstance(saved.get(key), Mapping) and isinstance(configured.get(key), Mapping)
    }
    lines = []
    if "optimizer" in names and names["optimizer"][0].lower() != names["optimizer"][1].lower():
        lines.append(other_optimizer(*names["optimizer"]))
    if "schedule" in names and names["schedule"][1] == "plateau" != names["schedule"][0]:
        lines.append(to_plateau(names["schedule"][0]))
    if lines:
        raise UserError("\n".join(lines))


def _arguments(
    checkpoint: Mapping[str, Any], settings: Namespace, model: pl.LightningModule
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the module's arguments, from the checkpoint and from the config."""
    cls = explain.find_class(settings["model"]["class_path"], pl.LightningModule)
    skipped = getattr(cls, "start_only", ())
    saved, _ = regroup(checkpoint.get("hyper_parameters", {}), moves_of(cls))
    saved = {key: value for key, value in saved.items() if not key.startswith("_") and key not in skipped}
    arguments = settings.get("model", Namespace()).get("init_args") or Namespace()
    configured = arguments.as_dict() if isinstance(arguments, Namespace) else dict(arguments)
    for key, kind in CONFIGS.items():
        own = getattr(model, f"{key}_config", None)
        if isinstance(own, kind) and isinstance(saved.get(key), Mapping):  # else the module's own default
            configured[key] = asdict(own)
    return saved, configured
