"""Temperature scaling: fits one temperature that calibrates a classifier's probabilities.

Paper: Guo et al. 2017, "On Calibration of Modern Neural Networks", ICML, arXiv 1706.04599; after fine-tuning: Tomihari,
Sato, 2024, NeurIPS, arXiv 2405.16747.

After each validation it fits the T that minimises the negative log-likelihood of softmax(f / T) on the validation data;
V/T and b/T in the head are equivalent (:func:`fold_temperature`). Predictions do not change. It logs
``temperature_scaling/temperature``, and ``nll``, ``ece``, ``mce`` (expected and maximum calibration error, equal bins
(lo, hi] of the largest probability) without T and, with the suffix ``_scaled``, with T; a test logs the same on its own
data, with the T of its checkpoint. At the end of training the reliability diagram is drawn and ``temperature.json`` is
written to the run folder.

It works with any module whose ``forward`` maps a batch's inputs to logits (B, C), and a datamodule; it does not change
the model. Cost: one more pass over the validation data each time. Without wrong predictions there is no optimum; T
stays above 0.001.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from framework.editing import Context, Observer
from framework.errors import UserError
from framework.figures import log_figure, new_figure
from framework.files import write_text
from framework.functional.calibration import calibration, fit_temperature, reliability
from framework.functional.evaluating import evaluating
from framework.observing.linear_probe import batches_of
from framework.observing.probe import pair_of
from framework.settings import at_least

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@torch.no_grad()
def fold_temperature(head: nn.Linear, temperature: float) -> None:
    """Divides a head's weight and bias by T, in place, so that its logits are f / T."""
    for parameter in head.parameters():
        parameter.div_(temperature)


def reliability_figure(logits: Tensor, labels: Tensor, temperature: float, bins: int = 15) -> Figure:
    """Draws accuracy over confidence, before and after scaling; the diagonal is perfect calibration.

    Args:
        logits: (N, C).
        labels: Classes (N,).
        temperature: T.
        bins: Number of bins of the confidence, of equal width.
    """
    figure = new_figure(1, 2, size=(8.0, 3.8))
    edges = np.linspace(0, 1, bins + 1)
    for axes, t, name in zip(figure.axes, (1.0, temperature), ("T = 1", f"T = {temperature:.3g}"), strict=True):
        share, _, right = reliability(logits, labels, t, bins).numpy().T
        axes.bar(edges[:-1], np.nan_to_num(right), 1 / bins, align="edge", color="C0", alpha=0.8, label="accuracy")
        axes.bar(edges[:-1], share, 1 / bins, align="edge", color="0.3", alpha=0.5, label="share of examples")
        axes.plot([0, 1], [0, 1], "--", color="0.3", linewidth=0.8)
        found = calibration(logits, labels, t, bins)
        axes.set(xlabel="confidence", xlim=(0, 1), ylim=(0, 1))
        axes.set_title(f"{name}: ECE {found.ece:.3f}, MCE {found.mce:.3f}")
    figure.axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    return figure


class TemperatureScaling(Observer):
    """Fits the temperature on the validation data and logs the calibration before and after.

    Args:
        bins: Number of bins of the calibration errors and the diagram.

    Raises:
        UserError: a setting is not accepted; the module's output is not logits of the labels (at the first validation).
    """

    technique = "temperature_scaling"

    def __init__(self, bins: int = 15) -> None:
        at_least(1, bins=bins)
        self.bins = bins
        self.temperature = 1.0
        self._seen: tuple[Tensor, Tensor] | None = None

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module that cannot be called on inputs.

        Raises:
            UserError: it has no ``forward``.
        """
        if type(model).forward is pl.LightningModule.forward:
            raise UserError(f"{self.name}: {type(model).__name__} has no forward, so it gives no logits")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fits T during training; measures in any validation."""
        if trainer.sanity_checking:
            return
        self._seen = self._logits(trainer, pl_module, "val")
        if trainer.state.fn == "fit":
            self.temperature = fit_temperature(*self._seen)
        self._log(pl_module, *self._seen, prefix="")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures with the T of the validation data."""
        self._log(pl_module, *self._logits(trainer, pl_module, "test"), prefix="test_")

    @torch.no_grad()
    def _logits(self, trainer: pl.Trainer, pl_module: pl.LightningModule, part: str) -> tuple[Tensor, Tensor]:
        """Returns logits and labels on the CPU."""
        parts = []
        data = batches_of(trainer.datamodule, part, self.name)  # type: ignore[attr-defined]
        with evaluating(pl_module):
            for batch in data:
                x, y = pair_of(batch, self.name)
                logits = pl_module(x.to(pl_module.device))
                if logits.ndim != 2 or y.shape != logits.shape[:1] or y.is_floating_point():
                    raise UserError(
                        f"{self.name}: {type(pl_module).__name__} gives {tuple(logits.shape)} for labels "
                        f"{tuple(y.shape)}; expected (B, C) for integers (B,)"
                    )
                parts.append((logits.float().cpu(), y.cpu()))
        logits, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return logits, labels

    def _measures(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        found = {"temperature": self.temperature}
        for t, suffix in ((1.0, ""), (self.temperature, "_scaled")):
            found |= {f"{k}{suffix}": v for k, v in asdict(calibration(logits, labels, t, self.bins)).items()}
        return found

    def _log(self, pl_module: pl.LightningModule, logits: Tensor, labels: Tensor, prefix: str) -> None:
        for name, value in self._measures(logits, labels).items():
            pl_module.log(f"temperature_scaling/{prefix}{name}", value, rank_zero_only=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws and writes the result of the last validation."""
        if self._seen is None or not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        log_figure(trainer, "reliability", reliability_figure(*self._seen, self.temperature, self.bins))
        path = Path(trainer.default_root_dir) / "temperature.json"
        write_text(path, json.dumps(self._measures(*self._seen), indent=1) + "\n")

    def state_dict(self) -> dict[str, Any]:
        """Returns T."""
        return {"temperature": self.temperature}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores T."""
        self.temperature = float(state_dict["temperature"])
