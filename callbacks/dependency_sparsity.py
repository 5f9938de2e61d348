"""Dependency sparsity: adds the sparsity of a decoder's Jacobian by its latents to the training loss.

Paper: Zheng, Li, Fan, Wilson, Zhang, 2026, "Diverse Dictionary Learning", ICLR, arXiv 2604.17568.

What it is for: a latent-variable model x = g(z) whose latents should be recovered up to permutation and element-wise
functions, or at least not mixed across the sets that groups of observations depend on.

The objective is the loss plus ``weight`` times Ω of J_ij(z) = ∂ĝ_i/∂z_j, entries of outputs by latents:

- ``l1``: mean over the batch of Σ_ij |J_ij| (the default);
- ``group``: Σ_ij sqrt(mean over the batch of J_ij²), which acts on the support over all samples;
- ``log``: mean over the batch of Σ_ij log(1 + |J_ij|/ε) / log(1 + 1/ε), ε = 0.1, which is nearer to a count.

J is exact, from one JVP for each latent, all in one vectorised pass; ``columns: m`` draws m latents for each batch and
scales by d/m, which is unbiased. (Random projections are not, for absolute values.)

Works on any module with automatic optimisation that calls its decoder once in ``training_step``. A module with
``decoder_name`` (:class:`framework.protocols.HasDecoder`) needs no setting; of others name the decoder: ``net:
vae.decoder``. The latents are the decoder's first input of floating type; its other arguments stay those of the step.
J is evaluated at the latents of the step (z ~ q(z|x)), or ``at: mean`` of the posterior
(:class:`framework.protocols.HasLatents`), with the decoder in ``eval`` mode. The gradient reaches the decoder's
weights, not the latents: Ω is about ĝ, and an encoder that could lower it would move the latents to where ĝ is flat,
as it could enlarge them. The paper does not say; of its LeakyReLU decoders, whose J is constant on pieces, the gradient
by the latents is 0, so that nothing differs.

**Larger latents make Ω smaller for free.** In a VAE the KL to N(0, I) fixes their scale. An autoencoder needs
``scale_free: true``, which multiplies column j by the standard deviation of z_j over the batch (through which the
gradient reaches the encoder; a batch needs two samples or more), or latents of unit variance. Every 50 batches Ω, the
same free of scale, and the latents' standard deviation are measured, logged at the end of the epoch as
``dependency_sparsity/omega``, ``…/omega_scale_free`` and ``…/latent_std``; it is reported once if since the peak of Ω
the latents have doubled and Ω has halved, but not the Ω free of scale. Logs what is added as
``train/dependency_sparsity``.

Expected: see ``python -m framework reproduce diverse_dictionary``. Where the truth is dense the penalty finds a support
that is too sparse.

Cost: see ``benchmarks/dependency_sparsity.py``; about one pass of the decoder for each latent, and its backward pass:
up to some 20 latents, ``columns`` above. Limits: one device or ``ddp``; no compiled decoder, no operation without a
forward-mode derivative: each is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from framework.editing import Captured, Context, Penalty
from framework.editing.capture import submodule
from framework.errors import UserError
from framework.functional.dependency import Norm, draw_columns, jacobian_columns, sparsity
from framework.functional.evaluating import evaluating
from framework.protocols import HasDecoder, HasLatents
from framework.settings import above, at_least, one_of

At = Literal["sample", "mean"]
EVERY = 50  # batches between two measurements of the scale
CHEAT = 2.0  # by which the latents have grown and the penalty has fallen when it is reported
_NO_JVP = re.compile(r"forward AD|forward-mode|jvp|functorch|vmap|setup_context", re.IGNORECASE)


class DependencySparsity(Penalty):
    """Adds the sparsity of a decoder's Jacobian by its latents to the training loss.

    Args:
        weight: α, factor of the term in the loss, 0 or more.
        norm: ``l1``, ``group`` or ``log``.
        columns: m, latents drawn for each batch; all of them by default.
        at: ``sample``, the latents that the step gives to the decoder, or ``mean``, those of the posterior's mean.
        scale_free: Whether column j is multiplied by the standard deviation of z_j over the batch.
        epsilon: ε of ``log``.
        net: Name of the decoder, a submodule that ``training_step`` calls once; by default the module's own.

    Raises:
        UserError: a setting is not accepted (in the constructor); the module uses manual optimisation or is compiled,
            has no such submodule, or has no decoder or posterior of its own where one is asked for (before training);
            the decoder is called twice or never, or has no forward-mode derivative (in the first step).
    """

    technique = "dependency_sparsity"
    captures = "inputs"

    def __init__(
        self,
        weight: float = 0.05,
        norm: Norm = "l1",
        columns: int | None = None,
        at: At = "sample",
        scale_free: bool = False,
        epsilon: float = 0.1,
        net: str | None = None,
    ) -> None:
        super().__init__(weight, net)
        one_of(get_args(Norm), norm=norm)
        one_of(get_args(At), at=at)
        at_least(1, columns=columns)
        above(0, epsilon=epsilon)
        self.norm, self.columns, self.at, self.scale_free, self.epsilon = norm, columns, at, scale_free, epsilon
        self.scale: dict[str, float] = {}  # measured last
        self.peak: dict[str, float] = {}  # measured where Ω was largest
        self._reported = False

    def network(self, module: nn.Module) -> str | None:
        """The decoder's name."""
        if self.net is None and isinstance(module, HasDecoder):
            return module.decoder_name()
        return self.net

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses modules without a decoder.

        Raises:
            UserError: as the base class; no decoder is named and the module names none, or it has no posterior and
                ``at`` is ``mean``.
        """
        if self.network(model) is None:
            raise UserError(
                f"techniques.{self.name}.net: {type(model).__name__} names no decoder (it has no decoder_name); name "
                "the submodule that maps latents to observations"
            )
        if self.at == "mean" and not isinstance(model, HasLatents):
            raise UserError(
                f"techniques.{self.name}.at: 'mean' is not accepted; {type(model).__name__} has no posterior, only "
                "'sample' can be"
            )
        super().check(model, context)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Starts without a measurement; a checkpoint's comes after it."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self.scale, self.peak, self._reported = {}, {}, False

    def penalty(self, module: pl.LightningModule, batch: Any, outputs: Any, captured: Captured) -> Tensor:
        """See the module's docstring.

        Raises:
            UserError: the decoder has an operation without a forward-mode derivative, or too few latents.
        """
        name = self.network(module)
        decoder, source, call = submodule(module, name, f"techniques.{self.name}.net"), captured.source, captured.call
        assert source is not None
        assert call is not None
        if self.at == "mean":
            assert isinstance(module, HasLatents)
            with evaluating(module):  # a second pass of the encoder: nothing drawn, no running statistic moved
                source = module.posterior(batch)[0]
        if self.scale_free and captured.first and len(source) == 1:
            raise UserError(
                f"techniques.{self.name}.scale_free: not accepted with batches of one sample, whose latents have no "
                "standard deviation"
            )
        kind = next((p.dtype for p in decoder.parameters() if p.is_floating_point()), source.dtype)
        z = source.detach().to(kind)
        latents = z[0].numel()
        try:
            chosen = draw_columns(latents, self.columns, captured.generator)
        except UserError as error:
            raise UserError(f"techniques.{self.name}.{error}") from None
        with evaluating(decoder), _without_jvp(f"techniques.{self.name}"):
            # beside other arguments of the step; a decoder that takes none is differentiated as it is
            columns = jacobian_columns(call if captured.several else decoder, z, chosen)
        std = source.flatten(1).to(torch.promote_types(kind, torch.float32)).std(0, correction=0)
        own = std if chosen is None else std[chosen.to(std.device)]
        if (self._batches - 1) % EVERY == 0 and len(source) > 1:
            self._measure(columns.detach(), own.detach(), std.detach(), latents)
        if self.scale_free:
            columns = columns * own[:, None, None]
        return sparsity(columns, latents, self.norm, self.epsilon)

    def _measure(self, columns: Tensor, own: Tensor, std: Tensor, latents: int) -> None:
        self.scale = {
            "omega": float(sparsity(columns, latents)),
            "omega_scale_free": float(sparsity(columns * own[:, None, None], latents)),
            "latent_std": float(std.mean()),  # of all latents: that of a few drawn ones would change with the draw
        }
        if self.scale["omega"] > self.peak.get("omega", 0.0):
            self.peak = dict(self.scale)

    @property
    def cheated(self) -> bool:
        """Whether larger latents, not a sparser Jacobian, have made the penalty smaller since its peak."""
        now, then = self.scale, self.peak
        return (
            bool(now and then)  # there is no peak while the Jacobian is 0 or not finite
            and now["latent_std"] > CHEAT * then["latent_std"]
            and now["omega"] < then["omega"] / CHEAT
            and now["omega_scale_free"] > then["omega_scale_free"] / CHEAT
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the scale, and warns once if the penalty fell because the latents grew."""
        for name, value in self.scale.items():
            pl_module.log(f"{self.name}/{name}", value, rank_zero_only=True)
        if not self._reported and not self.scale_free and self.cheated:
            self._reported = True
            now, then = self.scale, self.peak
            rank_zero_warn(
                f"techniques.{self.name}: the penalty fell from {then['omega']:.3g} to {now['omega']:.3g} because the "
                f"latents' standard deviation grew from {then['latent_std']:.3g} to {now['latent_std']:.3g}; fix their "
                f"scale by scale_free: true, by latents of unit variance, or by a KL to N(0, I)"
            )

    def state_dict(self) -> dict[str, Any]:
        """Returns the count of batches and what was measured."""
        return {**super().state_dict(), "scale": self.scale, "peak": self.peak, "reported": self._reported}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues both."""
        super().load_state_dict(state_dict)
        self.scale, self.peak = dict(state_dict["scale"]), dict(state_dict["peak"])
        self._reported = state_dict["reported"]


@contextmanager
def _without_jvp(key: str) -> Iterator[None]:
    """Turns torch's errors about missing forward-mode derivatives into a UserError."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if not _NO_JVP.search(str(error)):
            raise
        raise UserError(
            f"{key} needs forward-mode derivatives of the decoder, and an operation has none: {first}"
        ) from error
