"""FLOPs: counts the floating-point operations of training and draws the accuracy against them.

Counted by ``torch.utils.flop_counter``: two per multiply-add of matrix products, convolutions and attention, forward
and backward; element-wise operations and the optimiser are not counted.

The first training step is counted, and the first one after each edit of the model; the FLOPs of other steps are
proportional to their samples. At the end of an epoch it logs ``train/flops``, the total so far over all processes. At
the end of training the last validation values of a metric are drawn against it, with a line at each edit of the model.

In any loop: :func:`step_flops`.

It works with everything and does not change the model. The count is saved in checkpoints, so a resumed run continues
it. Cost: one step of each structure takes about twice as long.

Limits: operations that torch's counter does not know, such as compiled graphs, are not counted; if FLOPs are not
proportional to the number of samples, steps are counted like the first one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from framework.editing import Observer, Plan
from framework.figures import log_figure, new_figure
from framework.settings import not_empty

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def step_flops(step: Callable[[], Any]) -> int:
    """Returns the FLOPs of a function, such as a forward and a backward pass.

    Args:
        step: The function; called once, its result is ignored.
    """
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def batch_samples(batch: Any) -> int:
    """Returns the samples in a batch: the length of the first tensor in it; 1 if there is none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    if isinstance(batch, dict):
        batch = list(batch.values())
    if isinstance(batch, list | tuple):
        return next((batch_samples(part) for part in batch if isinstance(part, Tensor | dict | list | tuple)), 1)
    return 1


def flops_figure(
    points: Sequence[tuple[float, float]], edits: Sequence[tuple[float, str]] = (), name: str = "val/accuracy"
) -> Figure:
    """Draws a metric against cumulative FLOPs.

    Args:
        points: (FLOPs so far, value), in order.
        edits: (FLOPs so far, label) of edits during training.
        name: Name of the metric.
    """
    figure = new_figure(size=(5.4, 3.6))
    axes = figure.axes[0]
    axes.plot([at for at, _ in points], [value for _, value in points], "o-", markersize=3)
    for at, label in edits:
        axes.axvline(at, color="0.6", linewidth=0.8, linestyle="--")
        axes.annotate(
            label,
            (at, 0.02),
            xycoords=("data", "axes fraction"),
            rotation=90,
            fontsize=7,
            color="0.4",
            ha="right",
            va="bottom",
        )
    axes.set(xlabel="training FLOPs so far", ylabel=name, xlim=(0, None))
    return figure


class Flops(Observer):
    """Counts the FLOPs of training.

    Args:
        monitor: Metric that is drawn against them, if it is logged.

    Raises:
        UserError: the metric has no name.
    """

    technique = "flops"

    def __init__(self, monitor: str = "val/accuracy") -> None:
        not_empty(monitor=monitor)
        self.monitor = monitor
        self.total = 0.0
        self.per_sample: float | None = None
        self.points: list[tuple[float, float]] = []
        self.edits: list[tuple[float, str]] = []
        self._counter: FlopCounterMode | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Counts this step if the structure is new."""
        self._stop()
        if self.per_sample is None:
            self._counter = FlopCounterMode(display=False)
            self._counter.__enter__()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds the step's FLOPs."""
        samples, counter = batch_samples(batch), self._counter
        self._stop()
        if counter is not None:
            self.per_sample = counter.get_total_flops() / max(1, samples)
        self.total += (self.per_sample or 0.0) * samples * trainer.world_size

    def _stop(self) -> None:
        if self._counter is not None:
            counter, self._counter = self._counter, None
            counter.__exit__(None, None, None)

    def on_model_edit(self, trainer: pl.Trainer, pl_module: pl.LightningModule, plan: Plan) -> None:
        """Makes the next step be counted."""
        self.per_sample = None
        action = plan.decision.get("action")
        self.edits.append((self.total, plan.name if action is None else f"{plan.name}: {action}"))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the count, and stores the metric."""
        pl_module.log("train/flops", self.total, rank_zero_only=True)
        if self.monitor in trainer.callback_metrics:
            self.points.append((self.total, float(trainer.callback_metrics[self.monitor])))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Stops the counter."""
        self._stop()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the metric against the count."""
        self._stop()
        if len(self.points) > 1:
            log_figure(trainer, "flops", flops_figure(self.points, self.edits, self.monitor))

    def state_dict(self) -> dict[str, Any]:
        """Returns the count so far."""
        pairs = {"points": [list(point) for point in self.points], "edits": [list(edit) for edit in self.edits]}
        return {"total": self.total, "per_sample": self.per_sample, **pairs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the count."""
        self.total, self.per_sample = state_dict["total"], state_dict["per_sample"]
        self.points = [(at, value) for at, value in state_dict["points"]]
        self.edits = [(at, label) for at, label in state_dict["edits"]]
