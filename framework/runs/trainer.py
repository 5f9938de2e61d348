"""Builds the Trainer of a run: techniques in order, loggers, and the callbacks of every run."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from framework.checkpoints.writing import AtomicCheckpointIO
from framework.config import yaml12
from framework.editing import Editing, Technique
from framework.errors import UserError
from framework.library_errors import first_line
from framework.resume import ResumePoint
from framework.runs.accumulation import ShortWindows
from framework.runs.batches import Batches
from framework.runs.divergence import StopAtNaN
from framework.runs.folder import Run, RunConfig
from framework.runs.launcher import watch_ranks
from framework.runs.optimizer_settings import OptimizerSettings
from framework.runs.ranks import AsOneProcess
from framework.runs.recorder import RunRecorder
from framework.settings import at_least
from framework.tracking import trial_callbacks, trial_report
from framework.tracking.metrics_log import MetricsLog
from framework.tracking.predictions import PredictionWriter
from framework.tracking.wandb_run import WandbConfig, make_wandb_logger


@dataclass(frozen=True)
class Record:
    """The data from which a run's own callbacks and loggers are made.

    Attributes:
        identity: The run's folder and id.
        config: The ``run`` section.
        wandb: The ``wandb`` section.
        text: The resolved config as YAML.
        subcommand: The running subcommand.
    """

    identity: Run
    config: RunConfig
    wandb: WandbConfig
    text: str
    subcommand: str

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The resolved config as plain data."""
        return yaml12.load(self.text)


def build_trainer(
    given: Mapping[str, Any],
    techniques: Mapping[str, Callback],
    record: Record | None = None,
    start: Mapping[str, Any] | None = None,
) -> pl.Trainer:
    """Builds a Trainer with the techniques in order, the loggers and the run's own callbacks.

    Args:
        given: The Trainer's settings; their callbacks, loggers and plugins are used together with the run's.
        techniques: Maps each name to its callback, in the order of application.
        record: The run's record; without one, and with ``fast_dev_run``, nothing is written.
        start: The checkpoint that the run starts from, already read.

    Raises:
        UserError: the Trainer does not accept a setting, or torchrun's processes would not train together.
    """
    given = dict(given)
    callbacks = given.pop("callbacks", None) or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    for name, technique in techniques.items():
        if isinstance(technique, Technique):
            technique.name = name
    callbacks = [*callbacks, *techniques.values()]
    if given.get("fast_dev_run"):
        given["logger"] = False
        callbacks = [Editing(start), OptimizerSettings(), EndsAtOnce(), *callbacks]
    elif record is not None:
        keep = given.get("enable_checkpointing") is not False
        logger = given.pop("logger", None)
        more = logger if isinstance(logger, list) else [logger] if logger not in (None, True, False) else []
        given["logger"] = [*own_loggers(record), *more]
        callbacks = [*own_callbacks(record, keep, start), *callbacks]
        given["plugins"] = own_plugins(given.get("plugins"))
        given["default_root_dir"] = str(record.identity.folder)
    # first, so that the other callbacks see corrected gradients and metrics
    callbacks = [Batches(), AsOneProcess(), ShortWindows(), *callbacks]
    given["enable_checkpointing"] = any(isinstance(callback, Checkpoint) for callback in callbacks)
    if given.get("enable_progress_bar") is not False:
        from framework.tracking.progress import Progress

        callbacks.append(Progress())
    if given.get("profiler") is None:
        given["profiler"] = NoProfiler()
    whole, number = (
        ("accumulate_grad_batches", "check_val_every_n_epoch"),
        ("gradient_clip_val", "log_every_n_steps"),
    )
    at_least(1, **{f"trainer.{name}": given.get(name) for name in whole})  # Lightning fails on these only later
    at_least(0, **{f"trainer.{name}": given.get(name) for name in number})
    try:
        trainer = pl.Trainer(**given, callbacks=callbacks)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"trainer: {first_line(error)}") from error
    _refuse_strangers(trainer)
    watch_ranks(trainer)
    return trainer


def own_callbacks(record: Record, keep: bool, start: Mapping[str, Any] | None = None) -> list[Callback]:
    """Returns the callbacks of every run: record, engine, resume points, best checkpoint, written predictions.

    Args:
        record: The run's record.
        keep: Whether checkpoints are written.
        start: The checkpoint that the run starts from, already read.
    """
    identity, config, subcommand = record.identity, record.config, record.subcommand
    # the edits first: if they refuse the run, no folder is made
    hold = partial(identity.hold, trains=subcommand == "fit")
    callbacks: list[Callback] = [Editing(start, identity.folder, hold), OptimizerSettings()]
    goes_on = start is not None and subcommand == "fit"
    callbacks.append(RunRecorder(identity, record.text, subcommand, record.settings["seed_everything"], goes_on))
    callbacks += trial_callbacks.callbacks()
    if subcommand == "predict":
        callbacks.append(PredictionWriter(identity.folder))
    if subcommand == "fit" and config.on_nan == "stop":
        callbacks.append(StopAtNaN(config.monitor))
    if subcommand == "fit" and keep:
        callbacks.append(
            ResumePoint(
                identity.checkpoints,
                every_n_seconds=config.resume_every_n_seconds,
                every_n_steps=config.resume_every_n_steps,
                run_id=identity.run_id,
                runs=identity.folder.parent,
                stoppers={
                    "techniques": record.settings["techniques"],
                    **{name: record.settings["trainer"].get(name) for name in ("callbacks", "max_time")},
                },
            )
        )
        if config.monitor is not None:
            callbacks.append(
                ModelCheckpoint(
                    dirpath=str(identity.checkpoints),
                    filename="best" if config.save_top_k == 1 else "best-{epoch}-{step}",
                    monitor=config.monitor,
                    mode=config.mode,
                    save_top_k=config.save_top_k,
                    enable_version_counter=False,
                )
            )
    return callbacks


def own_loggers(record: Record) -> list[Any]:
    """Returns the loggers: the metrics log, which is the record, and W&B, which has a copy."""
    identity = record.identity
    loggers: list[Any] = [MetricsLog(identity.folder), *trial_callbacks.loggers()]
    hyperparameters = {**record.settings, **trial_report.parameters()}
    copy = make_wandb_logger(record.wandb, identity.folder, identity.run_id, identity.name, hyperparameters)
    return [*loggers, copy] if copy is not None else loggers


def own_plugins(given: Any) -> list[Any]:
    """Returns the user's plugins and the atomic checkpoint writer, unless the user gives a CheckpointIO."""
    from lightning.fabric.plugins import CheckpointIO

    plugins = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    if any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        return plugins
    return [*plugins, AtomicCheckpointIO()]


def _refuse_strangers(trainer: pl.Trainer) -> None:
    """Raises if torchrun's processes would not communicate, and each would train its own model."""
    if not TorchElasticEnvironment.detect() or trainer.world_size > 1:
        return
    started, here = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if started > 1:
        raise UserError(
            f"trainer: torchrun started {started} processes, and each would train alone; add --trainer.strategy=ddp "
            f"--trainer.devices={here} --trainer.num_nodes={max(1, started // here)}"
        )


class NoProfiler(PassThroughProfiler):
    """A profiler that does nothing; Lightning's own default runs a generator some seventy times a step."""

    _nothing: AbstractContextManager[Any] = nullcontext()

    def profile(self, action_name: str) -> Any:
        """Returns a context manager that does nothing, the same one for every action."""
        return self._nothing


class EndsAtOnce(Callback):
    """Ends the process at SIGTERM immediately, not after the step, if nothing is saved (``fast_dev_run``).

    Lightning's own handler, which is restored when the run ends, waits for the step and then exits with 0.
    """

    def _let_go(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    on_train_start = on_validation_start = on_test_start = on_predict_start = _let_go
