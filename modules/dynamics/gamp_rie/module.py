"""GAMP-RIE and gradient descent on the same data as LightningModules; members differ in their initial values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from framework import OptimizerConfig
from framework.errors import UserError
from framework.settings import at_least, between
from modules.dynamics.gamp_rie.gamp import State, begin, distance, forward, iterate, wishart
from modules.dynamics.gamp_rie.plots import errors_figure
from modules.dynamics.gamp_rie.state_evolution import mmse
from modules.ensemble import Batch, Ensemble


class QuadraticStudent(Ensemble):
    """Base class of the two: sizes, optimal error and figure.

    Args:
        dimension: d.
        samples: n.
        width: m, of the teacher and of the student.
        noise: Δ̃.
        inits: E, independent starts on the same data.
        inner_steps: Number of optimiser steps in one training step.
        points: Approximate number of measurements.
        optimizer: See :class:`modules.ensemble.Ensemble`.

    Raises:
        UserError: a setting is not accepted; the data have another shape.
    """

    def __init__(
        self,
        dimension: int,
        samples: int,
        width: int,
        noise: float,
        inits: int,
        inner_steps: int,
        points: int,
        optimizer: OptimizerConfig | None,
    ) -> None:
        super().__init__(inner_steps, points, optimizer)
        at_least(1, dimension=dimension, samples=samples, width=width, inits=inits)
        at_least(0, noise=noise)
        self.dimension, self.samples, self.width, self.noise, self.inits = dimension, samples, width, noise, inits
        self.kappa = width / dimension
        self.optimum = mmse(samples / dimension**2, self.kappa, noise)

    def begin(self, batch: Batch) -> None:
        """Compares the data's shape with the settings.

        Raises:
            UserError: they differ.
        """
        if batch["x"].shape != (self.samples, self.dimension):
            found = tuple(batch["x"].shape)
            raise UserError(f"samples, dimension: {self.samples}, {self.dimension}, but the data are {found}")

    def settings(self) -> dict[str, Sequence[Any]]:
        """Returns ``init``, the number of the start."""
        return {"init": list(range(self.inits))}

    def estimates(self) -> Tensor:
        """Ŝ (E, d, d)."""
        raise NotImplementedError

    def errors(self, batch: Batch) -> dict[str, Tensor]:
        """Returns κ |S − Ŝ|²/d of each member and of the mean of all Ŝ, if S is known."""
        if "matrix" not in batch:
            return {}
        found = self.estimates()
        average = distance(found.mean(0), batch["matrix"], self.kappa)
        return {"error": distance(found, batch["matrix"], self.kappa), "average_error": average.expand(self.inits)}

    def theory(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Returns the Bayes-optimal error of the limit d → ∞."""
        optimum = torch.full((self.inits,), self.optimum, dtype=torch.float64)
        return {"error": optimum} if "matrix" in batch else {}

    def solution(self) -> dict[str, Tensor]:
        """``estimate`` Ŝ (E, d, d), ``average`` (d, d) of them, and ``weights`` W (E, m, d), WᵀW/m closest to Ŝ."""
        estimate = self.estimates()
        values, vectors = torch.linalg.eigh(estimate)
        top = min(self.width, self.dimension)
        weights = (self.width * values[:, -top:].clamp(min=0)).sqrt()[..., None] * vectors[..., -top:].mT
        missing = torch.zeros(len(weights), self.width - top, self.dimension).to(weights)
        return {"estimate": estimate, "average": estimate.mean(0), "weights": torch.cat([weights, missing], 1)}

    def on_train_end(self) -> None:
        """Calls the base class's method and writes ``estimate.npz`` (:meth:`solution`)."""
        super().on_train_end()
        if self.trainer.is_global_zero:
            arrays: dict[str, Any] = {name: value.cpu().numpy() for name, value in self.solution().items()}
            np.savez(Path(self.trainer.default_root_dir) / "estimate.npz", **arrays)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """``label`` y (B,), its ``prediction`` level + Tr(Z Ŝ)/√d (B, E) by each member, and their ``average`` (B,)."""
        scale = self.dimension**-0.5
        values = torch.stack([forward(batch["x"], estimate) for estimate in self.estimates()], 1) * scale
        level = batch["level"]
        label = level + batch["labels"] * scale
        return {"label": label, "prediction": level[:, None] + values, "average": level + values.mean(1)}

    def draw(self) -> None:
        """Errors over steps, with the optimum as a line."""
        found = self.trajectory()
        if "error" in found:
            self.log_figure("errors", errors_figure(found, self.optimum))


class GampRie(QuadraticStudent):
    """Runs GAMP-RIE; a step is an iteration, and a member that has converged no longer changes.

    It records for each member ``error``, ``average_error``, ``variance`` V and ``precision`` A.

    Args:
        dimension: d.
        samples: n.
        width: m, of the teacher.
        noise: Δ̃.
        damping: Share of the old V and ω that is kept, in [0, 1).
        tolerance: A member has converged if κ |Ŝ_new − Ŝ|²/d is below this.
        inits: E, independent starts on the same data.
        inner_steps: Iterations in a training step.
        points: Approximate number of measurements.

    Raises:
        UserError: a setting is not accepted; the data have another shape.
    """

    def __init__(
        self,
        dimension: int = 100,
        samples: int = 2500,
        width: int = 50,
        noise: float = 0.0,
        damping: float = 0.5,
        tolerance: float = 1e-5,
        inits: int = 1,
        inner_steps: int = 1,
        points: int = 100,
    ) -> None:
        # SGD at rate 1 with the gradient (old − new) sets the new estimate, so that Lightning counts the steps
        unit = OptimizerConfig("sgd", lr=1.0, weight_decay=0.0)
        super().__init__(dimension, samples, width, noise, inits, inner_steps, points, unit)
        at_least(0, noise=noise, tolerance=tolerance)
        self.save_hyperparameters()
        between(0, 1, "[)", damping=damping)
        self.damping, self.tolerance = damping, tolerance
        self.estimate = nn.Parameter(torch.stack([wishart(dimension, width) for _ in range(inits)]))
        start = begin(self.estimate[0].detach(), samples, self.kappa)
        self.register_buffer("omega", start.omega.repeat(inits, 1))
        self.register_buffer("c", start.omega.new_full((inits,), start.c))
        self.register_buffer("variance", start.omega.new_full((inits,), start.variance))
        self.register_buffer("precision", start.omega.new_zeros(inits))
        self.register_buffer("converged", torch.zeros(inits, dtype=torch.bool))

    omega: Tensor
    c: Tensor
    variance: Tensor
    precision: Tensor
    converged: Tensor

    def estimates(self) -> Tensor:
        """Returns Ŝ (E, d, d)."""
        return self.estimate.detach()

    def gradients(self, batch: Batch) -> list[Tensor]:
        """Runs an iteration and returns Ŝ − Ŝ_new (E, d, d); the rest of the state is updated in place."""
        change = torch.zeros_like(self.estimate)
        for e in range(self.inits):
            if self.converged[e]:
                continue
            old = State(self.estimate[e].detach(), float(self.c[e]), float(self.variance[e]), self.omega[e])
            new = iterate(old, batch["x"], batch["labels"], self.kappa, self.noise, self.damping)
            change[e] = old.estimate - new.estimate
            self.omega[e], self.c[e], self.variance[e], self.precision[e] = (
                new.omega,
                new.c,
                new.variance,
                new.precision,
            )
            self.converged[e] = distance(new.estimate, old.estimate, self.kappa) < self.tolerance
        return [change]

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the measurements named in the class's docstring."""
        return self.errors(batch) | {"variance": self.variance, "precision": self.precision}


class QuadraticNet(QuadraticStudent):
    """Trains ŷ(x) = (1/√m) Σ_k (w_k·x/√d)² by gradient descent on Σ_i (ŷ_i − √m y_i)²/4 from w ~ N(0, 1).

    It records for each member ``loss`` (divided by n), ``error`` and ``average_error``, of the mean of all members' Ŝ.

    Args:
        dimension: d.
        samples: n.
        width: m, of the teacher and of the student.
        noise: Δ̃.
        inits: E, independent starts on the same data.
        inner_steps: Number of gradient descent steps in one training step.
        points: Approximate number of measurements.
        optimizer: By default SGD at a rate of 0.5/(1 + αd): the largest eigenvalue of the kernel grows as 1 + αd.

    Raises:
        UserError: a setting is not accepted; the data have another shape.
    """

    def __init__(
        self,
        dimension: int = 40,
        samples: int = 320,
        width: int = 20,
        noise: float = 0.0,
        inits: int = 12,
        inner_steps: int = 100,
        points: int = 50,
        optimizer: OptimizerConfig | None = None,
    ) -> None:
        if optimizer is None and dimension > 0:
            optimizer = OptimizerConfig("sgd", lr=0.5 / (1 + samples / dimension), weight_decay=0.0)
        super().__init__(dimension, samples, width, noise, inits, inner_steps, points, optimizer)
        at_least(0, noise=noise)
        self.save_hyperparameters()
        self.weight = nn.Parameter(torch.randn(inits, width, dimension, dtype=torch.float64))

    def estimates(self) -> Tensor:
        """Returns Ŝ = WᵀW/m (E, d, d)."""
        w = self.weight.detach()
        return w.mT @ w / self.width

    def residual(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Hidden units w_k·x_i/√d (E, n, m) and ŷ_i − √m y_i (E, n)."""
        hidden = batch["x"] @ self.weight.mT / self.dimension**0.5
        y = batch["level"] + batch["labels"] / self.dimension**0.5
        return hidden, hidden.square().sum(-1) / self.width**0.5 - self.width**0.5 * y

    def losses(self, batch: Batch) -> Tensor:
        """Returns Σ_i (ŷ_i − √m y_i)²/4 (E,)."""
        return self.residual(batch)[1].square().sum(-1) / 4

    def gradients(self, batch: Batch) -> list[Tensor]:
        """Returns the gradients of :meth:`losses` as by autograd, without a graph."""
        hidden, residual = self.residual(batch)
        scale = (self.width * self.dimension) ** -0.5
        return [(residual[..., None] * hidden).mT @ batch["x"] * scale]

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the measurements named in the class's docstring."""
        return {"loss": self.losses(batch) / self.samples} | self.errors(batch)
