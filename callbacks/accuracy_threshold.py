"""Accuracy threshold: ends a round of training when an epoch's training accuracy reaches a value.

Paper: Ash & Adams, 2020, "On Warm-Starting Neural Network Training", NeurIPS, arXiv 1910.08475.

The paper trains in each round until 99 % of the training samples are classified correctly, counted on the batches of
an epoch while it trains, and then reveals more data. This technique does that for any datamodule whose data arrives in
rounds (:class:`framework.protocols.InRounds`): it starts the next round, and ends training after the last one. With
other data it only ends training.

It logs at the end of an epoch ``round/number`` (from 0), ``round/samples`` and ``round/epochs`` (so far, in this
round). At the end of training, epochs and the last validation accuracy of each round are drawn against its samples.

It works with every other technique and does not change the model. Limits: with label noise the accuracy may never reach
the threshold; then use ``max_epochs``.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from framework.editing import Observer
from framework.errors import UserError
from framework.figures import log_figure, new_figure
from framework.protocols import InRounds
from framework.settings import at_least, between

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def round_over(accuracy: float, epochs: int, threshold: float = 0.99, max_epochs: int | None = None) -> bool:
    """Returns whether a round ends after its ``epochs``-th epoch, with this training accuracy.

    Args:
        accuracy: Accuracy on the epoch's training samples, from 0 to 1.
        epochs: Number of epochs of the round, including this one.
        threshold: Accuracy at which the round ends.
        max_epochs: Largest number of epochs of a round; ``None`` for no limit.
    """
    return accuracy >= threshold or (max_epochs is not None and epochs >= max_epochs)


def rounds_figure(history: Sequence[dict[str, float]], name: str) -> Figure:
    """Draws the value reached by each round and its epochs against its samples.

    Args:
        history: For each round ``samples``, ``epochs`` and, if there is one, ``value``.
        name: Name of ``value``.
    """
    figure = new_figure(1, 2)
    samples = [entry["samples"] for entry in history]
    reached = [(entry["samples"], entry["value"]) for entry in history if "value" in entry]
    figure.axes[0].plot([at for at, _ in reached], [value for _, value in reached], "o-")
    figure.axes[0].set(xlabel="training samples", ylabel=name, title="end of each round")
    figure.axes[1].plot(samples, [entry["epochs"] for entry in history], "o-", color="C1")
    figure.axes[1].set(xlabel="training samples", ylabel="epochs", title="cost of each round", ylim=(0, None))
    return figure


class AccuracyThreshold(Observer):
    """Ends a round when the training accuracy of an epoch reaches a threshold, and training after the last round.

    Args:
        threshold: Accuracy at which a round ends.
        monitor: The metric: a mean over the epoch's training batches.
        max_epochs: Epochs after which a round ends anyway.
        show: Metric that is drawn at the end of training, if it is logged.

    Raises:
        UserError: a setting is not accepted (in the constructor); the metric is not logged, or not over the epoch (at
            the end of the first epoch).
    """

    technique = "accuracy_threshold"

    def __init__(
        self,
        threshold: float = 0.99,
        monitor: str = "train/accuracy",
        max_epochs: int | None = None,
        show: str = "val/accuracy",
    ) -> None:
        between(0, 1, "(]", threshold=threshold)
        at_least(1, max_epochs=max_epochs)
        self.threshold, self.monitor, self.max_epochs, self.show = threshold, monitor, max_epochs, show
        self.epochs = 0
        self.history: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts the epoch, and starts the next round or ends training."""
        accuracy = self._accuracy(trainer)
        data: Any = getattr(trainer, "datamodule", None)
        rounds = data if isinstance(data, InRounds) else None
        self.epochs += 1
        values = {"epochs": self.epochs}
        if rounds is not None:
            values |= {"number": rounds.round, "samples": rounds.samples_in(rounds.round)}
        for name, value in values.items():
            pl_module.log(f"round/{name}", float(value), rank_zero_only=True)
        if not round_over(accuracy, self.epochs, self.threshold, self.max_epochs):
            return
        entry = {key: float(value) for key, value in values.items()}
        if self.show in trainer.callback_metrics:
            entry["value"] = float(trainer.callback_metrics[self.show])
        self.history.append(entry)
        self.epochs = 0
        if rounds is None or not rounds.advance():
            trainer.should_stop = True

    def _accuracy(self, trainer: pl.Trainer) -> float:
        if self.monitor not in trainer.callback_metrics:
            near = get_close_matches(self.monitor, list(trainer.callback_metrics), n=1, cutoff=0.0)
            hint = f"; nearest: {near[0]}" if near else ""
            raise UserError(f"accuracy_threshold.monitor: {self.monitor!r} is not logged{hint}")
        logged = [m.meta for m in trainer.fit_loop.epoch_loop._results.values() if m.meta.name == self.monitor]
        if logged and not any(meta.on_epoch for meta in logged):
            raise UserError(
                f"accuracy_threshold.monitor: {self.monitor!r} is logged for single steps only; a mean over the epoch "
                "is needed: log it with on_epoch=True"
            )
        return float(trainer.callback_metrics[self.monitor])

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the rounds."""
        if self.history and "samples" in self.history[0]:
            log_figure(trainer, "rounds", rounds_figure(self.history, self.show))

    def state_dict(self) -> dict[str, Any]:
        """Returns the epochs of this round, and the finished rounds."""
        return {"epochs": self.epochs, "history": [dict(entry) for entry in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the counts."""
        self.epochs, self.history = state_dict["epochs"], [dict(entry) for entry in state_dict["history"]]
