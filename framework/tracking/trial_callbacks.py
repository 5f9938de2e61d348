"""The callback and the logger that a sweep adds to a trial's Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from framework.tracking.metrics_log import read_metrics
from framework.tracking.trial_report import TrialReport, active


class Stop(Callback):
    """Ends training on all ranks when the sweep stops the trial."""

    def __init__(self, report: TrialReport) -> None:
        self._report = report

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """On a resume, adds the values that were logged before."""
        if trainer.global_step:
            self._go_on(trainer)
        if trainer.world_size == 1:  # no other ranks have to agree
            self._report.on_stop = lambda: setattr(trainer, "should_stop", True)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Adds them also if nothing is left to train, as ``on_train_start`` is not called then."""
        if not self._report.history:
            self._go_on(trainer)

    def _go_on(self, trainer: pl.Trainer) -> None:
        name = self._report.watch.metric
        if trainer.is_global_zero and name is not None:
            self._report.go_on(row[name] for row in read_metrics(trainer.default_root_dir) if name in row)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks after the validation metrics have been logged."""
        self._agree(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks at the next epoch's start: metrics of an epoch's end are logged after that hook of the callbacks."""
        self._agree(trainer)

    def _agree(self, trainer: pl.Trainer) -> None:
        if self._report.watch.bands and trainer.world_size > 1 and not trainer.sanity_checking:
            trainer.should_stop = trainer.strategy.broadcast(self._report.stop, src=0) or trainer.should_stop


class Values(Logger):
    """Passes every logged value of the metric to the report."""

    def __init__(self, report: TrialReport) -> None:
        super().__init__()
        self._report = report

    @property
    def name(self) -> str:
        """Always ``"sweep"``."""
        return "sweep"

    @property
    def version(self) -> str:
        """Always empty."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Passes a row to the report."""
        self._report.add_row(metrics)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the sweep has them already."""


def callbacks() -> list[Callback]:
    """Returns the additional callbacks of a trial's Trainer."""
    report = active()
    return [] if report is None else [Stop(report)]


def loggers() -> list[Logger]:
    """Returns the additional loggers of a trial's Trainer."""
    report = active()
    return [] if report is None else [Values(report)]
