"""Reads a W&B sweep file, as accepted by ``wandb sweep``, and checks all of it on this machine.

W&B publishes a JSON schema of the file (its package ``sweeps``, ``config/schema.json``); every file accepted here is
valid there. In addition this module reports mistakes that only W&B's server or its search would report, and refuses
settings that need W&B's servers. The file is read as by W&B, with PyYAML, which follows YAML 1.1: ``1e-4`` is text,
``on`` is true.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from framework.sweep import template
from framework.sweep.distributions import Parameter
from framework.sweep.hyperband import LONGEST, Hyperband, finite
from framework.sweep.parameters import read_parameters
from framework.sweep.source import Place, SweepSource, hint, show

METHODS = ("grid", "random", "bayes")
GOALS = ("minimize", "maximize")
KEYS = (
    "method", "parameters", "metric", "early_terminate", "run_cap",
    "command", "program", "name", "description", "project", "entity",
)  # fmt: skip

REFUSED = {
    "metrics": "searching for several metrics at once needs a scheduler of W&B's; name one under metric",
    "scheduler": "it is a search that W&B's launch runs; here method decides: grid, random or bayes",
    "controller": "it says where W&B's own search runs; here this command is the controller",
    "job": "it names a job of W&B's launch; give command, or program",
    "image_uri": "it names a container of W&B's launch; give command, or program",
    "kind": "it belongs to W&B's launch",
    "apiVersion": "it belongs to W&B's launch",
}
REFUSED_IN_METRIC = {
    "impute": "W&B's search invents a value for failed runs; here they are left out of the search",
    "impute_while_running": "W&B's search invents a value for running runs; here they are counted as no better",
}


@dataclass(frozen=True)
class Metric:
    """The metric that a sweep optimises.

    Attributes:
        name: Its logged name.
        goal: ``minimize`` or ``maximize``.
        target: The sweep ends when a trial reaches it.
    """

    name: str
    goal: str = "minimize"
    target: float | None = None

    def better(self, a: float, b: float) -> bool:
        """Returns whether ``a`` is better than ``b``."""
        return a > b if self.goal == "maximize" else a < b

    def best(self, values: Iterable[Any]) -> float | None:
        """Returns the best of the finite numbers among ``values``; ``None`` without one."""
        return (max if self.goal == "maximize" else min)(finite(values), default=None)

    def reached(self, value: float) -> bool:
        """Returns whether ``value`` is at least as good as the target; false without a target."""
        return self.target is not None and not self.better(self.target, value)


@dataclass(frozen=True)
class Sweep:
    """A sweep file.

    Attributes:
        path: The file.
        method: ``grid``, ``random`` or ``bayes``.
        parameters: The parameters, including constants; nested ones flattened, each level sorted by name, as in W&B.
        metric: The metric; ``None`` for grid and random sweeps without one.
        hyperband: The rule of early termination.
        run_cap: Largest number of trials.
        command: The file's command, or W&B's default.
        program: Value of ``${program}``.
        name: The name shown; not an id.
        description: The description shown.
        project: The W&B project.
        entity: The W&B user or team.
    """

    path: Path
    method: str
    parameters: tuple[Parameter, ...]
    metric: Metric | None = None
    hyperband: Hyperband | None = None
    run_cap: int | None = None
    command: tuple[str, ...] = template.DEFAULT
    program: str | None = None
    name: str | None = None
    description: str | None = None
    project: str | None = None
    entity: str | None = None

    @cached_property
    def searched(self) -> tuple[Parameter, ...]:
        """The parameters that are not constants."""
        return tuple(parameter for parameter in self.parameters if not parameter.is_constant)

    def grid_size(self) -> int | None:
        """Returns the number of points of a grid; ``None`` for other methods."""
        if self.method != "grid":
            return None
        return math.prod(parameter.grid_size() for parameter in self.searched)

    def grid_indices(self, index: int) -> dict[str, int]:
        """Returns the index of each searched parameter's value at a grid point, by label; the last one varies fastest.

        Args:
            index: The point, counted from 0; no other point is computed.
        """
        size = self.grid_size()
        if size is None or not 0 <= index < size:
            raise IndexError(f"the grid has {size} points, there is none of index {index}")
        places: dict[str, int] = {}
        for parameter in reversed(self.searched):
            index, places[parameter.label] = divmod(index, parameter.grid_size())
        return {parameter.label: places[parameter.label] for parameter in self.searched}

    def nested(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a point in W&B's form: a mapping of top-level names to values; nested parameters are nested mappings.

        Args:
            values: Maps the label of each searched parameter to its value; constants may be omitted.
        """
        tree: dict[str, Any] = {}
        for parameter in self.parameters:
            inner = tree
            for name in parameter.path[:-1]:
                inner = inner.setdefault(name, {})
            constant = parameter.is_constant and parameter.label not in values
            inner[parameter.path[-1]] = parameter.value(None) if constant else values[parameter.label]
        return tree

    def document(self) -> dict[str, Any]:
        """Returns the settings that decide the points and their metric, as JSON data by key of the file.

        Compare it as JSON text: in Python ``1`` equals ``True``.
        """
        parameters = {
            p.label: {"distribution": p.kind, **p.numbers}
            | ({"values": list(p.values)} if p.values else {})
            | ({"probabilities": list(p.probabilities)} if p.probabilities else {})
            for p in self.parameters
        }
        hyperband = self.hyperband
        return {
            "method": self.method,
            "parameters": parameters,
            "metric": {"name": self.metric.name, "goal": self.metric.goal} if self.metric else None,
            "early_terminate": (
                {"bands": list(hyperband.bands), "eta": hyperband.eta, "strict": hyperband.strict}
                if hyperband
                else None
            ),
            "command": list(self.command),
            "program": self.program,
        }


def read(path: Path) -> Sweep:
    """Reads a sweep file.

    Raises:
        UserError: it cannot be read, or settings are wrong or not supported; the message has all problems, each with
            its line.
    """
    return _Reader(SweepSource(Path(path))).sweep()


class _Reader:
    def __init__(self, source: SweepSource) -> None:
        self.source = source

    def sweep(self) -> Sweep:
        self._check_keys()
        method = self._method()
        parameters = read_parameters(self.source, method)
        metric = self._metric(method)
        hyperband = self._hyperband()
        run_cap = self.source.integer(("run_cap",), 1)
        texts = {key: self.source.text((key,)) for key in ("program", "name", "description", "project", "entity")}
        command = self._command(texts["program"])
        self.source.refuse()
        assert method is not None
        return Sweep(
            self.source.path, method, parameters, metric, hyperband, run_cap, command,
            texts["program"], texts["name"], texts["description"], texts["project"], texts["entity"],
        )  # fmt: skip

    def _check_keys(self) -> None:
        for key in self.source.tree:
            if key in REFUSED:
                self.source.problem((key,), f"not supported: {REFUSED[key]}")
            elif key not in KEYS:
                self.source.unknown((), key, KEYS, "unknown key")

    def _method(self) -> str | None:
        method = self.source.tree.get("method")
        if "method" not in self.source.tree:
            self.source.problem(("method",), f"missing; accepted: {', '.join(METHODS)}")
        elif method == "custom":
            self.source.problem(
                ("method",), f"custom needs a scheduler of W&B's launch; accepted here: {', '.join(METHODS)}"
            )
        elif not isinstance(method, str) or method not in METHODS:
            self.source.problem(("method",), f"{show(method)} is not a method; {hint(method, METHODS)}")
        else:
            return method
        return None

    def _metric(self, method: str | None) -> Metric | None:
        where: Place = ("metric",)
        needs = ["method: bayes"] if method == "bayes" else []
        needs += ["early_terminate"] if "early_terminate" in self.source.tree else []
        if "metric" not in self.source.tree:
            if needs:
                self.source.problem(where, f"missing; {' and '.join(needs)} must know what to compare")
            return None
        section = self.source.tree["metric"]
        if not isinstance(section, dict):
            self.source.problem(where, f"a mapping with name and goal is needed, found {show(section)}")
            return None
        for key in section:
            if key in REFUSED_IN_METRIC:
                self.source.problem((*where, key), f"not supported: {REFUSED_IN_METRIC[key]}")
            elif key not in ("name", "goal", "target"):
                self.source.unknown(where, key, ("name", "goal", "target"), "unknown key")
        name = self.source.text((*where, "name"))
        if not section.get("name"):
            self.source.problem((*where, "name"), "missing; the name of a logged value is needed")
        goal = section.get("goal", "minimize")
        if not isinstance(goal, str) or goal not in GOALS:
            self.source.problem((*where, "goal"), f"{show(goal)} is not a goal; {hint(goal, GOALS)}")
        target = self.source.number((*where, "target"), section["target"]) if "target" in section else None
        return Metric(name or "", str(goal), target)

    def _hyperband(self) -> Hyperband | None:
        where: Place = ("early_terminate",)
        if "early_terminate" not in self.source.tree:
            return None
        section = self.source.tree["early_terminate"]
        keys = ("type", "min_iter", "max_iter", "s", "eta", "strict")
        if not isinstance(section, dict):
            self.source.problem(where, f"a mapping with type: hyperband is needed, found {show(section)}")
            return None
        before = self.source.count
        for key in section:
            if key not in keys:
                self.source.unknown(where, key, keys, "unknown key")
        if section.get("type") != "hyperband":
            found = f"{show(section['type'])} is not known" if "type" in section else "missing"
            self.source.problem((*where, "type"), f"{found}; accepted: hyperband")
        eta = self.source.number((*where, "eta"), section.get("eta", 3))
        if eta is not None and eta <= 1:
            self.source.problem((*where, "eta"), f"more than 1 is needed, found {eta}")
        strict = section.get("strict", True)
        if not isinstance(strict, bool):
            self.source.problem((*where, "strict"), f"true or false is needed, found {show(strict)}")
        min_iter, max_iter, s = (
            self.source.integer((*where, key), 1, LONGEST) for key in ("min_iter", "max_iter", "s")
        )
        if ("min_iter" in section) == ("max_iter" in section) or ("max_iter" in section) != ("s" in section):
            self.source.problem(where, "either min_iter, or max_iter and s, is needed")
        if self.source.count > before:
            return None
        assert eta is not None
        if min_iter is not None:
            return Hyperband.from_min_iter(min_iter, eta, strict)
        assert max_iter is not None
        assert s is not None
        hyperband = Hyperband.from_max_iter(max_iter, s, eta, strict)
        if not hyperband.bands:
            self.source.problem(
                where, f"max_iter {max_iter} divided by eta {eta} is below 1: no trial would ever be compared"
            )
        return hyperband

    def _command(self, program: str | None) -> tuple[str, ...]:
        where: Place = ("command",)
        given = self.source.tree.get("command")
        if "command" in self.source.tree and not isinstance(given, list):
            self.source.problem(where, f"a list with one item for each argument is needed, found {show(given)}")
            return ()
        if isinstance(given, list) and not given:
            self.source.problem(where, "empty; omit it for W&B's default, or give what to run")
        items = []
        for index, item in enumerate(template.DEFAULT if given is None else given):
            if isinstance(item, bool) or not isinstance(item, str | int | float):
                self.source.problem((*where, index), f"text is needed, found {show(item)}; put it in quotes")
                continue
            items.append(str(item))
            for message in template.mistakes(str(item)):
                self.source.problem((*where, index), message)
        if "${program}" in items and program is None:
            said = (
                "command holds ${program}" if "command" in self.source.tree else "without command, W&B runs a program"
            )
            self.source.problem(("program",), f"missing; {said}: the script is needed here")
        return tuple(items)
