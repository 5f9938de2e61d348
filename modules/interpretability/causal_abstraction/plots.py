"""The figure: accuracy of interventions over the power of the map, on a trained and on a random host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"trained": "#3b6ea5", "random": "#d9795d"}


@dataclass(frozen=True)
class Scores:
    """Scores of one map at one place, over seeds.

    Attributes:
        map: Its label.
        panel: What else it belongs to: layer, size, algorithm.
        host: ``trained`` or ``random``.
        iia: One for each seed.
        majority: Mean rate of the most frequent answer.
        pairs: Number of interventions of a seed.
    """

    map: str
    panel: str
    host: str
    iia: tuple[float, ...]
    majority: float
    pairs: float

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return sum(self.iia) / len(self.iia)

    @property
    def largest(self) -> float:
        """Largest over seeds."""
        return max(self.iia)


def power_figure(rows: Sequence[Scores], maps: Sequence[str]) -> Figure:
    """Draws a panel for each place: mean over seeds (line), largest (crosses), and the majority rate (dashed).

    Args:
        rows: The scores.
        maps: The maps in the order of their power.
    """
    panels = list(dict.fromkeys(row.panel for row in rows))
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    figure = new_figure(down, across, size=(3.3 * across + 0.4, 2.7 * down + 0.5))
    for spare in figure.axes[len(panels) :]:
        figure.delaxes(spare)
    for axes, panel in zip(figure.axes, panels, strict=True):
        own = [row for row in rows if row.panel == panel]
        for host, colour in COLOURS.items():
            found = {row.map: row for row in own if row.host == host}
            places = [i for i, name in enumerate(maps) if name in found]
            if not places:
                continue
            ordered = [found[maps[i]] for i in places]
            axes.plot(places, [row.mean for row in ordered], "o-", ms=4, color=colour, label=f"{host} host, mean")
            axes.plot(places, [row.largest for row in ordered], "x", ms=6, color=colour, label=f"{host} host, max")
        axes.axhline(own[0].majority, color="0.5", lw=0.8, ls="--", label="majority class")
        axes.set_xticks(range(len(maps)), maps, rotation=25, ha="right", fontsize=7)
        axes.set(ylim=(0.38, 1.03), xlim=(-0.3, len(maps) - 0.7), ylabel="IIA")
        axes.set_title(f"{panel} ({own[0].pairs:,.0f} pairs)", fontsize=8)
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles), frameon=False, fontsize=7
    )
    return figure
