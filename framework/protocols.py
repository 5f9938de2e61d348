"""What a technique may ask of a module or a datamodule, as protocols that either side can meet without the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from framework.learngene import Learngene
    from framework.regression_prompts import PromptLaw, Prompts


@dataclass(frozen=True)
class KernelData:
    """What one layer convolves with, on the CPU.

    Attributes:
        name: Of the layer, for a title.
        kernel: (H, L), one kernel a row, over L samples.
        basis: (M, L), basis functions of one channel.
        modes: (M',) complex, the continuous-time spectrum of the layer.
        steps: (H,) step sizes Δ, in samples.
    """

    name: str
    kernel: Tensor
    basis: Tensor
    modes: Tensor
    steps: Tensor


@runtime_checkable
class HasKernels(Protocol):
    """A module whose layers are convolutions with long kernels."""

    def kernel_data(self, length: int) -> list[KernelData]:
        """The kernels of each layer over ``length`` samples."""
        ...


@runtime_checkable
class HasMemory(Protocol):
    """A module whose layers keep a state that past inputs can be read from."""

    def memory_curves(self, delays: list[int], samples: int) -> dict[str, list[float]]:
        """For each layer, R² of a linear reading of the input ``d`` samples ago, for each delay."""
        ...


@runtime_checkable
class RateTransferable(Protocol):
    """A module that can run on an input sampled more coarsely than in training, without retraining."""

    def metrics_at_rate(self, batch: Any, rate: int) -> dict[str, Tensor]:
        """Scores (scalars, means over the batch) on every ``rate``-th sample of a batch's input."""
        ...


@runtime_checkable
class InRounds(Protocol):
    """A datamodule whose training data is revealed in rounds: each shows what the earlier ones did, and more.

    What it shows changes with the next training loader that is asked for, so a Trainer must ask for one each epoch
    (``reload_dataloaders_every_n_epochs=1``). The round is part of the datamodule's state in a checkpoint.
    """

    round: int
    """The round under way, from 0."""

    rounds: int
    """How many there are (known after ``setup``)."""

    def advance(self) -> bool:
        """Goes on to the next round; returns whether there was one."""
        ...

    def samples_in(self, number: int) -> int:
        """Training samples that round ``number`` shows."""
        ...


@runtime_checkable
class HasTargetSignal(Protocol):
    """A datamodule whose data is one signal on a grid of coordinates, which a network is to fit."""

    def target_signal(self) -> Tensor:
        """(*grid, C) the values as the network is to give them, float32, on the CPU; known after ``setup``."""
        ...


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
class Generates(Protocol):
    """A language model that runs on from a decoding state."""

    vocab_size: int
    """How many tokens there are."""

    def extend(self, input_ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Logits of the tokens (B, T) that follow a state (``None`` at the start), and the state after them."""
        ...

    def generate(self, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts (B, P) and how they go on, (B, N)."""
        ...


class Routing(NamedTuple):
    """Where a router sends each token of a batch.

    Attributes:
        probabilities: (B, T, M) before the choice, float32, each row with sum 1.
        selected: (B, T, M) boolean, the choice; all false for padding.
        weights: (B, T, M) float32, what the chosen ones count for; 0 elsewhere.
    """

    probabilities: Tensor
    selected: Tensor
    weights: Tensor


@runtime_checkable
class HasRouters(Protocol):
    """A module that sends tokens to some of several parts of a layer: memories or experts."""

    def routers(self) -> Mapping[str, nn.Module]:
        """A layer's name to its router, a submodule whose ``forward`` returns a :class:`Routing`."""
        ...


@runtime_checkable
class RotaryAttention(Protocol):
    """A token mixer ``(x (B, T, D), mask (B, T) | None) -> y`` that is softmax attention with rotary positions.

    It has projections ``q_proj``, ``k_proj``, ``v_proj``, ``o_proj`` and no more than them, in Llama's layout, and
    decodes by ``extend(x, state)``.
    """

    q_proj: Any
    k_proj: Any
    v_proj: Any
    o_proj: Any
    n_heads: int
    n_kv_heads: int
    head_dim: int
    rope_base: float

    def extend(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The same on the tokens that follow ``state``, and the state after them."""
        ...


@runtime_checkable
class Replacement(Protocol):
    """A layer that stands in for another one, and can still compute what that one did."""

    as_original: bool
    """While true it does."""


@dataclass(frozen=True)
class TableRead:
    """What a layer has read from its table for some tokens; detached.

    Attributes:
        slots: (T, m) int64, below the layer's number of slots.
        scores: (T, m) what the rows were weighted with.
    """

    slots: Tensor
    scores: Tensor


@runtime_checkable
class ReadsTable(Protocol):
    """A layer that reads a few rows of a large table for each token."""

    slots: int
    """How many it can read."""

    last_read: TableRead | None
    """In the last forward pass."""


@runtime_checkable
class HasCoreSpectrum(Protocol):
    """A module with layers that retrieve by the leading singular vectors of a small core."""

    def core_spectrum(self) -> Tensor:
        """(layers, rank) singular values of the cores, in descending order; no rows if there are none."""
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
class RatesInTokens(Protocol):
    """A datamodule of prompts that are answered with one of several levels, a token each."""

    level_tokens: list[int]
    """The token of each level, from the lowest, which is 0."""

    guesses: tuple[str, ...]
    """Kinds of guesses that a prompt may hold, by the numbers that batches give them as ``kind``."""


@runtime_checkable
class HasLearngene(Protocol):
    """A module that can make a learngene (see :mod:`framework.learngene`) of the data that it will be trained on."""

    def make_learngene(self, data: Any, trial: bool = False) -> Learngene:
        """Makes one of a datamodule that is set up; a ``trial`` need not be any good."""
        ...


@runtime_checkable
class HandsOutPrompts(Protocol):
    """A datamodule that draws regression prompts."""

    law: PromptLaw
    """What they are drawn from; known after ``setup``."""

    length: int
    """N in training."""

    def draw(self, prompts: int, length: int, index: int = 0, law: PromptLaw | None = None) -> Prompts:
        """Prompts that are used for nothing else, the same each time; of another law where one is given."""
        ...


@runtime_checkable
class AnswersPrompts(Protocol):
    """A module that predicts the query's labels."""

    def answer(self, x: Tensor, y: Tensor) -> Tensor:
        """(E, B, T), for E models side by side, of ``x`` (B, N + 1, d) and ``y`` (B, N + 1, T); the last y
        is unused."""
        ...
