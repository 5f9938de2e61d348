"""The base class of every method's LightningModule: optimiser, schedule, figures, plain hyperparameters."""

from __future__ import annotations

import math
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, cast

import lightning.pytorch as pl

from framework.editing.ledger import replay, store
from framework.editing.stage import stage_of
from framework.errors import UserError
from framework.figures import log_figure
from framework.optim import OptimizerConfig, ScheduleConfig, build_optimizer, build_schedule, changed, check
from framework.plain import plain_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")


def as_dataclass(cls: type[T], value: T | dict[str, Any] | None, default: T | None = None) -> T:
    """Converts a mapping, as in a checkpoint, to ``cls``; returns a ``cls`` unchanged.

    Args:
        cls: A dataclass.
        value: The mapping, a ``cls``, or ``None`` for the default.
        default: Provides the fields that the mapping does not have; the class's defaults if ``None``.
    """
    if isinstance(value, cls):
        return value
    given: Any = value or {}
    return cls(**given) if default is None else replace(default, **given)  # type: ignore[type-var]


class Module(pl.LightningModule):
    """A LightningModule with an optimiser and a schedule given as plain data.

    A method overrides ``forward`` and the ``*_step`` methods. Its submodules can set the learning rate or weight decay
    of their own parameters with ``parameter_options`` (see :func:`framework.optim.parameter_groups`).

    Args:
        optimizer: The optimiser and its settings.
        schedule: The learning-rate schedule, stepped after each optimiser step.

    Raises:
        UserError: a number of either is not accepted.
    """

    start_only: ClassVar[tuple[str, ...]] = ()
    """Arguments that only a new training needs, such as a file of pretrained weights; null for a checkpoint."""

    may_diverge: ClassVar[bool] = False
    """Whether losses and parameters that are not finite are part of the experiment, so that training does not stop.

    For example several models train side by side, and some diverge. See
    :class:`framework.runs.divergence.StopAtNaN`.
    """

    def __init__(self, optimizer: OptimizerConfig | None = None, schedule: ScheduleConfig | None = None) -> None:
        super().__init__()
        self.optimizer_config = as_dataclass(OptimizerConfig, optimizer)
        self.schedule_config = as_dataclass(ScheduleConfig, schedule)
        check(self.optimizer_config, self.schedule_config)

    @property
    def records_step(self) -> bool:
        """Whether values logged in this training step are recorded.

        They are every ``log_every_n_steps``, at the first and the last step of training and at an epoch's last batch.

        A training step should compute values that are only logged if this is true.
        """
        trainer = self._trainer
        if trainer is None or trainer._logger_connector.should_update_logs or trainer.is_last_batch:
            return True
        return trainer.global_step in (0, trainer.max_steps - 1)

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Logs as Lightning does, but skips per-step training values at steps that are not recorded.

        Lightning would keep them only for the progress bar, at a cost that matters for steps of a few milliseconds.
        """
        if self._current_fx_name == "training_step" and not (args or kwargs.get("on_epoch") or self.records_step):
            return
        super().log(name, value, *args, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":  # set twice around each hook; nn.Module.__setattr__ takes 20 times as long
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def _set_hparams(self, hp: Any) -> None:
        """Dataclasses as mappings: Lightning's loggers refuse frozen ones, and a checkpoint holds mappings anyway."""
        given = self._to_hparams_dict(hp)
        plain = {name: asdict(v) if is_dataclass(v) and not isinstance(v, type) else v for name, v in given.items()}
        super()._set_hparams(plain)

    def _steps_per_epoch(self) -> int:
        """Returns the optimiser steps of an epoch; of the whole training if the data has no length."""
        trainer = self.trainer
        if trainer.train_dataloader is None:
            trainer.fit_loop.setup_data()
        batches = trainer.num_training_batches
        if not math.isfinite(batches):
            total = trainer.estimated_stepping_batches
            return max(1, int(total)) if math.isfinite(total) else 1
        return max(1, math.ceil(batches / trainer.accumulate_grad_batches))

    def configure_optimizers(self) -> Any:
        """Builds the optimiser and, if the rate changes, its scheduler.

        In a stage of training (see :class:`framework.editing.Stage`) both have the stage's settings, and the schedule
        spans only the stage.
        """
        stage = stage_of(self)
        optimizer = build_optimizer(self, changed(self.optimizer_config, stage.optimizer, "optimizer"))
        schedule = changed(self.schedule_config, stage.schedule, "schedule")
        if (
            schedule.name == "constant"
            and not schedule.warmup
            and not any("boost" in g for g in optimizer.param_groups)
        ):
            return optimizer
        total, per_epoch = self.trainer.estimated_stepping_batches, self._steps_per_epoch()
        steps = total - stage.epoch * per_epoch if stage.epochs is None else stage.epochs * per_epoch
        scheduler = build_schedule(optimizer, schedule, total=steps, steps_per_epoch=per_epoch)
        if scheduler is None:
            return optimizer
        when = self._at_validations() if schedule.name == "plateau" else {"interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **when}}

    def _at_validations(self) -> dict[str, Any]:
        """Returns Lightning's config of a schedule that is stepped after each validation, with its loss.

        Raises:
            UserError: there is no validation, or it is not at the same batches of each epoch.
        """
        trainer = self.trainer
        if not trainer.enable_validation:
            raise UserError("schedule.name: 'plateau' needs val/loss, and this training has no validation")
        every, batches = trainer.check_val_every_n_epoch, trainer.val_check_batch
        if batches is not None and batches >= trainer.num_training_batches and every is not None:
            return {"interval": "epoch", "frequency": every, "monitor": "val/loss"}
        if every != 1 or batches is None:
            raise UserError(
                "trainer.check_val_every_n_epoch, val_check_interval: schedule 'plateau' needs validations at epochs, "
                "or at the same batches of each epoch (check_val_every_n_epoch 1)"
            )
        return {"interval": "step", "frequency": int(batches), "monitor": "val/loss"}

    def log_figure(self, name: str, figure: Figure) -> Path | None:
        """Writes a figure to the run folder and the loggers (see :func:`framework.figures.log_figure`)."""
        return log_figure(self.trainer, name, figure)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Makes the hyperparameters plain data, as ``weights_only=True`` needs, and adds the edits."""
        if self.CHECKPOINT_HYPER_PARAMS_KEY in checkpoint:
            saved = plain_data(checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY])
            saved = {key: None if key in self.start_only else value for key, value in saved.items()}
            checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = saved
        store(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Repeats the checkpoint's edits, so that its weights fit."""
        replay(self, checkpoint)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = "cpu", strict: bool = True, **kwargs: Any
    ) -> Self:
        """Loads a checkpoint without importing anything that it names (see :func:`framework.open_model`)."""
        from framework.checkpoints.opening import open_model

        kwargs.pop("weights_only", None)  # always true
        return cast(Self, open_model(checkpoint_path, cls, map_location=map_location, strict=strict, **kwargs))


__all__ = ["Module", "OptimizerConfig", "ScheduleConfig", "as_dataclass"]
