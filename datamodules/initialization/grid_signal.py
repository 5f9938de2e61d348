"""One signal on a grid of coordinates, for networks that map a coordinate to a value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from framework.data import DataModule
from framework.data.arrays import ArrayDataset, WholeBatch
from framework.errors import UserError
from framework.functional.spectral_centroid import grid_coordinates
from framework.readers.listing import list_files
from framework.settings import at_least, between

LARGEST_BATCH = 512**2


class Repeated(ArrayDataset):
    """A data set whose samples occur ``passes`` times in an epoch.

    Args:
        tensors: Tensors of equal length N.
        passes: Number of times.
    """

    def __init__(self, *tensors: Tensor, passes: int = 1) -> None:
        super().__init__(*tensors)
        self.passes = passes

    def __len__(self) -> int:
        return super().__len__() * self.passes

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Returns the samples at ``indices`` modulo N."""
        return super().__getitems__(torch.as_tensor(indices) % super().__len__())  # type: ignore[arg-type]


class GridSignal(DataModule):
    """The base class of the signals: a subclass reads one in :meth:`load`.

    Training batches are ``(x, y)``: coordinates (B, d) in [-1, 1], both ends of each axis included, and values (B, C).
    Evaluation batches cover the whole signal in order and are ``(x, y, held)``; ``held`` (B,) is true for samples that
    are not trained on.

    Args:
        batch_size: Number of samples in a training batch, per process; by default all of them, up to 512².
        eval_batch_size: The same for evaluation.
        holdout: Share of the samples, drawn at random, that are not trained on.
        holdout_seed: Seed of the choice of these samples.
        passes: Number of passes over the signal in an epoch. If a step takes only milliseconds, the work done once an
            epoch (validation, logs, checkpoints) would cost as much as training with one pass.
        num_workers: Loader processes; 0 is fastest.

    Attributes:
        sample_rate: Sample rate in Hz of an audio signal, otherwise ``None``.

    Raises:
        UserError: a setting is not accepted (in the constructor); the signal cannot be read (in ``setup``).
    """

    sample_rate: int | None = None

    def __init__(
        self,
        batch_size: int | None = None,
        eval_batch_size: int | None = None,
        holdout: float = 0.0,
        holdout_seed: int = 0,
        passes: int = 1,
        num_workers: int = 0,
    ) -> None:
        at_least(1, passes=passes, batch_size=batch_size, eval_batch_size=eval_batch_size)
        between(0, 1, "[)", holdout=holdout)
        super().__init__(batch_size or LARGEST_BATCH, eval_batch_size or LARGEST_BATCH, num_workers)
        self.holdout, self.holdout_seed, self.passes = holdout, holdout_seed, passes
        self._asked_batch = batch_size
        self._signal: Tensor | None = None

    def load(self) -> Tensor:
        """The signal, (*grid, C), float32, within [-1, 1]."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Reads the signal, once.

        Raises:
            UserError: it cannot be read, or has fewer than two samples.
        """
        if self._signal is not None:
            return
        signal = self.load()
        samples = signal.shape[:-1].numel()
        if samples < 2:
            raise UserError(f"{type(self).__name__}: a signal of {samples} samples is not accepted; two or more")
        x, y = grid_coordinates(signal.shape[:-1]), signal.reshape(samples, -1)
        held = torch.zeros(samples, dtype=torch.bool)
        generator = torch.Generator().manual_seed(self.holdout_seed)
        held[torch.randperm(samples, generator=generator)[: round(self.holdout * samples)]] = True
        if bool(held.all()):
            raise UserError(f"holdout: {self.holdout} is not accepted, it leaves no training samples of {samples}")
        x_train, y_train = (x[~held], y[~held]) if self.holdout else (x, y)
        world = 1 if self.trainer is None else self.trainer.world_size
        if self._asked_batch is None and world == 1 and len(x_train) <= LARGEST_BATCH:
            self.train_set, self.batch_size = WholeBatch((x_train, y_train), self.passes), 1
        else:
            self.train_set = Repeated(x_train, y_train, passes=self.passes)
            self.batch_size = self._asked_batch or min(LARGEST_BATCH, -(-len(x_train) // world))
        self.val_set = self.test_set = ArrayDataset(x, y, held)
        self._signal = signal

    def target_signal(self) -> Tensor:
        """Returns the values to fit, (*grid, C), including the held-out ones.

        Raises:
            UserError: ``setup`` was not called.
        """
        if self._signal is None:
            raise UserError(f"{type(self).__name__}: the signal is not read yet; call setup() first")
        return self._signal


def find_file(path: str | Path, suffixes: tuple[str, ...], name: str | None, key: str) -> Path:
    """Returns ``path`` itself if it is a file, or a folder's file with the given name (without a name its only file).

    Args:
        path: File or folder.
        suffixes: Suffixes of the folder's files, lower case with the dot.
        name: File name without suffix.
        key: Key of the name in the config, for errors.

    Raises:
        UserError: there is no such file; the message lists the files.
    """
    where = Path(path).expanduser()
    if where.is_file():
        return where
    kinds = " or ".join(suffixes)
    if not where.is_dir():
        raise UserError(f"path: {where} is not there; a file ({kinds}), or a folder of them, is expected")
    found = list_files(where, suffixes, deep=False).files
    files = {file.stem: file for file in found}
    if not files:
        raise UserError(f"path: the folder {where} holds no file {kinds}")
    if name is not None and (same := [file.name for file in found if file.stem == name])[1:]:
        raise UserError(f"{key}: {name!r} is not accepted, {where} holds {' and '.join(same)}; give the file as path")
    if name is None and len(found) > 1:
        raise UserError(f"{key}: None is not accepted, {where} holds several: {', '.join(file.stem for file in found)}")
    if name is not None and name not in files:
        raise UserError(f"{key}: {name!r} is not in {where}; there are: {', '.join(files)}")
    return next(iter(files.values())) if name is None else files[name]


def normalised(values: Tensor, where: str) -> Tensor:
    """Returns ``values`` divided by the largest magnitude.

    Raises:
        UserError: one is not finite, or all are zero.
    """
    if not bool(torch.isfinite(values).all()):
        raise UserError(f"{where}: some values are not finite")
    peak = float(values.abs().max()) if values.numel() else 0.0
    if not peak:
        raise UserError(f"{where}: all values are zero")
    return (values.double() / peak).float()
