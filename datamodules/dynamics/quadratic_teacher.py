"""Labels of a teacher network with quadratic activation and a width proportional to its inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from framework.data.arrays import NamedArrays, WholeBatch
from framework.data.whole import WholeData
from framework.readers.arrays import check_arrays, read_arrays
from framework.settings import at_least, at_most, one_of

Source = Literal["gaussian", "digits"]
EXPECTED = ".npz with X (n, d), whitened, and y (n,)"


def read_samples(path: Path) -> tuple[Tensor, Tensor]:
    """Reads ``.npz`` with ``X`` (n, d) and ``y`` (n,), float64.

    Raises:
        UserError: there is no such file, or it has other contents, or values that are not finite.
    """
    arrays = read_arrays(path, EXPECTED, np.float64)
    check_arrays(arrays, {"X": "n d", "y": "n"}, path, EXPECTED)
    return torch.as_tensor(arrays["X"]), torch.as_tensor(arrays["y"])


def digits(samples: int, components: int, generator: torch.Generator) -> Tensor:
    """Returns the first principal components of scikit-learn's digits, whitened, of pictures drawn without replacement.

    Args:
        samples: n.
        components: d.
        generator: Source of randomness.

    Returns:
        (n, d), float64.

    Raises:
        UserError: there are fewer pictures, or fewer components.
    """
    from sklearn.datasets import load_digits

    pixels = torch.as_tensor(load_digits().data, dtype=torch.float64)
    u, s, _ = torch.linalg.svd(pixels - pixels.mean(0), full_matrices=False)
    at_most({"the digits": len(u)}, samples=samples)
    at_most({"the digits' components": int((s > 1e-10 * s[0]).sum())}, dimension=components)
    chosen = torch.randperm(len(u), generator=generator)[:samples]
    return u[chosen, :components] * len(u) ** 0.5


class QuadraticTeacher(WholeData):
    """Samples of y = xᵀ S x / d + noise with S = WᵀW/m and Gaussian W; each batch has all of them.

    A batch has ``x`` (n, d), ``labels`` ỹ (n,) = Tr(Z_i S) + √Δ̃ ξ_i, the number ``level`` of y = level + ỹ/√d, and
    ``matrix`` S (d, d) if it is known; all float64. A file's labels are centred by their mean.

    Reads: ``.npz`` of X and y, finite numbers only. Without a path: it is generated, or on scikit-learn's digits.

    Args:
        path: The user's ``.npz`` (:func:`read_samples`).
        source: Without a path: ``gaussian`` x, or ``digits`` (:func:`digits`), which are real but not Gaussian, so that
            the theory does not hold.
        dimension: d.
        samples: n.
        width: m, hidden units of the teacher.
        noise: Δ̃, the variance of the centred labels' noise: 2Δ(2 + Δ)/κ for noise of variance Δ in each unit.
        seed: Seed of all draws.
        passes: Batches in an epoch.

    Raises:
        UserError: a setting is not accepted; the file cannot be read or is something else (in ``setup``).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        source: Source = "gaussian",
        dimension: int = 100,
        samples: int = 2500,
        width: int = 50,
        noise: float = 0.0,
        seed: int = 0,
        passes: int = 10,
    ) -> None:
        super().__init__(batch_size=1, eval_batch_size=1024)
        at_least(0, noise=noise)
        one_of(get_args(Source), source=source)
        at_least(1, dimension=dimension, samples=samples, width=width, passes=passes)
        at_least(0, noise=noise)
        self.path, self.source, self.dimension, self.samples = path, source, dimension, samples
        self.width, self.noise, self.seed, self.passes = width, noise, seed, passes

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
            if self.source == "digits":
                x = digits(self.samples, self.dimension, generator)
            clean = (((x @ s) * x).sum(-1) - s.trace()) / self.dimension**0.5
            level = s.trace() / self.dimension
            batch = {"x": x, "labels": clean + self.noise**0.5 * xi, "level": level, "matrix": s}
        self.train_set = WholeBatch(batch, self.passes)
        self.predict_set = NamedArrays(x=x, labels=batch["labels"], level=batch["level"].expand(len(x)))
