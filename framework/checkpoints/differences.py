"""Where a checkpoint's hyper-parameters differ from the configured ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from jsonargparse import Namespace

from framework.config import explain
from framework.plain import plain_data


def describe(value: Any) -> str:
    """A setting in one line, for messages."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def report_differences(checkpoint: Mapping[str, Any], settings: Namespace) -> list[str]:
    """Lines saying where a checkpoint's hyper-parameters differ from the configured ones, which hold."""
    cls = explain.find_class(settings["model"]["class_path"], pl.LightningModule)
    skipped = getattr(cls, "start_only", ())
    saved = {
        k: v for k, v in checkpoint.get("hyper_parameters", {}).items() if not k.startswith("_") and k not in skipped
    }
    arguments = settings.get("model", Namespace()).get("init_args") or Namespace()
    configured = arguments.as_dict() if isinstance(arguments, Namespace) else dict(arguments)
    lines: list[str] = []

    def compare(path: str, old: Any, new: Any) -> None:
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            for key in old.keys() & new.keys():
                compare(f"{path}.{key}", old[key], new[key])
        elif plain_data(old, strict=False) != plain_data(new, strict=False):
            lines.append(
                f"{path}: the checkpoint has {describe(old)}, the config {describe(new)}; the config's is used"
            )

    for key in saved.keys() & configured.keys():
        compare(f"model.{key}", saved[key], configured[key])
    return sorted(lines)
