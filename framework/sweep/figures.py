"""Draws the figures of a sweep: its history, the importance of parameters, and where the good values are.

Optuna draws the importance. Its other plots show neither stopped nor failed trials, and show the index of a categorical
value or the quantile of a rounded one. Even with the values themselves one outlier compresses all others, the ticks of
parallel coordinates and long texts overlap, and contours are drawn between categories. So the other figures are drawn
here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.figures import new_figure, save_figure
from framework.sweep.distributions import Parameter, value_key
from framework.sweep.labels import distinct_texts, fitting_label, last_attempts, short_labels, value_text
from framework.sweep.results import best, valued
from framework.sweep.scale import Scale, metric_scale, parameter_scale
from framework.sweep.trial import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from optuna import Study as OptunaStudy

    from framework.sweep.spec import Sweep

MOST_CELLS = 12
"""Largest number of values of each parameter in a heat map."""
MOST_LEVELS = 24
"""Largest number of levels of a categorical parameter that get a tick."""
CLEAR_LINES = 30
"""Number of parallel-coordinates lines that are drawn opaque; worse ones are faded."""
TEXT = 22
"""Largest number of characters of a value on an axis."""
SEED = "seed_everything"
FINISHED: dict[str, Any] = {"marker": "o", "s": 22, "color": "C0", "alpha": 0.75, "linewidth": 0}
STOPPED: dict[str, Any] = {"marker": "o", "s": 22, "facecolor": "none", "edgecolor": "C1", "linewidth": 1.0}
FAILED: dict[str, Any] = {"marker": "x", "s": 26, "color": "C3", "linewidth": 1.2}
STYLES = {"finished": FINISHED, "stopped": STOPPED, "failed": FAILED, "interrupted": {**FAILED, "color": "0.5"}}
BEST: dict[str, Any] = {"marker": "*", "s": 130, "color": "C2", "edgecolor": "black", "linewidth": 0.6, "zorder": 5}


def draw(sweep: Sweep, trials: Sequence[Trial], study: OptunaStudy, folder: str | Path) -> list[Path]:
    """Draws all figures that the trials allow, as PNG files in ``folder``; equal trials give equal files.

    Args:
        sweep: The sweep.
        trials: All trials, in the order of their attempts.
        study: The same trials as an Optuna study.
        folder: Folder of the files.

    Returns:
        The files: those of ``history``, ``parallel``, ``importance``, ``slices`` and ``heatmap.png`` that apply.
    """
    data = _Data(sweep, last_attempts(trials))
    figures = {
        "history": history(data),
        "parallel": parallel(data),
        "importance": importance(data, study),
        "slices": slices(data),
        "heatmap": heatmap(data),
    }
    return [save_figure(figure, Path(folder) / f"{name}.png") for name, figure in figures.items() if figure is not None]


class _Data:
    """The trials that figures show.

    Attributes:
        valued: The trials with a value (:func:`~framework.sweep.results.valued`), by point.
        done: The same; without a metric, all that finished or were stopped.
        failed: The trials that failed before they logged a value.
        best: The best trial.
    """

    def __init__(self, sweep: Sweep, trials: Sequence[Trial]) -> None:
        self.sweep, self.metric = sweep, sweep.metric
        self.valued = valued(trials) if sweep.metric else []
        self.done = self.valued if sweep.metric else [t for t in trials if t.state in ("finished", "stopped")]
        counted = {trial.point for trial in self.valued}
        self.failed = [t for t in trials if t.state == "failed" and t.point not in counted]
        self.best = best(sweep, trials)
        self.parameters = [p for p in sweep.parameters if not p.is_constant]
        self._short = short_labels([p.label for p in self.parameters])
        self.maximize = sweep.metric is not None and sweep.metric.goal == "maximize"
        self.title = sweep.name or Path(sweep.path).stem

    @cached_property
    def scale(self) -> Scale:
        """The metric's axis."""
        return metric_scale([value_of(trial) for trial in self.valued], self.maximize)

    def name(self, parameter: Parameter, width: int) -> str:
        """Returns the parameter's label, with as many of its names as fit."""
        return plain(fitting_label(parameter.label, self._short[parameter.label], width))

    def goodness(self, value: float, scale: Scale | None = None) -> float:
        """Returns 0 for the worst value that is shown, 1 for the best."""
        place = (scale or self.scale).fraction(value)
        return place if self.maximize else 1 - place


def value_of(trial: Trial) -> float:
    """Returns the value of a trial that has one."""
    assert trial.value is not None
    return trial.value


def plain(text: str) -> str:
    """Escapes a text so that matplotlib does not parse it as mathematics."""
    return text.replace("$", r"\$")


@dataclass(frozen=True)
class Levels:
    """The axis of a parameter: of numbers, or of levels.

    Attributes:
        parameter: The parameter.
        scale: The scale of numbers; ``None`` for levels.
        keys: The levels' values as JSON, in their order.
        texts: The levels' labels.
    """

    parameter: Parameter
    scale: Scale | None
    keys: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    def place(self, value: Any) -> float:
        """Returns the value's position: a number, or the index of its level."""
        return float(value) if self.scale else float(self.keys.index(value_key(value)))


def levels(parameter: Parameter, values: Sequence[Any], numbers: bool = True) -> Levels:
    """Returns the axis for ``values``: a categorical parameter's choices in their order, with numbers sorted.

    Args:
        parameter: The parameter.
        values: The values that occur.
        numbers: Whether other parameters get an axis of numbers; else the values that occur are the levels.
    """
    if numbers and parameter.choices is None and all(_is_number(value) for value in values):
        return Levels(parameter, parameter_scale([float(v) for v in values], parameter.is_log))
    known = {value_key(value): value for value in (*(parameter.choices or ()), *values)}
    if all(_is_number(value) for value in known.values()):
        known = dict(sorted(known.items(), key=lambda item: item[1]))
    return Levels(parameter, None, tuple(known), tuple(map(plain, distinct_texts(list(known.values()), TEXT))))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _spread(count: int) -> list[float]:
    """Returns ``count`` numbers spread evenly between -0.5 and 0.5 in a fixed, mixed order."""
    return [(0.5 + 0.6180339887498949 * i) % 1.0 - 0.5 for i in range(count)]


# --- history


def history(data: _Data) -> Figure | None:
    """Draws every trial's value in the order of the points, and the best so far."""
    if not data.valued or data.metric is None:
        return None
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(size=(7.0, 4.2))
    (axes,) = figure.axes
    data.scale.apply(axes)
    for state, style in STYLES.items():
        shown = [t for t in data.valued if t.state == state and data.scale.shows(value_of(t))]
        if shown:
            axes.scatter([t.point for t in shown], [value_of(t) for t in shown], label=state, **style)
    _mark_beyond(axes, data, [(trial.point, trial) for trial in data.valued])
    if data.failed:
        bottom = [0.015] * len(data.failed)
        axes.scatter(
            [t.point for t in data.failed],
            bottom,
            transform=axes.get_xaxis_transform(),
            label="failed without a value",
            **FAILED,
        )
    if data.best is not None:
        points, values = best_so_far(data)
        last = max(t.point for t in (*data.valued, *data.failed))
        axes.step([*points, last], [*values, values[-1]], where="post", color="C2", label="best so far", zorder=1)
        axes.scatter([data.best.point], [value_of(data.best)], **BEST)
        axes.set_title(
            plain(f"{data.title}: best {value_text(data.best.value)} at point {data.best.point}"), fontsize="medium"
        )
    axes.set(xlabel="point", ylabel=plain(f"{data.metric.name}, best of each trial"))
    last = max(trial.point for trial in (*data.valued, *data.failed))
    axes.set_xlim(-0.5 - 0.03 * last, last + 0.5 + 0.03 * last)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=5, fontsize="small", frameon=False)
    return figure


def best_so_far(data: _Data) -> tuple[list[int], list[float]]:
    """Returns points and the best values up to them."""
    assert data.metric is not None
    points: list[int] = []
    values: list[float] = []
    for trial in data.valued:
        value = value_of(trial)
        points.append(trial.point)
        values.append(value if not values or data.metric.better(value, values[-1]) else values[-1])
    return points, values


def _mark_beyond(axes: Axes, data: _Data, placed: Sequence[tuple[float, Trial]]) -> None:
    """Draws values outside the axis as triangles at its edge."""
    beyond = [place for place, trial in placed if not data.scale.shows(value_of(trial))]
    if beyond:
        edge, marker = (0.015, "v") if data.maximize else (0.985, "^")
        axes.scatter(
            beyond, [edge] * len(beyond), marker=marker, s=22, color="0.5", linewidth=0,
            transform=axes.get_xaxis_transform(), label="off the axis",
        )  # fmt: skip


# --- parallel coordinates


def parallel(data: _Data) -> Figure | None:
    """Draws a line for each trial through its parameters' values to the metric; good trials are dark."""
    if not data.done or not data.parameters:
        return None
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection

    trials = sorted(data.done, key=lambda t: data.goodness(value_of(t)) if data.metric else 0.0)
    columns = [levels(p, [t.values[p.label] for t in trials]) for p in data.parameters]
    count = len(columns) + (data.metric is not None)
    figure = new_figure(size=(max(5.5, 1.55 * count + 0.8), 5.0))
    (axes,) = figure.axes
    places = [_column(column, trials) for column in columns]
    names = [data.name(parameter, 24) for parameter in data.parameters]
    for number, column in enumerate(columns):
        _column_axis(axes, number, column)
    if data.metric is not None:
        places.append([data.scale.fraction(value_of(t)) for t in trials])
        names.append(plain(data.metric.name))
        _metric_axis(axes, len(columns), data)
    cmap = colormaps["viridis_r"]
    colors = [cmap(data.goodness(value_of(t))) if data.metric else "C0" for t in trials]
    lines = [[(float(x), height) for x, height in enumerate(line)] for line in zip(*places, strict=True)]
    if count == 1:
        lines = [[(-0.08, line[0][1]), (0.08, line[0][1])] for line in lines]
    styles = ["-" if t.state == "finished" else ":" for t in trials]
    # many bad lines would hide the good ones
    worse = range(len(trials) - 1, -1, -1) if data.metric else [len(trials) / 2] * len(trials)
    alphas = [0.85 * CLEAR_LINES / (CLEAR_LINES + rank) for rank in worse]
    axes.add_collection(LineCollection(lines, colors=colors, linestyles=styles, linewidths=1.1, alpha=alphas))
    for trial, line in zip(trials, lines, strict=True):
        if trial is data.best:
            axes.plot(*zip(*line, strict=True), color=cmap(1.0), linewidth=2.8)
    axes.set(xlim=(-0.75, count - 0.45), ylim=(-0.02, 1.03), yticks=[])
    axes.xaxis.tick_top()
    long = max(map(len, names)) > 14
    axes.set_xticks(
        range(count), names, fontsize="small",
        rotation=20 if long else 0, ha="left" if long else "center", rotation_mode="anchor",
    )  # fmt: skip
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set_visible(False)
    stopped = "; dotted: ended early" if ":" in styles else ""
    figure.suptitle(plain(f"{data.title}: {len(trials)} trial{'s' * (len(trials) != 1)}{stopped}"), fontsize="medium")
    return figure


def _column(column: Levels, trials: Sequence[Trial]) -> list[float]:
    """Returns the trials' heights on a vertical axis; on levels they are spread, so that lines do not overlap."""
    values = [trial.values[column.parameter.label] for trial in trials]
    if column.scale is not None:
        return [column.scale.fraction(float(value)) for value in values]
    count = len(column.keys)
    spread = [0.5 * shift / max(count, 4) for shift in _spread(len(values))]
    return [(column.place(value) + 0.5) / count + shift for value, shift in zip(values, spread, strict=True)]


def _column_axis(axes: Axes, x: int, column: Levels) -> None:
    axes.plot([x, x], [0, 1], color="0.3", linewidth=1.0, zorder=3)
    if column.scale is not None:
        ticks = [(column.scale.fraction(tick), value_text(tick)) for tick in column.scale.ticks()]
    else:
        step = math.ceil(len(column.keys) / MOST_LEVELS)
        ticks = [((i + 0.5) / len(column.keys), text) for i, text in enumerate(column.texts)][::step]
    _ticks(axes, x, ticks)


def _ticks(axes: Axes, x: float, ticks: Sequence[tuple[float, str]], side: int = -1) -> None:
    for height, text in ticks:
        axes.plot([x + side * 0.03, x], [height, height], color="0.3", linewidth=1.0, zorder=3)
        axes.text(
            x + side * 0.06, height, text, ha="right" if side < 0 else "left", va="center", fontsize=7, zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
        )  # fmt: skip


def _metric_axis(axes: Axes, x: int, data: _Data) -> None:
    """Draws the metric's axis, with a colour bar."""
    scale = data.scale
    _ticks(axes, x + 0.12, [(scale.fraction(tick), value_text(tick)) for tick in scale.ticks()], side=1)
    heights = [i / 255 for i in range(256)]
    strip = [[height if data.maximize else 1 - height] for height in heights]
    axes.imshow(
        strip, extent=(x, x + 0.12, 0, 1), origin="lower", aspect="auto", cmap="viridis_r", vmin=0, vmax=1, zorder=3
    )


# --- importance


def importance(data: _Data, study: OptunaStudy) -> Figure | None:
    """Draws Optuna's plot of each parameter's fANOVA importance under the distribution that it is drawn from.

    Returns ``None`` if there is nothing to show: no parameter varies, or all finished trials have the same value.
    """
    finished = {value_of(trial) for trial in data.valued if trial.state == "finished"}
    if data.metric is None or not data.parameters or len(finished) < 2:
        return None
    from matplotlib import pyplot, rc_context
    from matplotlib.figure import Figure
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization.matplotlib import plot_param_importances

    pyplot.switch_backend("agg")  # another one may need a display
    size = (6.0 + 0.085 * max(len(p.label) for p in data.parameters), 1.5 + 0.3 * len(data.parameters))
    # the plot changes the style of all figures, and would parse dollar signs in a metric's name as mathematics
    with rc_context({"figure.figsize": size, "figure.constrained_layout.use": True, "text.parse_math": False}):
        try:
            axes = plot_param_importances(study, FanovaImportanceEvaluator(seed=0), target_name=data.metric.name)
        except RuntimeError:  # no tree of the forest found a difference
            return None
        figure = axes.get_figure()
        assert isinstance(figure, Figure)
        figure.draw_without_rendering()  # text made while drawing gets this style too
        pyplot.close(figure)
    return figure


# --- slices


def slices(data: _Data) -> Figure | None:
    """Draws the metric against each parameter."""
    if not data.valued or not data.parameters or data.metric is None:
        return None
    count = len(data.parameters)
    columns = min(4, count)
    rows = math.ceil(count / columns)
    figure = new_figure(rows, columns, size=(max(3.0 * columns, 4.5), 2.8 * rows + 0.4))
    for spare in figure.axes[count:]:
        figure.delaxes(spare)
    for number, (axes, parameter) in enumerate(zip(figure.axes, data.parameters, strict=True)):
        _slice(axes, data, parameter)
        if number % columns:
            axes.tick_params(labelleft=False)
    figure.supylabel(plain(f"{value_text(data.metric.name, 40)}, best of each trial"), fontsize="medium")
    figure.suptitle(plain(data.title), fontsize="medium")
    labels = {
        text: handle for axes in figure.axes for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        list(labels.values()), list(labels), loc="outside lower center", ncols=5, fontsize="small", frameon=False
    )
    return figure


def _slice(axes: Axes, data: _Data, parameter: Parameter) -> None:
    values = [trial.values[parameter.label] for trial in data.valued]
    column = levels(parameter, values)
    shifts = [0.0] * len(values) if column.scale else [0.5 * shift for shift in _spread(len(values))]
    placed = [
        (column.place(value) + shift, trial) for value, shift, trial in zip(values, shifts, data.valued, strict=True)
    ]
    data.scale.apply(axes)
    for state, style in STYLES.items():
        shown = [(x, value_of(t)) for x, t in placed if t.state == state and data.scale.shows(value_of(t))]
        if shown:
            axes.scatter(*zip(*shown, strict=True), label=state, **{**style, "s": 14})
    _mark_beyond(axes, data, placed)
    axes.scatter([x for x, t in placed if t is data.best], [value_of(t) for _, t in placed if t is data.best],
                 **{**BEST, "s": 90}, label="best")  # fmt: skip
    if column.scale is not None:
        column.scale.apply(axes, "x")
    else:
        for level in range(len(column.keys)):
            here = [value_of(t) for value, t in zip(values, data.valued, strict=True) if column.place(value) == level]
            if here:
                axes.hlines(statistics.median(here), level - 0.38, level + 0.38, color="black", label="median")
        step = math.ceil(len(column.keys) / MOST_LEVELS)
        many, long = len(column.keys) > 8, sum(map(len, column.texts)) > 28
        axes.set_xticks(
            range(0, len(column.keys), step), column.texts[::step], fontsize=6 if many else "small",
            rotation=90 if many else 35 if long else 0, ha="right" if many or long else "center",
            va="center" if many else "top", rotation_mode="anchor",
        )  # fmt: skip
        axes.set_xlim(-0.6, len(column.keys) - 0.4)
    axes.set_xlabel(data.name(parameter, 32))
    axes.grid(alpha=0.3)


# --- heat map


def heatmap(data: _Data) -> Figure | None:
    """Draws the mean of the metric over seeds, if two other parameters vary."""
    searched = [p for p in data.parameters if p.label != SEED and not p.label.endswith(".seed")]
    if data.metric is None or not data.valued or len(searched) != 2:
        return None
    both = [levels(p, [t.values[p.label] for t in data.valued], numbers=False) for p in searched]
    if any(len(axis.keys) > MOST_CELLS or _all_differ(axis, data.valued) for axis in both):
        return None
    down, across = sorted(both, key=lambda axis: len(axis.keys))  # the longer one horizontally
    cells: dict[tuple[int, int], list[Trial]] = {}
    for trial in data.valued:
        place = tuple(int(axis.place(trial.values[axis.parameter.label])) for axis in (down, across))
        cells.setdefault((place[0], place[1]), []).append(trial)
    means = {place: statistics.fmean(map(value_of, here)) for place, here in cells.items()}
    return _draw_cells(data, down, across, means, any(len(here) > 1 for here in cells.values()))


def _all_differ(axis: Levels, trials: Sequence[Trial]) -> bool:
    """Returns whether no value occurs twice, as with numbers drawn at random."""
    return axis.parameter.choices is None and len(trials) > 1 and len(axis.keys) == len(trials)


def _draw_cells(
    data: _Data, down: Levels, across: Levels, means: Mapping[tuple[int, int], float], several: bool
) -> Figure:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    assert data.metric is not None
    rows, columns = len(down.keys), len(across.keys)
    figure = new_figure(size=(max(4.0, 0.75 * columns + 2.2), max(3.0, 0.5 * rows + 1.8)))
    (axes,) = figure.axes
    scale = metric_scale(means.values(), data.maximize)
    cmap = colormaps["viridis_r"]
    for row in range(rows):
        for column in range(columns):
            corner = (column - 0.5, row - 0.5)
            mean = means.get((row, column))
            if mean is None:
                axes.add_patch(Rectangle(corner, 1, 1, facecolor="white", edgecolor="0.7", hatch="////", linewidth=0))
                continue
            good = data.goodness(mean, scale)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=cmap(good), edgecolor="white", linewidth=0.5))
            axes.text(
                column,
                row,
                f"{mean:.3g}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if good > 0.5 else "black",
            )
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    long = max(map(len, across.texts)) > 6
    axes.set_xticks(
        range(columns), across.texts, rotation=35 if long else 0, ha="right" if long else "center",
        rotation_mode="anchor", fontsize="small",
    )  # fmt: skip
    axes.set_yticks(range(rows), down.texts, fontsize="small")
    axes.tick_params(length=0)
    axes.set(xlabel=data.name(across.parameter, 32), ylabel=data.name(down.parameter, 24))
    of_seeds = "mean " if several else ""
    axes.set_title(plain(f"{data.title}: {of_seeds}{data.metric.name}"), fontsize="medium")
    return figure
