"""Linear teachers with noisy labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from framework.data.arrays import WholeBatch
from framework.data.whole import WholeData
from framework.errors import UserError
from framework.readers.arrays import check_arrays, read_arrays
from framework.settings import above, at_least


class NoisyTeacher(WholeData):
    """Draws of ``y = w̄ X + ε``; each batch has all of them.

    A batch has ``x`` (E, N, P) with entries of variance 1/N, ``y`` (E, P), ``teacher`` (E, N) of variance SNR, and
    the numbers ``snr`` and ``noise`` (the variance of ε, 1).

    Reads: ``.npz`` of inputs, finite numbers only. Without a path: it is generated.

    Args:
        path: An ``.npz`` with ``X`` (N, P), the inputs of every draw, scaled to a mean square of 1/N; only teacher and
            noise are drawn then.
        inputs: N without a path.
        alpha: P/N without a path.
        snr: Variance of the teacher's weights over that of the noise.
        draws: E.
        seed: Seed of the draws.
        passes: Batches in an epoch.

    Raises:
        UserError: a setting is not accepted; the file cannot be read or is something else (in ``setup``).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        inputs: int = 200,
        alpha: float = 1.0,
        snr: float = 5.0,
        draws: int = 20,
        seed: int = 0,
        passes: int = 10,
    ) -> None:
        super().__init__(batch_size=1)
        above(0, alpha=alpha, snr=snr)
        at_least(1, inputs=inputs, draws=draws, passes=passes)
        at_least(1, **{"alpha times inputs, rounded": round(alpha * inputs)})
        self.path, self.inputs, self.alpha, self.snr = path, inputs, alpha, snr
        self.draws, self.seed, self.passes = draws, seed, passes

    def setup(self, stage: str) -> None:
        """Draws teachers and noise, and draws or reads the inputs."""
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(self.draws, *shape, dtype=torch.float64, generator=generator)

        if self.path is None:
            x = normal(self.inputs, round(self.alpha * self.inputs)) / self.inputs**0.5
        else:
            x = read_inputs(Path(self.path).expanduser()).expand(self.draws, -1, -1)
        teacher = self.snr**0.5 * normal(x.shape[1])
        y = (teacher[:, None] @ x)[:, 0] + normal(x.shape[2])
        numbers = {"snr": torch.tensor(self.snr), "noise": torch.tensor(1.0)}
        self.train_set = WholeBatch({"x": x, "y": y, "teacher": teacher, **numbers}, self.passes)


def read_inputs(path: Path) -> torch.Tensor:
    """Returns ``X`` (N, P) of an ``.npz``, scaled to a mean square of 1/N.

    Raises:
        UserError: there is no such file, or it has other contents, or values that are not finite.
    """
    expected = ".npz with X (N, P), not all zero"
    arrays = read_arrays(path, expected, np.float64)
    check_arrays(arrays, {"X": "N P"}, path, expected)
    x = torch.as_tensor(arrays["X"])
    if not x.any():
        raise UserError(f"{path}: X has only zeros; expected {expected}")
    return x / (x.square().mean() * len(x)).sqrt()
