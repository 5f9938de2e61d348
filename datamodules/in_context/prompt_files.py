"""The user's own regression prompts, from ``.npz`` files in the forms in use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from framework.data.npz import read_npz, shapes_of
from framework.errors import UserError

FORMS = (
    ".npz with X (n, N + 1, d), y (n, N + 1) or (n, N + 1, T), the query last; or X (n, N, d), y (n, N), xq (n, d), "
    "yq (n,); or z (n, N, d + T), zq (n, 1, d + T), yq (n, T)"
)


def read_prompts(path: Path) -> tuple[Tensor, Tensor]:
    """Reads prompts of one length; in a folder it reads ``prompts.npz``.

    Returns:
        ``x`` (n, N + 1, d) and ``y`` (n, N + 1, T), float32.

    Raises:
        UserError: there is no such file, or it has other contents.
    """
    path = path / "prompts.npz" if path.is_dir() else path
    arrays = read_npz(path, FORMS, np.float32)
    try:
        x, y = _assemble(arrays)
    except (KeyError, ValueError, IndexError):
        raise UserError(f"path: {path} holds {shapes_of(arrays)}; expected: {FORMS}") from None
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise UserError(f"path: {path} has numbers that are not finite")
    return torch.as_tensor(x), torch.as_tensor(y)


def _assemble(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns ``x`` and ``y`` of any of the forms; raises ValueError, KeyError or IndexError if shapes do not fit."""
    if "z" in arrays:
        z, zq, yq = arrays["z"], arrays["zq"], arrays["yq"].reshape(len(arrays["z"]), -1)
        labels = yq.shape[1]
        dim = z.shape[2] - labels
        x = np.concatenate([z[..., :dim], zq[..., :dim]], 1)
        y = np.concatenate([z[..., dim:], yq[:, None]], 1)
    elif "xq" in arrays:
        x = np.concatenate([arrays["X"], arrays["xq"][:, None]], 1)
        y = np.concatenate([arrays["y"], arrays["yq"][:, None]], 1)[..., None]
    else:
        x, y = arrays["X"], arrays["y"]
        y = y[..., None] if y.ndim == 2 else y
    if x.ndim != 3 or y.ndim != 3 or x.shape[:2] != y.shape[:2] or x.shape[1] < 2 or not x.size or not y.size:
        raise ValueError
    return x, y
