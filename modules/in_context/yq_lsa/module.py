"""Linear attention with several heads, with or without an initial guess of the query's label, as a LightningModule."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from framework import OptimizerConfig, ScheduleConfig
from framework.errors import UserError
from framework.functional.regression_prompts import PromptLaw
from framework.settings import above, at_least, finite, one_of
from modules.in_context.experiment import InContext
from modules.in_context.linear_attention import LinearAttention
from modules.in_context.predictors import Predictor, gradient_step
from modules.in_context.yq_lsa import theory
from modules.in_context.yq_lsa.plots import weights_figure

Guess = Literal["zero", "fixed", "linear"]


class GuessingAttention(InContext):
    """H heads of linear attention; the query's column starts with the guess y_q.

    It records for each member the loss and, for a learnt guess, ``guess`` ‖v − w*‖, ``direction``, the cosine of p and
    (−w*; 1) (one head), and ``preconditioner`` ‖p_(d+1) (W^KQ_11 + w^KQ_12 vᵀ) − Γ*ᵀ‖/‖Γ*‖. Evaluations also have the
    errors of one gradient step from 0 and from w*, both with their best preconditioner.

    Args:
        dim: d.
        heads: H.
        guess: y_q: ``zero``; ``fixed``, ⟨v, x_q⟩ with the given ``guess_weight``; or ``linear``, with v learnt and
            ``guess_weight`` its initial value.
        guess_weight: v: one number m, meaning m (1, …, 1)/√d, or d numbers.
        mask_query: Whether the query is left out of keys and values.
        sigma: Standard deviation of the other initial weights.
        seeds: Number of members, each with its own initial weights.
        base_seed: Seed of the first member.
        clip: Largest norm of a member's gradient.
        inner_steps: Number of optimiser steps in one training batch.
        points: Approximate number of measurements.
        optimizer: By default Adam at 1e-2.
        schedule: Learning-rate schedule, in training batches.

    Raises:
        UserError: a setting is not accepted; the prompts have another dimension, or more than one label a point.
    """

    def __init__(
        self,
        dim: int = 5,
        heads: int = 1,
        guess: Guess = "linear",
        guess_weight: float | list[float] = 0.0,
        mask_query: bool = True,
        sigma: float = 0.1,
        seeds: int = 1,
        base_seed: int = 0,
        clip: float | None = 1.0,
        inner_steps: int = 50,
        points: int = 100,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        adam = OptimizerConfig("adam", lr=1e-2, weight_decay=0.0)
        super().__init__(seeds, base_seed, clip, inner_steps, points, optimizer or adam, schedule)
        finite(sigma=sigma)
        self.save_hyperparameters()
        at_least(1, dim=dim, heads=heads)
        one_of(get_args(Guess), guess=guess)
        above(0, sigma=sigma)
        weight = torch.tensor(guess_weight, dtype=torch.float32)
        if weight.ndim and len(weight) != dim:
            raise UserError(f"guess_weight: {guess_weight} is not accepted; a number, or dim ({dim}) numbers")
        if guess == "zero" and bool(weight.any()):
            raise UserError(f"guess_weight: {guess_weight} is not accepted with guess 'zero'; 0")
        self.dim, self.heads, self.guess = dim, heads, guess
        self.layer = LinearAttention(dim, heads, seeds, learnt_guess=guess == "linear", masked=mask_query)
        self.register_buffer("fixed", weight if weight.ndim else (weight / dim**0.5).repeat(dim), persistent=False)
        with torch.no_grad():
            for member, generator in enumerate(self.generators()):
                for matrix in (self.layer.value[member], self.layer.key_query[member]):
                    matrix.normal_(std=sigma, generator=generator)
            if self.layer.guess is not None:
                self.layer.guess.copy_(self.fixed.expand(seeds, -1))

    fixed: Tensor

    def fits(self, law: PromptLaw) -> None:
        """Computes the best error of one gradient step on these prompts.

        Raises:
            UserError: the model has another dimension.
        """
        if (law.dim, law.tasks) != (self.dim, 1):
            raise UserError(f"model.dim: {self.dim}, but the prompts have d = {law.dim} and {law.tasks} labels")
        self.mean, self.cov = law.task_mean[0], law.scale**2 * law.x_cov
        self.from_mean = theory.best_preconditioner(self.cov, law.task_cov, self.train_length, law.noise)
        second = law.task_cov + torch.outer(self.mean, self.mean)
        self.from_zero = theory.best_preconditioner(self.cov, second, self.train_length, law.noise)

    def answer(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns (E, B, 1)."""
        given = x[:, -1] @ self.fixed.to(x) if self.guess == "fixed" else None
        return self.layer(x, y, given)[..., None]

    def weights_measured(self) -> dict[str, Tensor]:
        """Returns the measurements named in the class's docstring."""
        if self.law is None or self.layer.guess is None:
            return {}
        v = self.layer.guess.double()
        found = {"guess": (v - self.mean.to(v)).norm(dim=1)}
        if self.heads == 1:
            value, key_query = self.layer.value[:, 0].double(), self.layer.key_query[:, 0].double()
            target = torch.cat([-self.mean, torch.ones(1, dtype=torch.float64)]).to(value)
            found["direction"] = (value @ target).abs() / (value.norm(dim=1) * target.norm())
            # the guess is also linear in x_q, so its factor acts as a part of W_11
            seen = key_query[:, :-1, :-1] + key_query[:, :-1, -1:] * v[:, None]
            step = value[:, -1, None, None] * seen
            best = self.from_mean.mT.to(step)
            found["preconditioner"] = (step - best).norm(dim=(1, 2)) / best.norm()
        return found

    def risk_theory(self, length: int) -> float:
        """The error at the length of training: of one step from w* with a learnt guess, else R_MH with d + 1 heads."""
        law = self.law
        exact = law is not None and law.rows is None and law.spectrum is None and law.function == "linear"
        if law is None or not exact or length != self.train_length or law.query_cov is not None:
            return float("nan")
        best = theory.best_gradient_step_risk(self.cov, law.task_cov, length, law.noise)
        best += law.noise if law.noisy_query else 0.0
        if self.guess == "linear" or float(self.mean.abs().max()) == 0:
            return best
        eye = torch.eye(self.dim, dtype=torch.float64)
        isotropic = torch.equal(self.cov, eye) and torch.equal(law.task_cov, eye) and not law.noise
        if self.guess == "zero" and self.heads > self.dim and isotropic:
            return best + theory.multi_head_gap(self.mean, length)
        return float("nan")

    def predictors(self) -> dict[str, Predictor]:
        """Returns one gradient step from 0 and from w*, and the base class's predictors."""
        if self.law is None:
            return {}
        start = self.law.task_mean
        steps: dict[str, Predictor] = {
            "gradient_step_from_zero": lambda x, y, q: gradient_step(x, y, q, self.from_zero),
            "gradient_step_from_mean": lambda x, y, q: gradient_step(x, y, q, self.from_mean, start),
        }
        return {**steps, **super().predictors()}

    def draw(self) -> None:
        """Errors by length, and the weights of the first member."""
        super().draw()
        value = self.layer.value[0].detach().cpu().numpy()
        key_query = self.layer.key_query[0].detach().cpu().numpy()
        guess = None if self.layer.guess is None else self.layer.guess.detach().cpu().numpy()
        self.log_figure("weights", weights_figure(value, key_query, guess, self.mean.numpy()))
