"""Factorised gradient descent on a matrix as a LightningModule; members differ in their initial values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from framework import OptimizerConfig
from framework.errors import UserError
from framework.readers.arrays import check_symmetric
from framework.settings import above, at_least, finite, not_empty
from modules.dynamics.matrix_sensing.plots import errors_figure
from modules.dynamics.matrix_sensing.sensing import asymmetric_gradients, misfit, symmetric_gradient
from modules.dynamics.matrix_sensing.theory import imbalance, predicted_rate, redundant_error
from modules.ensemble import Batch, Ensemble


class MatrixSensing(Ensemble):
    """Recovers a matrix of rank r from linear measurements by gradient descent on factors of width k.

    There is a member for each pair of an ``alpha`` and a seed. It records ``loss``, ``error`` (|Z − M|_F, if M is
    known) and, for the asymmetric form, ``imbalance`` (|Δ − Δ₀|_F / |Δ₀|_F). ``error/theory`` is √(k − r) / (2 η T) for
    the symmetric form with k > r.

    Args:
        rows: n1.
        columns: n2; by default n1.
        width: k, columns of the factors.
        rank: r, the rank of M that the theory assumes.
        symmetric: Whether Z = X Xᵀ; else F Gᵀ.
        alpha: Scales of the initial values: entries are N(0, α²/n).
        init_ratio: α of F over that of G. At 1 the factors are balanced, and with k > r they converge as slowly as X
            Xᵀ.
        equal_start: Whether the initial G is F divided by ``init_ratio``, instead of a separate draw.
        seeds: Number of seeds for each alpha.
        inner_steps: Number of gradient descent steps in one training step.
        points: Approximate number of measurements.
        optimizer: Plain SGD, its rate η.

    Raises:
        UserError: a setting is not accepted; the data have another shape.
    """

    def __init__(
        self,
        rows: int = 50,
        columns: int | None = None,
        width: int = 5,
        rank: int = 3,
        symmetric: bool = False,
        alpha: list[float] | None = None,
        init_ratio: float = 3.0,
        equal_start: bool = False,
        seeds: int = 1,
        inner_steps: int = 100,
        points: int = 200,
        optimizer: OptimizerConfig | None = None,
    ) -> None:
        super().__init__(inner_steps, points, optimizer)
        finite(alpha=alpha, init_ratio=init_ratio)
        self.save_hyperparameters()
        columns = rows if columns is None else columns
        alphas = [0.5] if alpha is None else list(alpha)
        at_least(1, rows=rows, columns=columns, width=width, rank=rank, seeds=seeds)
        not_empty(alpha=alphas)
        above(0, alpha=alphas, init_ratio=init_ratio)
        if symmetric and rows != columns:
            raise UserError(f"columns: {columns} is not accepted; a symmetric matrix has rows = {rows} of them")
        self.rows, self.columns, self.width, self.rank, self.symmetric = rows, columns, width, rank, symmetric
        self.alphas, self.seeds, self.zero_loss = alphas, seeds, float("inf")

        def draw(n: int) -> Tensor:
            """Initial values (E, n, k); a seed gives the same draw for each alpha."""
            drawn = torch.randn(seeds, n, width, dtype=torch.float64) / n**0.5
            return torch.cat([scale * drawn for scale in alphas])

        first = draw(rows)
        if symmetric:
            self.x = nn.Parameter(first)
            return
        second = first.clone() if equal_start else draw(columns)
        self.f, self.g = nn.Parameter(first), nn.Parameter(second / init_ratio)
        self.register_buffer("start", imbalance(self.f.detach(), self.g.detach()))

    start: Tensor

    def settings(self) -> dict[str, Sequence[Any]]:
        """Returns ``alpha`` and ``seed`` of each member."""
        pairs = [(alpha, seed) for alpha in self.alphas for seed in range(self.seeds)]
        return {"alpha": [alpha for alpha, _ in pairs], "seed": [seed for _, seed in pairs]}

    def begin(self, batch: Batch) -> None:
        """Compares the matrix with the factors.

        Raises:
            UserError: the shapes differ, or the matrix is not symmetric where ``symmetric`` is set.
        """
        matrix, operator = batch.get("matrix"), batch.get("operator")
        mine = f"rows, columns: {self.rows}, {self.columns}"
        if matrix is not None and matrix.shape != (self.rows, self.columns):
            raise UserError(f"{mine}, but the matrix is {matrix.shape[0]} x {matrix.shape[1]}")
        if matrix is not None and self.symmetric:
            check_symmetric(matrix.cpu().numpy(), "M", "symmetric")
        if operator is not None and operator.shape[1] != self.rows * self.columns:
            raise UserError(f"{mine}, but measurements are of {operator.shape[1]} entries")

    @property
    def rate(self) -> float:
        """η."""
        return float(self.optimizer_config.lr)

    def product(self) -> Tensor:
        """Returns Z (E, n1, n2)."""
        return self.x @ self.x.mT if self.symmetric else self.f @ self.g.mT

    def losses(self, batch: Batch) -> Tensor:
        """Returns ¼ |A(X Xᵀ) − y|² or ½ |A(F Gᵀ) − y|²."""
        target = batch["y"] if "y" in batch else batch["matrix"]
        return misfit(self.product(), target, batch.get("operator")) / (4 if self.symmetric else 2)

    def gradients(self, batch: Batch) -> list[Tensor]:
        """Returns the gradients of :meth:`losses` as by autograd, without a graph."""
        target, operator = batch["y"] if "y" in batch else batch["matrix"], batch.get("operator")
        if self.symmetric:
            return [symmetric_gradient(self.x, target, operator)]
        return list(asymmetric_gradients(self.f, self.g, target, operator))

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the measurements named in the class's docstring."""
        target = batch["y"] if "y" in batch else batch["matrix"]
        self.zero_loss = float(target.square().sum()) / (4 if self.symmetric else 2)
        found = {"loss": self.losses(batch)}
        if "matrix" in batch:
            found["error"] = (self.product() - batch["matrix"]).norm(dim=(-2, -1))
        if not self.symmetric:
            change = (imbalance(self.f, self.g) - self.start).norm(dim=(-2, -1))
            found["imbalance"] = change / self.start.norm(dim=(-2, -1))
        return found

    def theory(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Returns the predictions named in the class's docstring."""
        if not self.symmetric or self.width <= self.rank:
            return {}
        return {"error": torch.full((len(self.x),), redundant_error(step, self.rate, self.width, self.rank))}

    def factors(self) -> tuple[nn.Parameter, nn.Parameter] | None:
        """F and G, for :class:`framework.protocols.HasFactors`."""
        return None if self.symmetric else (self.f, self.g)

    def relative_loss(self) -> float:
        """Returns the members' largest training loss at the last measurement, divided by that of a zero product."""
        return float((self.history[-1][1]["loss"] / self.zero_loss).max()) if self.history else float("inf")

    def draw(self) -> None:
        """Errors over steps, with the theory's line."""
        trajectory = self.trajectory()
        if "error" not in trajectory:
            return
        names = [f"α = {a:g}, draw {s}" for a, s in zip(*self.settings().values(), strict=True)]
        curves = {name: (trajectory["step"], error) for name, error in zip(names, trajectory["error"].T, strict=True)}
        theory = {}
        if "error/theory" in trajectory:
            theory[names[0]] = trajectory["step"], trajectory["error/theory"][:, 0]
        self.log_figure("errors", errors_figure(curves, theory))

    def predicted_rate(self, from_start: bool = False) -> Tensor:
        """Predicted rate of each trained member's error, (E,); see ``theory.py``.

        Args:
            from_start: Whether Δ is that of the start, as in the paper, instead of the trained factors': the same up to
                its drift, O(η).

        Raises:
            UserError: the form is symmetric, or k < r.
        """
        if self.symmetric:
            raise UserError("symmetric: True is not accepted here; the rate is predicted for the asymmetric form")
        f, g = self.f.detach(), self.g.detach()
        return predicted_rate(self.start if from_start else imbalance(f, g), f, g, self.rank, self.rate)
