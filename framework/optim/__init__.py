"""Optimisers and learning-rate schedules: made from plain data, and one of our own."""

from framework.optim.from_config import (
    SCHEDULES,
    Config,
    OptimizerConfig,
    ScheduleConfig,
    build_optimizer,
    build_schedule,
    changed,
    check,
    parameter_groups,
    schedule_factor,
)
from framework.optim.row_adamw import RowAdamW

__all__ = [
    "SCHEDULES",
    "Config",
    "OptimizerConfig",
    "RowAdamW",
    "ScheduleConfig",
    "build_optimizer",
    "build_schedule",
    "changed",
    "check",
    "parameter_groups",
    "schedule_factor",
]
