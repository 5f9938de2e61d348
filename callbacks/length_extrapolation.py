"""Length extrapolation: the loss of a language model beyond the length that it was trained on.

When training ends, the validation's windows are joined, in their order, into sequences of the longest of ``lengths``
(for a stream of text that is the text itself), and the loss is measured at each position. Since a causal model's loss
at a position does not depend on later tokens, one pass is enough for all lengths. It writes
``length_extrapolation.json`` with the mean loss of the positions from T/2 to T for each length T, and a figure of the
loss against the position with the training length marked; the means are also logged as
``length_extrapolation/loss_<T>``.

It works with any module that maps ``input_ids`` (B, T) to logits and continues from a decoding state
(:class:`framework.protocols.Generates`), and a datamodule whose batches have ``input_ids``. It does not change the
model. Cost: a forward pass over ``sequences`` sequences of the longest length.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional as F

from framework.editing import Context, Observer
from framework.errors import UserError
from framework.figures import log_figure, new_figure
from framework.files import write_text
from framework.protocols import Generates
from framework.settings import at_least, not_empty

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def join_windows(batches: Any, length: int, sequences: int) -> tuple[Tensor, Tensor]:
    """Joins the rows of batches, in their order, into longer sequences.

    Args:
        batches: Mappings with ``input_ids`` (B, T), and ``targets`` (B, T) if they are not the next tokens.
        length: Length of the sequences.
        sequences: Largest number of sequences.

    Returns:
        Tokens and targets, each (N, length); N is smaller if there are too few batches, and may be 0.
    """
    inputs: list[Tensor] = []
    targets: list[Tensor] = []
    for batch in batches:
        tokens = batch["input_ids"]
        inputs.append(tokens.flatten())
        if "targets" in batch:
            targets.append(batch["targets"].flatten())
        if sum(map(len, inputs)) > length * sequences:
            break
    if not inputs:
        return torch.zeros(0, length, dtype=torch.long), torch.zeros(0, length, dtype=torch.long)
    stream = torch.cat(inputs)
    wanted = torch.cat(targets) if targets else torch.cat([stream[1:], stream.new_full((1,), -100)])
    n = min(sequences, len(stream) // length)
    return stream[: n * length].view(n, length), wanted[: n * length].view(n, length)


@torch.no_grad()
def loss_by_position(model: Any, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the summed loss at each position, and the number of sequences with a target there, each (T,) float64.

    Args:
        model: Maps tokens (1, T) to logits (1, T, V); sequences are processed one by one.
        tokens: (N, T).
        targets: (N, T), the target of each position; -100 for none.
    """
    total = torch.zeros(tokens.shape[1], dtype=torch.float64)
    for row, wanted in zip(tokens, targets, strict=True):
        losses = F.cross_entropy(model(row[None])[0].float(), wanted, ignore_index=-100, reduction="none")
        total += losses.double().cpu()
    return total, (targets != -100).sum(0).double().cpu()


def loss_between(total: Tensor, count: Tensor, start: int, end: int) -> float:
    """Returns the mean loss of some positions; NaN if there is no target.

    Args:
        total: (T,), from :func:`loss_by_position`.
        count: (T,), from the same.
        start: First position.
        end: Position after the last one.
    """
    return float(total[start:end].sum() / count[start:end].sum())


def extrapolation_figure(total: Tensor, count: Tensor, trained: int | None) -> Figure:
    """Draws the loss against the position, in growing bins, with the training length as a line.

    Args:
        total: (T,), from :func:`loss_by_position`.
        count: (T,), from the same.
        trained: Training length in tokens, or ``None``.
    """
    edges = np.unique(np.geomspace(1, len(total), 25).round().astype(int))
    losses = [loss_between(total, count, a, b) for a, b in pairwise(edges)]
    figure = new_figure()
    axes = figure.axes[0]
    axes.plot(np.sqrt(edges[:-1] * edges[1:]), losses, "o-", markersize=3)
    if trained is not None:
        axes.axvline(trained, color="0.5", linestyle=":", label=f"trained on {trained}")
        axes.legend(frameon=False)
    axes.set(xscale="log", xlabel="position [tokens]", ylabel="loss [nat]", title="beyond the training length")
    return figure


class LengthExtrapolation(Observer):
    """Measures the loss beyond the training length when training ends.

    Args:
        lengths: Lengths T in tokens.
        sequences: Largest number of sequences of the longest length.

    Raises:
        UserError: a setting is not accepted; at the start, the module is not a language model.
    """

    def __init__(self, lengths: Sequence[int] = (256, 512, 1024, 2048), sequences: int = 8) -> None:
        self.lengths = sorted(int(length) for length in lengths)
        not_empty(lengths=self.lengths)
        at_least(2, lengths=self.lengths)
        at_least(1, sequences=sequences)
        self.sequences = sequences

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module that is not a language model.

        Raises:
            UserError: it has no ``extend``.
        """
        if not isinstance(model, Generates):
            raise UserError(
                f"length_extrapolation: {type(model).__name__} is not a language model (it lacks the method extend)"
            )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures, writes, logs and draws."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        data = getattr(trainer, "datamodule", None)
        part = getattr(data, "val_set", None)
        if part is None or not isinstance(part[0], Mapping) or "input_ids" not in part[0]:
            rank_zero_warn("length_extrapolation: no validation data with input_ids; nothing is measured")
            return
        longest = self.lengths[-1]
        rows = ({name: value[None] for name, value in part[i].items()} for i in range(len(part)))
        tokens, targets = join_windows(rows, longest, self.sequences)
        if not len(tokens):
            rank_zero_warn(f"length_extrapolation: the validation data has fewer than {longest} tokens")
            return
        was_training = pl_module.training
        pl_module.eval()
        try:
            with trainer.precision_plugin.forward_context():
                device = pl_module.device
                total, count = loss_by_position(pl_module, tokens.to(device), targets.to(device))
        finally:
            pl_module.train(was_training)
        losses = {length: loss_between(total, count, length // 2, length) for length in self.lengths}
        trained = getattr(data, "length", None)
        told = {"trained_on": trained, "sequences": len(tokens), "loss": {str(n): loss for n, loss in losses.items()}}
        path = Path(trainer.default_root_dir) / "length_extrapolation.json"
        write_text(path, json.dumps(told, indent=2) + "\n")
        named = {f"length_extrapolation/loss_{length}": loss for length, loss in losses.items()}
        for logger in trainer.loggers:
            logger.log_metrics(named, step=trainer.global_step)
        log_figure(trainer, "length_extrapolation", extrapolation_figure(total, count, trained))
