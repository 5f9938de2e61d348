"""The engine: calls configured techniques for edits, records them, and repeats those of a checkpoint.

It relies on Lightning's order of hooks: callbacks' ``setup``, module's ``setup``, ``configure_model``, module's
``on_load_checkpoint``, weights, callbacks' state, ``configure_optimizers``, ``on_fit_start``, optimiser state,
``on_train_start``. tests/framework/editing/test_engine_hook_order.py pins it.
"""

from __future__ import annotations

import json
import math
import os
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from torch import nn

from framework.config.explain import signature
from framework.config.places import names_a_path, same_place
from framework.data.seeding import mix
from framework.editing import order
from framework.editing.capabilities import CAPABILITIES, PLAIN_LAYERS
from framework.editing.carry_over import carry_over, reset_optimizers
from framework.editing.ledger import (
    attach,
    configure,
    keeping_ties,
    ledger_of,
    read_plans,
    replay,
    seeded_for,
    trainable_names,
)
from framework.editing.names import unique_parameters
from framework.editing.penalty import Penalty
from framework.editing.phases import comes_before
from framework.editing.plan import KEY, Plan
from framework.editing.snapshot import Snapshot
from framework.editing.technique import (
    Context,
    Edit,
    Engine,
    Moment,
    Once,
    Technique,
    Transform,
    Writer,
    callbacks_of,
)
from framework.errors import UserError
from framework.files import write_text
from framework.plain import plain_data


def edit(model: nn.Module, technique: Edit, context: Context | None = None) -> Plan:
    """Decides, applies, initialises and records one edit; works in any training loop.

    Args:
        model: Any module; names in the decision are relative to it.
        technique: The technique.
        context: Its context; an empty one outside a Trainer.

    Raises:
        UserError: the technique refuses the model.
    """
    context = context or Context()
    ledger = ledger_of(model)
    context.plans = tuple(ledger.plans)
    context.seed = _seed(technique, ledger.plans)
    if not ledger.plans:
        ledger.trainable = trainable_names(model)
        ledger.base = ledger.base or Snapshot(model)
    trained = trainable_names(model)
    with seeded_for(model, context.seed):
        decision = plain_data(technique.decide(model, context), technique.name)
        trainer = context.trainer
        if trainer is not None and trainer.world_size > 1:
            decision = trainer.strategy.broadcast(decision)
    with seeded_for(model, mix(context.seed, 1)), keeping_ties(model, technique.name):
        type(technique).apply(model, decision)
        technique.initialise(model, decision, context)
    trainable = trainable_names(model)
    plan = Plan(
        technique=technique.technique,
        name=technique.name,
        decision=decision,
        settings=technique.settings(),
        version=type(technique).version,
        trainable=trainable if trainable != trained or type(technique).changes - {"values"} else None,
        epoch=context.epoch,
        step=context.step,
        seed=mix(context.seed, 1),
    )
    ledger.plans.append(plan)
    return plan


def _seed(technique: Edit, plans: Sequence[Plan]) -> int:
    times = sum(plan.name == technique.name for plan in plans)
    return mix(int(os.environ.get("PL_GLOBAL_SEED", 0)), zlib.crc32(technique.name.encode()), times)


class Editing(Engine):
    """Runs the engine in a Trainer. The command line always adds it; otherwise the first technique's ``setup`` does.

    Args:
        checkpoint: The checkpoint that the run starts from, from :func:`framework.open_checkpoint`; then no edit is
            decided, and its plans are applied. In a plain Trainer callbacks do not get ``ckpt_path`` in time; there
            techniques decide first, and their edits are undone if the checkpoint has others.
        folder: Folder of ``plans.json``, a copy of the ledger for people; ``None`` for no file.
        hold: Makes and locks the folder, if that has not been done; called before the file is written.
    """

    def __init__(
        self,
        checkpoint: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        hold: Callable[[], None] | None = None,
    ) -> None:
        self._plans = None if checkpoint is None else {KEY: checkpoint.get(KEY)}
        self._folder, self._hold = folder, hold
        self._techniques: dict[str, Technique] = {}
        self._epochs: list[Transform] = []
        self._steps: list[Transform] = []
        self._ready: tuple[int, str] | None = None

    # start

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Applies the checkpoint's plans, or makes the edit of every technique that acts at the start."""
        if self._ready == (id(pl_module), stage):
            return
        configure(pl_module)
        self._techniques = in_order(callbacks_of(trainer))
        transforms = [technique for technique in self._techniques.values() if isinstance(technique, Transform)]
        self._epochs = [technique for technique in transforms if "epoch" in technique.moments]
        self._steps = [technique for technique in transforms if "step" in technique.moments]
        check_run(trainer, pl_module, self._techniques)
        attach(pl_module)
        if self._plans is not None and self._plans[KEY] is not None:
            replay(pl_module, self._plans)
        if self._plans is None:
            self._start(trainer, pl_module)
        self._write(trainer, pl_module)
        self._ready = (id(pl_module), stage)  # only here: if the lines above fail, the next run must prepare again

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Makes the next run be prepared again; edits that the model already has are not repeated."""
        self._ready = None

    def _start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Makes the edits of techniques that act at the start, unless an earlier run made them."""
        ledger, order = ledger_of(module), list(self._techniques)
        for technique in self._edits():
            if _done(module, technique) or not self._acts(trainer, module, technique):
                continue
            later = [plan for plan in ledger.plans if plan.name in order[order.index(technique.name) :]]
            if later and ledger.base is not None:  # an evaluation before training did not make them: all are made again
                ledger.base.restore()
                ledger.plans.clear()
                return self._start(trainer, module)
            self._edit(trainer, module, technique)

    def _acts(self, trainer: pl.Trainer, module: pl.LightningModule, technique: Edit) -> bool:
        context = self._context(trainer, "start")
        context.plans = tuple(ledger_of(module).plans)
        return not isinstance(technique, Transform) or ("start" in technique.moments and technique.due(context))

    def _edit(self, trainer: pl.Trainer, module: pl.LightningModule, technique: Edit) -> None:
        context = self._context(trainer, "start")
        plan = edit(module, technique, context)
        if trainer.is_global_zero:
            technique.report(module, plan, context)

    def _edits(self) -> list[Edit]:
        return [technique for technique in self._techniques.values() if isinstance(technique, Edit)]

    def _context(self, trainer: pl.Trainer, at: Moment) -> Context:
        epoch, step = (0, 0) if at == "start" else (trainer.current_epoch, trainer.global_step)
        return Context(trainer=trainer, at=at, epoch=epoch, step=step, techniques=self._techniques)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drops the old structure, which cannot be restored any more."""
        ledger_of(pl_module).base = None
        self._plans = None  # this run, and a later one, continues with the edited model
        self._refuse_unreached(trainer, pl_module)

    def _refuse_unreached(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Refuses an edit whose epoch is not reached within ``max_steps``; the steps of an epoch are known now."""
        batches = trainer.num_training_batches
        if trainer.max_steps < 0 or not 0 < batches < math.inf or getattr(trainer, "fast_dev_run", False):
            return
        steps = math.ceil(batches / trainer.accumulate_grad_batches)
        done = {plan.name for plan in ledger_of(module).plans}
        for name, technique in self._techniques.items():
            if not isinstance(technique, Once) or name in done:
                continue
            first = technique.first_epoch(self._context(trainer, "epoch"))
            if first * steps >= trainer.max_steps:
                raise UserError(
                    f"{name}.epoch: {first} is not reached: trainer.max_steps {trainer.max_steps} are at most "
                    f"{math.ceil(trainer.max_steps / steps)} epochs of {steps} steps"
                )

    # in training

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Makes the edits of techniques that act at epochs."""
        for technique in self._epochs:
            self._if_due(trainer, pl_module, technique, "epoch")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Makes the edits of techniques that act at steps, unless gradients are being accumulated."""
        if self._steps and batch_idx % trainer.accumulate_grad_batches == 0:
            for technique in self._steps:
                self._if_due(trainer, pl_module, technique, "step")

    def _if_due(self, trainer: pl.Trainer, module: pl.LightningModule, technique: Transform, at: Moment) -> None:
        context = self._context(trainer, at)
        context.plans = tuple(ledger_of(module).plans)
        if technique.due(context):
            self._transform(trainer, module, technique, context)

    def _transform(
        self, trainer: pl.Trainer, module: pl.LightningModule, technique: Transform, context: Context
    ) -> None:
        before = unique_parameters(module)
        plan = edit(module, technique, context)
        module.to(trainer.strategy.root_device)
        if technique.optimizer == "reset":
            reset_optimizers(trainer)
        elif type(technique).changes - {"values"}:
            carry_over(trainer, before)
        if isinstance(trainer.strategy, DDPStrategy):  # the reducer has only the parameters with which it was built
            trainer.strategy.model = trainer.strategy.lightning_module
            trainer.strategy.configure_ddp()
        for callback in callbacks_of(trainer):
            if isinstance(callback, Technique):
                callback.on_model_edit(trainer, module, plan)
        if trainer.is_global_zero:
            technique.report(module, plan, context)
        self._write(trainer, module)

    def _write(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Writes ``plans.json``, and prints a line on what is trained."""
        ledger = ledger_of(module)
        if not ledger.plans or self._folder is None or not trainer.is_global_zero:
            return
        if self._hold is not None:
            self._hold()
        write_text(self._folder / "plans.json", json.dumps(ledger.to_plain(), indent=1))
        parameters = unique_parameters(module).values()
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        total = sum(p.numel() for p in parameters)
        print(
            f"edits: {', '.join(p.name for p in ledger.plans)}; trains {trained:,} of {total:,} parameters",
            file=sys.stderr,
        )


def in_order(callbacks: Sequence[Callback]) -> dict[str, Technique]:
    """Returns the techniques among ``callbacks`` by name, in the order of application.

    Raises:
        UserError: two have the same name, or they conflict.
    """
    techniques: dict[str, Technique] = {}
    for callback in callbacks:
        if isinstance(callback, Technique):
            if callback.name in techniques:
                raise UserError(f"two techniques are named {callback.name!r}; set the attribute name of one")
            techniques[callback.name] = callback
    return {name: techniques[name] for name in order.resolve({name: type(t) for name, t in techniques.items()})}


def check_run(trainer: pl.Trainer, module: pl.LightningModule, techniques: Mapping[str, Technique]) -> None:
    """Refuses combinations that are not possible, before training.

    Args:
        trainer: The run's Trainer.
        module: The module, before any edit.
        techniques: The techniques, by configured name.

    Raises:
        UserError: a combination is not possible; the message names the technique, and the other one or the strategy.
    """
    context = Context(trainer=trainer, techniques=techniques)
    _check_needs(context)
    for technique in techniques.values():
        technique.check(module, context)
    strategy = trainer.strategy
    kind = getattr(strategy, "strategy_name", type(strategy).__name__)
    if isinstance(strategy, DDPStrategy):  # as in the config
        kind = "ddp" if strategy._start_method == "popen" else f"ddp_{strategy._start_method}"
    plain = isinstance(strategy, SingleDeviceStrategy | DDPStrategy)
    for name, technique in techniques.items():
        if not isinstance(technique, Edit | Writer | Penalty):
            continue
        where = f"techniques.{name} and trainer.strategy {kind}"
        if not plain:
            raise UserError(f"{where} cannot be combined: techniques run on one device and under ddp")
        in_training = isinstance(technique, Transform) and technique.in_training(context)
        lost = in_training or (isinstance(technique, Edit) and "structure" in technique.changes)
        if lost and isinstance(strategy.launcher, _MultiProcessingLauncher):
            raise UserError(
                f"{where} cannot be combined when it spawns or forks its processes: the edited model would not come "
                "back from them; use --trainer.strategy ddp"
            )
        if in_training and getattr(module, "_compiler_ctx", None) is not None:
            raise UserError(
                f"techniques.{name} and torch.compile cannot be combined: the model is edited in mid-training"
            )


def _check_needs(context: Context) -> None:
    """Refuses a technique whose needs are not offered by any technique of the run.

    Raises:
        UserError: naming the technique and what it needs.
    """
    for name, technique in context.techniques.items():
        for need in technique.needs - {PLAIN_LAYERS}:
            if not context.offering(need, technique):
                meaning = f", which {CAPABILITIES[need]}" if need in CAPABILITIES else ""
                raise UserError(f"techniques.{name}: a technique that offers {need} is needed{meaning}")
        if PLAIN_LAYERS not in technique.needs or isinstance(technique, Once):  # which waits for them
            continue
        for other_name, other in context.techniques.items():
            if (
                isinstance(other, Transform)
                and not isinstance(other, Once)
                and comes_before(type(other), type(technique))
                and other.settled(context) != 0
            ):
                raise UserError(
                    f"techniques.{name} and techniques.{other_name} cannot be combined: {name} needs the model's plain "
                    f"layers at the start, and {other_name} has replaced them by then"
                )


def _done(module: pl.LightningModule, technique: Edit) -> bool:
    """Returns whether the model has this technique's edit already, for example after an earlier fit.

    Raises:
        UserError: it has it with other settings.
    """
    plan = next((plan for plan in ledger_of(module).plans if plan.name == technique.name), None)
    repeats = isinstance(technique, Transform) and not isinstance(technique, Once)
    if plan is not None and not repeats and (lines := _differences(plan, technique)):
        raise UserError("the model was edited already: " + "; ".join(lines))
    return plan is not None


def _differences(plan: Plan, technique: Edit) -> list[str]:
    if plan.technique != technique.technique:
        return [f"techniques.{plan.name}: the checkpoint has {plan.technique}, the config {technique.technique}"]
    cls: Any = type(technique)
    settings, hints = technique.settings(), signature(cls)

    def same(key: str) -> bool:
        old, new = plan.settings[key], settings[key]
        return bool(old == new) or (names_a_path(hints[key][0]) and same_place(old, new))

    return [
        f"techniques.{plan.name}.{key}: the checkpoint has {plan.settings[key]!r}, the config {settings[key]!r}"
        for key in plan.settings
        if key in settings and not same(key)  # the argument may be newer than the checkpoint
    ]


def contradictions(checkpoint: Mapping[str, Any], techniques: Mapping[str, Technique]) -> list[str]:
    """Returns lines on the differences between the configured techniques and those of a checkpoint."""
    plans: dict[str, Plan] = {plan.name: plan for plan in read_plans(checkpoint)}
    lines: list[str] = []
    averages = [name for name, technique in techniques.items() if isinstance(technique, WeightAveraging)]
    if checkpoint.get("optimizer_states") and bool(averages) != ("averaging_state" in checkpoint):
        states = checkpoint.get("callbacks") or {}  # Lightning's name of an average's state
        saved = [key.rpartition(".")[2] for key, state in states.items() if "latest_update_step" in (state or {})]
        where = ".".join(["techniques", *(averages or saved)[:1]])
        has = ("no average of the weights", "one") if averages else ("an average of the weights", "none")
        lines.append(f"{where}: the checkpoint has {has[0]}, the config {has[1]}")
    for name, technique in techniques.items():
        if not isinstance(technique, Edit):
            continue
        if name in plans:
            lines += _differences(plans[name], technique)
        elif not isinstance(technique, Transform) or (
            "start" in technique.moments and technique.due(Context(techniques=techniques))
        ):
            lines.append(f"techniques.{name}: the checkpoint was made without it, the config has {technique.technique}")
    for name, plan in plans.items():
        if name not in techniques:
            lines.append(f"techniques.{name}: the checkpoint has {plan.technique}, the config has none")
    return lines
