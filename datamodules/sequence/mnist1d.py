"""MNIST-1D: ten digits drawn as one-dimensional signals of 40 samples, padded, shifted, sheared and noisy.

Greydanus & Kobak, 2020, "Scaling down deep learning", arXiv 2011.14439. The data is generated on this machine by the
authors' package ``mnist1d`` from a seed, or read from a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from datamodules.vision.labelled import stratified_split
from framework.data import DataModule
from framework.data.array_pickle import read_array_pickle
from framework.data.arrays import ArrayDataset
from framework.data.seeding import seeded
from framework.errors import UserError
from framework.settings import at_least

CLASSES = 10
PARTS = ("x", "y", "x_test", "y_test")


def read_mnist1d(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the authors' ``mnist1d_data.pkl``, or an ``.npz`` file with the same four arrays.

    The pickle is opened by an unpickler that builds arrays of numbers and plain data and nothing else.

    Returns:
        ``x`` float32 ``(N, length)``, ``y`` int64 ``(N,)`` and the same for ``x_test``, ``y_test``.

    Raises:
        UserError: the file is missing, broken, or lacks one of them.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"path: {path} not found; mnist1d_data.pkl or an .npz with {', '.join(PARTS)} was expected")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                content: Any = {name: file[name] for name in file.files}
        else:
            content = read_array_pickle(path)
    except OSError as error:
        raise UserError(f"path: {path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a broken pickle or archive can raise nearly anything
        raise UserError(f"path: {path} is not MNIST-1D, nothing of it was used: {error}") from error
    return _checked(content, str(path))


def _checked(content: Any, where: str) -> dict[str, np.ndarray]:
    if not isinstance(content, Mapping):
        raise UserError(f"path: {where} holds a {type(content).__name__}, a mapping of arrays was expected")
    arrays = dict(content)
    if missing := [name for name in PARTS if not isinstance(arrays.get(name), np.ndarray)]:
        raise UserError(f"path: {where} lacks {', '.join(missing)}; it has {', '.join(sorted(map(str, arrays)))}")
    for suffix in ("", "_test"):
        x, y = arrays[f"x{suffix}"], arrays[f"y{suffix}"]
        if x.ndim != 2 or y.shape != x.shape[:1] or not len(x) or x.shape[1] != arrays["x"].shape[1]:
            raise UserError(
                f"path: {where} has x{suffix} {x.shape} and y{suffix} {y.shape}; (N, length), (N,) expected"
            )
        if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= CLASSES:
            raise UserError(f"path: {where}: y{suffix} is not made of whole numbers from 0 to {CLASSES - 1}")
    return {name: arrays[name].astype(np.float32 if name[0] == "x" else np.int64) for name in PARTS}


def generate_mnist1d(samples: int = 5000, test_fraction: float = 0.2, seed: int = 42) -> dict[str, np.ndarray]:
    """Generates MNIST-1D with the authors' settings; ``samples`` 5000 and seed 42 are theirs too.

    About 0.4 ms a sample. The global generators are left as they were.

    Returns:
        As :func:`read_mnist1d`; the signals have mean 0 and deviation 1 over both parts together.

    Raises:
        UserError: the package ``mnist1d`` is not installed.
    """
    try:
        from mnist1d.data import get_dataset_args, make_dataset
    except ImportError as error:
        raise UserError(
            "path: none given, and the package that generates MNIST-1D is missing; pip install mnist1d"
        ) from (error)
    settings = get_dataset_args()
    settings.num_samples, settings.seed = samples, seed
    settings.train_split = (_train_part(samples, test_fraction) + 0.5) / samples  # it rounds down
    with seeded(seed):  # it seeds and draws from the global generators
        content = make_dataset(settings)
    return _checked(content, "the package mnist1d")


def _train_part(samples: int, test_fraction: float) -> int:
    return samples - round(samples * test_fraction)


class Mnist1D(DataModule):
    """MNIST-1D, generated or from a file, held in memory.

    Batches are ``(x, y)``: ``x`` float32 ``(B, 40)``, or ``(B, 40, 1)`` as a sequence; ``y`` int64 ``(B,)``.

    Args:
        path: The authors' ``mnist1d_data.pkl`` or an ``.npz`` with ``x``, ``y``, ``x_test``, ``y_test``; without one
            the data is generated.
        samples: Signals to generate, both parts together; a multiple of ten.
        test_fraction: Share of them that is the test part.
        seed: Of the generation.
        as_sequence: Whether ``x`` has a last dimension of one channel.
        num_classes: Checked against the data where given, so that a config can pass it on to the model.
        length: Samples in a signal; checked likewise.
        val_fraction: Share of the training part held out for validation; at 0 the test set is the validation set too.
        split_seed: Decides the validation part.
        batch_size: Signals in a training batch, per process.
        eval_batch_size: Signals in an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes; 0 is fastest here.
        drop_last: Whether training leaves out an incomplete last batch.

    Raises:
        UserError: a setting is not accepted (at once); the file is missing or broken, or the data is not what was
            declared (in ``setup``).
    """

    def __init__(
        self,
        path: str | None = None,
        samples: int = 5000,
        test_fraction: float = 0.2,
        seed: int = 42,
        as_sequence: bool = False,
        num_classes: int = CLASSES,
        length: int = 40,
        val_fraction: float = 0.0,
        split_seed: int = 0,
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, drop_last)
        at_least(1, length=length)
        if samples < 20 or samples % CLASSES:
            raise UserError(f"samples: {samples} is not accepted; a multiple of {CLASSES}, at least 20")
        if not 0 < test_fraction < 1 or not 0 < _train_part(samples, test_fraction) < samples:
            raise UserError(f"test_fraction: {test_fraction} is not accepted; it must leave both parts something")
        if not 0 <= val_fraction < 1:
            raise UserError(f"val_fraction: {val_fraction} is not accepted; at least 0 and below 1")
        if num_classes != CLASSES:
            raise UserError(f"num_classes: {num_classes} declared, MNIST-1D has {CLASSES}")
        self.path, self.samples, self.test_fraction, self.seed = path, samples, test_fraction, seed
        self.as_sequence, self.val_fraction, self.split_seed = as_sequence, val_fraction, split_seed
        self.num_classes, self.length, self.d_input = CLASSES, length, 1
        self.class_names = tuple(str(digit) for digit in range(CLASSES))
        if path is None:
            rank_zero_info(f"Mnist1D: no path given, generating {samples} signals")

    def setup(self, stage: str | None = None) -> None:
        """Generates or reads the signals, once."""
        if self.train_set is not None:
            return
        if self.path is None:
            arrays = generate_mnist1d(self.samples, self.test_fraction, self.seed)
        else:
            arrays = read_mnist1d(self.path)
        if (found := arrays["x"].shape[1]) != self.length:
            raise UserError(f"length: {self.length} declared, the signals have {found}")
        x, y = arrays["x"], arrays["y"]
        self.test_set = self._dataset(arrays["x_test"], arrays["y_test"])
        self.val_set = self.test_set
        if self.val_fraction:
            first, second = stratified_split(y, self.val_fraction, self.split_seed)
            self.val_set = self._dataset(x[second], y[second])
            x, y = x[first], y[first]
        self.train_set = self._dataset(x, y)

    def _dataset(self, x: np.ndarray, y: np.ndarray) -> ArrayDataset:
        signals = torch.from_numpy(x)
        return ArrayDataset(signals[..., None] if self.as_sequence else signals, torch.from_numpy(y))
