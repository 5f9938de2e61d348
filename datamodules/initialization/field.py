"""Fields in any number of dimensions, from .npy files: flow fields, volumes, measured grids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.initialization.grid_signal import GridSignal, find_file, normalised
from framework.readers.arrays import check_arrays, read_array


class FieldSignal(GridSignal):
    """An array of an .npy file as a signal on its grid, divided by its largest magnitude.

    Reads: ``.npy`` of finite real numbers in any number of dimensions; a path is needed.

    Args:
        path: An .npy file of real numbers, or a folder of them.
        array: Name of the file in a folder, without ``.npy``.
        channels_last: Whether the last axis is that of channels; otherwise there is one channel.
        batch_size: Number of points in a training batch, per process; by default all of them, up to 512².
        eval_batch_size: The same for evaluation.
        holdout: Share of the points, drawn at random, that are not trained on.
        holdout_seed: Seed of the choice of these points.
        passes: Number of passes over the signal in an epoch.
        num_workers: Loader processes; 0 is fastest.

    Raises:
        UserError: a setting is not accepted (in the constructor); the file is missing or broken, or has other contents
            (in ``setup``).
    """

    def __init__(
        self,
        path: str | Path,
        array: str | None = None,
        channels_last: bool = False,
        batch_size: int | None = None,
        eval_batch_size: int | None = None,
        holdout: float = 0.0,
        holdout_seed: int = 0,
        passes: int = 1,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, holdout, holdout_seed, passes, num_workers)
        self.path, self.array, self.channels_last = path, array, channels_last

    def load(self) -> Tensor:
        """Returns (*grid, C).

        Raises:
            UserError: the file is missing or broken, or is not an array of real numbers on a grid.
        """
        file = find_file(self.path, (".npy",), self.array, "array")
        expected = (
            ".npy with real numbers, (*grid, channels)" if self.channels_last else ".npy with real numbers, (*grid)"
        )
        values = read_array(file, expected, np.float64)
        shape = "grid channels ..." if self.channels_last else "grid ..."
        check_arrays({"the array": values}, {"the array": shape}, file, expected)
        if not self.channels_last:
            values = values[..., None]
        return normalised(torch.from_numpy(np.ascontiguousarray(values)), f"path: {file}")
