"""Fast regulariser: keeps interval bounds from growing and ReLU states balanced while eps grows.

Paper: Fast Certified Robust Training with Short Warmup (Shi, Wang, Zhang, Yi, Hsieh 2021, arXiv 2103.17268), the
regularisers; with the settings of Understanding Certified Training with Interval Bound Propagation (Mao et al. 2024,
arXiv 2306.10426).

With l, u, c and r the bounds, centre and half-width before a ReLU, r₀ the half-width of the normalised inputs, and a
tolerance t, the term is the mean over the ReLUs of A + B:

    A = max(t − mean r₀ / mean r, 0)/t
    B = [max(t − ρ_mean, 0) + max(t − ρ_var, 0)]/t,   ρ = min(q, 1/q)
    q_mean = Σ c 1[l > 0] / −Σ c 1[u < 0],   q_var = Σ (c − c̄)² 1[l > 0] / Σ (c − c̄)² 1[u < 0]

B is left out where it is not finite: where no unit is active, or none inactive. The term counts ``weight`` times
1 − eps/final eps, so it ends when eps stops growing.

A module that propagates boxes itself (``IBPClassifier``) lends its bounds. For any other classifier of images
``eps`` and ``ramp_epochs`` say which boxes; its network must be one that interval bounds exist for (linear and
convolutional layers, batch norm, ReLU, pooling, sums): name it with ``net`` if ``forward`` does more. Logs what is
added as ``train/fast_regularizer``.

Cost: a few sums over the bounds; on other modules, and in the first steps where eps is below 1e-6, one more pass of
about three times a plain forward. Limits: no token inputs; dropout counts as off in the boxes.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from framework.editing import Captured, Context, Penalty
from framework.errors import UserError
from framework.functional.interval import Bounds, Box, IntervalNetwork, pixel_box, smooth_eps
from framework.functional.pixels import per_channel
from framework.observing.networks import bounded_network, pixel_units
from framework.observing.probe import pair_of
from framework.protocols.bounds import HasBoundedStep
from framework.settings import above, at_least, between, not_empty

SMALLEST = 1e-6  # eps below which bounds are computed with this


def fast_regularizer(relus: dict[str, Box], inputs: Box, tolerance: float = 0.5) -> Tensor:
    """Returns the term (see the module's docstring), a scalar.

    Args:
        relus: Boxes before the ReLUs.
        inputs: Box of the normalised inputs.
        tolerance: t, above 0.

    Raises:
        UserError: the tolerance is not above 0, or there is no ReLU.
    """
    above(0, tolerance=tolerance)
    if not relus:
        raise UserError("fast_regularizer: the network has no ReLU, whose bounds it regularises")
    narrow = inputs.radius.mean()
    total = narrow.new_zeros(())
    for box in relus.values():
        total = total + (tolerance - narrow / box.radius.mean().clamp(min=1e-12)).relu() / tolerance
        balance = _balance(box, tolerance)
        total = total + torch.where(balance.isfinite(), balance, 0.0)
    return total / len(relus)


def _balance(box: Box, tolerance: float) -> Tensor:
    """B of one ReLU; without a gradient where it is not finite."""
    centre, active, inactive = box.centre, box.lower > 0, box.upper < 0
    spread = (centre - centre.mean()).square()
    ratios = (centre * active).sum(), -(centre * inactive).sum(), (spread * active).sum(), (spread * inactive).sum()
    if not all(bool(part > 0) for part in ratios):  # also for NaN
        return centre.new_full((), torch.nan)
    total = centre.new_zeros(())
    for q in (ratios[0] / ratios[1], ratios[2] / ratios[3]):
        total = total + (tolerance - torch.minimum(q, 1 / q)).relu() / tolerance
    return total


class FastRegularizer(Penalty):
    """Adds the fast regulariser of certified training to the loss while eps grows.

    Args:
        weight: λ, factor of the term in the loss, 0 or more.
        tolerance: t, above 0.
        eps: Largest change of a pixel, from 0 to 1, on modules that have none of their own.
        ramp_epochs: First and last epoch of the growth of eps, on such modules.
        net: Name of the network through which boxes are propagated; by default the module itself.
        mean: Of each channel, that normalisation subtracted; by default the datamodule's ``mean``, or 0.
        std: By which it divided; by default the datamodule's ``std``, or 1.

    Raises:
        UserError: a setting is not accepted (in the constructor); the module has an eps of its own and another is
            given, or has none and none is given, or its network has no interval bounds (before training); the inputs
            are not in [0, 1] (in the first step).
    """

    technique = "fast_regularizer"
    captures = "nothing"

    def __init__(
        self,
        weight: float = 0.5,
        tolerance: float = 0.5,
        eps: float | None = None,
        ramp_epochs: tuple[float, float] | None = None,
        net: str | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        super().__init__(weight, net)
        above(0, tolerance=tolerance)
        between(0, 1, "(]", eps=eps)
        if ramp_epochs is not None:
            at_least(0, ramp_epochs=list(ramp_epochs))
            if ramp_epochs[1] <= ramp_epochs[0]:
                raise UserError(f"ramp_epochs: {list(ramp_epochs)} ends before it starts")
        not_empty(mean=mean, std=std)
        above(0, std=std)
        self.tolerance, self.eps, self.ramp_epochs = tolerance, eps, ramp_epochs
        self.mean, self.std = mean, std
        self._units: tuple[list[float], list[float]] = [0.0], [1.0]
        self._network: IntervalNetwork | None = None

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module without eps, or with two.

        Raises:
            UserError: see the class.
        """
        super().check(model, context)
        own = isinstance(model, HasBoundedStep)
        given = self.eps is not None and self.ramp_epochs is not None
        if own and (self.eps is not None or self.ramp_epochs is not None):
            raise UserError(
                f"techniques.{self.name}: eps and ramp_epochs are not accepted, {type(model).__name__} has its own"
            )
        if not own and not given:
            raise UserError(f"techniques.{self.name}: {type(model).__name__} has no eps; give eps and ramp_epochs")

    def look_up(self, module: pl.LightningModule) -> None:
        """Traces the network, again after each edit.

        Raises:
            UserError: an operation has no interval bounds.
        """
        try:
            net = bounded_network(module, self.net)
            self._network = IntervalNetwork(net)
        except UserError as error:
            raise UserError(f"techniques.{self.name}: {error}") from None
        self._units = pixel_units(module.trainer, self.mean, self.std)
        if not self._network.relus:
            raise UserError(f"techniques.{self.name}: {type(net).__name__} has no ReLU, whose bounds it regularises")

    def penalty(self, module: pl.LightningModule, batch: Any, outputs: Any, captured: Captured) -> Tensor:
        """See the module's docstring."""
        step = module.bounded_step if isinstance(module, HasBoundedStep) else None
        if step is not None:
            eps, final, bounds = step.eps, step.final_eps, step.bounds
        else:
            eps, final, bounds = self._eps_now(module), float(self.eps or 0), None
        if eps >= final:
            return torch.zeros((), device=module.device)
        if bounds is None or eps < SMALLEST:
            bounds = self._bounds(batch, max(eps, SMALLEST))
        return (1 - eps / final) * fast_regularizer(bounds.relus, bounds.inputs, self.tolerance)

    def _eps_now(self, module: pl.LightningModule) -> float:
        assert self.ramp_epochs is not None
        assert self.eps is not None
        batches = int(module.trainer.num_training_batches)
        start, end = (epochs * batches for epochs in self.ramp_epochs)
        return smooth_eps(self._batches - 1, start, end, self.eps)

    def _bounds(self, batch: Any, eps: float) -> Bounds:
        assert self._network is not None
        key = f"techniques.{self.name}"
        x, _ = pair_of(batch, key)
        try:
            mean, std = (per_channel(v, x, name) for v, name in zip(self._units, ("mean", "std"), strict=True))
            box = pixel_box(x * std + mean, eps)
        except UserError as error:
            raise UserError(f"{key}: {error}") from None
        normalised = Box((box.centre - mean) / std, box.radius / std)
        return self._network.propagate(normalised, None, x, update_statistics=False)
