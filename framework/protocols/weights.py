"""What techniques ask of a model about its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from framework.functional.learngene import LearngeneTensors


@runtime_checkable
class HasTrainedFeatures(Protocol):
    """A module that is linear in weights that it trains, of members side by side."""

    def trained_features(self, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        """By name: the features (…, N, P) of a batch, a column an example, and the weights (…, N) on them."""
        ...


@dataclass(frozen=True)
class WeightPart:
    """One of the parameters that a layer computes its weight from.

    Attributes:
        name: Within the layer.
        fan_in: Inputs of an output of the map that this parameter stands for, times the filter's size.
        fan_out: Outputs of an input, times the filter's size.
        gain: Standard deviation of the layer's weight if this parameter's entries are independent with deviation 1.
        bias: Name of the bias within the layer that goes with it, or ``None``.
    """

    name: str
    fan_in: int
    fan_out: int
    gain: float = 1.0
    bias: str | None = None


@runtime_checkable
class HasWeightParts(Protocol):
    """A layer (linear or convolution) whose weight is computed from other parameters.

    Who initialises weights, or adds noise to them, writes to these parts instead, with deviations divided by ``gain``.
    """

    def weight_parts(self) -> list[WeightPart]:
        """The parameters, none of them twice."""
        ...


@dataclass(frozen=True)
class SineLayers:
    """The first two weight layers of a network of sines, h₁ = sin(ω₁ (W₀ x + b₀)), h₂ = sin(ω₀ (W₁ h₁ + b₁)).

    Attributes:
        first: Name of the module that holds W₀.
        hidden: Name of the module that holds W₁, the first hidden-to-hidden layer.
        omega_first: ω₁.
        omega_hidden: ω₀.
        d_in: Input dimensions.
        channels: Outputs.
    """

    first: str
    hidden: str
    omega_first: float
    omega_hidden: float
    d_in: int
    channels: int


@runtime_checkable
class HasSineLayers(Protocol):
    """A module that begins with two layers of sines."""

    def sine_layers(self) -> SineLayers:
        """Where they are, names relative to this module.

        Raises:
            UserError: this one has none, for example for another choice of backbone.
        """
        ...


@runtime_checkable
class HasMembers(Protocol):
    """A layer that holds two layers of half its width (members) beside the whole."""

    phase: int
    """Which one computes: member 0, member 1, or 2 for the whole."""

    def member_of(self, name: str) -> int | None:
        """The member that a parameter of this layer belongs to; ``None`` if only the whole uses it."""
        ...


@runtime_checkable
class HasFactors(Protocol):
    """A module that makes a matrix (or several) as a product F Gᵀ."""

    rank: int
    """What the rank of the matrix is taken to be."""

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """F (…, n1, k) and G (…, n2, k), parameters; ``None`` where there are no two."""
        ...

    def relative_loss(self) -> float:
        """The training loss when last measured, over that of a zero product; the largest where there are several."""
        ...


@runtime_checkable
class HasLearngene(Protocol):
    """A module that can make a learngene (see :mod:`framework.functional.learngene`) of the data that it will be
    trained on."""

    def make_learngene(self, data: Any, trial: bool = False) -> LearngeneTensors:
        """Makes one of a datamodule that is set up; a ``trial`` need not be any good."""
        ...
