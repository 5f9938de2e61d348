"""A resumed run trains with the optimiser and schedule of its config, not those of its checkpoint."""

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
    """Writes the config's settings into a checkpoint's optimiser state before Lightning loads it.

    Settings that were not changed stay as in the checkpoint. Modules whose optimiser was not made by
    :func:`framework.optim.build_optimizer` are left to Lightning. ``patience`` of an ``EarlyStopping`` is the config's
    too.
    """

    def __init__(self) -> None:
        self.differs = False
        """Whether the config differs from the one that the checkpoint was trained with."""
        self._checkpoint: dict[str, Any] | None = None
        self._said = ""
        self._patience: list[tuple[EarlyStopping, int]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Saves the settings that Lightning will overwrite."""
        self._patience = [(item, item.patience) for item in callbacks_of(trainer) if isinstance(item, EarlyStopping)]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keeps the checkpoint until the optimisers exist."""
        self._checkpoint = checkpoint if trainer.state.fn == "fit" else None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the configured settings into the states that Lightning is about to load.

        Raises:
            UserError: the checkpoint's state does not fit the configured optimiser or schedule.
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
                print(f"{name} makes its optimiser itself; it keeps the checkpoint's settings", file=sys.stderr)
            return
        state, schedule = adapted
        checkpoint["optimizer_states"], checkpoint["lr_schedulers"] = [state], [] if schedule is None else [schedule]
        before, now = _rates(saved[0]), _rates(state)
        if before != now and trainer.is_global_zero:
            self._said = f"learning rate: {before} in the checkpoint, {now} from here on, as the config says"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints the learning rate, unless the run is already finished."""
        if self._said:
            print(self._said, file=sys.stderr)
        self._said = ""


def _rates(state: dict[str, Any]) -> str:
    return ", ".join(dict.fromkeys(f"{float(group['lr']):.4g}" for group in state["param_groups"]))
