"""The technique: two members one after the other, then the full width."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from torch import nn

from callbacks.mixture_growth.conversion import (
    bank_groups,
    convert,
    describe,
    initialise,
    phase_of,
    plan_layers,
    set_phase,
)
from callbacks.mixture_growth.layers import GROWN, MEMBER_SETS, Init, Kind
from callbacks.mixture_growth.members import Mode, check_growth, copy_member, fold_, write_growth
from framework.editing import Context, Plan, Stage, Transform
from framework.errors import UserError
from framework.optim import ScheduleConfig, changed
from framework.settings import above, at_least


class MixtureGrowth(Transform):
    """Trains two half-width members one after the other, then the full width assembled from both.

    Args:
        member_epochs: Numbers of epochs of member 0 and of member 1; the network grows after both.
        mode: Initialisation of the new blocks: ``orthogonal`` (the official code's), ``orthogonal_all``, ``zero``,
            ``copy``, ``random`` or ``none``.
        scale: Scale of the noise of ``copy``, the range of ``random`` and the length of orthogonal coefficients.
        fold_epoch: Epoch before which the grown layers become plain ones, for techniques that need those; ``None``
            trains templates until the end.
        layers: Maps names or patterns to ``in``, ``out`` or ``both``; found automatically by default.
        input_layers: Layers that read the network's input; the first by default.
        output_layers: Layers that compute its output; the classifier or the last by default.
        templates: T, number of templates in each of a layer's two sets.
        member_template_sets: The set of each block, ``[0, 1, 0, 1]`` or ``[0, 1, 1, 0]``.
        init: Initialisation of the templates: ``kaiming`` (each with a member's fan-in), ``official``, or ``layer``
            (the standard deviation of the layer's original weights, for a member's fan-in).
        banks: Whether layers of the same shape share their sets of templates.
        copy_noise: If given, member 1 starts as member 0 plus noise of this standard deviation.
        normalise: Whether member 0 is scaled to the norms of member 1 before growing.
        freeze_members: Whether the members' coefficients are frozen after growing.
        growth_lr: Learning rate after growing; the module's own by default.
        growth_schedule: Fields of the schedule that differ after growing, such as ``{cycles: 4, cycle_decay: 0.5}``.

    Raises:
        UserError: a setting is not accepted (in the constructor), the training ends before the network grows (in
            ``check``, or at the start if it is limited by steps), or the model cannot be converted (in ``decide``,
            before training).
    """

    technique = "mixture_growth"
    changes = frozenset({"structure", "trainability", "values"})
    moments = frozenset({"start", "epoch"})
    optimizer = "reset"
    settles_by = "fold_epoch"
    phase = "grow"

    def __init__(
        self,
        member_epochs: list[int] | None = None,
        mode: Mode = "orthogonal",
        scale: float = 1.0,
        fold_epoch: int | None = None,
        layers: dict[str, Kind] | None = None,
        input_layers: list[str] | None = None,
        output_layers: list[str] | None = None,
        templates: int = 2,
        member_template_sets: list[int] | None = None,
        init: Init = "kaiming",
        banks: bool = False,
        copy_noise: float | None = None,
        normalise: bool = False,
        freeze_members: bool = False,
        growth_lr: float | None = None,
        growth_schedule: dict[str, Any] | None = None,
    ) -> None:
        epochs = [25, 25] if member_epochs is None else list(member_epochs)
        if len(epochs) != 2 or any(isinstance(e, bool) or not isinstance(e, int) or e < 1 for e in epochs):
            raise UserError(f"member_epochs: {epochs} is not accepted; two numbers of at least 1")
        above({"the sum of member_epochs": sum(epochs)}, fold_epoch=fold_epoch)
        check_growth(mode, scale)
        sets = list(MEMBER_SETS[0] if member_template_sets is None else member_template_sets)
        describe(nn.Module(), {}, templates, sets, init)  # checks the settings
        at_least(0, copy_noise=copy_noise, growth_lr=growth_lr)
        changed(ScheduleConfig(), growth_schedule or {}, "growth_schedule")
        self.member_epochs, self.mode, self.scale, self.fold_epoch = epochs, mode, float(scale), fold_epoch
        self.layers, self.input_layers, self.output_layers = layers, input_layers, output_layers
        self.templates, self.member_template_sets, self.init, self.banks = templates, sets, init, banks
        self.copy_noise, self.normalise, self.freeze_members = copy_noise, normalise, freeze_members
        self.growth_lr, self.growth_schedule = growth_lr, growth_schedule

    @property
    def events(self) -> list[tuple[int, str]]:
        """Returns the epochs before which something is done, and what; the first is the start."""
        first, second = self.member_epochs
        found = [(0, "convert"), (first, "member"), (first + second, "grow")]
        return found if self.fold_epoch is None else [*found, (self.fold_epoch, "fold")]

    def settled(self, context: Context) -> int | None:
        """Returns the epoch from which the layers are plain."""
        return self.fold_epoch

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a training that ends before the network has grown.

        Raises:
            UserError: it ends before that, or before the network is folded.
        """
        last = getattr(context.trainer, "max_epochs", None)
        if last is None or last < 0 or getattr(context.trainer, "fast_dev_run", False):
            return
        for epoch, action in self.events[2:]:
            if epoch >= last:
                key = "member_epochs" if action == "grow" else "fold_epoch"
                value = self.member_epochs if action == "grow" else self.fold_epoch
                raise UserError(
                    f"mixture_growth.{key}: {value} is not accepted: the training has {last} epochs, and "
                    f"{'the network would grow' if action == 'grow' else 'it would be folded'} at epoch {epoch}; "
                    f"less, or trainer.max_epochs above {epoch}"
                )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuses a training that ends before the network has grown, by its number of steps.

        Raises:
            UserError: it ends before that, or before the network is folded.
        """
        steps, batches = trainer.max_steps, trainer.num_training_batches
        if steps < 0 or getattr(trainer, "fast_dev_run", False) or not 0 < batches < math.inf:
            return
        for epoch, action in self.events[2:]:
            before = epoch * math.ceil(batches / trainer.accumulate_grad_batches)
            if before >= steps:
                key = "member_epochs" if action == "grow" else "fold_epoch"
                value = self.member_epochs if action == "grow" else self.fold_epoch
                raise UserError(
                    f"mixture_growth.{key}: {value} is not accepted: the training has {steps} steps, and "
                    f"{'the network would grow' if action == 'grow' else 'it would be folded'} after {before}; "
                    f"less, or trainer.max_steps above {before}"
                )

    def due(self, context: Context) -> bool:
        """Returns whether the next event is due."""
        return self._next(context) is not None

    def _next(self, context: Context) -> str | None:
        done = sum(plan.name == self.name for plan in context.plans)
        if done >= len(self.events):
            return None
        epoch, action = self.events[done]
        if (context.at == "start") != (done == 0):
            return None
        return action if context.epoch >= epoch else None

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """Returns what is done: which layers are converted how, which member is next, or how it grows."""
        number = sum(plan.name == self.name for plan in context.plans)
        epoch, action = self.events[number]
        until = self.events[number + 1][0] if number + 1 < len(self.events) else None
        stage = Stage(context.epoch, None if until is None else until - epoch)
        if action in ("grow", "fold"):
            rate = {} if self.growth_lr is None else {"lr": self.growth_lr}
            stage = Stage(stage.epoch, stage.epochs, rate, dict(self.growth_schedule or {}))
        decision: dict[str, Any] = {"action": action, "phase": min(number, GROWN), "stage": stage.to_plain()}
        if action == "convert":
            kinds = plan_layers(model, self.layers, self.input_layers, self.output_layers)
            layers = describe(model, kinds, self.templates, self.member_template_sets, self.init)
            decision |= {"layers": layers, "banks": bank_groups(layers, model) if self.banks else []}
        elif action == "member":
            decision["copy_noise"] = self.copy_noise
        elif action == "grow":
            decision |= {"mode": self.mode, "scale": self.scale, "normalise": self.normalise}
            decision["freeze_members"] = self.freeze_members
        return decision

    @classmethod
    def apply(cls, model: nn.Module, decision: Mapping[str, Any]) -> None:
        """Converts, changes the phase, or folds."""
        if decision["action"] == "convert":
            convert(model, decision["layers"], decision["banks"])
        elif decision["action"] == "fold":
            fold_(model)
        else:
            set_phase(model, decision["phase"], bool(decision.get("freeze_members")))

    def initialise(self, model: nn.Module, decision: Mapping[str, Any], context: Context) -> None:
        """Draws templates, or writes the initial values of the grown network."""
        if decision["action"] == "convert":
            initialise(model)
        elif decision["action"] == "member" and decision["copy_noise"] is not None:
            copy_member(model, decision["copy_noise"])
        elif decision["action"] == "grow":
            write_growth(model, decision["mode"], decision["scale"], decision["normalise"])

    @classmethod
    def fold(cls, model: nn.Module, decision: Mapping[str, Any]) -> None:
        """Replaces template layers by plain layers."""
        fold_(model)

    def report(self, model: nn.Module, plan: Plan, context: Context) -> None:
        """Prints a line on what was done."""
        action = plan.decision["action"]
        text = {"member": "member 1 trains", "grow": f"grown ({self.mode})", "fold": "folded into plain layers"}
        if action == "convert":
            kinds = [layer["kind"] for layer in plan.decision["layers"].values()]
            counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
            text["convert"] = f"{len(kinds)} layers converted ({counts}), member 0 trains"
        print(f"{self.name}: epoch {plan.epoch}: {text[action]}", file=sys.stderr)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the phase: 0, 1 (members), 2 (grown) or 3 (folded)."""
        phase = phase_of(pl_module)
        pl_module.log(f"{self.name}/phase", float(3 if phase is None else phase), rank_zero_only=True)
