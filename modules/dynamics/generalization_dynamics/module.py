"""A linear student of a noisy teacher as a LightningModule: several draws of the data together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from framework import OptimizerConfig
from framework.errors import UserError
from framework.settings import at_least
from modules.dynamics.generalization_dynamics import theory
from modules.dynamics.generalization_dynamics.plots import errors_figure
from modules.dynamics.generalization_dynamics.students import FROZEN, StudentFlow, flow
from modules.ensemble import Batch, Ensemble


class LinearStudent(Ensemble):
    """Trains w on ½ |y − w X|² by full-batch gradient descent, or follows the exact gradient flow.

    There is a member for each draw of teacher and data. It records ``time`` (steps times rate), ``test_error`` (|w̄ −
    w|²/N plus the noise's variance), ``train_error`` (|y − w X|²/P), both divided by the noise's variance, and
    ``frozen`` (how far w has moved in directions without examples). The theory is that of the limit of many dimensions.

    Args:
        inputs: N.
        draws: E.
        inr: Variance of the initial weights, divided by that of the noise.
        exact: Whether to solve the gradient flow in the eigenbasis instead of taking steps.
        inner_steps: Number of optimiser steps in one training step.
        points: Approximate number of measurements.
        optimizer: Plain SGD; its rate is the time of a step.

    Raises:
        UserError: a setting is not accepted; the data have other inputs or draws.
    """

    def __init__(
        self,
        inputs: int = 200,
        draws: int = 20,
        inr: float = 0.0,
        exact: bool = False,
        inner_steps: int = 100,
        points: int = 100,
        optimizer: OptimizerConfig | None = None,
    ) -> None:
        super().__init__(inner_steps, points, optimizer)
        at_least(0, inr=inr)
        self.save_hyperparameters()
        at_least(1, inputs=inputs, draws=draws)
        at_least(0, inr=inr)
        self.inputs, self.draws, self.inr, self.exact = inputs, draws, inr, exact
        self.solution: StudentFlow | None = None
        self.w = nn.Parameter(inr**0.5 * torch.randn(draws, inputs, dtype=torch.float64))

    empty: Tensor

    @torch.no_grad()
    def begin(self, batch: Batch) -> None:
        """Finds the directions without examples.

        Raises:
            UserError: the data have other sizes.
        """
        x = batch["x"]
        if x.shape[:2] != (self.draws, self.inputs):
            raise UserError(f"draws, inputs: {self.draws}, {self.inputs}, but the data have {x.shape[0]}, {x.shape[1]}")
        values, basis = torch.linalg.eigh(x @ x.mT)
        self.register_buffer("empty", basis * (values <= FROZEN * values[:, -1:])[:, None, :], persistent=False)
        self.kept = self.w.detach().clone()
        self.solution = None

    def settings(self) -> dict[str, Sequence[Any]]:
        """Returns ``draw`` of each member."""
        return {"draw": list(range(self.draws))}

    def losses(self, batch: Batch) -> Tensor:
        """Returns ½ |y − w X|² of each member."""
        return 0.5 * self._left(batch).square().sum(-1)

    def _left(self, batch: Batch) -> Tensor:
        return batch["y"] - (self.w[:, None] @ batch["x"])[:, 0]

    def gradients(self, batch: Batch) -> list[Tensor]:
        """Returns (w X − y) Xᵀ."""
        x = batch["x"]
        residual = torch.baddbmm(batch["y"][:, None], self.w[:, None], x, beta=-1)  # on small data half of @'s time
        return [torch.bmm(residual, x.mT)[:, 0]]

    def advance(self, batch: Batch, steps: int, optimizer: torch.optim.Optimizer) -> None:
        """Takes the base class's steps, or follows the gradient flow for the same time."""
        if not self.exact:
            super().advance(batch, steps, optimizer)
            return
        if self.solution is None:
            self.solution = flow(batch["x"], batch["y"], self.kept.to(batch["x"]))
        self.steps_taken += steps
        self.w.copy_(self.solution.at(self.steps_taken * self.optimizer_config.lr))

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the measurements named in the class's docstring."""
        noise = batch["noise"]
        moved = (self.empty.mT @ (self.w - self.kept.to(self.w))[..., None]).norm(dim=(-2, -1))
        return {
            "time": torch.full((self.draws,), self.steps_taken * self.optimizer_config.lr, dtype=torch.float64),
            "test_error": (batch["teacher"] - self.w).square().mean(-1) / noise + 1,
            "train_error": self._left(batch).square().mean(-1) / noise,
            "frozen": moved,
        }

    def theory(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Returns the predictions named in the class's docstring."""
        t = step * self.optimizer_config.lr
        alpha, snr = batch["x"].shape[2] / self.inputs, float(batch["snr"])
        one = torch.ones(self.draws, dtype=torch.float64)
        return {
            "test_error": float(theory.generalization_error(t, alpha, snr, self.inr)) * one,
            "train_error": float(theory.training_error(t, alpha, snr, self.inr)) * one,
        }

    def trained_features(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Returns the inputs (E, N, P) and w (E, N)."""
        return {"w": (batch["x"], self.w.detach())}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the initial w."""
        super().on_load_checkpoint(checkpoint)
        self.solution = None

    def draw(self) -> None:
        """Errors over time, with the theory's lines."""
        self.log_figure("errors", errors_figure({"": self.trajectory()}))
