"""The observer of the tangent kernel's split at the start of fine-tuning."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal, get_args

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from callbacks.ntk_split.split import Split, ntk_split, residual
from framework.editing import Context, Observer, ledger_of
from framework.figures import log_figure, new_figure
from framework.observing.linear_probe import batches_of, find_head, see
from framework.observing.probe import pair_of
from framework.settings import at_least, one_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Dtype = Literal["float64", "float32"]
DTYPES: dict[Dtype, torch.dtype] = {"float64": torch.float64, "float32": torch.float32}


def measures(split: Split, delta: Tensor) -> dict[str, float]:
    """Returns the FT ratio, both ranks and both norms of a split and δ (N, C)."""
    p, f = split.ranks()
    whole = split.finetune.shape[1] ** 0.5 * float(split.pretrain.norm())
    return {
        "ft_ratio": split.ft_ratio(delta),
        "rank_p": float(p),
        "rank_f": float(f),
        "norm_p": whole,
        "norm_f": float(split.finetune.norm()),
    }


def spectrum_figure(spectra: dict[str, Tensor]) -> Figure:
    """Draws the singular values of F in descending order, a line for each name."""
    figure = new_figure()
    axes = figure.axes[0]
    for name, values in spectra.items():
        shown = values[values > values[0] * 1e-18]
        axes.semilogy(range(1, len(shown) + 1), shown, label=name)
    axes.set(xlabel="index", ylabel="singular value of F")
    axes.legend(frameon=False, fontsize=8)
    return figure


class NTKSplit(Observer):
    """Logs the split of the tangent kernel at the start of fine-tuning.

    Args:
        head: Name of the last linear layer; found by default.
        points: Largest number of training examples.
        dtype: ``float64``, or ``float32`` if the ranks do not matter.
        chunk: Number of examples that are differentiated together.

    Raises:
        UserError: a setting is not accepted; there is no linear head (before training).
    """

    technique = "ntk_split"

    def __init__(self, head: str | None = None, points: int = 250, dtype: Dtype = "float64", chunk: int = 16) -> None:
        at_least(1, points=points, chunk=chunk)
        one_of(get_args(Dtype), dtype=dtype)
        self.head, self.points, self.dtype, self.chunk = head, points, dtype, chunk
        self.found: dict[str, float] = {}
        self.spectrum: Tensor | None = None
        self._layer = ""

    def check(self, model: nn.Module, context: Context) -> None:
        """Finds the head of the model as configured."""
        if not self._layer or not ledger_of(model).plans:
            self._layer = find_head(model, self.head, f"{self.name}.head")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measures once, when a part of the backbone is trained."""
        inside = {id(parameter) for parameter in pl_module.get_submodule(self._layer).parameters()}
        if self.found or not any(p.requires_grad and id(p) not in inside for p in pl_module.parameters()):
            return
        model = copy.deepcopy(pl_module).to(DTYPES[self.dtype])
        inputs, labels = self._points(trainer, pl_module)
        split = ntk_split(model, self._layer, inputs, chunk=self.chunk)
        logits = see(model, self._layer, [(inputs, labels)], f"{self.name}.head").logits
        self.found = measures(split, residual(logits, labels.cpu()))
        self.spectrum = torch.linalg.svdvals(split.finetune.flatten(2).flatten(0, 1))
        for name, value in self.found.items():
            pl_module.log(f"ntk_split/{name}", value, on_step=False, on_epoch=True, rank_zero_only=True)

    def _points(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> tuple[Tensor, Tensor]:
        """Returns inputs on the module's device, and labels."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        batch = next(iter(batches_of(data, "train", self.name, shuffled=True, size=self.points)))
        x, y = (part[: self.points] for part in pair_of(batch, self.name))
        x = x.to(DTYPES[self.dtype]) if x.is_floating_point() else x
        return x.to(pl_module.device), y

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the figure."""
        if self.spectrum is not None:
            log_figure(trainer, self.technique, spectrum_figure({"F": self.spectrum}))

    def state_dict(self) -> dict[str, Any]:
        """Returns the measurements."""
        return {"found": self.found, "spectrum": self.spectrum}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them, so that nothing is measured again."""
        self.found, self.spectrum = dict(state_dict["found"]), state_dict["spectrum"]
