"""Points of a sweep's grid."""

from __future__ import annotations

from typing import Any

from framework.sweep.spec import Sweep


def grid_point(sweep: Sweep, index: int) -> dict[str, Any]:
    """Maps the label of every parameter, including constants, to its value at a grid point, in W&B's order."""
    places = sweep.grid_indices(index)
    return {p.label: p.grid_value(places.get(p.label, 0)) for p in sweep.parameters}
