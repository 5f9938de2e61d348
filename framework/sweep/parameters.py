"""Reads and checks the ``parameters`` of a sweep file: each is one of W&B's distributions."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from framework.sweep.distributions import GRID_KINDS, NUMBERS, Parameter
from framework.sweep.source import Place, SweepSource, hint, show

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_NAME_TEXT = "letters, digits, '_', '.' and '-', a letter or '_' first"
_EXACT = 2**53  # beyond it, not every integer is a float
_LARGEST_EXPONENT = 700.0  # exp(709.8) is infinite, exp(-745) is 0


def read_parameters(source: SweepSource, method: str | None) -> tuple[Parameter, ...]:
    """Reads the section; mistakes are added to ``source``.

    Args:
        source: The file.
        method: The sweep's method, which decides what is accepted; ``None`` if it is not known.

    Returns:
        The parameters without mistakes; nested ones flattened, each level sorted by name, as in W&B.
    """
    return _Reader(source, method).read()


class _Reader:
    def __init__(self, source: SweepSource, method: str | None) -> None:
        self.source, self.method = source, method
        self.parameters: list[Parameter] = []

    def read(self) -> tuple[Parameter, ...]:
        where: Place = ("parameters",)
        if "parameters" not in self.source.tree:
            self.source.problem(where, "missing; a mapping of names to what to try is needed")
            return ()
        before = self.source.count
        self._section(where, self.source.tree["parameters"], ())
        seen: dict[str, tuple[str, ...]] = {}
        for parameter in self.parameters:
            if parameter.label in seen:
                self.source.problem(
                    _place(parameter.path),
                    f"a dotted name and nested parameters give two parameters of the one name {parameter.label}",
                )
            seen[parameter.label] = parameter.path
        nothing_wrong = self.source.count == before
        if self.method == "bayes" and nothing_wrong and all(p.is_constant for p in self.parameters):
            self.source.problem(where, "method: bayes has nothing to search: every parameter has one value only")
        return tuple(self.parameters)

    def _section(self, where: Place, section: Any, path: tuple[str, ...]) -> None:
        if not isinstance(section, dict) or not section:
            self.source.problem(where, f"a mapping of names to what to try is needed, found {show(section)}")
            return
        for name in sorted(section, key=str):
            if not isinstance(name, str):
                self.source.unknown(where, name, (), "")
            elif not _NAME.fullmatch(name):
                self.source.problem((*where, name), f"not a name for a parameter: {_NAME_TEXT}")
            else:
                self._parameter((*where, name), section[name], (*path, name))

    def _parameter(self, where: Place, section: Any, path: tuple[str, ...]) -> None:
        if not isinstance(section, dict):
            self.source.problem(
                where, f"a mapping is needed, found {show(section)}; one fixed value is written value: …"
            )
            return
        if "parameters" in section:
            for key in section:
                if key != "parameters":
                    self.source.problem((*where, key), "beside nested parameters nothing else is accepted")
            self._section((*where, "parameters"), section["parameters"], path)
            return
        kind = self._kind(where, section)
        if kind is None:
            return
        before = self.source.count
        accepted = {
            "constant": ("value",),
            "categorical": ("values",),
            "categorical_w_probabilities": ("values", "probabilities"),
        }.get(kind, tuple(NUMBERS[kind]))
        for key in section:
            if key in accepted or key == "distribution":
                continue
            if key == "probabilities" and kind == "categorical":
                self.source.problem((*where, key), "with them, the distribution is categorical_w_probabilities")
            elif key == "q" and "distribution" not in section:
                self.source.problem(
                    (*where, key), "only distributions q_… take it: say distribution: q_uniform, for one"
                )
            else:
                self.source.unknown(where, key, (*accepted, "distribution"), f"not a setting of {kind}")
        for key in accepted:
            if key not in section and NUMBERS[kind].get(key) is None:
                self.source.problem((*where, key), f"missing; {kind} needs it")
        if self.method == "grid" and kind not in GRID_KINDS:
            given = "" if "distribution" in section else ", as min and max that are not both integers are"
            self.source.problem(
                where, f"a grid cannot have {kind}{given}; accepted: value, values, int_uniform and q_uniform"
            )
        if self.source.count > before:
            return
        if kind in ("constant", "categorical", "categorical_w_probabilities"):
            self._choices(where, section, path, kind)
        else:
            self._numbers(where, section, path, kind)

    def _kind(self, where: Place, section: dict[Any, Any]) -> str | None:
        if "distribution" in section:
            kind = section["distribution"]
            if isinstance(kind, str) and kind in NUMBERS:
                return kind
            self.source.problem(
                (*where, "distribution"), f"{show(kind)} is not a distribution of W&B; {hint(kind, NUMBERS)}"
            )
        elif "value" in section:
            return "constant"
        elif "values" in section:
            return "categorical_w_probabilities" if "probabilities" in section else "categorical"
        elif "min" in section or "max" in section:
            ends = [section[key] for key in ("min", "max") if key in section]
            whole = all(isinstance(end, int) and not isinstance(end, bool) for end in ends)
            return "int_uniform" if whole else "uniform"
        else:
            keys = ("value", "values", "min", "max", "distribution", "parameters")
            matches = {str(key): get_close_matches(str(key), keys, n=1) for key in section}
            for key, match in matches.items():
                if match:
                    self.source.problem((*where, key), f"unknown key; did you mean {match[0]}?")
            if not any(matches.values()):
                self.source.problem(
                    where, "value, values, min and max, distribution or parameters is needed to say what to try"
                )
        return None

    def _choices(self, where: Place, section: dict[Any, Any], path: tuple[str, ...], kind: str) -> None:
        before = self.source.count
        if kind == "constant":
            self.source.plain((*where, "value"), section["value"])
            values, probabilities = [section["value"]], []
        else:
            values, probabilities = section["values"], section.get("probabilities", [])
            if not isinstance(values, list) or not values:
                self.source.problem(
                    (*where, "values"), f"a list with at least one value is needed, found {show(values)}"
                )
                return
            for index, value in enumerate(values):
                self.source.plain((*where, "values", index), value)
            if kind == "categorical_w_probabilities":
                probabilities = self._probabilities((*where, "probabilities"), probabilities, len(values))
        if self.source.count == before:
            self.parameters.append(Parameter(path, kind, {}, tuple(values), tuple(probabilities)))

    def _probabilities(self, where: Place, given: Any, count: int) -> list[float]:
        if not isinstance(given, list):
            self.source.problem(where, f"a list of numbers is needed, found {show(given)}")
            return []
        numbers = [self.source.number((*where, index), item) for index, item in enumerate(given)]
        known = [number for number in numbers if number is not None]
        if len(given) != count:
            self.source.problem(where, f"{count} values need {count} probabilities, found {len(given)}")
        elif len(known) == count and min(known) < 0:
            self.source.problem((*where, known.index(min(known))), f"at least 0 is needed, found {min(known)}")
        elif len(known) == count and not math.isclose(sum(known), 1, rel_tol=1e-5, abs_tol=1e-8):
            self.source.problem(where, f"they must sum to 1, found {sum(known):.6g}")
        return known

    def _numbers(self, where: Place, section: dict[Any, Any], path: tuple[str, ...], kind: str) -> None:
        before = self.source.count
        numbers = {
            key: self.source.number((*where, key), section.get(key, default)) for key, default in NUMBERS[kind].items()
        }
        n = {key: number for key, number in numbers.items() if number is not None}
        if self.source.count > before:
            return
        if kind == "int_uniform":
            for key in ("min", "max"):
                if not isinstance(n[key], int) or abs(n[key]) > _EXACT:
                    self.source.problem((*where, key), f"int_uniform needs an integer up to 2^53, found {show(n[key])}")
        if "min" in n:
            if n["min"] >= n["max"]:
                self.source.problem((*where, "min"), f"min {n['min']} must be less than max {n['max']}")
            elif not math.isfinite(float(n["max"]) - float(n["min"])):
                self.source.problem((*where, "max"), "the range from min to max is too large for a number")
        if kind.endswith("_values") and n["min"] <= 0:
            self.source.problem((*where, "min"), f"{kind} needs more than 0, found {n['min']}")
        elif kind.endswith("log_uniform"):
            for key in ("min", "max"):
                if abs(n[key]) > _LARGEST_EXPONENT:
                    self.source.problem(
                        (*where, key), f"{kind} takes base-e exponents, {n[key]} is too large; or use {kind}_values"
                    )
        for key in ("q", "sigma", "a", "b"):
            if key in n and n[key] <= 0:
                self.source.problem((*where, key), f"more than 0 is needed, found {n[key]}")
        if kind.endswith("log_normal") and abs(n["mu"]) + 5 * n["sigma"] > _LARGEST_EXPONENT:
            self.source.problem(where, f"exp(mu ± 5 sigma) is too large for a number; mu {n['mu']}, sigma {n['sigma']}")
        if "q" in n and self.source.count == before and (largest := _largest(kind, n)) > n["q"] * _EXACT:
            self.source.problem((*where, "q"), f"{n['q']} is too fine for values up to {largest:.3g}")
        if self.source.count == before:
            self.parameters.append(Parameter(path, kind, n))


def _place(path: tuple[str, ...]) -> Place:
    """Returns the position of a parameter in the file."""
    return tuple(part for name in path for part in ("parameters", name))


def _largest(kind: str, numbers: Mapping[str, float]) -> float:
    """Returns an upper bound of the magnitude of the values, before rounding."""
    if kind.endswith("beta"):
        return 1.0
    if kind.endswith("normal"):
        largest = abs(numbers["mu"]) + 5 * numbers["sigma"]
        return math.exp(largest) if "log" in kind else largest
    largest = max(abs(numbers["min"]), abs(numbers["max"]))
    return math.exp(largest) if kind.endswith("log_uniform") else largest
