"""The parameters of a W&B sweep file: what each may be, its inverse distribution function, and how Optuna draws it.

The inverse distribution functions, the grids and the rounding are W&B's own (its package ``sweeps``, ``params.py`` and
``grid_search.py``). Rounding to ``q`` is ``round(x / q) * q`` whatever the bounds, so a rounded value may lie outside
of them by up to ``q / 2``, as it does with W&B; with an integer ``q`` the value is an integer.

Optuna draws a parameter directly where it has the same distribution. For all others it draws ``u``, uniform between
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
"""How near ``u`` comes to 0 and 1, where a normal distribution is infinite."""

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
"""W&B's name of each distribution to the numbers that it takes, with their defaults; ``None``: must be given."""

GRID_KINDS = ("constant", "categorical", "int_uniform", "q_uniform")
"""What W&B's grid search takes."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a sweep; nested parameters are parameters of their own.

    Attributes:
        path: Names from the top of the file down to it; a name may itself hold dots.
        kind: W&B's name of the distribution, a key of :data:`NUMBERS`.
        numbers: The distribution's numbers, the defaults filled in.
        values: The one value of a constant, or all values of a categorical parameter, of their own types.
        probabilities: Of each value, for ``categorical_w_probabilities``.
    """

    path: tuple[str, ...]
    kind: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    values: tuple[Any, ...] = ()
    probabilities: tuple[float, ...] = ()

    @property
    def label(self) -> str:
        """The names joined by dots: what tables and Optuna call it."""
        return ".".join(self.path)

    @property
    def is_constant(self) -> bool:
        """Whether there is nothing to search."""
        return self.kind == "constant"

    @property
    def is_log(self) -> bool:
        """Whether its values spread over magnitudes; of a rounded kind, they may be 0 all the same."""
        return "log" in self.kind

    @property
    def choices(self) -> tuple[Any, ...] | None:
        """All values of a categorical parameter; ``None`` for numbers and constants."""
        return self.values if self.kind.startswith("categorical") else None

    def optuna(self) -> BaseDistribution | None:
        """What Optuna draws: the value, the index of a value, or ``u``; ``None`` for a constant."""
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
        """The parameter's value for what Optuna suggested (anything for a constant), in plain Python types."""
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
        """What Optuna has to suggest for ``value``: the inverse of :meth:`value`.

        Raises:
            ValueError: the parameter cannot have that value, or is of a kind that Optuna draws by ``u``.
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
            # W&B knows a value by its YAML, where 1.0 is 1 but True is not: equal ones count once, the last stays.
            return tuple({_grid_key(value): value for value in self.values}.values())
        low, high = self.numbers["min"], self.numbers["max"]
        if self.kind == "int_uniform":
            return range(int(low), int(high) + 1)
        return _Arange(low, high, self.numbers["q"])

    def grid_size(self) -> int:
        """How many values it has on a grid; 1 for a constant."""
        return 1 if self.is_constant else len(self._grid)

    def grid_value(self, index: int) -> Any:
        """One of its values on a grid, from 0, in W&B's order."""
        return copy.deepcopy(self.values[0] if self.is_constant else self._grid[int(index)])

    def grid(self) -> list[Any] | None:
        """All values on a grid; ``None`` for a constant and for kinds that have no grid."""
        return list(self._grid) if self.kind in GRID_KINDS and not self.is_constant else None

    # --- inverse distribution function

    def ppf(self, u: float) -> Any:
        """Inverse distribution function.

        Args:
            u: Probability; what is nearer to 0 or 1 than :data:`EDGE` counts as :data:`EDGE`.
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
    """``numpy.arange(low, high, q).tolist()`` without making it: ``high`` is left out."""

    def __init__(self, low: float, high: float, q: float) -> None:
        self._low = low if isinstance(low, int) and isinstance(high, int) and isinstance(q, int) else float(low)
        self._step = (self._low + q) - self._low  # as numpy fills an array: the difference of its first two items
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
    """Inverse distribution function of the integers from ``low`` to ``high - 1``, as scipy's ``randint`` has it."""
    value = math.ceil(u * (high - low) + low) - 1
    below = max(value - 1, low)
    return below if (below - low + 1) / (high - low) >= u else value


def value_key(value: Any) -> str:
    """Tells values apart that Python holds equal: ``1``, ``1.0`` and ``True``."""
    return json.dumps(value, sort_keys=True)


def _grid_key(value: Any) -> str:
    return value_key(int(value) if isinstance(value, float) and value.is_integer() else value)
