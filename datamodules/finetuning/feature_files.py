"""Files of features of a frozen encoder: an ``.npz``, or two ``.npy`` with the label at the end of each row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from framework.errors import UserError
from framework.readers.arrays import check_arrays, float32, labels_of, read_array, read_arrays

PARTS = ("X_train", "y_train", "X_test", "y_test")
EXPECTED = f"an .npz with {', '.join(PARTS)}, or a folder with train.npy and test.npy whose rows end with the label"


def read_features(path: str | Path) -> dict[str, np.ndarray]:
    """Returns ``X_train`` and ``X_test`` float32 (N, n), ``y_train`` and ``y_test`` int64 (N,).

    Args:
        path: The ``.npz``, or the folder of ``train.npy`` and ``test.npy``.

    Raises:
        UserError: a file is missing or broken, or has other contents.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        return checked(read_arrays(path, EXPECTED), path)
    found: dict[str, np.ndarray] = {}
    for part in ("train", "test"):
        file = path / f"{part}.npy"
        table = read_array(file, EXPECTED, np.float64)
        check_arrays({"the array": table}, {"the array": "N n+1"}, file, EXPECTED)
        if table.shape[1] < 2:
            raise UserError(f"{file}: rows of one number; expected {EXPECTED}")
        found |= {f"X_{part}": table[:, :-1], f"y_{part}": table[:, -1]}
    return checked(found, path)


def checked(arrays: Mapping[str, np.ndarray], where: Path | str) -> dict[str, np.ndarray]:
    """Returns the arrays in their types.

    Raises:
        UserError: shapes do not match, features are not finite numbers, or labels are not whole numbers from 0.
    """
    shapes = {"X_train": "N n", "y_train": "N", "X_test": "M n", "y_test": "M"}
    check_arrays(arrays, shapes, where, EXPECTED)
    return {
        name: float32(arrays[name], name, where) if name[0] == "X" else labels_of(arrays[name], name, where)
        for name in PARTS
    }


def write_features(path: str | Path, arrays: Mapping[str, np.ndarray], backbone: str) -> None:
    """Writes a file for :func:`read_features`.

    Args:
        path: The ``.npz``; its folder is created if needed.
        arrays: As :func:`read_features` returns them.
        backbone: Name of the encoder, also written to the file, with the number of features, ``dim``.
    """
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    extra = {"backbone": np.array(backbone), "dim": np.array(arrays["X_train"].shape[1])}
    np.savez(path, **{part: arrays[part] for part in PARTS}, **extra)  # type: ignore[arg-type]
