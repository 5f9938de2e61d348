"""The order in which techniques are applied: as configured, changed as far as phases and declarations require."""

from __future__ import annotations

from collections.abc import Mapping

from framework.editing.phases import comes_before
from framework.editing.technique import Technique
from framework.errors import UserError


def resolve(techniques: Mapping[str, type]) -> list[str]:
    """Returns names in the order of application: the given order, changed only as phases and declarations require.

    Args:
        techniques: Maps the configured name to its class; a class that is not a :class:`Technique` keeps its position.

    Raises:
        UserError: two techniques conflict, or their declarations form a cycle.
    """
    declared = {name: cls for name, cls in techniques.items() if issubclass(cls, Technique)}
    for name, cls in declared.items():
        for other, other_cls in declared.items():
            if name != other and (reason := _conflict(cls, other_cls)):
                raise UserError(f"techniques.{name} and techniques.{other} cannot be combined: {reason}")
    earlier: dict[str, set[str]] = {name: set() for name in techniques}
    for name, cls in declared.items():
        earlier[name] |= {other for other, other_cls in declared.items() if comes_before(other_cls, cls)}
    order: list[str] = []
    while len(order) < len(techniques):
        ready = next((n for n in techniques if n not in order and earlier[n] <= set(order)), None)
        if ready is None:
            circle = [n for n in techniques if n not in order]
            while after := [n for n in circle if not any(n in earlier[other] for other in circle)]:
                circle = [n for n in circle if n not in after]  # no other one waits for these
            phases = ", ".join(f"{n} ({declared[n].phase or 'no phase'})" for n in circle)
            raise UserError(f"techniques: {phases} each ask to come before another of them")
        order.append(ready)
    return order


def _conflict(a: type[Technique], b: type[Technique]) -> str | None:
    return a.conflicts.get(b.technique) or b.conflicts.get(a.technique)
