"""The parameters of a W&B sweep file: their distributions, inverse distribution functions, and Optuna's versions.

The inverse distribution functions, the grids and the rounding are W&B's own (its package ``sweeps``, ``params.py`` and
``grid_search.py``). Rounding to ``q`` is ``round(x / q) * q`` whatever the bounds, so a rounded value may exceed them
by up to ``q / 2``, as with W&B; with an integer ``q`` the value is an integer.

Optuna draws a parameter directly if it has the same distribution. For all others it draws ``u``, uniform between
:data:`EDGE` and ``1 - EDGE``, and the value is the inverse distribution function of ``u``: exact, but Optuna's own
plots would show ``u``.
"""

from __future__ import annotations

import copy
import json
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

EDGE = 1e-6
"""Smallest distance of ``u`` from 0 and 1, where the inverse of a normal distribution is infinite."""

_MIN_MAX: dict[str, float | None] = {"min": None, "max": None}
_NORMAL: dict[str, float | None] = {"mu": 0.0, "sigma": 1.0}
_BETA: dict[str, float | None] = {"a": 1, "b": 1}
_Q: dict[str, float | None] = {"q": 1.0}

NUMBERS: dict[str, dict[str, float | None]] = {
    "constant": {},
    "categorical": {},
    "categorical_w_probabilities": {},
    "int_uniform": _MIN_MAX,
    "uniform": _MIN_MAX,
    "q_uniform": _MIN_MAX | _Q,
    "log_uniform": _MIN_MAX,
    "inv_log_uniform": _MIN_MAX,
    "q_log_uniform": _MIN_MAX | _Q,
    "log_uniform_values": _MIN_MAX,
    "inv_log_uniform_values": _MIN_MAX,
    "q_log_uniform_values": _MIN_MAX | _Q,
    "normal": _NORMAL,
    "log_normal": _NORMAL,
    "q_normal": _NORMAL | _Q,
    "q_log_normal": _NORMAL | _Q,
    "beta": _BETA,
    "q_beta": _BETA | _Q,
}
"""Maps W&B's name of each distribution to its numbers and their defaults; ``None``: required."""

GRID_KINDS = ("constant", "categorical", "int_uniform", "q_uniform")
"""Kinds of parameters that W&B's grid search accepts."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a sweep; each nested parameter is a separate one.

    Attributes:
        path: Names from the top level of the file to the parameter; a name may contain dots.
        kind: W&B's name of the distribution, a key of :data:`NUMBERS`.
        numbers: The distribution's numbers, including defaults.
        values: The value of a constant, or all values of a categorical parameter, with their own types.
        probabilities: Probability of each value, for ``categorical_w_probabilities``.
    """

    path: tuple[str, ...]
    kind: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    values: tuple[Any, ...] = ()
    probabilities: tuple[float, ...] = ()

    @property
    def label(self) -> str:
        """The names joined by dots, used in tables and by Optuna."""
        return ".".join(self.path)

    @property
    def is_constant(self) -> bool:
        """Whether it has only one value."""
        return self.kind == "constant"

    @property
    def is_log(self) -> bool:
        """Whether its values are distributed over orders of magnitude; values of a rounded kind may still be 0."""
        return "log" in self.kind

    @property
    def choices(self) -> tuple[Any, ...] | None:
        """All values of a categorical parameter; ``None`` for numbers and constants."""
        return self.values if self.kind.startswith("categorical") else None

    def optuna(self) -> BaseDistribution | None:
        """Returns the distribution that Optuna draws: of the value, its index, or ``u``; ``None`` for a constant."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.is_constant:
            return None
        if self.kind == "categorical":
            return CategoricalDistribution(range(len(self.values)))
        if self.kind == "int_uniform":
            return IntDistribution(int(self.numbers["min"]), int(self.numbers["max"]))
        if self.kind == "uniform":
            return FloatDistribution(self.numbers["min"], self.numbers["max"])
        if self.kind == "log_uniform":
            return FloatDistribution(math.exp(self.numbers["min"]), math.exp(self.numbers["max"]), log=True)
        if self.kind == "log_uniform_values":
            return FloatDistribution(self.numbers["min"], self.numbers["max"], log=True)
        return FloatDistribution(EDGE, 1 - EDGE)

    def value(self, suggested: Any) -> Any:
        """Converts Optuna's suggestion (ignored for a constant) to the parameter's value, in plain Python types."""
        if self.is_constant:
            return copy.deepcopy(self.values[0])
        if self.kind == "categorical":
            return copy.deepcopy(self.values[int(suggested)])
        if self.kind == "int_uniform":
            return int(suggested)
        if self.kind in ("uniform", "log_uniform", "log_uniform_values"):
            return float(suggested)
        return self.ppf(suggested)

    def suggested(self, value: Any) -> Any:
        """Converts a value to Optuna's suggestion: the inverse of :meth:`value`.

        Raises:
            ValueError: the parameter cannot have that value, or Optuna draws it through ``u``.
        """
        if self.kind == "categorical":
            key = value_key(value)
            for index, item in enumerate(self.values):
                if value_key(item) == key:
                    return index
            raise ValueError(f"{self.label}: {value!r} is not among its values")
        if self.kind in ("int_uniform", "uniform", "log_uniform", "log_uniform_values"):
            return value
        raise ValueError(f"{self.label}: there is nothing to suggest for a value of {self.kind}")

    # --- grid

    @cached_property
    def _grid(self) -> Sequence[Any]:
        if self.kind == "categorical":
            # W&B compares values by their YAML, where 1.0 equals 1 but True does not; of equal ones the last is kept.
            return tuple({_grid_key(value): value for value in self.values}.values())
        low, high = self.numbers["min"], self.numbers["max"]
        if self.kind == "int_uniform":
            return range(int(low), int(high) + 1)
        return _Arange(low, high, self.numbers["q"])

    def grid_size(self) -> int:
        """Returns the number of its values on a grid; 1 for a constant."""
        return 1 if self.is_constant else len(self._grid)

    def grid_value(self, index: int) -> Any:
        """Returns one of its values on a grid, counted from 0, in W&B's order."""
        return copy.deepcopy(self.values[0] if self.is_constant else self._grid[int(index)])

    def grid(self) -> list[Any] | None:
        """Returns all values on a grid; ``None`` for a constant and for kinds without a grid."""
        return list(self._grid) if self.kind in GRID_KINDS and not self.is_constant else None

    # --- inverse distribution function

    def ppf(self, u: float) -> Any:
        """Returns the inverse distribution function at ``u``.

        Args:
            u: Probability, clamped to between :data:`EDGE` and ``1 - EDGE``.
        """
        u = min(max(float(u), EDGE), 1 - EDGE)
        if self.is_constant:
            return copy.deepcopy(self.values[0])
        if self.kind == "categorical":
            return copy.deepcopy(self.values[_randint(u, 0, len(self.values))])
        if self.kind == "categorical_w_probabilities":
            last = max(index for index, probability in enumerate(self.probabilities) if probability > 0)
            index = bisect_right(list(accumulate(self.probabilities)), u)  # the sum may be a little below 1
            return copy.deepcopy(self.values[min(index, last)])
        if self.kind == "int_uniform":
            return _randint(u, int(self.numbers["min"]), int(self.numbers["max"]) + 1)
        value = self._continuous(u)
        if "q" not in self.numbers:
            return value
        q = self.numbers["q"]
        return round(value / q) * q

    def _continuous(self, u: float) -> float:
        numbers, kind = self.numbers, self.kind.removeprefix("q_")
        if kind == "beta":
            from scipy.special import betaincinv

            return float(betaincinv(numbers["a"], numbers["b"], u))
        if kind in ("normal", "log_normal"):
            from scipy.special import ndtri

            standard = float(ndtri(u))
            if kind == "normal":
                return standard * numbers["sigma"] + numbers["mu"]
            return math.exp(numbers["sigma"] * standard) * math.exp(numbers["mu"])
        low, high = numbers["min"], numbers["max"]
        if kind == "uniform":
            return u * (high - low) + low
        if kind.endswith("_values"):
            low, high = math.log(low), math.log(high)
        elif kind == "inv_log_uniform":  # the exponents are those of 1 / value
            low, high = -high, -low
        return math.exp(u * (high - low) + low)


class _Arange(Sequence[Any]):
    """Behaves as ``numpy.arange(low, high, q).tolist()`` without making the list; ``high`` is excluded."""

    def __init__(self, low: float, high: float, q: float) -> None:
        self._low = low if isinstance(low, int) and isinstance(high, int) and isinstance(q, int) else float(low)
        self._step = (self._low + q) - self._low  # as in numpy: the difference of the first two items
        self._size = math.ceil((high - low) / q)

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._size))]
        if not 0 <= index < self._size:
            raise IndexError(index)
        return self._low + index * self._step

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(self._size))


def _randint(u: float, low: int, high: int) -> int:
    """Returns scipy's inverse distribution function of the integers from ``low`` to ``high - 1``, as ``randint``."""
    value = math.ceil(u * (high - low) + low) - 1
    below = max(value - 1, low)
    return below if (below - low + 1) / (high - low) >= u else value


def value_key(value: Any) -> str:
    """Returns a key that differs for values that Python treats as equal: ``1``, ``1.0`` and ``True``."""
    return json.dumps(value, sort_keys=True)


def _grid_key(value: Any) -> str:
    return value_key(int(value) if isinstance(value, float) and value.is_integer() else value)
