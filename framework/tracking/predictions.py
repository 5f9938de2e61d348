"""Writes all predictions of a run to one file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from framework.data.loader import ExactLoader
from framework.errors import UserError

MAX_COLUMNS = 64
"""Largest width of a 2-D output that is written as columns of a table."""


class PredictionWriter(Callback):
    """Writes the outputs of ``predict_step`` of all batches and ranks, in the data set's order, to one file.

    ``predict_step`` returns a mapping of names to tensors with a sample per row (a single tensor is named
    ``prediction``). ``predictions.parquet`` has the columns ``index`` (the sample's index in the data set),
    ``dataloader`` if there are several, and one per name; a name of shape ``(B, K)`` gives ``name_0`` to ``name_K-1``.
    If an output has more dimensions or more than 64 columns, the file is ``predictions.npz``, with an array per name.
    The trainer does not keep predictions.

    Args:
        folder: Folder of the file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path: Path | None = None
        self._rows: list[dict[str, np.ndarray]] = []
        self._seen: dict[int, int] = {}

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discards earlier outputs."""
        self._rows, self._seen, self.path = [], {}, None
        trainer.predict_loop.return_predictions = False

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stores a batch's outputs.

        Raises:
            UserError: they are not tensors with a sample per row.
        """
        if outputs is None:
            return
        if isinstance(outputs, Tensor):
            outputs = {"prediction": outputs}
        if not isinstance(outputs, Mapping) or not all(isinstance(v, Tensor) and v.ndim for v in outputs.values()):
            raise UserError(
                f"{type(pl_module).__name__}.predict_step must return a tensor, or a mapping of names to tensors, with "
                f"a sample per row; it returned {_describe(outputs)}"
            )
        lengths = {name: len(value) for name, value in outputs.items()}
        if len(set(lengths.values())) != 1:
            raise UserError(f"{type(pl_module).__name__}.predict_step returned unequal numbers of rows: {lengths}")
        (rows,) = set(lengths.values())
        arrays = {name: _array(value) for name, value in outputs.items()}
        self._rows.append(
            {
                "index": self._indices(trainer, dataloader_idx, rows),
                "dataloader": np.full(rows, dataloader_idx),
                **arrays,
            }
        )

    def _indices(self, trainer: Trainer, dataloader_idx: int, rows: int) -> np.ndarray:
        start = self._seen.get(dataloader_idx, 0)
        self._seen[dataloader_idx] = start + rows
        combined = trainer.predict_loop._combined_loader
        loader = None if combined is None else combined.flattened[dataloader_idx]
        if isinstance(loader, ExactLoader):
            return loader.share(*loader.ranks())[start : start + rows].numpy()
        # any other loader is assumed to yield the data in order, with the ranks alternating
        return np.arange(start, start + rows) * trainer.world_size + trainer.global_rank

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file, on rank 0."""
        rows: list[dict[str, np.ndarray]] = self._rows
        if trainer.world_size > 1:
            everyone: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(everyone, rows)
            rows = [row for share in everyone for row in share]
        self._rows = []
        if not rows or not trainer.is_global_zero:
            return
        names = list(rows[0])
        table = {name: np.concatenate([row[name] for row in rows]) for name in names}
        # a sample that pads a rank's last batch occurs twice
        places = np.stack([table["dataloader"], table["index"]], axis=1)
        _, first = np.unique(places, axis=0, return_index=True)
        table = {name: value[first] for name, value in table.items()}
        if not table["dataloader"].any():
            del table["dataloader"]
        self.path = write_predictions(self.folder, table)


def write_predictions(folder: Path, table: Mapping[str, np.ndarray]) -> Path:
    """Writes arrays with a sample per row to ``predictions.parquet``, or ``predictions.npz`` if one is too wide.

    Raises:
        UserError: the file cannot be written.
    """
    flat = all(value.ndim == 1 or (value.ndim == 2 and value.shape[1] <= MAX_COLUMNS) for value in table.values())
    path = folder / ("predictions.parquet" if flat else "predictions.npz")
    temporary = folder / f".{path.name}.tmp.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if flat:
            import pyarrow
            import pyarrow.parquet

            columns: dict[str, np.ndarray] = {}
            for name, value in table.items():
                columns |= {name: value} if value.ndim == 1 else {f"{name}_{i}": c for i, c in enumerate(value.T)}
            pyarrow.parquet.write_table(pyarrow.table(columns), temporary)
        else:
            with open(temporary, "wb") as file:
                np.savez(file, **dict[str, Any](table))
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: the predictions cannot be written: {error.strerror or error}") from error
    (folder / ("predictions.npz" if flat else "predictions.parquet")).unlink(missing_ok=True)  # by an earlier call
    return path


def _array(value: Tensor) -> np.ndarray:
    value = value.detach().cpu()
    return value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()


def _describe(outputs: Any) -> str:
    if isinstance(outputs, Mapping):
        return str({k: tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__ for k, v in outputs.items()})
    return type(outputs).__name__
