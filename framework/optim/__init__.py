"""Optimisers and learning-rate schedules from plain data, and the optimiser ``RowAdamW``."""

from framework.optim.from_config import (
    Config,
    OptimizerConfig,
    ScheduleConfig,
    ScheduleName,
    build_optimizer,
    build_schedule,
    changed,
    check,
    parameter_groups,
    schedule_factor,
)
from framework.optim.going_on import NOTES, adapt, mark, other_optimizer, to_plateau
from framework.optim.row_adamw import RowAdamW

__all__ = [
    "NOTES",
    "Config",
    "OptimizerConfig",
    "RowAdamW",
    "ScheduleConfig",
    "ScheduleName",
    "adapt",
    "build_optimizer",
    "build_schedule",
    "changed",
    "check",
    "mark",
    "other_optimizer",
    "parameter_groups",
    "schedule_factor",
    "to_plateau",
]
