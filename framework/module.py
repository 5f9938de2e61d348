"""The base class of every method's LightningModule: optimiser, schedule, figures, plain hyper-parameters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import lightning.pytorch as pl

from framework.figures import log_figure
from framework.optim import OptimizerConfig, ScheduleConfig, build_optimizer, build_schedule
from framework.plain import plain_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")


def as_dataclass(cls: type[T], value: T | dict[str, Any] | None) -> T:
    """Makes a ``cls`` of a mapping (as a checkpoint holds it) or of ``None`` (all defaults); a ``cls`` stays."""
    if isinstance(value, cls):
        return value
    return cls(**(value or {}))  # type: ignore[arg-type]


class Module(pl.LightningModule):
    """A LightningModule with an optimiser and a schedule given as plain data.

    A method overrides ``forward`` and the ``*_step`` methods; which parameters get their own learning rate or weight
    decay its submodules say by ``parameter_options`` (see :func:`framework.optim.parameter_groups`).

    Args:
        optimizer: The optimiser and its settings.
        schedule: The learning-rate schedule, stepped after each optimiser step.
    """

    def __init__(self, optimizer: OptimizerConfig | None = None, schedule: ScheduleConfig | None = None) -> None:
        super().__init__()
        self.optimizer_config = as_dataclass(OptimizerConfig, optimizer)
        self.schedule_config = as_dataclass(ScheduleConfig, schedule)

    def configure_optimizers(self) -> Any:
        """Builds the optimiser and, if the rate changes, its scheduler."""
        optimizer = build_optimizer(self, self.optimizer_config)
        if self.schedule_config.name == "constant" and not self.schedule_config.warmup:
            return optimizer
        total = self.trainer.estimated_stepping_batches
        epochs = self.trainer.max_epochs or 1
        scheduler = build_schedule(
            optimizer, self.schedule_config, total=int(total), steps_per_epoch=max(1, int(total) // max(1, epochs))
        )
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def log_figure(self, name: str, figure: Figure) -> Path | None:
        """Writes a figure to the run folder and the loggers (see :func:`framework.figures.log_figure`)."""
        return log_figure(self.trainer, name, figure)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Makes the hyper-parameters plain data, so that the checkpoint loads with ``weights_only=True``."""
        if self.CHECKPOINT_HYPER_PARAMS_KEY in checkpoint:
            checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = plain_data(checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY])


__all__ = ["Module", "OptimizerConfig", "ScheduleConfig", "as_dataclass"]
