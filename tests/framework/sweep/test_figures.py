"""What the figures show, read back from their artists."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from grids import grid_point
from matplotlib import pyplot, rcParams
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.patches import Rectangle
from optuna.trial import TrialState, create_trial

from framework.sweep import figures, spec
from framework.sweep.labels import last_attempts
from framework.sweep.storage import open_storage
from framework.sweep.study import Study
from framework.sweep.trial import Trial

FILE = """
program: train.py
method: random
name: digits
metric: {name: val/loss, goal: GOAL}
parameters:
  model.optimizer.lr: {distribution: log_uniform_values, min: 1.0e-5, max: 0.1}
  techniques.kappa_tune.budget: {min: 0.0, max: 1.0}
  model.backbone_args: {values: [{width: 64, depth: 2}, {width: 128, depth: 2}, {width: 128, depth: 4}]}
  clip: {values: [null, 1.0, 0.5]}
  fixed: {value: 7}
"""
LABELS = ["clip", "model.backbone_args", "model.optimizer.lr", "techniques.kappa_tune.budget"]
CHOICES = [{"width": 64, "depth": 2}, {"width": 128, "depth": 2}, {"width": 128, "depth": 4}]


def sweep(text: str = FILE, goal: str = "minimize") -> spec.Sweep:
    path = Path("sweep.yaml")
    path.write_text(text.replace("GOAL", goal))
    return spec.read(path)


def trials(count: int, seed: int = 0) -> list[Trial]:
    draw = random.Random(seed)
    made = []
    for point in range(count):
        values = {
            "model.optimizer.lr": 10 ** draw.uniform(-5, -1), "techniques.kappa_tune.budget": draw.random(),
            "model.backbone_args": draw.choice(CHOICES), "clip": draw.choice([None, 1.0, 0.5]), "fixed": 7,
        }  # fmt: skip
        state = ("finished", "finished", "stopped", "finished", "failed")[point % 5]
        made.append(Trial(point, state, values, value=None if state == "failed" else 0.3 + draw.random()))
    return made


def data(some: Sequence[Trial], text: str = FILE, goal: str = "minimize") -> Any:
    return figures._Data(sweep(text, goal), last_attempts(some))


def optuna_study(some: Sequence[Trial], text: str = FILE) -> optuna.Study:
    """The trials as a sweep's study holds them: a categorical value by its place."""
    study = optuna.create_study(direction="minimize")
    searched = sweep(text).searched
    for trial in some:
        if trial.state in ("finished", "stopped", "failed"):
            state = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED}.get(trial.state, TrialState.FAIL)
            params = {p.label: p.suggested(trial.values[p.label]) for p in searched}
            distributions = {p.label: p.optuna() for p in searched}
            study.add_trial(create_trial(state=state, value=trial.value, params=params, distributions=distributions))
    return study


def drawn(axes: Any, label: str) -> list[tuple[float, float]]:
    """The points of a scatter, by its name in the legend."""
    found = [c for c in axes.collections if isinstance(c, PathCollection) and c.get_label() == label]
    return [(float(x), float(y)) for c in found for x, y in c.get_offsets()]


def of_state(some: Sequence[Trial], *states: str) -> list[Trial]:
    return [trial for trial in some if trial.state in states]


def test_history_shows_every_trial():
    some = trials(40)
    figure = figures.history(data(some))
    assert figure is not None
    (axes,) = figure.axes
    for state in ("finished", "stopped"):
        assert drawn(axes, state) == [(t.point, t.value) for t in of_state(some, state)]
    assert [x for x, _ in drawn(axes, "failed without a value")] == [t.point for t in of_state(some, "failed")]
    done = of_state(some, "finished", "stopped")
    (line,) = axes.get_lines()
    assert line.get_drawstyle() == "steps-post"
    expected = list(itertools.accumulate((t.value for t in done), min))
    assert list(line.get_xdata()) == [*(t.point for t in done), 39]
    assert list(line.get_ydata()) == [*expected, expected[-1]]
    best = min(done, key=lambda t: t.value)
    (star,) = [c for c in axes.collections if c.get_label().startswith("_")]
    assert [tuple(xy) for xy in star.get_offsets()] == [(best.point, best.value)]
    assert axes.get_title() == f"digits: best {best.value:.4g} at point {best.point}"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("point", "val/loss, best of each trial")


def test_best_so_far_goes_up_where_more_is_better():
    some = trials(20)
    _, values = figures.best_so_far(data(some, goal="maximize"))
    assert values == list(itertools.accumulate((t.value for t in of_state(some, "finished", "stopped")), max))
    points, _ = figures.best_so_far(data(of_state(some, "stopped", "failed")))
    assert points == [t.point for t in of_state(some, "stopped")]


def test_what_a_failed_trial_reached_is_shown():
    some = trials(12)
    failed = of_state(some, "failed")[0]
    failed.value = 1e-3
    (axes,) = figures.history(data(some)).axes
    assert drawn(axes, "failed") == [(failed.point, 1e-3)]
    assert axes.get_title() == f"digits: best 0.001 at point {failed.point}"


def test_outliers_do_not_flatten_the_rest():
    some = trials(40)
    some[0].value, some[6].value = 3e5, 7e8
    (axes,) = figures.history(data(some)).axes
    assert axes.get_ylim()[1] < 2.0
    assert [x for x, _ in drawn(axes, "off the axis")] == [0, 6]
    assert {0, 6}.isdisjoint(x for x, _ in drawn(axes, "finished"))
    for axes in figures.slices(data(some)).axes:
        assert len(drawn(axes, "off the axis")) == 2


def test_many_decades_are_on_a_log_axis():
    some = trials(40)
    for trial in of_state(some, "finished", "stopped"):
        trial.value = 10 ** (-8 * (trial.value - 0.3))
    (axes,) = figures.history(data(some)).axes
    assert axes.get_yscale() == "log"
    assert drawn(axes, "off the axis") == []
    assert len(drawn(axes, "finished")) == 24


def test_parallel_has_an_axis_for_each_parameter_and_a_line_for_each_trial():
    some = trials(40)
    (axes,) = figures.parallel(data(some)).axes
    names = [text.get_text() for text in axes.get_xticklabels()]
    assert names == ["clip", "model.backbone_args", "model.optimizer.lr", "kappa_tune.budget", "val/loss"]
    (lines,) = [c for c in axes.collections if isinstance(c, LineCollection)]
    valued = sorted(of_state(some, "finished", "stopped"), key=lambda t: -t.value)  # the best one on top
    segments = lines.get_segments()
    assert len(segments) == len(valued) == 32
    low, high = valued[-1].value, valued[0].value
    for segment, trial in zip(segments, valued, strict=True):
        assert list(segment[:, 0]) == [0, 1, 2, 3, 4]
        level = CHOICES.index(trial.values["model.backbone_args"])
        assert level / 3 < segment[1, 1] < (level + 1) / 3
        budgets = [t.values["techniques.kappa_tune.budget"] for t in valued]
        budget = (trial.values["techniques.kappa_tune.budget"] - min(budgets)) / (max(budgets) - min(budgets))
        assert segment[3, 1] == pytest.approx(budget)
        rates = [math.log(t.values["model.optimizer.lr"]) for t in valued]
        rate = (math.log(trial.values["model.optimizer.lr"]) - min(rates)) / (max(rates) - min(rates))
        assert segment[2, 1] == pytest.approx(rate)
        assert segment[4, 1] == pytest.approx((trial.value - low) / (high - low))
    texts = [text.get_text() for text in axes.texts]
    assert texts[:3] == ["null", "1", "0.5"]
    assert {"{width: 64, depth: 2}", "{width: 128, depth: 2}", "{width: 128, depth: 4}"} <= set(texts)
    assert {"0.0001", "0.001", "0.01"} <= set(texts)
    colors = [sum(color[:3]) for color in lines.get_colors()]
    assert colors[-1] < 0.7 < 1.5 < colors[0]  # dark where it is good
    alphas = list(lines.get_alpha())
    assert alphas == sorted(alphas)
    assert len({tuple(style) if style else None for _, style in lines.get_linestyle()}) == 2  # stopped ones are dotted


def test_parallel_without_a_metric():
    text = FILE.replace("metric: {name: val/loss, goal: GOAL}", "")
    some = trials(20)
    figure = figures.parallel(data(some, text))
    (axes,) = figure.axes
    assert len(axes.get_xticklabels()) == 4
    (lines,) = [c for c in axes.collections if isinstance(c, LineCollection)]
    assert len(lines.get_segments()) == 16
    one = "\n".join(line for line in text.splitlines() if not any(label in line for label in LABELS[1:]))
    assert figures.parallel(data(some, one)) is not None


def shares(axes: Any) -> dict[str, float]:
    """What stands at each bar of the importance to its length, from below."""
    assert [bar.get_y() + bar.get_height() / 2 for bar in axes.patches] == pytest.approx(list(axes.get_yticks()))
    return {text.get_text(): bar.get_width() for text, bar in zip(axes.get_yticklabels(), axes.patches, strict=True)}


def test_importance_is_sorted():
    some = trials(40)
    for trial in of_state(some, "finished", "stopped"):
        trial.value = 10 * trial.values["techniques.kappa_tune.budget"] + math.log10(trial.values["model.optimizer.lr"])
    (axes,) = figures.importance(data(some), optuna_study(some)).axes
    found = shares(axes)
    assert set(found) == set(LABELS)
    assert list(found.values()) == sorted(found.values())  # the most important one on top
    assert list(found)[:-3:-1] == ["techniques.kappa_tune.budget", "model.optimizer.lr"]
    assert found["techniques.kappa_tune.budget"] > 0.6
    assert sum(found.values()) == pytest.approx(1)
    (metric,) = axes.get_legend().get_texts()
    assert metric.get_text() == "val/loss"


def test_importance_in_the_study_of_a_sweep():
    text = (
        FILE[: FILE.index("parameters:")]
        + """parameters:
  big: {min: 0.0, max: 1.0}
  small: {distribution: normal}
  constant: {value: 1}
"""
    )
    study = Study(sweep(text), open_storage("journal.log"), "s", 0, False)
    while (claim := study.claim(30, "me", "host:0")) is not None:
        value = 10 * claim.values["big"] + 0.01 * claim.values["small"]
        study.end(claim, Trial(claim.point, "finished", claim.values, 1, value, value))
    (axes,) = figures.importance(data(list(study.trials().values()), text), study.optuna).axes
    found = shares(axes)
    assert list(found) == ["small", "big"]
    assert found["big"] > 0.9


def test_importance_leaves_the_style_of_other_figures():
    some = trials(20)
    before = dict(rcParams)
    assert figures.importance(data(some), optuna_study(some)) is not None
    assert {key: value for key, value in rcParams.items() if key != "backend"} == {
        key: value for key, value in before.items() if key != "backend"
    }
    assert pyplot.get_fignums() == []


def test_no_importance_where_nothing_differs():
    some = trials(20)
    for trial in of_state(some, "finished"):
        trial.value = 1.0
    assert figures.importance(data(some), optuna_study(some)) is None
    one = trials(1)
    assert figures.importance(data(one), optuna_study(one)) is None
    fixed = FILE[: FILE.index("parameters:")] + "parameters:\n  fixed: {value: 7}\n"
    assert figures.importance(data(trials(20), fixed), optuna.create_study()) is None


def test_slices_have_a_panel_for_each_parameter():
    some = trials(40)
    figure = figures.slices(data(some))
    clip, backbone, rate, budget = figure.axes
    assert [axes.get_xlabel() for axes in figure.axes] == LABELS
    assert [axes.get_xscale() for axes in figure.axes] == ["linear", "linear", "log", "linear"]
    finished = of_state(some, "finished")
    assert drawn(rate, "finished") == [(t.values["model.optimizer.lr"], t.value) for t in finished]
    assert drawn(budget, "stopped") == [
        (t.values["techniques.kappa_tune.budget"], t.value) for t in of_state(some, "stopped")
    ]
    for axes, label, choices in ((clip, "clip", [None, 1.0, 0.5]), (backbone, "model.backbone_args", CHOICES)):
        assert len(axes.get_xticklabels()) == 3
        for (x, y), trial in zip(drawn(axes, "finished"), finished, strict=True):
            assert abs(x - choices.index(trial.values[label])) < 0.3
            assert y == trial.value
        medians = [c for c in axes.collections if isinstance(c, LineCollection)]
        expected = []
        for choice in choices:
            here = sorted(t.value for t in of_state(some, "finished", "stopped") if t.values[label] == choice)
            expected.append((here[(len(here) - 1) // 2] + here[len(here) // 2]) / 2)
        assert [c.get_segments()[0][0, 1] for c in medians] == pytest.approx(expected)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(texts) == ["best", "finished", "median", "stopped"]


GRID = """
program: train.py
method: grid
metric: {name: val/loss, goal: minimize}
parameters:
  lr: {values: [0.1, 0.001, 0.01]}
  opt: {values: [adam, sgd]}
  seed_everything: {values: [0, 1]}
  data.seed: {values: [0, 1]}
"""


def grid_trials(text: str = GRID) -> list[Trial]:
    grid = sweep(text)
    made = []
    for point in range(grid.grid_size() or 0):
        values = grid_point(grid, point)
        value = values["lr"] * 10 + (values["opt"] == "sgd") + 0.02 * values["seed_everything"]
        made.append(Trial(point, "finished", values, value=value))
    return made


def cells(axes: Any) -> dict[tuple[float, float], str]:
    return {text.get_position(): text.get_text() for text in axes.texts}


def test_heat_map_of_means_over_seeds():
    some = grid_trials()
    for trial in some:
        if trial.values["lr"] == 0.01 and trial.values["opt"] == "sgd":
            trial.state, trial.value = "failed", None
        if trial.values["lr"] == 0.1 and trial.values["seed_everything"] == 1:
            trial.state, trial.value = "stopped", 77.0  # without it the seeds that went well would stand for all
    (axes,) = figures.heatmap(data(some, GRID)).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("lr", "opt")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.001", "0.01", "0.1"]  # numbers in order
    assert [text.get_text() for text in axes.get_yticklabels()] == ["adam", "sgd"]
    assert cells(axes) == {(0, 0): "0.02", (1, 0): "0.11", (2, 0): "39", (0, 1): "1.02", (2, 1): "39.5"}
    hatched = [p for p in axes.patches if isinstance(p, Rectangle) and p.get_hatch()]
    assert [p.get_xy() for p in hatched] == [(0.5, 0.5)]
    assert "mean val/loss" in axes.get_title()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lr: {values: [0.1, 0.001, 0.01]}", "lr: {value: 1}"),  # one parameter
        ("data.seed", "data.seeds"),  # three
        ("[0.1, 0.001, 0.01]", str([i / 10 for i in range(13)])),
    ],
)
def test_no_heat_map(old, new):
    text = GRID.replace(old, new)
    assert figures.heatmap(data(grid_trials(text), text)) is None


def test_no_heat_map_of_numbers_drawn_at_random():
    text = FILE.replace("clip: {values: [null, 1.0, 0.5]}", "").replace("model.backbone_args", "#")
    assert figures.heatmap(data(trials(10), text)) is None


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_the_files_are_the_same_each_time(tmp_path):
    some = trials(12)
    first = figures.draw(sweep(), some, optuna_study(some), tmp_path / "a")
    second = figures.draw(sweep(), some, optuna_study(some), tmp_path / "b")
    assert names(first) == ["history.png", "parallel.png", "importance.png", "slices.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize(
    ("some", "expected"),
    [
        ([], []),
        (of_state(trials(20), "failed"), []),
        ([Trial(0, "running"), Trial(1, "interrupted")], []),
        (trials(1), ["history.png", "parallel.png", "slices.png"]),
    ],
)
def test_only_what_can_be_drawn(tmp_path, some, expected):
    assert names(figures.draw(sweep(), some, optuna_study(some), tmp_path)) == expected


def test_odd_texts_are_drawn_as_they_are(tmp_path, recwarn):
    text = """
program: train.py
method: random
name: "costs $a_b$ and $"
metric: {name: "$\\\\frac{1$", goal: maximize}
parameters:
  a: {values: ["$x^$", "$y_{", "a very very long text, number one", "a very very long text, number two"]}
  b: {distribution: q_log_uniform_values, min: 1.0e-3, max: 1, q: 0.01}
"""
    some = [Trial(i, "finished", {"a": value, "b": 0.01 * i}, value=float(i)) for i, value in enumerate(
        ["$x^$", "$y_{", "a very very long text, number one", "a very very long text, number two"])]  # fmt: skip
    study = optuna_study(some, text[: text.index("  b: ")])  # what Optuna draws for b cannot be told from its value
    made = figures.draw(sweep(text), some, study, tmp_path)
    assert names(made) == ["history.png", "parallel.png", "importance.png", "slices.png"]
    told = [w for w in recwarn if w.category is not optuna.exceptions.ExperimentalWarning]  # a sweep ignores those
    assert [str(warning.message) for warning in told] == []
