"""The "python version" of CIFAR-10 and CIFAR-100, opened without letting its pickles run anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.images.labelled import LabelledImages
from framework.errors import UserError
from framework.readers.array_pickle import read_array_pickle

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _read_batch(path: Path) -> dict[str, Any]:
    batch = read_array_pickle(path, "a batch of CIFAR's python version")
    if not isinstance(batch, dict):
        raise UserError(f"{path}: has a {type(batch).__name__}; a batch of CIFAR is a dict")
    return batch


def _read_images(path: Path, label_key: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    batch = _read_batch(path)
    missing = [key for key in ("data", label_key) if key not in batch]
    if missing:
        raise UserError(f"{path}: lacks {' and '.join(map(repr, missing))}; it has {sorted(map(str, batch))}")
    data, labels = batch["data"], batch[label_key]
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != 3072:
        found = getattr(data, "shape", type(data).__name__)
        raise UserError(f"{path}: 'data' is {found}, not an array of shape (N, 3072)")
    if data.dtype != np.uint8:
        raise UserError(f"{path}: 'data' is an array of {data.dtype}, not of unsigned bytes")
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < classes for label in labels):
        raise UserError(f"{path}: {label_key!r} is not a list of whole numbers from 0 to {classes - 1}")
    if len(labels) != len(data) or not labels:
        raise UserError(f"{path}: {len(labels)} labels for {len(data)} images")
    return data.reshape(-1, 3, 32, 32), np.array(labels, np.int64)


def _class_names(path: Path, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    if not path.is_file():
        return default
    names = _read_batch(path).get(key)
    if not isinstance(names, list) or len(names) != len(default):
        raise UserError(f"{path}: {key!r} is not a list of {len(default)} names")
    return tuple(name.decode("latin1") if isinstance(name, bytes) else str(name) for name in names)


def read_cifar(path: str | Path, classes: int = 10) -> tuple[LabelledImages, LabelledImages]:
    """Reads CIFAR-10 (``data_batch_1`` … ``data_batch_5``, ``test_batch``) or CIFAR-100 (``train``, ``test``).

    The files are pickles; they are opened by an unpickler that builds arrays and plain data and nothing else.

    Args:
        path: The folder ``cifar-10-batches-py`` or ``cifar-100-python``, or the folder that holds it.
        classes: 10, or 100 (the fine labels).

    Returns:
        The official training and test sets, images of shape ``(N, 3, 32, 32)``.

    Raises:
        UserError: ``classes`` is neither, or a file is missing, broken, or names anything but data.
    """
    if classes not in (10, 100):
        raise UserError(f"classes of CIFAR: {classes!r} is neither 10 nor 100")
    folder = Path(path).expanduser()
    inner = folder / ("cifar-10-batches-py" if classes == 10 else "cifar-100-python")
    folder = inner if inner.is_dir() else folder
    if classes == 10:
        key, names = "labels", _class_names(folder / "batches.meta", "label_names", CIFAR10_CLASSES)
        train_files = [folder / f"data_batch_{i}" for i in range(1, 6)]
        test_file = folder / "test_batch"
    else:
        key = "fine_labels"
        names = _class_names(folder / "meta", "fine_label_names", tuple(str(label) for label in range(100)))
        train_files, test_file = [folder / "train"], folder / "test"
    parts = [_read_images(file, key, classes) for file in train_files]
    train = LabelledImages(np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts]), names)
    return train, LabelledImages(*_read_images(test_file, key, classes), names)
