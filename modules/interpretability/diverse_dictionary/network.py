"""Encoder and decoder of the autoencoders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

from torch import nn

from framework.settings import at_least, not_empty, one_of

Activation = Literal["leaky_relu", "gelu", "softplus"]
SLOPE = 0.2


def perceptron(sizes: Sequence[int], activation: Activation = "leaky_relu") -> nn.Sequential:
    """Returns linear layers with an activation between each two.

    Args:
        sizes: Numbers of inputs, of units of each hidden layer, and of outputs.
        activation: ``leaky_relu`` (slope 0.2), ``gelu`` or ``softplus``.

    Raises:
        UserError: a size is below 1, or the activation is not known.
    """
    not_empty(sizes=sizes)
    at_least(1, sizes=list(sizes))
    one_of(get_args(Activation), activation=activation)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), _activation(activation)]
    return nn.Sequential(*layers[:-1])


def _activation(name: Activation) -> nn.Module:
    if name == "leaky_relu":
        return nn.LeakyReLU(SLOPE)
    return nn.GELU() if name == "gelu" else nn.Softplus()
