"""The "python version" of CIFAR-10 and CIFAR-100, opened without letting its pickles run anything."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.vision.labelled import LabelledImages
from framework.errors import UserError

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class _DType:
    """Stands in for ``numpy.dtype`` in a pickle: unsigned bytes, and nothing else."""

    def __setstate__(self, state: Any) -> None:
        pass  # byte order and flags, which say nothing about unsigned bytes


class _Array:
    """Stands in for ``numpy.ndarray`` in a pickle, so that numpy itself never sees a state from the file."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _DType) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array that is not of unsigned bytes")
        self.value = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C").copy()


class _ArrayUnpickler(pickle.Unpickler):
    """Admits what a CIFAR batch is made of: builtin data and arrays of unsigned bytes; refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        # Bound methods and a string: unlike functions and classes they have no attributes that a pickle could set.
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return self._reconstruct
        if (module, name) == ("numpy", "ndarray"):
            return "ndarray"
        if (module, name) == ("numpy", "dtype"):
            return self._dtype
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return self._encode
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not part of a CIFAR batch")

    def _reconstruct(self, *_: Any) -> _Array:
        return _Array()

    def _dtype(self, name: Any, *_: Any) -> _DType:
        if name not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"an array of type {name!r}, not of unsigned bytes")
        return _DType()

    def _encode(self, text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
            raise pickle.UnpicklingError("bytes in an encoding other than latin1")
        return text.encode("latin1")


def _read_batch(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="bytes").load()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); a batch of CIFAR's python version was expected"
        ) from error
    except Exception as error:  # a broken pickle can raise nearly anything
        raise UserError(f"{path}: not a batch of CIFAR's python version, nothing of it was used: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, a batch of CIFAR is a dict")
    batch = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    return {key: value.value if isinstance(value, _Array) else value for key, value in batch.items()}


def _read_images(path: Path, label_key: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    batch = _read_batch(path)
    missing = [key for key in ("data", label_key) if key not in batch]
    if missing:
        raise UserError(f"{path}: lacks {' and '.join(map(repr, missing))}; it has {sorted(map(str, batch))}")
    data, labels = batch["data"], batch[label_key]
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != 3072:
        found = getattr(data, "shape", type(data).__name__)
        raise UserError(f"{path}: 'data' is {found}, not an array of shape (N, 3072)")
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

    The files are pickles; they are opened by an unpickler that builds byte arrays and plain data and nothing else.

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
