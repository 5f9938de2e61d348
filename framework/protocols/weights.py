"""Protocols of models about their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from framework.functional.learngene import LearngeneTensors


@runtime_checkable
class HasTrainedFeatures(Protocol):
    """A module of one or more members whose outputs are linear in their trained weights."""

    def trained_features(self, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        """Returns by name: the features (…, N, P) of a batch, one column per example, and their weights (…, N)."""
        ...


@dataclass(frozen=True)
class WeightPart:
    """One of the parameters that a layer computes its weight from.

    Attributes:
        name: Name within the layer.
        fan_in: Number of inputs per output of this parameter's map, times the filter's size.
        fan_out: Number of outputs per input, times the filter's size.
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

    A technique that initialises weights, or adds noise to them, writes to these parts instead, with standard deviations
    divided by ``gain``.
    """

    def weight_parts(self) -> list[WeightPart]:
        """Returns the parameters, each once."""
        ...


@dataclass(frozen=True)
class SineLayers:
    """The first two weight layers of a network of sines, h₁ = sin(ω₁ (W₀ x + b₀)), h₂ = sin(ω₀ (W₁ h₁ + b₁)).

    Attributes:
        first: Name of the module that holds W₀.
        hidden: Name of the module that holds W₁, the first hidden-to-hidden layer.
        omega_first: ω₁.
        omega_hidden: ω₀.
        d_in: Number of input dimensions.
        channels: Number of outputs.
    """

    first: str
    hidden: str
    omega_first: float
    omega_hidden: float
    d_in: int
    channels: int


@runtime_checkable
class HasSineLayers(Protocol):
    """A module whose first two layers are sine layers."""

    def sine_layers(self) -> SineLayers:
        """Returns them, with names relative to this module.

        Raises:
            UserError: this module has none, for example with another backbone.
        """
        ...


@runtime_checkable
class HasMembers(Protocol):
    """A layer of full width that also contains two layers of half its width (members)."""

    phase: int
    """Which part computes: member 0, member 1, or 2 for the full width."""

    def member_of(self, name: str) -> int | None:
        """Returns the member that a parameter of this layer belongs to; ``None`` if only the full width uses it."""
        ...


@runtime_checkable
class HasFactors(Protocol):
    """A module that represents a matrix (or several) as a product F Gᵀ."""

    rank: int
    """Assumed rank of the matrix."""

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """Returns the parameters F (…, n1, k) and G (…, n2, k); ``None`` if there are no two factors."""
        ...

    def relative_loss(self) -> float:
        """Returns the last measured training loss over that of a zero product; the largest if there are several."""
        ...


@runtime_checkable
class HasLearngene(Protocol):
    """A module that can make a learngene (see :mod:`framework.functional.learngene`) from its training data."""

    def make_learngene(self, data: Any, trial: bool = False) -> LearngeneTensors:
        """Makes a learngene from a datamodule that is set up; for a ``trial`` its quality does not matter."""
        ...


@dataclass(frozen=True)
class PredictedWeights:
    """Parameters that a model predicted for a network.

    Attributes:
        network: Name of the network within the model; empty for the model itself.
        values: Tensors by the parameters' names within the model.
        how: For every parameter of the model: ``predicted``, ``tiled`` (a prediction that was too small, repeated),
            ``drawn`` (at random), ``copied`` (the same tensor as another one) or ``left alone``.
    """

    network: str
    values: dict[str, Tensor]
    how: dict[str, str]


@runtime_checkable
class PredictsWeights(Protocol):
    """A hypernetwork: a module that predicts the weights of other networks."""

    def predict_weights(self, model: nn.Module, network: str | None = None, seed: int = 0) -> PredictedWeights:
        """Returns the parameters of a network within a model; that with this name, or the first of a known family."""
        ...
