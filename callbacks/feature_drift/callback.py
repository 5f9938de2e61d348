"""The observer of how far the features of a network drift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import lightning.pytorch as pl
from torch import Tensor, nn

from callbacks.feature_drift.measures import fisher_ratio, mean_cosine, mean_difference
from framework.editing import Context, Observer, ledger_of
from framework.figures import log_figure, new_figure
from framework.observing.linear_probe import batches_of, find_head, see
from framework.settings import at_least, one_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Part = Literal["val", "test"]
NAMES = {"cs": "cosine similarity", "diff": "‖φ − φ₀‖", "fdr": "Fisher ratio", "norm": "‖V‖"}


def drift_of(features: Tensor, start: Tensor, labels: Tensor, head: nn.Module) -> dict[str, float]:
    """Returns CS, Diff, FDR and Norm, as ``cs``, ``diff``, ``fdr`` and ``norm``.

    Args:
        features: (N, h).
        start: (N, h), features of the same examples before training.
        labels: (N,) int64.
        head: The head, with a ``weight``.
    """
    weight: Any = head.weight
    return {
        "cs": mean_cosine(features),
        "diff": mean_difference(features, start),
        "fdr": fisher_ratio(features, labels),
        "norm": float(weight.detach().norm()),
    }


def drift_figure(rows: list[dict[str, float]]) -> Figure:
    """Draws the four numbers over epochs."""
    figure = new_figure(2, 2, size=(8.0, 5.0))
    epochs = [row["epoch"] for row in rows]
    for axes, (name, text) in zip(figure.axes, NAMES.items(), strict=True):
        axes.plot(epochs, [row[name] for row in rows], "o-", markersize=3)
        axes.set(xlabel="epochs", ylabel=text)
        axes.ticklabel_format(useOffset=False)
    return figure


class FeatureDrift(Observer):
    """Logs and draws CS, Diff, FDR and Norm.

    Args:
        head: Name of the last linear layer; found by default.
        part: ``val`` or ``test``: the data whose features are used.
        points: Largest number of examples.

    Raises:
        UserError: a setting is not accepted; there is no linear head (before training), or no such data (at the start).
    """

    technique = "feature_drift"

    def __init__(self, head: str | None = None, part: Part = "val", points: int = 1000) -> None:
        one_of(get_args(Part), part=part)
        at_least(2, points=points)
        self.head, self.part, self.points = head, part, points
        self.rows: list[dict[str, float]] = []
        self.start: Tensor | None = None
        self._layer = ""

    def check(self, model: nn.Module, context: Context) -> None:
        """Finds the head of the model as configured."""
        if not self._layer or not ledger_of(model).plans:
            self._layer = find_head(model, self.head, f"{self.name}.head")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stores the features at the start."""
        if not self.rows:
            self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures and logs."""
        self._look(trainer, pl_module)
        for name in NAMES:
            pl_module.log(f"feature_drift/{name}", self.rows[-1][name], rank_zero_only=True)

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = batches_of(trainer.datamodule, self.part, f"{self.name}.part")  # type: ignore[attr-defined]
        seen = see(pl_module, self._layer, data, f"{self.name}.head", self.points)
        if self.start is None or self.start.shape != seen.features.shape:
            self.start = seen.features
        epoch = len(self.rows) and trainer.current_epoch + 1
        head = pl_module.get_submodule(self._layer)
        self.rows.append({"epoch": float(epoch), **drift_of(seen.features, self.start, seen.labels, head)})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the figure."""
        log_figure(trainer, self.technique, drift_figure(self.rows))

    def state_dict(self) -> dict[str, Any]:
        """Returns the measurements so far, and the features at the start."""
        return {"rows": self.rows, "start": self.start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self.rows, self.start = list(state_dict["rows"]), state_dict["start"]
