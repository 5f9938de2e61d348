"""WINNER: Gaussian noise on the first two layers of a sine network, sized by the spectral centroid of its target.

Paper: Spectral Bottleneck in Deep Neural Networks: Noise is All You Need (Chandravamsi, Shenoy, Zinn, Pisnoy, Frankel
2025, arXiv 2509.09719; Sinusoidal Representation Networks in the title of its second version)

What it is for. A SIREN that is trained on a signal with mostly high frequencies can collapse to a zero output. Weight
INitialisation with Noise for NEural Representations starts it at the signal's frequencies; a SIREN with it is called
SIREN².

Equations. h₁ = sin(ω₁ (W₀ x + b₀)), h₂ = sin(ω₀ (W₁ h₁ + b₁)), …; once, before training,

    W₀ += N(0, (s₀/ω₀)²),   W₁ += N(0, (s₁/ω₀)²)     (both divided by the hidden frequency ω₀),
    ψ  = 2 mean_c(ψ_c) / C,   ψ_c = Σ f |Y_c(f)| / Σ |Y_c(f)|   over rfft's bins, f in cycles per sample,
    s₀ = s0_max (1 − exp(−a ψ / C^p)),   s₁ = b ψ / C^p,

with (s0_max, a, b) = (3500, 7, 3) for one input dimension, (50, 5, 0.4) for two, p = 1 and C output channels, as in the
authors' program; the paper's text is summarised with a = 5 for audio and p = ½. For more dimensions all three must be
given. Without noise the pre-activation of layer 2 has variance 1; with it 1 + H s₁²/2 for width H.

Additions of this project: ``centroid: axes`` computes ψ along each input dimension and uses a separate noise of W₀ for
each; ``scale_with_n`` multiplies s₀ by n/150,000 samples (one dimension) or n/512 pixels per side (two), because s₀ is
in radians per unit of the coordinate and was tuned at those sizes. A warning is printed if s₀ is above the Nyquist
frequency, π n / 2.

Expected: see ``reproduce winner`` and the docstring of the method of that name.

Cost: an FFT of the target and two draws, once; nothing per step, no additional parameters.

With other techniques. The noise has its own seed: with ψ = 0 the network is bit-identical to the plain SIREN. It is
added once and recorded in the ledger, so a second fit or a resume adds none. GG initialisation does not change the two
layers. If a layer's weight is computed from other parameters (grown by MixtureGrowth), the noise is added to these,
divided by their gain. EMA, KappaTune and LoRA come after; a layer with an adapter, a frozen one and one that shares its
weight are refused.

Warm start: the noise is meant for weights with a SIREN's initialisation. A warm start without a file mixes in fresh
weights, and the noise is added to the mixture: this is allowed. One that loads a file may load it unchanged (shrink 1,
perturb 0), and WINNER then perturbs the two layers; or shrink and perturb all except the two layers (``exclude``). It
is refused if the two layers of a file are shrunk and perturbed and also get WINNER's noise. A warm start during
training shrinks WINNER's weights and is allowed; its fresh weights have no noise.

Limits. For a network without sines the formulas do not apply: give ``layers``, ``s0``, ``s1`` and ``w0``. For short
signals s₀ may exceed the Nyquist frequency; then the values between the samples are arbitrary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from framework.data.seeding import mix
from framework.editing import Context, Edit, nothing_matches
from framework.editing.capabilities import CLAIMED_LAYERS, NOISE, TRAINING_DATA
from framework.errors import UserError
from framework.functional.spectral_centroid import Centroid, spectral_centroid
from framework.protocols import HasSineLayers, HasTargetSignal, HasWeightParts, SineLayers
from framework.settings import above, at_least, finite, one_of

if TYPE_CHECKING:
    from framework.editing import Plan

SCALES = {1: (3500.0, 7.0, 3.0), 2: (50.0, 5.0, 0.4)}  # s0_max, a, b by input dimensions
TUNED_AT = {1: 150_000, 2: 512}  # samples per axis at which these were tuned

Scale = float | list[float]


def noise_scales(
    psi: float,
    d_in: int,
    channels: int = 1,
    s0_max: float | None = None,
    a: float | None = None,
    b: float | None = None,
    channel_power: float = 1.0,
) -> tuple[float, float]:
    """s₀ = s0_max (1 − exp(−a ψ / C^p)) and s₁ = b ψ / C^p.

    Args:
        psi: ψ, see :func:`framework.functional.spectral_centroid.spectral_centroid`.
        d_in: Input dimensions; for 1 and 2 the constants have defaults (:data:`SCALES`).
        channels: C.
        s0_max: Limit of s₀, in radians per unit of the coordinate.
        a: Rate.
        b: Slope of s₁.
        channel_power: p.

    Returns:
        (s₀, s₁).

    Raises:
        UserError: ψ is negative or not finite, or there are three dimensions or more and a constant is not given.
    """
    at_least(0, psi=psi)
    given = (s0_max, a, b)
    default = SCALES.get(d_in)
    if default is None and None in given:
        raise UserError(
            f"winner.s0_max, a and b: {given} is not accepted for {d_in} input dimensions, for which nothing was "
            "tuned; give all three, or s0 and s1"
        )
    limit, rate, slope = (own if own is not None else default[i] for i, own in enumerate(given))  # type: ignore[index]
    share = psi / channels**channel_power
    return -limit * math.expm1(-rate * share), slope * share


def _layer(model: nn.Module, name: str) -> nn.Module:
    found = dict(model.named_modules())
    if name not in found:
        raise nothing_matches(name, [key for key in found if key], "winner.layers")
    return found[name]


def _parts(model: nn.Module, name: str) -> dict[str, float]:
    """Returns the parameters from which a layer's weight is computed, or the weight itself, each with its gain.

    Raises:
        UserError: there is none, or it is frozen, shared, or has an adapter.
    """
    layer = _layer(model, name)
    inside = {part for key, _ in layer.named_modules() for part in key.split(".")}
    if hasattr(layer, "base_layer") or any(part.startswith("lora_") for part in inside):
        raise UserError(f"winner.layers: {name} is not accepted, it carries an adapter; add the noise before adapters")
    if isinstance(layer, HasWeightParts):
        gains = {part.name: part.gain for part in layer.weight_parts()}
    else:
        gains = {"weight": 1.0}
    aliases: dict[int, list[str]] = {}
    for key, value in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(value), []).append(key)
    parts = {}
    for own, gain in gains.items():
        parameter = _parameter(layer, own)
        if parameter is None or not parameter.is_floating_point():
            raise UserError(
                f"winner.layers: {name} ({type(layer).__name__}) is not accepted, it has no parameter {own!r} of "
                "floating point"
            )
        names = aliases[id(parameter)]
        if len(names) > 1:
            raise UserError(f"winner.layers: {name} is not accepted, its weight is shared: {' and '.join(names)}")
        parts[names[0]] = gain
    if not any(model.get_parameter(part).requires_grad for part in parts):  # a part may be frozen temporarily
        raise UserError(f"winner.layers: {name} is not accepted, {next(iter(parts))} is frozen; add the noise before")
    return parts


def _parameter(layer: nn.Module, name: str) -> nn.Parameter | None:
    try:
        return layer.get_parameter(name)
    except AttributeError:
        return None


def plan_winner(
    model: nn.Module, s0: Scale, s1: float, w0: float, layers: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Returns the plan of the noise, as plain data.

    It has ``s0``, ``s1``, ``w0``, ``seed``, ``layers`` and ``noise``, which maps a parameter's name to the standard
    deviation (a list with one per column if ``s0`` is a list).

    Args:
        model: The model with these names.
        s0: s₀, one number or one for each input dimension.
        s1: s₁.
        w0: ω₀.
        layers: Names of the modules with W₀ and W₁.
        seed: Seed of the noise.

    Raises:
        UserError: a number is not accepted, or a layer (see :class:`Winner`).
    """
    at_least(0, s0=s0, s1=s1)
    above(0, w0=w0)
    _check_layers(layers)
    noise: dict[str, Any] = {}
    for name, scale in zip(layers, (s0, s1), strict=True):
        for parameter, gain in _parts(model, name).items():
            if isinstance(scale, list):
                columns = model.get_parameter(parameter).shape[-1]
                if isinstance(_layer(model, name), HasWeightParts) or columns != len(scale):
                    raise UserError(
                        f"winner.s0: {scale} is not accepted, {parameter} has {columns} columns; one number, or one "
                        "for each input dimension of a plain linear layer"
                    )
                noise[parameter] = [value / w0 for value in scale]
            else:
                noise[parameter] = scale / w0 / gain
    return {"s0": s0, "s1": s1, "w0": w0, "seed": seed, "layers": list(layers), "noise": noise}


def _check_layers(layers: Sequence[str]) -> None:
    if len(layers) != 2 or layers[0] == layers[1]:
        raise UserError(f"layers: {list(layers)} is not accepted; two names, the first and the second layer")


@torch.no_grad()
def add_noise_(model: nn.Module, plan: Mapping[str, Any], generator: torch.Generator | None = None) -> None:
    """Adds the noise of a plan, drawn on the CPU in float32, so that every device gets the same values.

    Args:
        model: The model with these names.
        plan: The plan from :func:`plan_winner`.
        generator: Generator to use instead of the plan's seed.
    """
    for index, (name, std) in enumerate(plan["noise"].items()):
        source = generator or torch.Generator().manual_seed(mix(plan["seed"], index))
        parameter = model.get_parameter(name)
        drawn = torch.randn(parameter.shape, generator=source) * torch.tensor(std)
        if torch.as_tensor(std).any():  # adding zeros would turn -0.0 into 0.0
            parameter.add_(drawn.to(parameter))


def winner_init_(
    model: nn.Module | Sequence[nn.Module],
    s0: Scale,
    s1: float,
    w0: float | None = None,
    layers: Sequence[str] | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Any]:
    """Adds WINNER's noise, N(0, (s₀/ω₀)²) to W₀ and N(0, (s₁/ω₀)²) to W₁. Call it once, on fresh weights.

    Args:
        model: A network, or its first two layers.
        s0: s₀ (see :func:`noise_scales`), or one for each input dimension.
        s1: s₁.
        w0: ω₀, the frequency of the hidden layers; by default from :class:`~framework.protocols.HasSineLayers`.
        layers: Names of the first two layers; by default from the same.
        seed: Seed of the noise; ``None`` for one from torch's global generator.
        generator: A generator on the CPU, instead of a seed.

    Returns:
        The plan (see :func:`plan_winner`).

    Raises:
        UserError: see :class:`Winner`.
    """
    if not isinstance(model, nn.Module):
        model, layers = nn.ModuleList(model), layers or ["0", "1"]
    found = _sine_layers(model)
    if layers is None and found is not None:
        layers = [found.first, found.hidden]
    w0 = found.omega_hidden if w0 is None and found is not None else w0
    if layers is None or w0 is None:
        raise _not_of_sines(model, "winner_init_")
    seed = int(torch.randint(2**31, ())) if seed is None and generator is None else seed
    plan = plan_winner(model, list(s0) if isinstance(s0, tuple | list) else s0, s1, w0, layers, seed or 0)
    add_noise_(model, plan, generator)
    return plan


def _sine_layers(model: nn.Module) -> SineLayers | None:
    return model.sine_layers() if isinstance(model, HasSineLayers) else None


def _not_of_sines(model: nn.Module, key: str) -> UserError:
    return UserError(
        f"{key}: {type(model).__name__} does not say which are its layers of sines (it lacks the method sine_layers); "
        "give layers (two names), s0, s1 and w0"
    )


class Winner(Edit):
    """Adds noise to the first two layers of a sine network, scaled by the target's spectrum.

    Args:
        psi: ψ; by default measured on the datamodule's target, unless both scales are given.
        s0: s₀, instead of the formula; one number, or one for each input dimension.
        s1: s₁, instead of the formula.
        s0_max: Limit of s₀; 3500 for one input dimension, 50 for two.
        a: Its rate; 7 and 5.
        b: Slope of s₁; 3 and 0.4.
        channel_power: p of C^p.
        centroid: How ψ of a signal in several dimensions is measured: ``ravel``, ``rows`` or ``axes`` (see
            :func:`framework.functional.spectral_centroid.channel_centroids`).
        scale_with_n: Whether s₀ of the formula is multiplied by the ratio of the target's samples per axis to those at
            which the formula was tuned (150,000; 512).
        layers: Names of the modules with W₀ and W₁; by default those of a network of sines.
        w0: ω₀; by default that of a network of sines.
        seed: Seed of the noise; ``None`` for one derived from the run's seed.

    Raises:
        UserError: a setting is not accepted (in the constructor); the module is not a network of sines and ``layers``,
            ``s0``, ``s1`` or ``w0`` is missing; there is no target to measure; a layer is missing, shared, frozen or
            carries an adapter (at the start); a file's two layers are shrunk and perturbed by a warm start (in
            ``check``).
    """

    technique = "winner"
    changes = frozenset({"values"})
    phase = "noise"

    def __init__(
        self,
        psi: float | None = None,
        s0: float | list[float] | None = None,
        s1: float | None = None,
        s0_max: float | None = None,
        a: float | None = None,
        b: float | None = None,
        channel_power: float = 1.0,
        centroid: Centroid = "ravel",
        scale_with_n: bool = False,
        layers: list[str] | None = None,
        w0: float | None = None,
        seed: int | None = None,
    ) -> None:
        if psi is not None:
            noise_scales(psi, 1)
            if s0 is not None and s1 is not None:
                raise UserError(f"psi: {psi} is not accepted with s0 and s1, which it would decide; leave it out")
        at_least(0, s0=s0, s1=s1, s0_max=s0_max, a=a, b=b, seed=seed)
        finite(channel_power=channel_power)
        one_of(get_args(Centroid), centroid=centroid)
        if layers is not None:
            _check_layers(layers)
        above(0, w0=w0)
        self.psi, self.s0, self.s1 = psi, s0, s1
        self.s0_max, self.a, self.b, self.channel_power = s0_max, a, b, channel_power
        self.centroid = centroid
        self.scale_with_n, self.layers, self.w0, self.seed = scale_with_n, layers, w0, seed

    @property
    def offers(self) -> frozenset[str]:  # type: ignore[override]
        """Scales that are not given are computed from the target."""
        given = self.psi is not None or (self.s0 is not None and self.s1 is not None)
        measured = frozenset() if given and not self.scale_with_n else frozenset({TRAINING_DATA})
        return frozenset({NOISE, CLAIMED_LAYERS}) | measured

    def claimed(self, model: nn.Module) -> list[str]:
        """Returns the names of the two modules whose weights it changes.

        Raises:
            UserError: the module does not name them, and ``layers`` is not given.
        """
        if self.layers is not None:
            for name in self.layers:
                _layer(model, name)
            return list(self.layers)
        found = _sine_layers(model)
        if found is None:
            raise _not_of_sines(model, "winner.layers")
        return [found.first, found.hidden]

    def noised(self, model: nn.Module) -> list[str]:
        """Names of the parameters that get the noise."""
        return [name for layer in self.claimed(model) for name in _parts(model, layer)]

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses another technique that perturbs the same two layers.

        Raises:
            UserError: there is such a warm start.
        """
        for other in context.offering(NOISE, self):
            noised = set(other.noised(model))
            both = [name for name in self.noised(model) if name in noised]
            if both:
                raise UserError(
                    f"{self.name} and {other.name}: {' and '.join(both)} would be perturbed by both; either, not both: "
                    f"{other.name}.exclude: {both}, or leave one technique out"
                )

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """Returns ψ, s₀, s₁, ω₀, the seed, the two layers, and the standard deviation of each parameter's noise.

        Raises:
            UserError: the module is not a network of sines and a setting is missing, or the target or the layers do not
                fit.
        """
        layers, sines = self.claimed(model), _sine_layers(model)
        w0 = self.w0 if self.w0 is not None else sines.omega_hidden if sines is not None else None
        explicit = self.s0 is not None and self.s1 is not None
        if w0 is None or (sines is None and not explicit):
            raise _not_of_sines(model, f"winner.{'w0' if explicit else 's0 and s1'}")
        target = self._target(context, required=not explicit and self.psi is None)
        psi: float | list[float] | None = self.psi
        if psi is None and target is not None:
            psi = spectral_centroid(target, self.centroid)
        s0, s1 = self.s0, self.s1
        if not explicit:
            assert sines is not None
            assert psi is not None
            if target is not None:
                _check_target(target, sines)
            formula = self._scales(psi, sines, target)
            s0, s1 = s0 if s0 is not None else formula[0], s1 if s1 is not None else formula[1]
        assert s0 is not None
        assert s1 is not None
        if target is not None and sines is not None:
            _warn_above_nyquist(s0, sines.omega_first / w0, list(target.shape[:-1]))
        plan = plan_winner(model, s0, s1, w0, layers, context.seed if self.seed is None else self.seed)
        return {"psi": psi, **plan}

    def _target(self, context: Context, required: bool) -> Tensor | None:
        data = context.datamodule
        if isinstance(data, HasTargetSignal):
            return data.target_signal()
        if required or self.scale_with_n:
            what = "psi, or s0 and s1" if required else "scale_with_n"
            kind = "there is no datamodule" if data is None else f"{type(data).__name__} has none (no target_signal)"
            raise UserError(
                f"winner.{what}: not accepted as it is, for a target signal is needed and {kind}; give s0, s1"
            )
        return None

    def _scales(self, psi: float | list[float], sines: SineLayers, target: Tensor | None) -> tuple[Scale, float]:
        constants = (sines.channels, self.s0_max, self.a, self.b, self.channel_power)
        if isinstance(psi, list):
            pairs = [noise_scales(value, sines.d_in, *constants) for value in psi]
            s0: Scale = [pair[0] for pair in pairs]
            s1 = sum(pair[1] for pair in pairs) / len(pairs)
        else:
            s0, s1 = noise_scales(psi, sines.d_in, *constants)
        if self.scale_with_n:
            assert target is not None
            if sines.d_in not in TUNED_AT:
                raise UserError(
                    f"winner.scale_with_n: true is not accepted for {sines.d_in} input dimensions; give s0 and s1"
                )
            factors = [n / TUNED_AT[sines.d_in] for n in target.shape[:-1]]
            per_axis = s0 if isinstance(s0, list) else [s0] * len(factors)
            scaled = [value * factor for value, factor in zip(per_axis, factors, strict=True)]
            s0 = scaled if isinstance(s0, list) or len(set(factors)) > 1 else scaled[0]
        return s0, s1

    def initialise(self, model: nn.Module, decision: Mapping[str, Any], context: Context) -> None:
        """Adds the noise."""
        add_noise_(model, decision)

    def report(self, model: nn.Module, plan: Plan, context: Context) -> None:
        """Prints ψ, s₀ and s₁, and the layers with noise."""
        decision = plan.decision
        psi = "" if decision["psi"] is None else f"ψ = {_text(decision['psi'])}, "
        rank_zero_info(
            f"{self.name}: {psi}s0 = {_text(decision['s0'])}, s1 = {_text(decision['s1'])}: noise on "
            + ", ".join(f"{name} (deviation {_text(std)})" for name, std in decision["noise"].items())
        )


def _text(value: Any) -> str:
    return "[" + ", ".join(f"{v:.4g}" for v in value) + "]" if isinstance(value, list) else f"{value:.4g}"


def _check_target(target: Tensor, sines: SineLayers) -> None:
    if target.ndim - 1 != sines.d_in or target.shape[-1] != sines.channels:
        raise UserError(
            f"winner: the target signal {tuple(target.shape)} has {target.ndim - 1} dimensions and "
            f"{target.shape[-1]} channels (its last axis), the network {sines.d_in} inputs and {sines.channels} "
            "outputs; make both the same, by model.d_in and model.channels or by what the data takes"
        )


def _warn_above_nyquist(s0: Scale, factor: float, shape: list[int]) -> None:
    """Warns if s₀, the standard deviation of the first layer's frequencies in radians per unit, is too high.

    A unit has n/2 samples.
    """
    per_axis = s0 if isinstance(s0, list) else [s0] * len(shape)
    for value, n in zip(per_axis, shape, strict=False):
        if value * factor > math.pi * n / 2:
            rank_zero_warn(
                f"winner: s0 = {value * factor:.4g} is above the Nyquist frequency of {n} samples on [-1, 1], "
                f"{math.pi * n / 2:.4g} radians per unit: the values between the samples are arbitrary; "
                "scale_with_n: true lowers it"
            )
            return
