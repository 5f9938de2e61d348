"""Regression on points of the unit circle, on random inputs, or on the user's points."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from framework.data.arrays import WholeBatch
from framework.data.whole import WholeData
from framework.readers.arrays import check_arrays, read_arrays
from framework.settings import at_least, finite, not_empty, one_of

Source = Literal["circle", "gaussian"]


def circle(angles: Tensor) -> Tensor:
    """Returns (cos γ, sin γ), (N, 2), of angles (N,) in radians."""
    return torch.stack([angles.cos(), angles.sin()], 1)


def read_points(path: Path) -> tuple[Tensor, Tensor]:
    """Reads ``.npz`` with ``x`` (N, d) and ``y`` (N,), float64.

    Raises:
        UserError: there is no such file, or it has other contents, or values that are not finite.
    """
    expected = ".npz with x (N, d) and y (N,)"
    arrays = read_arrays(path, expected, np.float64)
    check_arrays(arrays, {"x": "N d", "y": "N"}, path, expected)
    return torch.as_tensor(arrays["x"]), torch.as_tensor(arrays["y"])


class Circle(WholeData):
    """Points x (N, d) with targets y (N,), all in each batch; the target is x₁ x₂.

    With d = 2 a batch also holds ``probe`` (P, 2), points (cos γ, sin γ) with γ evenly from −π to π.

    Reads: ``.npz`` of x and y, finite numbers only. Without a path: points of the circle, Gaussian inputs.

    Args:
        path: The user's ``.npz`` (:func:`read_points`).
        source: Without a path: ``circle`` (at ``angles``) or ``gaussian`` (``samples`` draws of N(0, I)).
        angles: γ in radians.
        samples: N of ``gaussian``.
        probes: P.
        seed: Seed of the draws.
        passes: Batches in an epoch.

    Raises:
        UserError: a setting is not accepted; the file cannot be read or is something else (in ``setup``).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        source: Source = "circle",
        angles: list[float] | None = None,
        samples: int = 100,
        probes: int = 33,
        seed: int = 0,
        passes: int = 10,
    ) -> None:
        super().__init__(batch_size=1)
        finite(angles=angles)
        one_of(get_args(Source), source=source)
        at_least(1, samples=samples, probes=probes, passes=passes)
        self.angles = [0.3, 1.4, 2.9, 4.6] if angles is None else list(angles)
        not_empty(angles=self.angles)
        self.path, self.source, self.samples, self.probes = path, source, samples, probes
        self.seed, self.passes = seed, passes

    def setup(self, stage: str) -> None:
        """Reads or makes the points."""
        if self.path is not None:
            x, y = read_points(Path(self.path).expanduser())
        else:
            generator = torch.Generator().manual_seed(self.seed)
            if self.source == "circle":
                x = circle(torch.tensor(self.angles, dtype=torch.float64))
            else:
                x = torch.randn(self.samples, 2, dtype=torch.float64, generator=generator)
            y = x[:, 0] * x[:, 1]
        batch = {"x": x, "y": y}
        if x.shape[1] == 2:
            batch["probe"] = circle(torch.linspace(-math.pi, math.pi, self.probes, dtype=torch.float64))
        self.train_set = WholeBatch(batch, self.passes)
