"""One operation of a traced network, and what is replayed of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

SmoothMode = Literal["auto", "secant", "tangent"]
NormMode = Literal["linear_mean", "frozen_mean"]


@dataclass(frozen=True)
class Options:
    """How units are replaced.

    Attributes:
        smooth_mode: ``secant`` (σ(h)/h), ``tangent`` (σ(h) + σ'(h)(g − h)), or ``auto``: secant where σ(0) = 0.
        norm_mode: ``linear_mean`` subtracts the mean of the probe, ``frozen_mean`` that of the image.
    """

    smooth_mode: SmoothMode = "auto"
    norm_mode: NormMode = "linear_mean"


@dataclass(frozen=True)
class Call:
    """One operation on the images x.

    Attributes:
        name: ``aten.relu``.
        op: The function.
        args: Its positional arguments, with the values that they have for x.
        kwargs: Its named ones.
        varying: For each positional argument, whether it depends on x.
        gated: For each, how surely it is a gate: 2 (a sigmoid, a softmax, a reciprocal root, …), 1 (a SiLU, tanh or
            GELU, which may be a feature as well), or 0. What is made from gates is as the least sure of them.
        options: How units are replaced.
    """

    name: str
    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    varying: tuple[bool, ...]
    gated: tuple[int, ...]
    options: Options = field(default_factory=Options)

    def named(self) -> dict[str, Any]:
        """Returns all arguments by the names of the operation's schema."""
        names = [argument.name for argument in self.op._schema.arguments]
        return {**dict(zip(names, self.args, strict=False)), **self.kwargs}

    def evaluate(self) -> Any:
        """Computes it for x."""
        return self.op(*self.args, **self.kwargs)


@dataclass(frozen=True)
class Step:
    """What a probe goes through in place of an operation.

    Attributes:
        inputs: Positions of the arguments whose probe values :attr:`run` gets; all others are those of x.
        run: Maps them to the operation's probe value.
        scaling: Factor and shift of each channel, if :attr:`run` does no more than apply them to its only input, and
            its first value is the result.
        scaled: Returns the step whose value has such a factor and shift applied, at no cost for a probe, if there is
            one.
    """

    inputs: tuple[int, ...]
    run: Callable[..., Any]
    scaling: tuple[Tensor, Tensor] | None = None
    scaled: Callable[[Tensor, Tensor], Step] | None = None


@dataclass(frozen=True)
class Refusal:
    """Why an operation cannot be replayed; it only matters if its value reaches the output other than by a gate."""

    reason: str


Rule = Callable[[Call], Step | Refusal]


def frozen(value: Tensor) -> Step:
    """The value that an operation had for x, whatever the probe is."""
    return Step((), lambda: value)
