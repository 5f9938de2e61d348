"""What every run has, whatever it trains: its record, resume points, the best checkpoint, loggers, predictions."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.profilers import PassThroughProfiler

from framework.config import yaml12
from framework.editing.engine import Editing
from framework.files import write_text
from framework.finite import StopAtNaN
from framework.resume import AtomicCheckpointIO, ResumePoint
from framework.run import Run, RunConfig
from framework.sweep import report
from framework.tracking.metrics_log import MetricsLog
from framework.tracking.predictions import PredictionWriter
from framework.tracking.wandb_run import WandbConfig, make_wandb_logger


class NoProfiler(PassThroughProfiler):
    """No profiling, without the generator that Lightning's own default runs some seventy times a step."""

    _nothing: AbstractContextManager[Any] = nullcontext()

    def profile(self, action_name: str) -> Any:
        """A context that does nothing, the same one for every action."""
        return self._nothing


class EndsAtOnce(Callback):
    """Where nothing is kept (``fast_dev_run``), SIGTERM ends the process at once, not when a long step is done.

    Lightning's own handler, which it puts back as it was when the run ends, waits for the step and then exits with 0.
    """

    def _let_go(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    on_train_start = on_validation_start = on_test_start = on_predict_start = _let_go


class RunRecorder(Callback):
    """Agrees on the run folder between ranks, and writes the resolved config and the provenance there.

    Args:
        identity: The run; other ranks take over rank 0's.
        config_text: The resolved config.
        subcommand: What runs.
        seed: The global seed, for the record.
    """

    def __init__(self, identity: Run, config_text: str, subcommand: str, seed: Any) -> None:
        self.identity = identity
        self.config_text = config_text
        self.subcommand = subcommand
        self.seed = seed
        self._holds = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Runs before anything writes."""
        identity = self.identity
        if trainer.world_size > 1:
            shared = trainer.strategy.broadcast((str(identity.folder), identity.name, identity.run_id))
            identity.folder, identity.name, identity.run_id = Path(shared[0]), shared[1], shared[2]
            trainer._default_root_dir = str(identity.folder)  # type: ignore[attr-defined] # it has no setter
        if not trainer.is_global_zero:
            return
        from framework.tracking.provenance import provenance, write

        if not identity.held:  # the trainer was called directly
            self._holds = True
            identity.hold(trains=self.subcommand == "fit")
        write_text(identity.folder / "config.yaml", self.config_text)
        facts = {"run_id": identity.run_id, "name": identity.name, "subcommand": self.subcommand}
        write(identity.folder, {**facts, **provenance(identity.command, self.seed)})
        print(f"{'going on with' if identity.resumed else 'run'} {identity.folder}", file=sys.stderr)
        techniques = yaml12.load(self.config_text)["techniques"]
        if techniques:
            print(f"techniques, in order: {', '.join(techniques)}", file=sys.stderr)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Lets others use the folder, where it was taken here."""
        if self._holds:
            self._holds = False
            self.identity.release()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Lets others use the folder, where it was taken here."""
        if self._holds:
            self._holds = False
            self.identity.release()


def own_callbacks(
    identity: Run,
    config: RunConfig,
    config_text: str,
    subcommand: str,
    keep: bool,
    seed: Any,
    start: Mapping[str, Any] | None = None,
) -> list[Callback]:
    """What every run has: the record, the engine, resume points, the best checkpoint, written predictions.

    Args:
        identity: The run.
        config: What is kept of it.
        config_text: The resolved config.
        subcommand: What runs.
        keep: Whether checkpoints are written.
        seed: The global seed, for the record.
        start: The checkpoint that the run starts from, opened.
    """
    # first the edits: what they refuse leaves no folder behind
    callbacks: list[Callback] = [Editing(start, identity.folder)]
    callbacks.append(RunRecorder(identity, config_text, subcommand, seed))
    callbacks += report.callbacks()
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


def own_loggers(identity: Run, config: WandbConfig, hyperparameters: dict[str, Any], subcommand: str) -> list[Any]:
    """The metrics log, which is the record, and W&B, which is a copy.

    Args:
        identity: The run.
        config: Whether and where W&B records.
        hyperparameters: The resolved config, plain data.
        subcommand: What runs.
    """
    loggers: list[Any] = [MetricsLog(identity.folder), *report.loggers()]
    hyperparameters = {**hyperparameters, **report.parameters()}
    copy = make_wandb_logger(config, identity.folder, identity.run_id, identity.name, hyperparameters)
    return [*loggers, copy] if copy is not None else loggers


def own_plugins(given: Any) -> list[Any]:
    """The user's plugins and the atomic checkpoint writer, unless they brought a CheckpointIO."""
    from lightning.fabric.plugins import CheckpointIO

    plugins = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    if any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        return plugins
    return [*plugins, AtomicCheckpointIO()]
