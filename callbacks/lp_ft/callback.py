"""The technique: a probe, fitted or trained, and the stage after it."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import lightning.pytorch as pl
from torch import nn

from callbacks.lp_ft.probing import probe
from framework.editing import Context, Edit, Once, OptimizerState, Plan, Stage, ledger_of
from framework.editing.capabilities import TRAINING_DATA
from framework.editing.ledger import set_trainable, trainable_names
from framework.editing.phases import comes_before
from framework.errors import UserError
from framework.observing.linear_probe import ProbeFit, batches_of, find_head, scale_head
from framework.optim import OptimizerConfig, ScheduleConfig, changed
from framework.settings import above, at_least, one_of

Strategy = Literal["lp_ft", "lp", "ft"]


class LPFT(Once):
    """Probes a linear head, then fine-tunes.

    Args:
        strategy: ``lp_ft``; ``lp`` (the backbone stays frozen) or ``ft`` (no probe, only the scaling of the head).
        head: Name of the last linear layer; found by default.
        probe_epochs: Number of epochs that train only the head; 0 fits it before training.
        Cs: Number of regularisation strengths that a fitted probe tries.
        cv: Number of folds of its cross-validation.
        max_iter: Largest number of iterations of its solver.
        head_scale: Factor on the head's weight before fine-tuning.
        optimizer: Whether to ``reset`` the optimiser after ``probe_epochs``, or to ``keep`` the head's state.
        probe_optimizer: Fields of the optimiser that differ in the probe's epochs, such as ``{lr: 0.01}``.
        probe_schedule: Fields of the schedule, which spans only those epochs.
        finetune_optimizer: Fields of the optimiser that differ in fine-tuning.
        finetune_schedule: Fields of its schedule.
        epoch: Epoch before which it starts. By default at the start, or when earlier techniques leave plain layers.

    Raises:
        UserError: a setting is not accepted (in the constructor); the model has no linear head, the data does not fit
            it, or the training ends before the probe does (before training).
    """

    technique: ClassVar[str] = "lp_ft"
    changes: ClassVar[frozenset[str]] = frozenset({"trainability", "values"})
    phase = "probe"

    def __init__(
        self,
        strategy: Strategy = "lp_ft",
        head: str | None = None,
        probe_epochs: int = 0,
        Cs: int = 10,
        cv: int = 5,
        max_iter: int = 5000,
        head_scale: float = 1.0,
        optimizer: OptimizerState = "reset",
        probe_optimizer: dict[str, Any] | None = None,
        probe_schedule: dict[str, Any] | None = None,
        finetune_optimizer: dict[str, Any] | None = None,
        finetune_schedule: dict[str, Any] | None = None,
        epoch: int | None = None,
    ) -> None:
        one_of(get_args(Strategy), strategy=strategy)
        one_of(get_args(OptimizerState), optimizer=optimizer)
        at_least(0, probe_epochs=probe_epochs, epoch=epoch)
        at_least(1, Cs=Cs, max_iter=max_iter)
        at_least(2, cv=cv)
        above(0, head_scale=head_scale)
        if probe_epochs and strategy != "lp_ft":
            raise UserError(f"probe_epochs: {probe_epochs} is not accepted with strategy {strategy}; 0")
        fields = {
            "probe_optimizer": probe_optimizer,
            "probe_schedule": probe_schedule,
            "finetune_optimizer": finetune_optimizer,
            "finetune_schedule": finetune_schedule,
        }
        for key, values in fields.items():
            if key.endswith("schedule"):
                changed(ScheduleConfig(), values or {}, key)
            else:
                changed(OptimizerConfig(), values or {}, key)
            if values and optimizer == "keep":
                raise UserError(f"{key}: {values} is not accepted with optimizer keep, which changes nothing")
            if values and key.startswith("probe") and not probe_epochs:
                raise UserError(
                    f"{key}: {values} is not accepted without probe_epochs; a solved probe has no use for it"
                )
        self.strategy, self.head, self.probe_epochs = strategy, head, probe_epochs
        self.Cs, self.cv, self.max_iter, self.head_scale = Cs, cv, max_iter, float(head_scale)
        self.optimizer = optimizer
        self.probe_optimizer, self.probe_schedule = probe_optimizer, probe_schedule
        self.finetune_optimizer, self.finetune_schedule = finetune_optimizer, finetune_schedule
        self.epoch = epoch
        self._fit: ProbeFit | None = None  # of the current edit, for its report
        self._stilled: list[nn.Module] = []

    @property
    def offers(self) -> frozenset[str]:  # type: ignore[override]
        """A fitted probe is computed from the training data; trained for epochs, it is the optimiser's."""
        fitted = self.strategy != "ft" and not self.probe_epochs
        return frozenset({TRAINING_DATA}) if fitted else frozenset()

    # when

    def settled(self, context: Context) -> int | None:
        """Returns the epoch before which fine-tuning starts."""
        return self.first_epoch(context) + self.probe_epochs

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a model without a linear head, and a training that ends before fine-tuning starts.

        Raises:
            UserError: either is the case, or another technique would train a backbone that has to stay frozen.
        """
        super().check(model, context)
        if not ledger_of(model).plans:  # later its layers may differ temporarily
            find_head(model, self.head, f"{self.name}.head")
        for name, other in context.techniques.items():
            trains = isinstance(other, Edit) and "trainability" in other.changes
            if self.strategy == "lp" and trains and comes_before(type(self), type(other)):
                raise UserError(
                    f"{self.name}.strategy: 'lp' is not accepted with {name}: it leaves the backbone frozen"
                )
        last = getattr(context.trainer, "max_epochs", None)
        begins = self.first_epoch(context) + self.probe_epochs
        if getattr(context.trainer, "fast_dev_run", False) or not self.probe_epochs:
            return
        if last is not None and 0 <= last <= begins:
            raise UserError(
                f"{self.name}.probe_epochs: {self.probe_epochs} is not accepted: fine-tuning would begin at epoch "
                f"{begins}, trainer.max_epochs is {last}"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks the same with the number of steps.

        Raises:
            UserError: ``max_steps`` is reached before fine-tuning starts.
        """
        self._stilled = []
        steps, batches = trainer.max_steps, trainer.num_training_batches
        if steps < 0 or not self.probe_epochs or getattr(trainer, "fast_dev_run", False) or not 0 < batches < math.inf:
            return
        plans = [plan for plan in ledger_of(pl_module).plans if plan.name == self.name]
        if not plans or plans[-1].decision["phase"] != "probe":
            return
        before = (plans[-1].epoch + self.probe_epochs) * math.ceil(batches / trainer.accumulate_grad_batches)
        if before >= steps:
            raise UserError(
                f"{self.name}.probe_epochs: {self.probe_epochs} is not accepted: fine-tuning would begin after "
                f"{before} steps, trainer.max_steps is {steps}"
            )

    def in_training(self, context: Context) -> bool:
        """Returns whether it is still incomplete after the start."""
        return self.first_epoch(context) + self.probe_epochs > 0

    def due(self, context: Context) -> bool:
        """Returns true where the probe starts and where it ends."""
        done = [plan for plan in context.plans if plan.name == self.name]
        if not done:
            return super().due(context)
        return done[-1].decision["phase"] == "probe" and context.epoch >= done[-1].epoch + self.probe_epochs

    # what

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """Finds the head and the parameters to train.

        Raises:
            UserError: there is no head, or it is frozen although it should be trained.
        """
        done = [plan for plan in context.plans if plan.name == self.name]
        if done:
            begun = done[-1].decision
            own = dict(model.named_parameters())
            trained = [name for name in begun["before"] if name in own]
            return {"phase": "finetune", "head": begun["head"], "trainable": trained, **self._stage(context, False)}
        head, before = find_head(model, self.head, f"{self.name}.head"), trainable_names(model)
        inside = [name for name in before if name.rpartition(".")[0] == head]
        if self.probe_epochs:
            if not inside:
                raise UserError(f"{self.name}.probe_epochs: {head} is frozen, so there is nothing to train in them")
            probed = {"phase": "probe", "head": head, "trainable": inside, "before": before}
            return {**probed, **self._stage(context, True)}
        trained = inside if self.strategy == "lp" else before
        return {"phase": self.strategy, "head": head, "trainable": trained, **self._stage(context, False)}

    def _stage(self, context: Context, probing: bool) -> dict[str, Any]:
        """Returns the stage that starts, if it differs from the previous one."""
        if self.optimizer == "keep":
            return {}
        optimizer, schedule = self.finetune_optimizer, self.finetune_schedule
        if probing:
            optimizer, schedule = self.probe_optimizer, self.probe_schedule
        if not (self.probe_epochs or context.epoch or optimizer or schedule):
            return {}
        length = self.probe_epochs if probing else None
        return {"stage": Stage(context.epoch, length, dict(optimizer or {}), dict(schedule or {})).to_plain()}

    @classmethod
    def apply(cls, model: nn.Module, decision: Mapping[str, Any]) -> None:
        """Makes the decision's parameters trainable, and no others."""
        set_trainable(model, decision["trainable"])

    def initialise(self, model: nn.Module, decision: Mapping[str, Any], context: Context) -> None:
        """Fits the head, and scales it before fine-tuning."""
        self._fit = None
        if decision["phase"] == "probe":
            return
        if self.strategy != "ft" and not self.probe_epochs:
            batches = batches_of(context.datamodule, "train", f"{self.name}.probe_epochs: 0")
            self._fit = probe(
                model,
                batches,
                decision["head"],
                self.Cs,
                self.cv,
                self.max_iter,
                self.head_scale,
                seed=context.seed % 2**32,
                key=self.name,
            )
        else:
            head = model.get_submodule(decision["head"])
            assert isinstance(head, nn.Linear)
            scale_head(head, self.head_scale)

    # in training

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keeps everything except the head in ``eval`` mode during the probe: no dropout, no update of batch norms."""
        decision = next((p.decision for p in reversed(ledger_of(pl_module).plans) if p.name == self.name), {})
        if decision.get("phase") in ("probe", "lp"):
            head = pl_module.get_submodule(decision["head"])
            for module in pl_module.modules():
                if module.training and module is not head and module is not pl_module:
                    module.training = False
                    self._stilled.append(module)
        else:
            for module in self._stilled:
                module.training = True
            self._stilled = []

    def report(self, model: nn.Module, plan: Plan, context: Context) -> None:
        """Prints a line on the edit."""
        decision = plan.decision
        head = model.get_submodule(decision["head"])
        assert isinstance(head, nn.Linear)
        norm = float(head.weight.detach().norm())
        text = {
            "probe": f"{decision['head']} alone is trained for {self.probe_epochs} epochs",
            "finetune": f"{decision['head']} is probed, ‖V‖ {norm:.4g}; fine-tuning",
            "ft": f"no probe, ‖V‖ of {decision['head']} {norm:.4g}",
        }.get(decision["phase"], "")
        if self._fit is not None:
            text = (
                f"{decision['head']} solved for: ‖V‖ {norm:.4g}, C {self._fit.strength:.3g}, accuracy "
                f"{self._fit.accuracy:.3f} ({self._fit.validated:.3f} in cross-validation)"
            )
        print(f"{self.name}: epoch {plan.epoch}: {text}", file=sys.stderr)
