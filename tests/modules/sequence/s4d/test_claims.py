"""S4D: the claims that need no training hold, and the comparison is drawn."""

from framework.claims import Reproduction
from modules.sequence.s4d.claims import frozen_memory, identities
from modules.sequence.s4d.plots import training_figure


def test_identities_and_memory_hold(tmp_path):
    run = Reproduction(tmp_path)
    measured = [*identities(), *frozen_memory(run)]
    assert len(measured) >= 40
    assert [claim.text for claim in measured if not claim.holds] == []
    assert run.figures == [tmp_path / "memory.png"]
    assert run.figures[0].stat().st_size > 10_000


def test_the_comparison_is_drawn_with_its_references(tmp_path):
    figure = training_figure({"lin": [0.8, 0.9], "real": [0.4]}, {"lin": 0.85})
    (axes,) = figure.axes
    assert {round(float(value), 2) for line in axes.lines for value in line.get_ydata()} >= {0.8, 0.9, 0.4}
