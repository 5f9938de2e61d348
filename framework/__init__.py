"""What every method shares: configuration, the command line, tracking, exact resume, claims.

The names below are imported on first use, so that ``import framework`` and ``python -m framework list`` stay light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from framework.errors import RunFailed, UserError
from framework.paths import own_packages_first

if TYPE_CHECKING:
    from framework.api import Experiment, build
    from framework.compression.export import export
    from framework.data import DataModule
    from framework.editing import fold, open_model, replay
    from framework.module import Module
    from framework.optim import OptimizerConfig, ScheduleConfig
    from framework.resume import open_checkpoint

_LAZY = {
    "Experiment": "framework.api",
    "build": "framework.api",
    "DataModule": "framework.data",
    "Module": "framework.module",
    "OptimizerConfig": "framework.optim",
    "ScheduleConfig": "framework.optim",
    "export": "framework.compression.export",
    "fold": "framework.editing",
    "open_checkpoint": "framework.resume",
    "open_model": "framework.editing",
    "replay": "framework.editing",
}

__all__ = [
    "DataModule",
    "Experiment",
    "Module",
    "OptimizerConfig",
    "RunFailed",
    "ScheduleConfig",
    "UserError",
    "build",
    "export",
    "fold",
    "open_checkpoint",
    "open_model",
    "own_packages_first",
    "replay",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'framework' has no attribute {name!r}")
