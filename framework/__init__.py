"""The parts that all methods share: configuration, the command line, tracking, exact resume, claims.

The names below are imported on first use, so that ``import framework`` and ``python -m framework list`` stay fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from framework.errors import RunFailed, UserError
from framework.paths import own_packages_first

if TYPE_CHECKING:
    from framework.checkpoints.export import export
    from framework.checkpoints.opening import open_model
    from framework.checkpoints.reading import open_checkpoint
    from framework.data import DataModule
    from framework.editing import fold, replay
    from framework.module import Module
    from framework.optim import OptimizerConfig, ScheduleConfig
    from framework.runs.experiment import Experiment, build

_LAZY = {
    "Experiment": "framework.runs.experiment",
    "build": "framework.runs.experiment",
    "DataModule": "framework.data",
    "Module": "framework.module",
    "OptimizerConfig": "framework.optim",
    "ScheduleConfig": "framework.optim",
    "export": "framework.checkpoints.export",
    "fold": "framework.editing",
    "open_checkpoint": "framework.checkpoints.reading",
    "open_model": "framework.checkpoints.opening",
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
