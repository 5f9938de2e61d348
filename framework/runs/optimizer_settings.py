"""A run that goes on trains with the optimiser and schedule of its config, not of its checkpoint."""

from __future__ import annotations

import sys
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from framework.editing.ledger import ledger_of
from framework.editing.stage import KEY
from framework.editing.technique import callbacks_of
from framework.optim import adapt


class OptimizerSettings(Callback):
    """Gives a checkpoint's optimiser the settings of the config before Lightning loads it, which would undo them.

    What was not changed stays as the checkpoint has it. Modules whose optimiser :func:`framework.optim.build_optimizer`
    did not make are left to Lightning. ``patience`` of an ``EarlyStopping`` is the config's too.
    """

    def __init__(self) -> None:
        self.differs = False
        """Whether the config differs from what the checkpoint was trained with."""
        self._checkpoint: dict[str, Any] | None = None
        self._said = ""
        self._patience: list[tuple[EarlyStopping, int]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Notes what Lightning will overwrite."""
        self._patience = [(item, item.patience) for item in callbacks_of(trainer) if isinstance(item, EarlyStopping)]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keeps the checkpoint until the optimisers are there."""
        self._checkpoint = checkpoint if trainer.state.fn == "fit" else None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Puts the configured settings into the states that Lightning is about to load.

        Raises:
            UserError: the checkpoint's state is of no use to the configured optimiser or schedule.
        """
        for stopping, patience in self._patience:
            stopping.patience = patience
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is None or not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            return
        saved, schedules = checkpoint.get("optimizer_states") or [], checkpoint.get("lr_schedulers") or []
        configs = trainer.lr_scheduler_configs
        if len(saved) != 1 or len(trainer.optimizers) != 1 or len(schedules) > 1 or len(configs) > 1:
            return
        steps = None
        if not configs or configs[0].interval == "step":
            started = [plan.step for plan in ledger_of(pl_module).plans if plan.decision.get(KEY) is not None]
            steps = checkpoint["global_step"] - (started[-1] if started else 0)
        adapted = adapt(
            trainer.optimizers[0],
            configs[0].scheduler if configs else None,
            saved[0],
            schedules[0] if schedules else None,
            steps,
        )
        if adapted is None:
            if self.differs and trainer.is_global_zero:
                name = type(pl_module).__name__
                print(f"{name} makes its optimiser itself; it goes on with the checkpoint's settings", file=sys.stderr)
            return
        state, schedule = adapted
        checkpoint["optimizer_states"], checkpoint["lr_schedulers"] = [state], [] if schedule is None else [schedule]
        before, now = _rates(saved[0]), _rates(state)
        if before != now and trainer.is_global_zero:
            self._said = f"learning rate: {before} in the checkpoint, {now} from here on, as the config says"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A finished run has no rate from here on."""
        if self._said:
            print(self._said, file=sys.stderr)
        self._said = ""


def _rates(state: dict[str, Any]) -> str:
    return ", ".join(dict.fromkeys(f"{float(group['lr']):.4g}" for group in state["param_groups"]))
