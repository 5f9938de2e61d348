"""A linear attention layer trained on regression prompts as a LightningModule."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from framework import OptimizerConfig, ScheduleConfig
from framework.errors import UserError
from framework.functional.regression_prompts import SPECTRA, PromptLaw
from framework.settings import above, at_least, finite, one_of
from modules.in_context.experiment import InContext
from modules.in_context.icl_linear_models import theory
from modules.in_context.icl_linear_models.plots import readout_figure
from modules.in_context.linear_attention import LinearAttention

Init = Literal["balanced", "gaussian"]


class LinearModelsInContext(InContext):
    """One head of linear self-attention; its limit is known (Theorem 4.1).

    It records for each member the loss, ``distance`` ‖u U − A*‖/‖A*‖ with A* the predicted readout,
    ``population`` ½ of the readout's exact error (for Gaussian x of one covariance), ``balance`` |u² − ‖U‖²| (which
    gradient flow keeps at 0, Adam does not), ``w21_pv`` and ``w21_kq``, the largest entries of the blocks that stay 0.

    Args:
        dim: d.
        init: ``balanced`` (Assumption 3.3: W^PV = σ e eᵀ, W^KQ = σ M Mᵀ/‖M Mᵀ‖) or ``gaussian`` (all entries N(0, σ²)).
        sigma: σ.
        mask_query: Whether the query is left out of keys and values; the paper includes it.
        normalise: Whether attention is divided by the number of examples.
        seeds: Number of members, each with its own initial weights.
        base_seed: Seed of the first member.
        clip: Largest norm of a member's gradient.
        inner_steps: Number of optimiser steps in one training batch.
        points: Approximate number of measurements.
        optimizer: By default Adam at 3e-3.
        schedule: Learning-rate schedule, in training batches.

    Raises:
        UserError: a setting is not accepted; the initial weights are too large for the theorem (σ² ‖Γ‖ √d ≥ 2).
    """

    def __init__(
        self,
        dim: int = 5,
        init: Init = "balanced",
        sigma: float = 0.1,
        mask_query: bool = False,
        normalise: bool = True,
        seeds: int = 1,
        base_seed: int = 0,
        clip: float | None = 1.0,
        inner_steps: int = 50,
        points: int = 100,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(seeds, base_seed, clip, inner_steps, points, optimizer, schedule)
        at_least(1, dim=dim)
        finite(sigma=sigma)
        self.save_hyperparameters()
        one_of(get_args(Init), init=init)
        above(0, sigma=sigma)
        self.dim, self.init, self.sigma = dim, init, sigma
        self.layer = LinearAttention(dim, 1, seeds, masked=mask_query, averaged=normalise)
        self.predicted: Tensor | None = None
        with torch.no_grad():
            for member, generator in enumerate(self.generators()):
                if init == "balanced":
                    self.layer.value[member, 0, -1] = sigma
                    self.layer.key_query[member, 0, :dim, :dim] = theory.balanced_start(dim, sigma, generator)
                else:
                    for weight in (self.layer.value[member], self.layer.key_query[member]):
                        weight.normal_(std=sigma, generator=generator)

    def fits(self, law: PromptLaw) -> None:
        """Computes the predicted readout for these prompts.

        Raises:
            UserError: the model has another dimension, or initial weights that the theorem does not cover.
        """
        if (law.dim, law.tasks) != (self.dim, 1):
            raise UserError(f"model.dim: {self.dim}, but the prompts have d = {law.dim} and {law.tasks} labels")
        length, cov = self.train_length, law.scale**2 * law.x_cov
        if law.spectrum is not None:
            gain = theory.random_spectrum_gain(self.dim, length, self._moments(law))
            self.predicted = gain * torch.eye(self.dim, dtype=torch.float64)
        elif law.rows is not None:
            self.predicted = theory.best_readout(law.scale * law.rows, length)
        else:
            bound = self.sigma**2 * float(torch.linalg.matrix_norm(theory.gamma(cov, length), 2)) * self.dim**0.5
            if self.init == "balanced" and bound >= 2:
                raise UserError(f"sigma: {self.sigma} is not accepted; σ² ‖Γ‖ √d is {bound:.3g} and must be below 2")
            self.predicted = torch.linalg.inv(theory.gamma(cov, length))

    def answer(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns (E, B, 1)."""
        return self.layer(x, y)[..., None]

    def losses(self, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        """Returns ½ (ŷ − y_q)², the mean, (E,); the paper's loss has the ½."""
        return 0.5 * super().losses(batch)

    def weights_measured(self) -> dict[str, Tensor]:
        """Returns the measurements named in the class's docstring."""
        parts = {name: value.detach().double() for name, value in self.layer.parts().items()}
        found = {name: parts[name].abs().amax((1, 2)) for name in ("w21_pv", "w21_kq")}
        u, matrix = self.layer.value[:, 0, -1].double(), self.layer.key_query[:, 0, :-1, :-1].double()
        found["balance"] = (u.square() - matrix.square().sum((1, 2))).abs()
        if self.predicted is not None:
            target = self.predicted.to(parts["readout"])
            found["distance"] = (parts["readout"] - target).norm(dim=(1, 2)) / target.norm()
            losses = [0.5 * self._risk_of(readout.cpu(), self.train_length) for readout in parts["readout"]]
            found["population"] = torch.tensor(losses, dtype=torch.float64)
        return found

    def risk_theory(self, length: int) -> float:
        """Returns the predicted readout's error at a length, for linear labels and Gaussian x."""
        return float("nan") if self.predicted is None else self._risk_of(self.predicted, length)

    def _risk_of(self, readout: Tensor, length: int) -> float:
        """Returns the exact error of a readout A (d, d) at a length; NaN if there is no closed form."""
        law = self.law
        if law is None or law.rows is not None or law.function != "linear":
            return float("nan")
        second = law.task_cov + law.task_mean.T @ law.task_mean
        scale = law.scale**2
        if law.spectrum is not None:
            eye = torch.eye(self.dim, dtype=torch.float64)
            plain = torch.equal(second, eye) and torch.equal(law.x_cov, eye) and law.query_cov is None
            gain = readout.diagonal().mean()
            if law.noise or not plain or float((readout - gain * eye).norm()) > 1e-9 * float(readout.norm()):
                return float("nan")
            return theory.random_spectrum_risk(float(gain), self.dim, length, self._moments(law))
        query = None if law.query_cov is None else scale * law.query_cov
        risk = theory.readout_risk(readout, length, scale * law.x_cov, query, second, law.noise)
        return risk + (law.noise if law.noisy_query else 0.0)

    @staticmethod
    def _moments(law: PromptLaw) -> list[float]:
        """First three moments of the entries of a covariance that each prompt draws."""
        assert law.spectrum is not None
        return [m * law.scale ** (2 * k) for k, m in enumerate(SPECTRA[law.spectrum].moments, 1)]

    def draw(self) -> None:
        """Errors by length, and the learnt and the predicted readout."""
        super().draw()
        if self.predicted is not None:
            readout = self.layer.parts()["readout"][0].detach().cpu().double().numpy()
            self.log_figure("readout", readout_figure(readout, self.predicted.numpy(), self.trajectory()))
