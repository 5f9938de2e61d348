"""The record of a run: its folder, the same on all ranks, its resolved config and its provenance."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from framework.config import yaml12
from framework.files import write_text
from framework.runs.folder import Run


class RunRecorder(Callback):
    """Broadcasts the run folder to all ranks, and writes the resolved config and the provenance there.

    Args:
        identity: The run; the other ranks use that of rank 0.
        config_text: The resolved config.
        subcommand: The running subcommand.
        seed: The global seed, for the record.
        goes_on: Whether training starts from a checkpoint. Then nothing is written before it starts: it may still be
            refused, or be finished already.
    """

    def __init__(self, identity: Run, config_text: str, subcommand: str, seed: Any, goes_on: bool = False) -> None:
        self.identity = identity
        self.config_text = config_text
        self.subcommand = subcommand
        self.seed = seed
        self.goes_on = goes_on
        self._holds = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Called before anything is written."""
        identity = self.identity
        if trainer.world_size > 1:
            shared = trainer.strategy.broadcast((str(identity.folder), identity.name, identity.run_id))
            identity.folder, identity.name, identity.run_id = Path(shared[0]), shared[1], shared[2]
            trainer._default_root_dir = str(identity.folder)  # type: ignore[attr-defined] # it has no setter
        if not trainer.is_global_zero:
            return
        if not identity.held:  # the user called the trainer directly
            self._holds = True
            identity.hold(trains=self.subcommand == "fit")
        if not self.goes_on:
            self._write()
        print(f"{'resuming' if identity.resumed else 'run'} {identity.folder}", file=sys.stderr)
        techniques = yaml12.load(self.config_text)["techniques"]
        if techniques:
            print(f"techniques, in order: {', '.join(techniques)}", file=sys.stderr)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Updates the paths of the best checkpoints if the folder was moved; Lightning would forget their scores."""
        folder = str(self.identity.checkpoints.resolve())
        for callback in trainer.checkpoint_callbacks:
            state = (checkpoint.get("callbacks") or {}).get(callback.state_key)
            if not self.identity.resumed or not state or getattr(callback, "dirpath", None) != folder:
                continue
            before = state.get("dirpath")
            if before not in (None, folder):
                checkpoint["callbacks"][callback.state_key] = _moved(state, str(before), folder)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the record of a resumed run."""
        if self.goes_on and trainer.is_global_zero:
            self._write()

    def _write(self) -> None:
        from framework.tracking.provenance import provenance, write

        identity = self.identity
        write_text(identity.folder / "config.yaml", self.config_text)
        facts = {"run_id": identity.run_id, "name": identity.name, "subcommand": self.subcommand}
        write(identity.folder, {**facts, **provenance(identity.command, self.seed)})

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Releases the folder, if it was locked here."""
        if self._holds:
            self._holds = False
            self.identity.release()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Releases the folder, if it was locked here."""
        if self._holds:
            self._holds = False
            self.identity.release()


def _moved(value: Any, before: str, folder: str) -> Any:
    """Returns the state with paths in the new folder."""
    if isinstance(value, dict):
        return {_moved(key, before, folder): _moved(item, before, folder) for key, item in value.items()}
    if isinstance(value, str) and (value == before or value.startswith(f"{before}/")):
        return folder + value[len(before) :]
    return value
