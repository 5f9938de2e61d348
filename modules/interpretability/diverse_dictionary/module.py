"""Autoencoders whose latents are to be identified."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from framework import Module, OptimizerConfig, ScheduleConfig
from framework.errors import UserError
from framework.functional.evaluating import evaluating
from framework.settings import above, at_least, one_of
from modules.interpretability.diverse_dictionary.baselines import hessian_penalty, latent_l1, orthogonal_jacobian
from modules.interpretability.diverse_dictionary.network import Activation, perceptron

Posterior = Literal["gaussian", "point", "normalised"]
Baseline = Literal["latent_l1", "orojar", "hessian"]
ADAM = OptimizerConfig("adam", lr=2e-3, weight_decay=0.0)
COSINE = ScheduleConfig("cosine")


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Returns KL(N(μ, σ²) ‖ N(0, 1)) of each latent, ½ (μ² + σ² - 1 - ln σ²), of the shape of both.

    Args:
        mean: μ.
        log_variance: ln σ².
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


class SparseJacobianVAE(Module):
    """A variational autoencoder of vectors; the sparsity of its decoder's Jacobian is the technique of that name.

    The loss is the mean over the batch of Σ_i (x_i - ĝ_i(z))² / 2σ² + β KL(q(z|x) ‖ N(0, I)), the Gaussian likelihood
    up to its constant, plus a baseline if there is one. A batch is a mapping with ``x`` (B, D).

    Args:
        inputs: D.
        latents: d.
        hidden: Units of the hidden layers of the encoder, and in the same order of the decoder.
        activation: ``leaky_relu`` (slope 0.2), ``gelu`` or ``softplus``.
        beta: β.
        variance: σ² of the likelihood; with ½ its part of the loss is the summed squared error.
        posterior: ``gaussian``, or an autoencoder with ``point`` latents, or with ``normalised`` ones, of mean 0 and
            variance 1 in each batch (running statistics in evaluation), which has no KL: ``beta`` is 0.
        baseline: Another penalty: ``latent_l1`` (Σ |z_j|), ``orojar`` or ``hessian``; none by default.
        baseline_weight: Its weight.
        optimizer: The optimiser; by default Adam, rate 0.002.
        schedule: The schedule; by default a cosine to 0.

    Raises:
        UserError: a setting is not accepted; the datamodule's observations have another number, or its batches have one
            sample and latents are ``normalised`` (in ``setup``).
    """

    def __init__(
        self,
        inputs: int = 3,
        latents: int = 3,
        hidden: tuple[int, ...] = (64, 64),
        activation: Activation = "leaky_relu",
        beta: float = 0.05,
        variance: float = 0.5,
        posterior: Posterior = "gaussian",
        baseline: Baseline | None = None,
        baseline_weight: float = 0.05,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(ADAM if optimizer is None else optimizer, COSINE if schedule is None else schedule)
        at_least(1, inputs=inputs, latents=latents, hidden=list(hidden))
        at_least(0, beta=beta, baseline_weight=baseline_weight)
        above(0, variance=variance)
        one_of(get_args(Activation), activation=activation)
        one_of(get_args(Posterior), posterior=posterior)
        one_of(get_args(Baseline), baseline=baseline)
        if posterior != "gaussian" and beta:
            raise UserError(f"beta: {beta:g} is not accepted; {posterior} latents have no KL, so it must be 0")
        self.save_hyperparameters()
        self.inputs, self.latents, self.beta, self.variance = inputs, latents, beta, variance
        self.kind, self.baseline, self.baseline_weight = posterior, baseline, baseline_weight
        outputs = 2 * latents if posterior == "gaussian" else latents
        self.encoder = perceptron([inputs, *hidden, outputs], activation)
        self.decoder = perceptron([latents, *hidden, inputs], activation)
        self.scale = nn.BatchNorm1d(latents, affine=False) if posterior == "normalised" else nn.Identity()

    def setup(self, stage: str) -> None:
        """Compares the datamodule's number of observations with the model's.

        Raises:
            UserError: they differ, or batches of one sample are to be normalised.
        """
        super().setup(stage)
        found = getattr(getattr(self.trainer, "datamodule", None), "inputs", None)
        if found is not None and found != self.inputs:
            raise UserError(f"model.init_args.inputs: {self.inputs}, but the data has {found} observations")
        size = getattr(getattr(self.trainer, "datamodule", None), "batch_size", None)
        if self.kind == "normalised" and size == 1:
            raise UserError(
                "model.init_args.posterior: 'normalised' is not accepted with data.init_args.batch_size 1; one sample "
                "has no variance"
            )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns μ and ln σ² of the latents of observations (B, D), (B, d) each; ln 0 of points."""
        found: Tensor = self.encoder(x)
        if self.kind == "gaussian":
            mean, log_variance = found.chunk(2, dim=1)
            return mean, log_variance
        if len(found) > 1:
            found = self.scale(found)
        else:  # as an epoch's last batch may have: by the running statistics
            with evaluating(self.scale):
                found = self.scale(found)
        return found, torch.full_like(found, -math.inf)

    def posterior(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Returns mean and standard deviation of the latents of each example, (B, d) each."""
        mean, log_variance = self.encode(batch["x"])
        return mean, (0.5 * log_variance).exp()

    def decoder_name(self) -> str:
        """Returns the name of the submodule that maps latents to observations."""
        return "decoder"

    def forward(self, x: Tensor) -> Tensor:
        """Returns the reconstruction (B, D) from the posterior's mean."""
        return self.decoder(self.encode(x)[0])  # type: ignore[no-any-return]

    def _terms(self, x: Tensor, mean: Tensor, log_variance: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Negative log likelihood up to its constant, and KL; means over the batch."""
        likelihood = (x - self.decoder(z)).square().sum(1).mean() / (2 * self.variance)
        kl = gaussian_kl(mean, log_variance).sum(1).mean() if self.kind == "gaussian" else mean.new_zeros(())
        return likelihood, kl

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Returns the loss of a batch."""
        mean, log_variance = self.encode(batch["x"])
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean) if self.kind == "gaussian" else mean
        likelihood, kl = self._terms(batch["x"], mean, log_variance, z)
        loss = likelihood + self.beta * kl if self.beta else likelihood
        self.log("train/loss", loss)
        if self.baseline is not None and self.baseline_weight:
            loss = loss + self.baseline_weight * self._baseline(z)
        return loss

    def _baseline(self, z: Tensor) -> Tensor:
        if self.baseline == "latent_l1":
            return latent_l1(z)
        # the decoder's layers themselves: a penalty that watches the decoder sees one call of it
        return (orthogonal_jacobian if self.baseline == "orojar" else hessian_penalty)(self.decoder.forward, z.detach())

    def _evaluate(self, batch: Any, part: str) -> None:
        mean, log_variance = self.encode(batch["x"])
        likelihood, kl = self._terms(batch["x"], mean, log_variance, mean)
        size = len(mean)
        # of the posterior's mean, so that nothing is drawn
        self.log(f"{part}/loss", likelihood + self.beta * kl, sync_dist=True, batch_size=size)
        self.log(f"{part}/squared_error", 2 * self.variance * likelihood, sync_dist=True, batch_size=size)
        self.log(f"{part}/kl", kl, sync_dist=True, batch_size=size)
        self.log(f"{part}/latent_std", mean.std(0, correction=0).mean(), sync_dist=True, batch_size=size)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Logs loss, squared error, KL and the standard deviation of the latents' means."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Logs loss, squared error, KL and the standard deviation of the latents' means."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Returns the columns of ``predictions.parquet``: mean and deviation of latents, and true ones if known."""
        mean, std = self.posterior(batch)
        return {"latent": mean, "std": std, **({"z": batch["z"]} if "z" in batch else {})}
