"""Builds a trainer, a module and a datamodule from a config, for scripts, notebooks and the command line."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint

from framework import catalogue, paths
from framework.checkpoints.differences import refuse_other_optimizer, report_differences
from framework.checkpoints.finding import folder_of, run_id_of
from framework.checkpoints.reading import open_checkpoint
from framework.config import yaml12
from framework.config.compose import Request, read_inputs
from framework.editing.engine import check_run, contradictions, in_order
from framework.editing.technique import callbacks_of
from framework.errors import RunFailed, UserError
from framework.library_errors import user_mistakes
from framework.resume import exit_code
from framework.runs.command_line import CommandLine
from framework.runs.folder import NameTaken, Run, new_id, new_name, refuse_if_kept
from framework.runs.optimizer_settings import OptimizerSettings
from framework.runs.preparing import prepare
from framework.runs.quiet import quiet_lightning
from framework.tracking import close_loggers


@dataclass
class Experiment:
    """The objects that a config describes, ready to run.

    ``trainer, model, datamodule = framework.build(...)`` unpacks it.

    Attributes:
        trainer: The Trainer, with techniques, loggers and the run's own callbacks in place.
        model: The LightningModule.
        datamodule: The LightningDataModule, or ``None``.
        config: The type-checked config as plain data, with interpolations resolved.
        identity: The run's folder and id.
        subcommand: What :meth:`run` does.
        checkpoint: The checkpoint to start from, or ``None``.
    """

    trainer: pl.Trainer
    model: pl.LightningModule
    datamodule: pl.LightningDataModule | None
    config: dict[str, Any]
    identity: Run
    subcommand: str = "fit"
    checkpoint: Path | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.trainer, self.model, self.datamodule))

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.identity.folder

    def run(self) -> Any:
        """Runs the subcommand that the experiment was built for."""
        method: Callable[..., Any] = getattr(self.trainer, self.subcommand)
        arguments = dict(self.arguments, ckpt_path=str(self.checkpoint) if self.checkpoint else None)
        if self.trainer.is_global_zero:
            self.identity.hold(trains=self.subcommand == "fit")
        try:
            with user_mistakes(self.config):
                result = method(self.model, datamodule=self.datamodule, **arguments)
            close_loggers(self.trainer.loggers)
        except BaseException as error:
            with suppress(Exception):  # an open W&B run would receive the next run's rows; the first error is raised
                close_loggers(self.trainer.loggers, 1)
            recorded = self.folder / "config.yaml"
            began = isinstance(error, RunFailed) or not isinstance(error, UserError) or self.trainer.global_step
            if not (began and recorded.exists()):
                self.identity.discard()
            if isinstance(error, Exception) and recorded.exists():
                self._say_what_stands(error)
            raise
        finally:
            self.identity.release()
        if self.trainer.is_global_zero and not self.identity.quiet:
            self._report()
        return result

    def _say_what_stands(self, error: Exception) -> None:
        """Adds to an error in training from which checkpoint the run can be resumed."""
        epochs: Any = self.trainer.fit_loop.epoch_progress.current
        if self.subcommand != "fit" or self.identity.quiet or not epochs.started or not self.trainer.is_global_zero:
            return
        path = self.identity.checkpoints / "last.ckpt"
        try:
            step = open_checkpoint(path, mmap=True)["global_step"]
        except UserError:
            error.add_note(f"no checkpoint was written yet in {self.folder}, so the run has to be started again")
        else:
            error.add_note(f"{path}, of step {step}, was saved; to resume: fit --ckpt_path {self.folder}")

    def _report(self) -> None:
        best = self.trainer.checkpoint_callback
        if self.subcommand == "fit" and isinstance(best, ModelCheckpoint) and best.best_model_score is not None:
            print(f"best {best.monitor} {float(best.best_model_score):.4g} in {best.best_model_path}", file=sys.stderr)
        if self.folder.exists():
            print(f"results in {self.folder}", file=sys.stderr)

    def fit(self) -> None:
        """Trains, from the checkpoint if there is one."""
        self.subcommand = "fit"
        self.run()


def build(
    config: str | Path | Mapping[str, Any] | Iterable[Any],
    overrides: Mapping[str, Any] | Sequence[str] = (),
    subcommand: str = "fit",
) -> Experiment:
    """Builds the objects that a config describes; nothing is written before the run starts.

    Args:
        config: A path, the short name of a shipped config, a mapping, or a list of those, merged in order.
        overrides: A mapping with dotted keys (``{"model.d_model": 32}``) or strings as on the command line
            (``--model.d_model=32``).
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``.

    Raises:
        UserError: the config is wrong; the message has a line for each mistake.
    """
    paths.own_packages_first()
    return launch(read_inputs(config, overrides), subcommand, command=["framework.build", str(config)])


def run_to_end(request: Request, subcommand: str, command: Sequence[str], requeued: bool = False) -> int:
    """Builds a request's experiment and runs it.

    Args:
        request: The config files and overrides, read.
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``.
        command: The command line, for the record.
        requeued: Whether SLURM may have restarted this command; if so, the run that it started before is resumed.

    Returns:
        The exit code: 0, or 130 or 143 if a signal ended the run; everything was saved.

    Raises:
        UserError: as for :func:`launch`, or the run failed.
    """
    quiet_lightning()
    while True:
        try:
            launch(request, subcommand, command, requeued).run()
        except NameTaken:  # nothing has started yet: the run gets another name
            continue
        except SystemExit as stop:  # a signal: 130 or 143
            return exit_code(stop)
        return 0


def launch(request: Request, subcommand: str, command: Sequence[str], requeued: bool = False) -> Experiment:
    """Composes, type-checks and instantiates a request.

    Args:
        request: The config files and overrides, read.
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``.
        command: The command line, for the record.
        requeued: Whether SLURM may have restarted this command; if so, the run that it started before is resumed.

    Raises:
        UserError: the config is wrong, or a ``fit`` is asked to resume from a file that holds only weights.
    """
    composed, checkpoint = prepare(request, subcommand, command if requeued and subcommand == "fit" else None)
    settings = composed.tree["run"]
    identity = _identity(settings, subcommand, checkpoint)
    identity.command = list(command)
    start = open_checkpoint(checkpoint, mmap=True) if checkpoint is not None else None
    if checkpoint is not None and start is not None and subcommand == "fit" and "optimizer_states" not in start:
        raise UserError(
            f"ckpt_path: {checkpoint} holds only weights, so training cannot be resumed from it; to start from them: "
            f"{catalogue.options_from_weights(checkpoint)}"
        )
    line = CommandLine(subcommand, composed, identity, start)
    identity.quiet = bool(getattr(line.trainer, "fast_dev_run", False))
    _check_edits(line, subcommand, checkpoint, start)
    if start is not None:
        _compare(line, subcommand, start)
    arguments = line._prepare_subcommand_kwargs(subcommand)
    for key in ("model", "datamodule", "ckpt_path"):
        arguments.pop(key, None)
    plain = yaml12.load(line.text())
    return Experiment(line.trainer, line.model, line.datamodule, plain, identity, subcommand, checkpoint, arguments)


def _compare(line: CommandLine, subcommand: str, start: Mapping[str, Any]) -> None:
    """Prints where the config differs from the one that the checkpoint was trained with."""
    if subcommand == "fit":
        refuse_other_optimizer(start, line.settings, line.model)
    texts = report_differences(start, line.settings, line.model)
    for text in texts:
        print(text, file=sys.stderr)
    for callback in callbacks_of(line.trainer):
        if isinstance(callback, OptimizerSettings):
            callback.differs = bool(texts)


def _check_edits(line: CommandLine, subcommand: str, path: Path | None, start: Mapping[str, Any] | None) -> None:
    """Refuses techniques that the strategy or the checkpoint's edits do not allow, before anything is written."""
    techniques = in_order(callbacks_of(line.trainer))
    check_run(line.trainer, line.model, techniques)
    if start is None or not (lines := contradictions(start, techniques)):
        return
    if subcommand == "fit":
        assert path is not None
        anew = f"to start a new run from its weights: {catalogue.options_from_weights(path)}"
        raise UserError("\n".join([*lines, f"{path} fixes the model's edits; {anew}"]))
    for text in lines:
        print(f"{text}; the checkpoint's is used", file=sys.stderr)


def _identity(settings: Mapping[str, Any], subcommand: str, checkpoint: Path | None) -> Run:
    """Returns the run that this process starts, resumes or evaluates.

    ``fit`` from a run's own ``last.ckpt`` resumes that run; from any other checkpoint, or if a name is given, it starts
    a new one. An evaluation writes to its own folder inside the evaluated run: ``test``, …
    """
    root, method = Path(str(settings.get("root", "runs"))), str(settings.get("method") or "run")
    name = settings.get("name")
    folder = folder_of(checkpoint) if checkpoint is not None else None
    at_rest = checkpoint is not None and checkpoint.name == "last.ckpt"
    if folder is not None and subcommand == "fit" and at_rest and name in (None, folder.name):
        return Run(folder, folder.name, run_id_of(folder) or new_id(), resumed=True)
    if folder is not None and subcommand != "fit" and name is None:
        names = (subcommand if number == 1 else f"{subcommand}-{number}" for number in itertools.count(1))
        evaluation = next(name for name in names if not (folder / name).exists())
        return Run(folder / evaluation, f"{folder.name}-{evaluation}", new_id(), fresh=True)
    fresh, name = name is None, new_name() if name is None else str(name)
    if subcommand == "fit":
        refuse_if_kept(root / method / name)
    return Run(root / method / name, name, new_id(), fresh=fresh)
