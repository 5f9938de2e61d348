"""Labels of a teacher network with quadratic activation and a width proportional to its inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from framework.data import DataModule
from framework.data.arrays import WholeBatch
from framework.errors import UserError

EXPECTED = ".npz with X (n, d), whitened, and y (n,) is expected"


def read_samples(path: Path) -> tuple[Tensor, Tensor]:
    """Reads ``.npz`` with ``X`` (n, d) and ``y`` (n,), float64.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise UserError(f"path: {path} not found; {EXPECTED}")
    try:
        with np.load(path, allow_pickle=False) as found:
            x, y = (torch.as_tensor(found[name].astype(np.float64)) for name in ("X", "y"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"path: {path} cannot be read ({error}); {EXPECTED}") from None
    if x.ndim != 2 or y.shape != (len(x),):
        raise UserError(f"path: {path} holds X {tuple(x.shape)} and y {tuple(y.shape)}; {EXPECTED}")
    if not (x.isfinite().all() and y.isfinite().all()):
        raise UserError(f"path: {path} holds numbers that are not finite; {EXPECTED}")
    return x, y


class QuadraticTeacher(DataModule):
    """Samples of y = xᵀ S x / d + noise with S = WᵀW/m and Gaussian x and W; each batch is all of them.

    A batch holds ``x`` (n, d), ``labels`` ỹ (n,) = Tr(Z_i S) + √Δ̃ ξ_i, ``level``, what y = level + ỹ/√d is centred
    by, and ``matrix`` S (d, d) if it is known; all float64. A file's labels are centred by their mean.

    Args:
        path: The user's ``.npz`` (:func:`read_samples`).
        dimension: d.
        samples: n.
        width: m, hidden units of the teacher.
        noise: Δ̃, the variance of the centred labels' noise: 2Δ(2 + Δ)/κ for noise of variance Δ in each unit.
        seed: Of all that is drawn.
        passes: Batches in an epoch.

    Raises:
        UserError: a setting is not accepted; the file cannot be read or is something else (in ``setup``).
    """

    def __init__(
        self,
        path: str | None = None,
        dimension: int = 100,
        samples: int = 2500,
        width: int = 50,
        noise: float = 0.0,
        seed: int = 0,
        passes: int = 10,
    ) -> None:
        super().__init__(batch_size=1)
        for name, value in (("dimension", dimension), ("samples", samples), ("width", width), ("passes", passes)):
            if value < 1:
                raise UserError(f"{name}: {value} is not accepted; at least 1")
        if noise < 0:
            raise UserError(f"noise: {noise} is not accepted; 0 or more")
        self.path, self.dimension, self.samples, self.width = path, dimension, samples, width
        self.noise, self.seed, self.passes = noise, seed, passes

    def setup(self, stage: str) -> None:
        """Reads or draws the samples."""
        if self.path is not None:
            x, y = read_samples(Path(self.path).expanduser())
            level = y.mean()
            batch = {"x": x, "labels": (y - level) * x.shape[1] ** 0.5, "level": level}
        else:
            generator = torch.Generator().manual_seed(self.seed)
            w, x, xi = (
                torch.randn(*shape, dtype=torch.float64, generator=generator)
                for shape in ((self.width, self.dimension), (self.samples, self.dimension), (self.samples,))
            )
            s = w.mT @ w / self.width
            clean = (((x @ s) * x).sum(-1) - s.trace()) / self.dimension**0.5
            level = s.trace() / self.dimension
            batch = {"x": x, "labels": clean + self.noise**0.5 * xi, "level": level, "matrix": s}
        self.train_set = WholeBatch(batch, self.passes)
