"""Generalised-Gaussian initialisation: fresh weights with a chosen tail shape ν and He's standard deviation.

Paper: It Takes a Good Model to Train a Good Model: Generalized Gaussian Priors for Optimized LLMs (Wu et al. 2025,
arXiv 2506.00486), the initialisation.

Each weight of a linear or convolutional layer is drawn from p(w) ∝ exp(−(|w|/α)^ν) with

    α = √(ξ/n · Γ(1/ν) / Γ(3/ν)),   so that std w = √(ξ/n) whatever ν;

ξ is 2 for ReLU, 1 for sigmoid or no activation, 2/(1+k²) for LeakyReLU of slope k; n is the number of inputs per
output. ν = 2 with ξ = 2 is exactly He's normal initialisation, ν = 1 is Laplace's distribution, ν < 2 is peaked with
heavy tails, as weights of pretrained language models are. The layers' biases become 0; norms are not changed.

``mode: official`` uses n = ``weight.shape[0]``, as the authors' program does: for a linear layer that is the number of
outputs, while He's derivation of ξ uses the number of inputs (``fan_in``, the default here).

Which layers: those whose class is exactly ``nn.Linear``, ``nn.ConvNd``, ``nn.ConvTransposeNd`` or transformers'
``Conv1D``, and the projections of ``nn.MultiheadAttention``; embeddings if chosen in ``kinds``. If a layer's weight is
computed from other parameters, as in MixtureGrowth, these are drawn so that its weight has the standard deviation
above. A weight that is tied to an embedding counts as an embedding. The two layers to which ``winner`` adds noise keep
their initialisation. Subclasses are skipped, because they may need their own initialisation; any module can exclude
itself and its submodules with an attribute ``own_initialisation = True``. Adapters are never changed.

Expected: the shape barely changes accuracy. On scikit-learn's digits (``vision/image_classifier_digits``, 6 epochs,
seeds 0 to 2) mean test accuracies for ν = 0.3, 0.5, 1, 1.5, 2 are 97.7, 97.3, 97.7, 97.4, 97.2 %, single ones 96.4 to
98.1: within seed noise; no ordering is claimed.

Cost: 10 (ν = 1, 2) to 40 ns per weight, once. It works with all techniques that follow an initialisation; ranks with
the same seed draw the same values. It overwrites pretrained weights. Below ν = 0.3 the scale α is so small (2e-13 of
the standard deviation at 0.1) that nearly all weights are 0 and a few are huge; a warning is printed then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import nn

from framework.data.seeding import mix
from framework.editing import Context, Edit
from framework.editing.capabilities import FRESH_WEIGHTS
from framework.editing.layer_weights import choose_weights, claimed_layers
from framework.functional import generalized_gaussian as gg
from framework.settings import above, at_least, finite, not_empty, one_of

if TYPE_CHECKING:
    from framework.editing import Plan

Kind = Literal["linear", "conv", "embedding"]
Mode = Literal["fan_in", "fan_out", "official"]
Activation = Literal["relu", "leaky_relu", "sigmoid", "tanh", "linear"]


def xi_of(activation: str, negative_slope: float = 0.01) -> float:
    """Returns ξ = n · Var w, which keeps the variance of signals through layers with this activation.

    Args:
        activation: ``relu``, ``leaky_relu``, ``sigmoid``, ``tanh`` or ``linear``.
        negative_slope: k of ``leaky_relu``.

    Raises:
        UserError: the activation is not known.
    """
    one_of(get_args(Activation), activation=activation)
    return {"relu": 2.0, "leaky_relu": 2 / (1 + negative_slope**2)}.get(activation, 1.0)


def plan_gg_init(
    model: nn.Module,
    shape: float = 2.0,
    xi: float = 2.0,
    mode: str = "fan_in",
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    kinds: Sequence[str] = ("linear", "conv"),
    zero_bias: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns the plan of what to draw, as plain data.

    It has ``shape``, ``xi``, ``mode``, ``seed``, ``biases`` (those that become 0) and ``weights``, name to ``kind``,
    ``fan`` (n), ``std`` (√(ξ/n), over the gain of a template) and ``alpha`` (α).

    Args:
        model: Any module.
        shape: ν, above 0.
        xi: ξ, above 0.
        mode: What n is: ``fan_in``, ``fan_out`` or ``official``.
        include: Patterns of module names; all for ``None``.
        exclude: Patterns of module names to leave out.
        kinds: Which layers: any of ``linear``, ``conv``, ``embedding``.
        zero_bias: Whether the biases of these layers become 0.
        seed: Seed of the draw, from 0.

    Raises:
        UserError: see :func:`gg_init_`.
    """
    above(0, shape=shape, xi=xi)
    one_of(get_args(Mode), mode=mode)
    not_empty(kinds=kinds)
    one_of(get_args(Kind), kinds=kinds)
    at_least(0, seed=seed)
    if shape < 0.3:
        rank_zero_warn(
            f"gg_init.shape: at {shape} nearly all weights are 0 beside a few huge ones (α is "
            f"{gg.scale_of_std(1.0, shape):.0e} of the standard deviation); 0.3 or more is usual"
        )
    weights, biases = {}, []
    for name, entry in choose_weights(model, mode, kinds, include, exclude, key="gg_init").items():
        std = math.sqrt(xi / entry["fan"]) / entry["gain"]
        alpha = gg.scale_of_std(std, shape)
        weights[name] = {"kind": entry["kind"], "fan": entry["fan"], "std": std, "alpha": alpha}
        if zero_bias and entry["bias"] and entry["bias"] not in biases:
            biases.append(entry["bias"])
    return {"shape": shape, "xi": xi, "mode": mode, "seed": seed, "weights": weights, "biases": biases}


@torch.no_grad()
def draw_(model: nn.Module, plan: Mapping[str, Any], seed: int | None = None) -> None:
    """Draws the weights of a plan, and sets its biases to 0.

    A weight's values depend on the seed and on its position in the plan. Rows of an embedding's ``padding_idx`` stay 0.

    Args:
        model: The model with these names.
        plan: The plan from :func:`plan_gg_init`.
        seed: Seed instead of the plan's.
    """
    seed = plan["seed"] if seed is None else seed
    for index, (name, entry) in enumerate(plan["weights"].items()):
        weight = model.get_parameter(name)
        gg.fill_(weight, plan["shape"], entry["alpha"], [seed, index])
        padding = getattr(model.get_submodule(name.rpartition(".")[0]), "padding_idx", None)
        if entry["kind"] == "embedding" and padding is not None:
            weight[padding] = 0
    for name in plan["biases"]:
        model.get_parameter(name).zero_()


def gg_init_(
    model: nn.Module,
    shape: float = 2.0,
    xi: float | None = None,
    activation: str = "relu",
    mode: str = "fan_in",
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    kinds: Sequence[str] = ("linear", "conv"),
    zero_bias: bool = True,
    seed: int | None = None,
) -> dict[str, Any]:
    """Initialises a model in place (see the module's docstring).

    Args:
        model: Any module.
        shape: ν, above 0; 2 is normal, 1 Laplace's.
        xi: ξ; by default that of ``activation`` (see :func:`xi_of`).
        activation: Activation of the layers, which decides ξ.
        mode: What n is: ``fan_in``, ``fan_out`` or ``official`` (the first dimension of the weight).
        include: Patterns of module names; all for ``None``.
        exclude: Patterns of module names to leave out.
        kinds: Which layers: any of ``linear``, ``conv``, ``embedding``.
        zero_bias: Whether the biases of these layers become 0.
        seed: Seed of the draw; ``None`` for one from torch's global generator.

    Returns:
        The plan (see :func:`plan_gg_init`).

    Raises:
        UserError: a setting is not accepted, nothing is found, or a pattern names nothing.
    """
    xi = xi_of(activation) if xi is None else xi
    seed = int(torch.randint(2**31, ())) if seed is None else seed
    plan = plan_gg_init(model, shape, xi, mode, include, exclude, kinds, zero_bias, seed)
    draw_(model, plan)
    return plan


class GGInit(Edit):
    """Draws fresh weights from a generalised Gaussian before training.

    Args:
        shape: ν, above 0; 2 is normal, 1 Laplace's; the sweep of interest is 0.5, 1, 1.5, 2.
        xi: ξ, n times the variance; by default that of ``activation``.
        activation: Activation of the layers, which decides ξ: ``relu``, ``leaky_relu``, ``sigmoid``, ``tanh`` or
            ``linear``.
        negative_slope: k of ``leaky_relu``.
        mode: What n is: ``fan_in``, ``fan_out`` or ``official`` (the first dimension of the weight).
        include: Patterns of module names (``*`` and ``?`` as in a shell); all for ``None``.
        exclude: Patterns of module names to leave out.
        kinds: Which layers: any of ``linear``, ``conv``, ``embedding``.
        zero_bias: Whether the biases of these layers become 0.
        seed: Seed of the draw; ``None`` for one derived from the run's seed.

    Raises:
        UserError: a setting is not accepted (in the constructor); nothing is found, or a pattern matches nothing (at
            the start).
    """

    technique = "gg_init"
    changes = frozenset({"values"})
    phase = "draw"
    offers = frozenset({FRESH_WEIGHTS})

    def __init__(
        self,
        shape: float = 2.0,
        xi: float | None = None,
        activation: Activation = "relu",
        negative_slope: float = 0.01,
        mode: Mode = "fan_in",
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        kinds: list[Kind] | None = None,
        zero_bias: bool = True,
        seed: int | None = None,
    ) -> None:
        finite(negative_slope=negative_slope)
        self.shape, self.activation, self.negative_slope = shape, activation, negative_slope
        self.xi = xi
        self.mode, self.zero_bias, self.seed = mode, zero_bias, seed
        self.include, self.exclude, self.kinds = include, exclude, kinds
        # checks the settings with a minimal model, before the real one exists
        self._plan(
            nn.Linear(1, 1, device="meta"), seed or 0, include=None, exclude=(), kinds=[*(kinds or ()), "linear"]
        )

    def _plan(self, model: nn.Module, seed: int, **changed: Any) -> dict[str, Any]:
        chosen = {"include": self.include, "exclude": self.exclude or (), "kinds": self.kinds or ("linear", "conv")}
        xi = xi_of(self.activation, self.negative_slope) if self.xi is None else self.xi
        return plan_gg_init(
            model, self.shape, xi, self.mode, zero_bias=self.zero_bias, seed=seed, **{**chosen, **changed}
        )

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """Returns the weights and biases, the fan, standard deviation and scale of each, and the seed."""
        left = [*(self.exclude or ()), *claimed_layers(self, model, context, self.include)]
        decision = self._plan(model, context.seed if self.seed is None else self.seed, exclude=left)
        return {**decision, "drawn_for": context.seed}

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
            f"gg_init: {count:,} weights of {len(drawn)} tensors drawn with shape {self.shape:g}, standard deviations "
            f"{min(stds):.3g} to {max(stds):.3g} ({self.mode})"
        )
