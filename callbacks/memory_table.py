"""Memory table: which rows of a memory layer's table are read in training, and with which scores.

A large table (UltraMemV2, arXiv 2508.18756) is useless if only few rows are read (collapse). Logged at the end of each
epoch for each memory layer, under ``memory_table/layer<i>/``, and averaged over layers, under ``memory_table/``:

- ``coverage``: share of the slots that were read at least once in the epoch's training;
- ``kl``: divergence of the reads from uniform use, Σ q log(q R) in nats; for H uniform random reads of R slots it is
  about (R − 1)/(2 H);
- ``top1`` and ``mean``: the largest and the mean score of the rows that a token reads, averaged over tokens.

At the end of training all four are drawn against the epoch, and the reads of the last epoch by rank.

In any loop: :func:`table_use`. Works on any model with layers that have ``slots`` and ``last_read``
(:class:`framework.protocols.ReadsTable`). It does not change the model; a resumed run continues the counts. Cost: one
addition per row read, and eight bytes per slot, also in checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from framework.editing import Context, Observer
from framework.errors import UserError
from framework.figures import log_figure, new_figure
from framework.protocols import ReadsTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("coverage", "kl", "top1", "mean")


def table_use(counts: Tensor) -> tuple[float, float]:
    """Returns the coverage, and the divergence from uniform use in nats, of read counts (R,)."""
    total = counts.sum()
    if total == 0:
        return 0.0, 0.0
    share = counts[counts > 0].double() / total
    return len(share) / len(counts), float((share * (share * len(counts)).log()).sum())


def table_figure(history: Mapping[str, Sequence[Sequence[float]]], counts: Sequence[Tensor]) -> Figure:
    """Draws the four numbers against the epoch, and reads by rank.

    Args:
        history: Maps a name to one list per epoch, with a value for each layer.
        counts: For each layer, the reads of each slot.
    """
    figure = new_figure(1, 5, size=(17, 3.2))
    for axes, name in zip(figure.axes, NAMES, strict=False):
        for layer in range(len(counts)):
            values = [epoch[layer] for epoch in history[name]]
            axes.plot(range(1, len(values) + 1), values, "o-", markersize=3, label=f"layer {layer}")
        axes.set(title=name, xlabel="epoch")
    ranks = figure.axes[4]
    for count in counts:
        ordered = count.sort(descending=True).values.double()
        ranks.plot(torch.arange(1, len(ordered) + 1), (ordered / ordered.sum() * len(ordered)).clamp(min=1e-3))
    ranks.axhline(1, color="0.6", linewidth=0.8, linestyle=":")
    ranks.set(xscale="log", yscale="log", xlabel="slot, by rank", title="last epoch: reads (1 = even use)")
    figure.axes[0].legend(frameon=False, fontsize=7)
    return figure


class MemoryTable(Observer):
    """Logs and draws how memory layers use their tables.

    Raises:
        UserError: at the start, the module has no layer that reads a table.
    """

    def __init__(self) -> None:
        self.counts: list[Tensor] = []
        self.sums: list[Tensor] = []  # per layer: sums of the largest and of the mean score, and tokens
        self.history: dict[str, list[list[float]]] = {name: [] for name in NAMES}
        self._handles: list[RemovableHandle] = []
        self._last: list[Tensor] = []

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module without a table.

        Raises:
            UserError: no layer reads a table.
        """
        if not _layers(model):
            raise UserError(f"memory_table: {type(model).__name__} has no layer that reads a table")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Adds hooks to the layers."""
        layers = _layers(pl_module)
        if len(self.counts) != len(layers):
            self.counts = [torch.zeros(layer.slots, dtype=torch.int64) for layer in layers]
            self.sums = [torch.zeros(3, dtype=torch.float64) for _ in layers]
        device = pl_module.device
        self.counts, self.sums = ([part.to(device) for part in parts] for parts in (self.counts, self.sums))
        self._handles = [layer.register_forward_hook(self._counter(index)) for index, layer in enumerate(layers)]

    def _counter(self, index: int) -> Callable[..., None]:
        def count(layer: Any, *_: Any) -> None:
            read = layer.last_read
            if not layer.training or read is None:
                return
            slots = read.slots.flatten()
            self.counts[index].scatter_add_(0, slots, torch.ones_like(slots))
            scores = read.scores.double()
            tokens = scores.new_tensor(float(len(scores)))
            self.sums[index] += torch.stack([scores.amax(1).sum(), scores.mean(1).sum(), tokens])

        return count

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the epoch, and resets the counts."""
        found: dict[str, list[float]] = {name: [] for name in NAMES}
        self._last = []
        for counts, sums in zip(self.counts, self.sums, strict=True):
            counts, sums = (trainer.strategy.reduce(part.clone(), reduce_op="sum") for part in (counts, sums))
            largest, mean, tokens = sums.tolist()
            numbers = (*table_use(counts), largest / max(1, tokens), mean / max(1, tokens))
            for name, value in zip(NAMES, numbers, strict=True):
                found[name].append(value)
            self._last.append(counts.cpu())
        for name, values in found.items():
            self.history[name].append(values)
            pl_module.log(f"memory_table/{name}", sum(values) / len(values), rank_zero_only=True)
            for index, value in enumerate(values):
                pl_module.log(f"memory_table/layer{index}/{name}", value, rank_zero_only=True)
        for part in (*self.counts, *self.sums):
            part.zero_()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the figure, and removes the hooks."""
        self._stop()
        if self._last:
            log_figure(trainer, "memory_table", table_figure(self.history, self._last))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Removes the hooks."""
        self._stop()

    def _stop(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def state_dict(self) -> dict[str, Any]:
        """Returns the counts of this epoch, and the earlier epochs."""
        copies = {name: [part.cpu().clone() for part in getattr(self, name)] for name in ("counts", "sums")}
        return {**copies, "history": {name: [list(epoch) for epoch in self.history[name]] for name in NAMES}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the counts."""
        self.counts, self.sums, self.history = state_dict["counts"], state_dict["sums"], state_dict["history"]


def _layers(model: nn.Module) -> list[Any]:
    """Returns the layers that read a table, in order."""
    return [module for module in model.modules() if isinstance(module, ReadsTable)]
