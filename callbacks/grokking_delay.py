"""Grokking delay: how long after it fits the training data a network generalises.

Paper: GrokAlign: Geometric Characterisation and Acceleration of Grokking (Walker, Humayun, Balestriero & Baraniuk 2025,
arXiv 2506.12284).

At the end of each epoch two logged accuracies are compared with thresholds. It logs, once they are known,

- ``grokking_delay/train_step``, the first step at which the training accuracy is at least ``train_threshold``;
- ``grokking_delay/test_step``, the first at which the other accuracy is at least ``threshold``;
- ``grokking_delay/gap``, the second minus the first, negative if generalisation comes first;

and always ``grokking_delay/waited``, the second, or until then the steps so far: the number to minimise in a sweep. A
step is an optimiser step; ``steps_per_unit`` counts in larger units instead, such as the passes over the data that the
paper calls steps in its image experiments. The resolution is an epoch of the Trainer.

With ``stop`` training ends at ``threshold``. That is right for measuring times, not for choosing a model, if the
accuracy is that of the test set. The figure has both accuracies over log steps, with the two steps and the gap between
them.

It works with any module that logs two accuracies, as means over an epoch, and changes nothing. Where there is a
validation, only epochs with one are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from framework.editing import Observer
from framework.errors import UserError
from framework.figures import log_figure, new_figure
from framework.settings import at_least, between

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def first_reached(steps: Sequence[float], values: Sequence[float], threshold: float) -> float | None:
    """Returns the first of ``steps`` at which the value is at least ``threshold``, or ``None``.

    Args:
        steps: In order.
        values: One for each step.
        threshold: The value that counts.
    """
    return next((step for step, value in zip(steps, values, strict=True) if value >= threshold), None)


def delay_figure(
    steps: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    reached: dict[str, float | None],
    unit: str = "optimiser step",
) -> Figure:
    """Draws accuracies over log steps, a line where each reaches its threshold, and the gap between.

    Args:
        steps: Of the measurements.
        curves: Accuracy by name; the training accuracy first.
        reached: By name, the step at which its threshold is reached, or ``None``.
        unit: Label of the steps.
    """
    figure = new_figure(size=(5.6, 3.6))
    axes = figure.axes[0]
    found = []
    for number, (name, values) in enumerate(curves.items()):
        axes.plot(steps, values, color=f"C{number}", label=name)
        step = reached[name]
        if step is not None:
            axes.axvline(step, color=f"C{number}", linestyle=":", linewidth=1)
            found.append(step)
    if len(found) == 2:
        axes.axvspan(min(found), max(found), color="0.9", zorder=0)
        axes.set_title(f"gap {found[1] - found[0]:g}", fontsize=9)
    axes.set(xlabel=unit, ylabel="accuracy", xscale="log", ylim=(-0.02, 1.02))
    axes.legend(frameon=False, fontsize=8)
    return figure


class GrokkingDelay(Observer):
    """Logs and draws when training and test accuracy reach their thresholds, and the gap between.

    Args:
        threshold: Test accuracy that counts as generalisation.
        train_threshold: Training accuracy that counts as memorised.
        monitor: Metric of the test accuracy.
        train_monitor: Metric of the training accuracy.
        steps_per_unit: Optimiser steps in a unit of the logged numbers: 4 if a unit is a pass of four batches.
        stop: Whether training ends when ``threshold`` is reached.

    Raises:
        UserError: a setting is not accepted (in the constructor); a metric is not logged (after the first validation).
    """

    technique = "grokking_delay"

    def __init__(
        self,
        threshold: float = 0.85,
        train_threshold: float = 0.99,
        monitor: str = "val/accuracy",
        train_monitor: str = "train/accuracy",
        steps_per_unit: int = 1,
        stop: bool = False,
    ) -> None:
        between(0, 1, "(]", threshold=threshold, train_threshold=train_threshold)
        at_least(1, steps_per_unit=steps_per_unit)
        self.threshold, self.train_threshold = threshold, train_threshold
        self.monitor, self.train_monitor = monitor, train_monitor
        self.steps_per_unit, self.stop = steps_per_unit, stop
        self.train_step: float | None = None
        self.test_step: float | None = None
        self.curve: list[tuple[float, float, float]] = []  # steps at a ratio of at least 1.02: bounded, and log steps
        self._validated = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes that there are new metrics."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares, logs, and ends training."""
        validated, self._validated = self._validated, False
        if trainer.enable_validation and not validated:
            return  # the metrics are those of an earlier epoch, which a resumed run does not have
        train, test = (self._value(trainer, key) for key in ("train_monitor", "monitor"))
        step = trainer.global_step / self.steps_per_unit
        if self.train_step is None:
            self.train_step = first_reached([step], [train], self.train_threshold)
        if self.test_step is None:
            self.test_step = first_reached([step], [test], self.threshold)
        known = {"train_step": self.train_step, "test_step": self.test_step}
        if self.train_step is not None and self.test_step is not None:
            known["gap"] = self.test_step - self.train_step
        known["waited"] = step if self.test_step is None else self.test_step
        for name, value in known.items():
            if value is not None:
                pl_module.log(f"grokking_delay/{name}", float(value), rank_zero_only=True)
        new = {self.train_step, self.test_step} & {step}
        if not self.curve or new or step >= 1.02 * self.curve[-1][0]:
            self.curve.append((step, train, test))
        # ranks may have other accuracies, and must end together
        if self.stop and trainer.strategy.reduce_boolean_decision(self.test_step is not None, all=False):
            trainer.should_stop = True

    def _value(self, trainer: pl.Trainer, key: str) -> float:
        """Returns a metric.

        Raises:
            UserError: it is not logged.
        """
        name, logged = getattr(self, key), trainer.callback_metrics
        if name in logged:
            return float(logged[name])
        near = get_close_matches(name, list(logged), n=1, cutoff=0.0)
        hint = f"; nearest: {near[0]}" if near else ""
        raise UserError(f"techniques.{self.name}.{key}: {name!r} is not logged{hint}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the curves."""
        if not self.curve:
            return
        steps, train, test = zip(*self.curve, strict=True)
        unit = "optimiser step" if self.steps_per_unit == 1 else f"{self.steps_per_unit} optimiser steps"
        curves = {self.train_monitor: train, self.monitor: test}
        reached = {self.train_monitor: self.train_step, self.monitor: self.test_step}
        log_figure(trainer, self.technique, delay_figure(steps, curves, reached, unit))

    def state_dict(self) -> dict[str, Any]:
        """Returns the steps found, and the curves."""
        return {"found": [self.train_step, self.test_step], "curve": [list(entry) for entry in self.curve]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self.train_step, self.test_step = state_dict["found"]
        self.curve = [(step, train, test) for step, train, test in state_dict["curve"]]
