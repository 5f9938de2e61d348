"""IBP initialisation: fresh weights with which interval bounds neither grow nor shrink on the way through a network.

Paper: Fast Certified Robust Training with Short Warmup (Shi, Wang, Zhang, Yi, Hsieh 2021, arXiv 2103.17268), the
initialisation; as in Understanding Certified Training with Interval Bound Propagation (Mao et al. 2024,
arXiv 2306.10426).

Each weight of a linear or convolutional layer except the last one is drawn from N(0, σ²) with

    σ = √(2π) / fan_in,   fan_in = inputs of a unit (times the kernel's size)

A linear layer multiplies the half-width of a box by E|w| fan_in = √(2/π) σ fan_in on average, and ReLU halves it: with
this σ the product is 1. With the usual σ = √(2/fan_in) it is √(fan_in/π), so that the bounds grow exponentially with
depth. The last layer and all biases stay as they are. Signals get smaller than the bounds by √(π/fan_in) a layer, so
train with eps from 0 on (``ramp_epochs`` of ``IBPClassifier``) and ``fast_regularizer``, or with batch norm.

Which layers: those whose class is exactly ``nn.Linear`` or ``nn.ConvNd`` and the like, without adapters; if a weight is
computed from other parameters, as in MixtureGrowth, these are drawn. The last layer is the last one in the order of
``named_modules``; name it with ``last`` where that is wrong.

Cost: 10 ns per weight, once. It works with all techniques that follow an initialisation; ranks with the same seed draw
the same values. It overwrites pretrained weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import nn

from framework.data.seeding import mix
from framework.editing import Context, Edit, choose, nothing_matches
from framework.editing.capabilities import FRESH_WEIGHTS
from framework.editing.layer_weights import choose_weights, claimed_layers
from framework.errors import UserError
from framework.functional import generalized_gaussian as gg
from framework.settings import at_least

if TYPE_CHECKING:
    from framework.editing import Plan

NORMAL = 2.0  # the shape of a generalised Gaussian that is a normal distribution


def plan_ibp_init(
    model: nn.Module,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    last: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns the plan of what to draw: ``seed`` and ``weights``, name to its ``std``.

    Args:
        model: Any module.
        include: Patterns of module names; all for ``None``.
        exclude: Patterns of module names to leave out.
        last: Name of the last layer, which keeps its weights; by default the last one of the module.
        seed: Seed of the draw, from 0.

    Raises:
        UserError: nothing is found, or a name or pattern matches nothing.
    """
    at_least(0, seed=seed)
    known = choose_weights(model, key="ibp_init")
    layers = {name: name.rpartition(".")[0] for name in known}
    if last is not None and last not in layers.values():
        raise nothing_matches(last, list(layers.values()), "ibp_init.last")
    kept = list(layers.values())[-1] if last is None else last
    chosen = choose([layer for layer in layers.values() if layer != kept], include, exclude, "ibp_init.include")
    if not chosen:
        raise UserError(f"ibp_init: no layer is left to draw beside the last one, {kept or 'the model'}, which is kept")
    weights = {
        name: {"std": math.sqrt(2 * math.pi) / entry["fan"] / entry["gain"]}
        for name, entry in known.items()
        if layers[name] in chosen
    }
    return {"seed": seed, "weights": weights}


@torch.no_grad()
def draw_(model: nn.Module, plan: Mapping[str, Any], seed: int | None = None) -> None:
    """Draws the weights of a plan; a weight's values depend on the seed and on its position in the plan.

    Args:
        model: The model with these names.
        plan: The plan from :func:`plan_ibp_init`.
        seed: Seed instead of the plan's.
    """
    seed = plan["seed"] if seed is None else seed
    for index, (name, entry) in enumerate(plan["weights"].items()):
        gg.fill_(model.get_parameter(name), NORMAL, gg.scale_of_std(entry["std"], NORMAL), [seed, index])


def ibp_init_(
    model: nn.Module,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    last: str | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """Initialises a model in place (see the module's docstring).

    Args:
        model: Any module.
        include: Patterns of module names; all for ``None``.
        exclude: Patterns of module names to leave out.
        last: Name of the last layer, which keeps its weights; by default the last one of the module.
        seed: Seed of the draw; ``None`` for one from torch's global generator.

    Returns:
        The plan (see :func:`plan_ibp_init`).

    Raises:
        UserError: nothing is found, or a name or pattern matches nothing.
    """
    plan = plan_ibp_init(model, include, exclude, last, int(torch.randint(2**31, ())) if seed is None else seed)
    draw_(model, plan)
    return plan


class IBPInit(Edit):
    """Draws fresh weights with which interval bounds keep their width, before training.

    Args:
        include: Patterns of module names (``*`` and ``?`` as in a shell); all for ``None``.
        exclude: Patterns of module names to leave out.
        last: Name of the last layer, which keeps its weights; by default the last one of the module.
        seed: Seed of the draw; ``None`` for one derived from the run's seed.

    Raises:
        UserError: a setting is not accepted (in the constructor); nothing is found, or a name or pattern matches
            nothing (at the start).
    """

    technique = "ibp_init"
    changes = frozenset({"values"})
    phase = "draw"
    offers = frozenset({FRESH_WEIGHTS})

    def __init__(
        self,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        last: str | None = None,
        seed: int | None = None,
    ) -> None:
        at_least(0, seed=seed)
        self.include, self.exclude, self.last, self.seed = include, exclude, last, seed

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a second technique that draws fresh weights.

        Raises:
            UserError: there is one.
        """
        super().check(model, context)
        for other in context.offering(FRESH_WEIGHTS, self):
            raise UserError(f"{self.name} and {other.name} cannot be combined: both draw the weights afresh")

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """Returns the weights with their standard deviations, and the seed."""
        left = [*(self.exclude or ()), *claimed_layers(self, model, context, self.include)]
        seed = context.seed if self.seed is None else self.seed
        return {**plan_ibp_init(model, self.include, left, self.last, seed), "drawn_for": context.seed}

    def initialise(self, model: nn.Module, decision: Mapping[str, Any], context: Context) -> None:
        """Draws the weights: with the decision's seed in its own edit, fresh values for another technique's."""
        if context.seed in (0, decision["drawn_for"]):
            draw_(model, decision, decision["seed"])
            return
        parameters = dict(model.named_parameters(remove_duplicate=False))
        if not decision["weights"].keys() <= parameters.keys():  # the structure was edited meanwhile
            decision = self.decide(model, context)
        draw_(model, decision, mix(decision["seed"], context.seed))

    def report(self, model: nn.Module, plan: Plan, context: Context) -> None:
        """Prints a line on what was drawn."""
        drawn = plan.decision["weights"]
        count = sum(model.get_parameter(name).numel() for name in drawn)
        stds = [entry["std"] for entry in drawn.values()]
        rank_zero_info(
            f"ibp_init: {count:,} weights of {len(drawn)} tensors drawn, standard deviations {min(stds):.3g} to "
            f"{max(stds):.3g}"
        )
