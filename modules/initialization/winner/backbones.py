"""Coordinate networks: SIREN, FINER, random Fourier features and ReLU with positional encoding.

All take coordinates (B, d_in) in [-1, 1] and give values (B, channels). Arguments of sines reach thousands, where
bfloat16 is too coarse (its steps are whole turns), so everything up to the last sine runs in float32 under autocast.
"""

from __future__ import annotations

import inspect
import math
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from framework.errors import UserError
from framework.functional.precision import full_precision
from framework.protocols import SineLayers
from framework.settings import at_least, one_of


def uniform_linear(in_features: int, out_features: int, bound: float, bias_bound: float | None = None) -> nn.Linear:
    """Returns a plain linear layer with weights U(-bound, bound) and torch's own biases, U(±1/√inputs).

    ``reset_parameters`` of this one layer draws it again in the same way. It is not a subclass, because techniques that
    replace layers accept plain ones only.

    Args:
        in_features: Inputs.
        out_features: Outputs.
        bound: Bound of the weights.
        bias_bound: Bound of the biases, instead of torch's.
    """
    layer = nn.Linear(in_features, out_features)
    _draw_uniform(layer, bound, bias_bound)
    layer.reset_parameters = partial(_redraw_uniform, layer, bound, bias_bound)  # type: ignore[method-assign]
    return layer


def _draw_uniform(layer: nn.Linear, bound: float, bias_bound: float | None) -> None:
    nn.init.uniform_(layer.weight, -bound, bound)
    if bias_bound is not None:
        nn.init.uniform_(layer.bias, -bias_bound, bias_bound)


def _redraw_uniform(layer: nn.Linear, bound: float, bias_bound: float | None) -> None:
    nn.Linear.reset_parameters(layer)
    _draw_uniform(layer, bound, bias_bound)


class CoordinateNetwork(nn.Module):
    """Linear layers with encoding and activations, which a subclass defines.

    Attributes:
        layers: The linear layers: input, ``hidden_layers`` - 1 hidden ones, output.
    """

    own_initialisation = True  # with another initialisation a network of sines does not train
    layers: nn.ModuleList

    def encode(self, x: Tensor) -> Tensor:
        """Returns the input of the first linear layer."""
        return x

    def activate(self, index: int, a: Tensor) -> Tensor:
        """The activation of linear layer ``index``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Values (B, channels) at coordinates (B, d_in)."""
        with full_precision(x.device):
            h = self.encode(x.to(next(self.parameters()).dtype))
            for index, layer in enumerate(list(self.layers)[:-1]):
                h = self.activate(index, layer(h))
        return self.layers[-1](h)

    def activations(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Returns the pre-activations and activations (B, width) of each layer except the last, as in ``forward``."""
        h, found = self.encode(x), []
        for index, layer in enumerate(list(self.layers)[:-1]):
            a = layer(h)
            h = self.activate(index, a)
            found.append((self.pre_activation(index, a), h))
        return found

    def pre_activation(self, index: int, a: Tensor) -> Tensor:
        """Returns the input of the nonlinearity."""
        return a


def _sine_stack(
    d_in: int, channels: int, width: int, hidden_layers: int, omega: float, bias_bound: float | None = None
) -> nn.ModuleList:
    """W₀ ~ U(±1/d_in), later ones U(±√(6/width)/ω₀) (Sitzmann et al. 2020, sec. 3.2)."""
    bound = math.sqrt(6 / width) / omega
    layers = [uniform_linear(d_in, width, 1 / d_in, bias_bound)]
    layers += [uniform_linear(width, width, bound) for _ in range(hidden_layers - 1)]
    return nn.ModuleList([*layers, uniform_linear(width, channels, bound)])


class SIREN(CoordinateNetwork):
    """h = sin(ω (W h + b)), ω₁ in the first layer and ω₀ in the others (Sitzmann et al. 2020).

    Args:
        d_in: Input dimensions.
        channels: Outputs.
        width: H.
        hidden_layers: Layers of sines, the first one included.
        omega_first: ω₁.
        omega_hidden: ω₀.
    """

    def __init__(
        self,
        d_in: int = 1,
        channels: int = 1,
        width: int = 256,
        hidden_layers: int = 4,
        omega_first: float = 30.0,
        omega_hidden: float = 30.0,
    ) -> None:
        super().__init__()
        self.omegas = (omega_first, omega_hidden)
        self.layers = _sine_stack(d_in, channels, width, hidden_layers, omega_hidden)
        self.d_in, self.channels = d_in, channels

    def pre_activation(self, index: int, a: Tensor) -> Tensor:
        """Returns ω (W h + b)."""
        return self.omegas[min(index, 1)] * a

    def activate(self, index: int, a: Tensor) -> Tensor:
        """Its sine."""
        return torch.sin(self.omegas[min(index, 1)] * a)

    def sine_layers(self) -> SineLayers:
        """Returns the first two layers, for a technique that adds noise to them."""
        return SineLayers("layers.0", "layers.1", *self.omegas, self.d_in, self.channels)


class FINER(SIREN):
    """SIREN with sin(ω (|a| + 1) a), a = W h + b, whose local frequency increases with the bias (Liu et al. 2024).

    Args:
        d_in: Input dimensions.
        channels: Outputs.
        width: H.
        hidden_layers: Layers of sines, the first one included.
        omega_first: ω₁.
        omega_hidden: ω₀.
        bias_bound: Bound of the first layer's biases; ``None`` for torch's.
    """

    def __init__(
        self,
        d_in: int = 1,
        channels: int = 1,
        width: int = 256,
        hidden_layers: int = 4,
        omega_first: float = 30.0,
        omega_hidden: float = 30.0,
        bias_bound: float | None = None,
    ) -> None:
        super().__init__(d_in, channels, width, hidden_layers, omega_first, omega_hidden)
        if bias_bound is not None:
            self.layers = _sine_stack(d_in, channels, width, hidden_layers, omega_hidden, bias_bound)

    def pre_activation(self, index: int, a: Tensor) -> Tensor:
        """Returns ω (|a| + 1) a; no gradient flows through |a| + 1, as in the authors' code."""
        return self.omegas[min(index, 1)] * (a.detach().abs() + 1) * a

    def activate(self, index: int, a: Tensor) -> Tensor:
        """Its sine."""
        return torch.sin(self.pre_activation(index, a))


class RFF(CoordinateNetwork):
    """Random Fourier features [cos 2πBx, sin 2πBx], B ~ N(0, σ²) (Tancik et al. 2020), before layers of sines or ReLUs.

    Args:
        d_in: Input dimensions.
        channels: Outputs.
        width: H; H/2 features of each kind.
        hidden_layers: Hidden layers, the features not counted.
        omega_hidden: ω₀ of the sines.
        sigma: σ, in cycles per unit of the coordinate.
        activation: ``sine`` or ``relu``.

    Raises:
        UserError: the activation is neither.
    """

    frequencies: Tensor

    def __init__(
        self,
        d_in: int = 1,
        channels: int = 1,
        width: int = 256,
        hidden_layers: int = 4,
        omega_hidden: float = 30.0,
        sigma: float = 30.0,
        activation: Activation = "sine",
    ) -> None:
        super().__init__()
        one_of(get_args(Activation), activation=activation)
        self.omega, self.activation = omega_hidden, activation
        features = width // 2
        self.register_buffer("frequencies", sigma * torch.randn(features, d_in))
        sizes = [2 * features, *[width] * hidden_layers]
        if activation == "sine":
            pairs = [uniform_linear(a, b, math.sqrt(6 / a) / omega_hidden) for a, b in _pairs(sizes)]
            last: nn.Linear = uniform_linear(width, channels, math.sqrt(6 / width) / omega_hidden)
            self.layers = nn.ModuleList([*pairs, last])
        else:
            self.layers = nn.ModuleList([*(nn.Linear(a, b) for a, b in _pairs(sizes)), nn.Linear(width, channels)])

    def encode(self, x: Tensor) -> Tensor:
        """Returns the features (B, 2 ⌊H/2⌋)."""
        angles = 2 * math.pi * x @ self.frequencies.T
        return torch.cat([angles.cos(), angles.sin()], -1)

    def pre_activation(self, index: int, a: Tensor) -> Tensor:
        """Returns ω₀ a for sines."""
        return self.omega * a if self.activation == "sine" else a

    def activate(self, index: int, a: Tensor) -> Tensor:
        """Returns a sine or a ReLU."""
        return torch.sin(self.omega * a) if self.activation == "sine" else torch.relu(a)


class ReLUPE(CoordinateNetwork):
    """ReLUs on positional encoding [x, sin 2^k πx, cos 2^k πx], k < levels (Mildenhall et al. 2020).

    Args:
        d_in: Input dimensions.
        channels: Outputs.
        width: H.
        hidden_layers: Hidden layers.
        levels: Octaves of the encoding.
    """

    own_initialisation = False  # torch's, or any other for ReLU networks, is suitable

    def __init__(
        self, d_in: int = 1, channels: int = 1, width: int = 256, hidden_layers: int = 4, levels: int = 10
    ) -> None:
        super().__init__()
        self.levels = levels
        sizes = [d_in * (1 + 2 * levels), *[width] * hidden_layers]
        self.layers = nn.ModuleList([*(nn.Linear(a, b) for a, b in _pairs(sizes)), nn.Linear(width, channels)])

    def encode(self, x: Tensor) -> Tensor:
        """Returns (B, d_in (1 + 2 levels))."""
        octaves = math.pi * 2.0 ** torch.arange(self.levels, device=x.device, dtype=x.dtype)
        angles = (x[..., None] * octaves).flatten(-2)
        return torch.cat([x, angles.sin(), angles.cos()], -1)

    def activate(self, index: int, a: Tensor) -> Tensor:
        """Returns a ReLU."""
        return torch.relu(a)


def _pairs(sizes: list[int]) -> list[tuple[int, int]]:
    return list(pairwise(sizes))


Activation = Literal["sine", "relu"]
Backbone = Literal["siren", "finer", "rff", "relu_pe"]
BACKBONES: dict[Backbone, type[CoordinateNetwork]] = {"siren": SIREN, "finer": FINER, "rff": RFF, "relu_pe": ReLUPE}


def build_backbone(name: Backbone, **arguments: Any) -> CoordinateNetwork:
    """Builds a coordinate network by name; arguments that it does not have and that are ``None`` are ignored.

    Args:
        name: A name in :data:`BACKBONES`.
        **arguments: Arguments of its constructor.

    Raises:
        UserError: there is no such network, or it does not take an argument, or a size is not positive.
    """
    one_of(get_args(Backbone), backbone=name)
    taken = inspect.signature(BACKBONES[name]).parameters
    if unknown := [key for key, value in arguments.items() if key not in taken and value is not None]:
        raise UserError(f"backbone_args.{unknown[0]}: {name} does not take it; accepted: {', '.join(taken)}")
    at_least(1, **{key: arguments.get(key) for key in ("d_in", "channels")})
    at_least(2, **{key: arguments.get(key) for key in ("width", "hidden_layers")})
    return BACKBONES[name](**{key: value for key, value in arguments.items() if value is not None})
