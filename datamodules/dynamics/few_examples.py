"""A few examples with noisy labels to train on, many clean ones to test, in several draws."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from datamodules.dynamics.correlations import read_pairs
from framework.data.arrays import WholeBatch
from framework.data.whole import WholeData
from framework.settings import at_least, at_most, between, one_of

Source = Literal["relu_teacher", "digits", "diabetes"]


def parity(kinds: Tensor) -> Tensor:
    """1 for even and −1 for odd classes, float64."""
    return (1 - 2 * (kinds % 2)).double()


def pooled(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs (N, M) centred and of mean square norm 1, as labels ±1 or outputs centred and of variance 1 (M,)."""
    x = x - x.mean(1, keepdim=True)
    x = x / x.square().sum(0).mean().sqrt()
    return x, y if bool((y.abs() == 1).all()) else (y - y.mean()) / y.std()


def embedded(source: Source) -> tuple[Tensor, Tensor]:
    """scikit-learn's ``digits`` (64, 1797), even or odd, or ``diabetes`` (10, 442), its disease's progression."""
    from sklearn import datasets

    found = datasets.load_digits() if source == "digits" else datasets.load_diabetes()
    x, target = torch.as_tensor(found.data).T, torch.as_tensor(found.target)
    return pooled(x, parity(target) if source == "digits" else target.double())


def from_file(path: Path) -> tuple[Tensor, Tensor]:
    """Reads a file by :func:`~datamodules.dynamics.correlations.read_pairs`; classes become even or odd, a single
    output row is not changed.

    Raises:
        UserError: the file cannot be read or is something else.
    """
    x, y = read_pairs(path)
    return pooled(x, y[0] if len(y) == 1 else parity(y.argmax(0)))


class FewExamples(WholeData):
    """Draws of ``examples`` inputs with noisy labels, and clean ones for testing; each batch has all of them.

    A batch has ``x`` (E, N, P), ``y`` (E, P), ``x_test`` (E, N, T) and ``y_test`` (E, T), float64.

    Reads: ``.npz`` of X and Y, or images and labels; MNIST's IDX files; finite numbers only. Without a path: a ReLU
        teacher, scikit-learn's digits and diabetes.

    Args:
        path: The user's ``.npz`` with ``X`` (N, M) and ``Y`` (1, M), or images and labels, or a folder with MNIST
            (:func:`~datamodules.dynamics.correlations.read_pairs`); classes become even or odd.
        source: Without a path: ``relu_teacher``, ``digits`` or ``diabetes``.
        inputs: N of the teacher's Gaussian inputs, of variance 1/N.
        teacher: Hidden units of the teacher; its outputs have variance 1.
        noise: Standard deviation of the noise on outputs of variance 1.
        flip: Share of labels ±1 that are flipped.
        examples: P.
        tests: T; fewer if fewer are left.
        draws: E, number of draws of teacher, noise and examples.
        seed: Seed of the draws.
        passes: Batches in an epoch.

    Raises:
        UserError: a setting is not accepted; the file cannot be read or is something else (in ``setup``).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        source: Source = "relu_teacher",
        inputs: int = 15,
        teacher: int = 30,
        noise: float = 0.5,
        flip: float = 0.15,
        examples: int = 300,
        tests: int = 1000,
        draws: int = 5,
        seed: int = 0,
        passes: int = 10,
    ) -> None:
        super().__init__(batch_size=1)
        at_least(0, noise=noise)
        one_of(get_args(Source), source=source)
        at_least(1, inputs=inputs, teacher=teacher, examples=examples, tests=tests, draws=draws, passes=passes)
        at_least(0, noise=noise)
        between(0, 0.5, "[)", flip=flip)
        self.path, self.source, self.inputs, self.teacher, self.noise, self.flip = (
            path,
            source,
            inputs,
            teacher,
            noise,
            flip,
        )
        self.examples, self.tests, self.draws, self.seed, self.passes = examples, tests, draws, seed, passes

    def setup(self, stage: str) -> None:
        """Reads or draws the examples.

        Raises:
            UserError: the file is missing or broken, or there are too few examples.
        """
        pool = None
        if self.path is not None:
            pool = from_file(Path(self.path).expanduser())
        elif self.source != "relu_teacher":
            pool = embedded(self.source)
        if pool is not None:  # at least one is left for testing
            at_most({"all but one": len(pool[1]) - 1}, examples=self.examples)
        rows = []
        for draw in range(self.draws):
            generator = torch.Generator().manual_seed(self.seed + draw)
            x, y = self._teacher(generator) if pool is None else self._chosen(*pool, generator)
            clean, signs = y[: self.examples], bool((y.abs() == 1).all())
            if signs:
                flips = torch.rand(self.examples, generator=generator) < self.flip
                noisy = torch.where(flips, -clean, clean)
            else:
                noisy = clean + self.noise * torch.randn(self.examples, dtype=torch.float64, generator=generator)
            rows.append((x[:, : self.examples], noisy, x[:, self.examples :], y[self.examples :]))
        names = ("x", "y", "x_test", "y_test")
        batch = {name: torch.stack(parts) for name, parts in zip(names, zip(*rows, strict=True), strict=True)}
        self.train_set = WholeBatch(batch, self.passes)

    def _chosen(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(y), generator=generator)[: self.examples + self.tests]
        return x[:, order], y[order]

    def _teacher(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=torch.float64, generator=generator)

        first, second = normal(self.teacher, self.inputs), normal(self.teacher)
        x = normal(self.inputs, self.examples + self.tests) / self.inputs**0.5
        y = second @ torch.relu(first @ x)
        return x, (y - y.mean()) / y.std()
