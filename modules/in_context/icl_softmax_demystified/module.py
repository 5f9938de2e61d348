"""Softmax attention trained on regression prompts as a LightningModule."""

from __future__ import annotations

import torch
from torch import Tensor

from framework import OptimizerConfig, ScheduleConfig
from framework.errors import UserError
from framework.functional.regression_prompts import PromptLaw
from framework.settings import at_least
from modules.in_context.experiment import InContext
from modules.in_context.icl_softmax_demystified import theory
from modules.in_context.icl_softmax_demystified.attention import (
    Init,
    PromptSoftmaxAttention,
    attend,
    circuit_measures,
    head_types,
)
from modules.in_context.icl_softmax_demystified.plots import attention_figure, circuits_figure, heads_figure
from modules.in_context.predictors import Predictor, debiased_step, gradient_step, ridge


class SoftmaxInContext(InContext):
    """H heads of softmax attention from ordinary initial weights.

    It records for each member the loss, ``omega/h`` and ``mu/h`` of each head, ``eta`` Σ μ_h ω_h, ``sum_mu``
    |Σ μ_h|/max |μ_h|, ``diagonal`` and ``last``, the shares of energy in the patterns (means over active heads,
    weighted by |μ ω|), and the numbers of ``positive`` and ``negative`` heads. ``val/risk/M/theory`` is the error of
    the debiased gradient step with the best rate for the length of training (two heads or more).

    Args:
        dim: d.
        heads: H.
        labels: T, labels of a point.
        init: See :class:`~modules.in_context.icl_softmax_demystified.attention.PromptSoftmaxAttention`.
        seeds: Number of members, each with its own initial weights.
        base_seed: Seed of the first member.
        clip: Largest norm of a member's gradient; null for no limit.
        inner_steps: Number of optimiser steps in one training batch.
        points: Approximate number of measurements.
        optimizer: By default Adam at 1e-3.
        schedule: Learning-rate schedule, in training batches.

    Raises:
        UserError: a setting is not accepted; the prompts have other dimensions.
    """

    def __init__(
        self,
        dim: int = 5,
        heads: int = 4,
        labels: int = 1,
        init: Init = "random",
        seeds: int = 1,
        base_seed: int = 0,
        clip: float | None = None,
        inner_steps: int = 50,
        points: int = 100,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        adam = OptimizerConfig("adam", lr=1e-3, weight_decay=0.0)
        super().__init__(seeds, base_seed, clip, inner_steps, points, optimizer or adam, schedule)
        self.save_hyperparameters()
        at_least(1, dim=dim, heads=heads, labels=labels)
        self.dim, self.heads, self.labels = dim, heads, labels
        self.layer = PromptSoftmaxAttention(dim, heads, labels, init, self.generators())
        self.probe: tuple[Tensor, Tensor] | None = None

    def fits(self, law: PromptLaw) -> None:
        """Checks the dimensions.

        Raises:
            UserError: the model has others.
        """
        if (law.dim, law.tasks) != (self.dim, self.labels):
            mine = f"model.dim: {self.dim}, model.labels: {self.labels}"
            raise UserError(f"{mine}, but the prompts have d = {law.dim} and {law.tasks} labels")

    def answer(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns (E, B, T)."""
        return self.layer(x, y)

    def measure(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
        """Returns the measurements; keeps a prompt for the figure of attention."""
        self.probe = (batch["x"][0, :1], batch["y"][0, :1])
        return super().measure(batch)

    def weights_measured(self) -> dict[str, Tensor]:
        """Returns the measurements named in the class's docstring."""
        found = {name: value.detach() for name, value in circuit_measures(self.layer.circuits(), self.dim).items()}
        omega, mu = found["omega"], found["mu"]
        kinds = head_types(omega, mu)
        share = (omega * mu).abs() * (kinds != 0)
        share = share / share.sum(1, keepdim=True)
        measured = {"eta": (omega * mu).sum(1), "sum_mu": mu.sum(1).abs() / mu.abs().amax(1)}
        for name in ("diagonal", "last"):
            measured[name] = (found[name] * share).sum(1)
        measured |= {"positive": (kinds > 0).sum(1).double(), "negative": (kinds < 0).sum(1).double()}
        for head in range(self.heads):
            measured |= {f"omega/{head + 1}": omega[:, head], f"mu/{head + 1}": mu[:, head]}
        return measured

    def _plain(self) -> bool:
        """Returns whether the prompts are those of the theory."""
        law, eye = self.law, torch.eye(self.dim, dtype=torch.float64)
        if law is None or law.rows is not None or law.spectrum or law.scale != 1 or law.query_cov is not None:
            return False
        standard = torch.equal(law.x_cov, eye) and torch.allclose(law.task_cov, eye / self.dim, rtol=1e-5, atol=0)
        centred = float(law.task_mean.abs().max()) == 0
        return standard and centred and law.tasks == 1 and law.noisy_query and law.function == "linear"

    def risk_theory(self, length: int) -> float:
        """Returns the prediction named in the class's docstring."""
        if self.law is None or not self._plain() or self.heads < 2:
            return float("nan")
        rate = theory.best_debiased_rate(self.dim, self.train_length, self.law.noise)
        return theory.debiased_step_risk(rate, self.dim, length, self.law.noise)

    def predictors(self) -> dict[str, Predictor]:
        """Gradient steps with their best rates, ridge regression, and the base class's predictors."""
        found = super().predictors()
        if self.law is None or not self._plain():
            return found
        noise = self.law.noise
        rate = theory.best_gradient_rate(self.dim, self.train_length, noise)
        debiased = theory.best_debiased_rate(self.dim, self.train_length, noise)
        return {
            "gradient_step": lambda x, y, q: gradient_step(x, y, q, rate),
            "debiased_step": lambda x, y, q: debiased_step(x, y, q, debiased),
            "ridge": lambda x, y, q: ridge(x, y, q, self.dim * noise),
            **found,
        }

    def draw(self) -> None:
        """Errors by length, heads over steps, circuits and attention of the first member."""
        super().draw()
        self.log_figure("heads", heads_figure(self.trajectory(), self.heads))
        circuits = self.layer.circuits()
        kq, ov = (value[0].detach().cpu().numpy() for value in circuits)
        self.log_figure("circuits", circuits_figure(kq, ov))
        if self.probe is not None:
            x, y = self.probe
            attention = attend(x, y, circuits)[1][0, 0].mT.detach().cpu().numpy()
            order = (x[0, :-1] @ x[0, -1]).cpu().numpy()
            self.log_figure("attention", attention_figure(attention, order))
