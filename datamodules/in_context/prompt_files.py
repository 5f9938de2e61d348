"""The user's own regression prompts, from ``.npz`` files in the forms in use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from framework.errors import UserError
from framework.readers.arrays import check_arrays, read_arrays

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
    arrays = read_arrays(path, FORMS, np.float32)
    if "z" in arrays:
        check_arrays(
            arrays,
            {"z": "n N D", "zq": "n 1 D", "yq": "n T" if arrays.get("yq", arrays["z"]).ndim == 2 else "n"},
            path,
            FORMS,
        )
        z, zq, yq = arrays["z"], arrays["zq"], arrays["yq"].reshape(len(arrays["z"]), -1)
        dim = z.shape[2] - yq.shape[1]
        if dim < 1:
            raise UserError(f"{path}: z of {z.shape[2]} columns leaves none for x beside the {yq.shape[1]} of yq")
        x = np.concatenate([z[..., :dim], zq[..., :dim]], 1)
        y = np.concatenate([z[..., dim:], yq[:, None]], 1)
    elif "xq" in arrays:
        check_arrays(arrays, {"X": "n N d", "y": "n N", "xq": "n d", "yq": "n"}, path, FORMS)
        x = np.concatenate([arrays["X"], arrays["xq"][:, None]], 1)
        y = np.concatenate([arrays["y"], arrays["yq"][:, None]], 1)[..., None]
    else:
        several = "y" in arrays and arrays["y"].ndim == 3
        check_arrays(arrays, {"X": "n N+1 d", "y": "n N+1 T" if several else "n N+1"}, path, FORMS)
        x, y = arrays["X"], arrays["y"] if several else arrays["y"][..., None]
        if x.shape[1] < 2:
            raise UserError(f"{path}: X has the shape {x.shape}, prompts without an example; expected {FORMS}")
    return torch.as_tensor(x), torch.as_tensor(y)
