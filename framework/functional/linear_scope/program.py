"""The affine map that a traced network applied to its input, as a list of steps for probes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from framework.errors import UserError
from framework.functional.linear_scope.affine import AFFINE, CONSTANT, gate_of
from framework.functional.linear_scope.calls import Call, Options, Refusal, Rule, Step, frozen
from framework.functional.linear_scope.tracing import NAME, Traced, operation_name
from framework.functional.linear_scope.units import UNITS

RULES: dict[str, Rule] = {**AFFINE, **UNITS}


class Program:
    """L_x(z) = F(x) z + r(x) for probes z of the shape of x.

    The states of the units are those of x. It is differentiable in z and works under ``torch.vmap``.

    Args:
        traced: The traced network.
        x: The images (N, …).
        options: How units are replaced.
        units: Further rules, or others, by the name of an operation: ``aten.relu``, ``mylib.op``.

    Attributes:
        output: f(x), computed by the recorded operations.

    Raises:
        UserError: an operation between input and output has no rule, or the output does not depend on the input.
    """

    @torch.no_grad()
    def __init__(self, traced: Traced, x: Tensor, options: Options, units: Mapping[str, Rule] | None = None) -> None:
        rules = {**RULES, **(units or {})}
        graph = traced.graph
        values: dict[Node, Any] = {}
        varying: set[Node] = set()
        gates: dict[Node, int] = {}
        steps: dict[Node, Step | Refusal] = {}
        held: list[str] = []
        (start,) = (node for node in graph.graph.nodes if node.op == "placeholder")
        end = next(node for node in graph.graph.nodes if node.op == "output").args[0]
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                values[node] = x
                varying.add(node)
            elif node.op == "get_attr":
                values[node] = operator.attrgetter(node.target)(graph)
            elif node.op == "call_function":
                call = _call(node, values, varying, gates, options)
                name = call.name
                values[node] = value = call.evaluate()
                if not any(call.varying) or name in CONSTANT:
                    continue
                varying.add(node)
                gates[node] = gate_of(name, value, call)
                steps[node] = step = frozen(value) if _is_state(value) else _step(call, rules)
                if isinstance(step, Step) and not step.inputs:
                    held.append(name)
        if not isinstance(end, Node):
            raise UserError(f"{NAME}: the model's output is not one tensor")
        self.output: Tensor = values[end]
        needed = _needed(end, start, steps, varying, traced)
        if start not in needed:
            through = ", ".join(dict.fromkeys(held)) or "nothing of it"
            raise UserError(f"{NAME}: the output has no linear path to the input, which is read by: {through}")
        self._start, self._end = start, end
        _merge_scalings(steps, needed)
        self._steps = [
            _prepared(node, steps[node], values, varying)
            for node in graph.graph.nodes
            if node in steps and node in needed
        ]
        last = {source: number for number, (_, sources, _) in enumerate(self._steps) for source in sources}
        self._dropped: list[list[Node]] = [[] for _ in self._steps]
        for source, number in last.items():
            if source is not end:
                self._dropped[number].append(source)

    def __call__(self, z: Tensor) -> Tensor:
        """Returns L_x(z) (N, …) for a probe z of the shape of x."""
        found: dict[Node, Any] = {self._start: z}
        for (node, _, run), dropped in zip(self._steps, self._dropped, strict=True):
            found[node] = run(found)
            for other in dropped:
                del found[other]
        return found[self._end]


def _call(node: Node, values: dict[Node, Any], varying: set[Node], gates: dict[Node, int], options: Options) -> Call:
    def inside(argument: Any) -> list[Node]:
        return [n for n in _nodes(argument) if n in varying]

    args = tuple(map_arg(argument, values.__getitem__) for argument in node.args)
    kwargs = {key: map_arg(argument, values.__getitem__) for key, argument in node.kwargs.items()}
    name = "getitem" if node.target is operator.getitem else operation_name(node.target)
    varies = tuple(bool(inside(argument)) for argument in node.args)
    gated = tuple(min((gates.get(n, 0) for n in inside(argument)), default=0) for argument in node.args)
    if any(inside(argument) for argument in node.kwargs.values()):
        name = f"{name} with named tensors"  # which no rule expects
    return Call(name, node.target, args, kwargs, varies, gated, options)


def _is_state(value: Any) -> bool:
    """Returns whether a value has no slope: truth values, indices."""
    return isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex())


def _nodes(argument: Any) -> list[Node]:
    found: list[Node] = []
    map_arg(argument, found.append)
    return found


def _step(call: Call, rules: Mapping[str, Rule]) -> Step | Refusal:
    if call.name == "getitem":
        index = call.args[1]
        return Step((0,), lambda values: values[index])
    rule = rules.get(call.name)
    return Refusal("has no linear action that is known here") if rule is None else rule(call)


def _needed(
    end: Node, start: Node, steps: Mapping[Node, Step | Refusal], varying: set[Node], traced: Traced
) -> set[Node]:
    """Returns the nodes whose probe values reach the output.

    Raises:
        UserError: one of them is refused.
    """
    if end not in varying:
        raise UserError(f"{NAME}: the model's output does not depend on its input")
    needed, left = set(), [end]
    while left:
        node = left.pop()
        if node in needed:
            continue
        needed.add(node)
        if node is start:
            continue
        step = steps[node]
        if isinstance(step, Refusal):
            name = operation_name(node.target)
            modules = traced.where(name)
            places = f" in {', '.join(modules[:3])}{' …' if len(modules) > 3 else ''}" if modules else ""
            raise UserError(f"{NAME}: {name}{places} {step.reason}")
        for position in step.inputs:
            left.extend(n for n in _nodes(node.args[position]) if n in varying)
    return needed


def _merge_scalings(steps: dict[Node, Step | Refusal], needed: set[Node]) -> None:
    """Moves a factor and shift of each channel into the convolution before it, where nothing else reads that."""
    for node in needed & steps.keys():
        step, source = steps[node], node.args[0]
        if not (isinstance(step, Step) and step.scaling and isinstance(source, Node) and len(source.users) == 1):
            continue
        before = steps.get(source)
        if isinstance(before, Step) and before.scaled is not None:
            steps[source] = before.scaled(*step.scaling)
            steps[node] = Step((0,), lambda g: (g, None, None))


def _prepared(
    node: Node, step: Step | Refusal, values: dict[Node, Any], varying: set[Node]
) -> tuple[Node, list[Node], Callable[[dict[Node, Any]], Any]]:
    """Returns a node, the nodes that it reads, and a function of the probe's values so far."""
    assert isinstance(step, Step)
    run, arguments = step.run, [node.args[position] for position in step.inputs]
    sources = [n for argument in arguments for n in _nodes(argument) if n in varying]
    if all(isinstance(argument, Node) and argument in varying for argument in arguments):
        plain: list[Any] = list(arguments)
        return node, sources, lambda found: run(*(found[n] for n in plain))
    fixed = {n: values[n] for argument in arguments for n in _nodes(argument) if n not in varying}

    def nested(found: dict[Node, Any]) -> Any:
        return run(*(map_arg(argument, lambda n: found[n] if n in found else fixed[n]) for argument in arguments))

    return node, sources, nested
