"""Files of features of a frozen encoder: an ``.npz``, or two ``.npy`` with the label at the end of each row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from framework.data.npz import read_npz, shapes_of
from framework.errors import UserError

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
    if path.is_dir():
        found: dict[str, np.ndarray] = {}
        for part in ("train", "test"):
            table = read_npz(path / f"{part}.npy", EXPECTED, np.float64)["array"]
            if table.ndim != 2 or table.shape[1] < 2:
                raise UserError(f"path: {path / f'{part}.npy'} has the shape {table.shape}; (N, n + 1) is expected")
            found |= {f"X_{part}": table[:, :-1], f"y_{part}": table[:, -1]}
    else:
        found = read_npz(path, EXPECTED)
    if missing := [part for part in PARTS if part not in found]:
        raise UserError(f"path: {path} lacks {', '.join(missing)} (it has {shapes_of(found)}); expected: {EXPECTED}")
    return checked({part: found[part] for part in PARTS}, str(path))


def checked(arrays: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Returns the arrays in their types.

    Raises:
        UserError: shapes do not match, features are not finite numbers, or labels are not whole numbers from 0.
    """
    result: dict[str, np.ndarray] = {}
    for part in ("train", "test"):
        x, y = arrays[f"X_{part}"], arrays[f"y_{part}"]
        if x.ndim != 2 or y.shape != (len(x),) or not len(x) or not x.shape[1]:
            raise UserError(f"path: {where}: X_{part} has the shape {x.shape} and y_{part} {y.shape}; (N, n) and (N,)")
        if x.dtype.kind not in "fiub" or not np.isfinite(x).all():
            raise UserError(f"path: {where}: X_{part} has values that are not finite numbers")
        if y.dtype.kind not in "fiu" or not np.array_equal(y, np.rint(y)) or y.min() < 0:
            raise UserError(f"path: {where}: y_{part} has values that are not whole numbers from 0")
        result |= {f"X_{part}": x.astype(np.float32), f"y_{part}": y.astype(np.int64)}
    if result["X_train"].shape[1] != result["X_test"].shape[1]:
        raise UserError(f"path: {where}: X_train {result['X_train'].shape} and X_test {result['X_test'].shape} differ")
    return result


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
