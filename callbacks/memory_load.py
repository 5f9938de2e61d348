"""Memory load: how often a router chooses each memory (or expert), and for which tokens.

During training it logs the smallest and the largest share of the routed tokens of any memory in any layer, and how
uniform the shares are (their entropy over ln M, 1 for equal shares, averaged over layers), as ``train/load_min``,
``train/load_max``, ``train/load_entropy`` for the batch of that step on the first process, and as ``val/…`` for the
whole validation. At the end of training it writes three figures and ``memory_load.json`` from the last validation:

- ``memory_load``: layers x memories, each memory's share of its layer's routed tokens (as Fig. 5 and 9 of MoM, Du et
  al. 2025, arXiv 2502.13685);
- ``memory_tokens``: the frequent tokens that are routed to each memory most reliably, as shares of a token's routes;
- ``memory_routing``: the weights of the memories along the first sequence.

It works with any module with routers (:class:`framework.protocols.HasRouters`) and does not change the model. Cost: a
count for each router and batch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from framework.editing import Context, Observer
from framework.errors import UserError
from framework.figures import log_figure, new_figure
from framework.files import write_text
from framework.protocols import HasRouters, Routing
from framework.settings import at_least

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Name = Callable[[int], str]


def load_shares(counts: Tensor) -> Tensor:
    """Returns counts (…, M) as shares of their sum; equal shares if nothing was counted."""
    total = counts.sum(-1, keepdim=True)
    return torch.where(total > 0, counts / total.clamp(min=1), 1 / counts.shape[-1])


def load_entropy(shares: Tensor) -> Tensor:
    """Returns the entropy of shares (…, M) over ln M: 1 for equal shares, 0 if one has everything (and for M = 1)."""
    return torch.special.entr(shares).sum(-1) / math.log(max(shares.shape[-1], 2))


def count_tokens(tokens: Tensor, selected: Tensor, vocab_size: int) -> Tensor:
    """Counts how often each token is routed to each memory.

    Args:
        tokens: (B, T) int64.
        selected: (B, T, M) boolean.
        vocab_size: V.

    Returns:
        (M, V) int64.
    """
    return torch.stack([torch.bincount(tokens[chosen], minlength=vocab_size) for chosen in selected.unbind(-1)])


def load_figure(shares: Mapping[str, list[float]]) -> Figure:
    """Draws a heat map of each memory's share, with one row per layer."""
    names = list(shares)
    memories = max(map(len, shares.values()))
    table = [row + [math.nan] * (memories - len(row)) for row in shares.values()]
    figure = new_figure(size=(1.6 + 0.8 * memories, 1.4 + 0.4 * len(names)))
    axes = figure.axes[0]
    image = axes.imshow(table, vmin=0, vmax=max(0.5, *(max(row) for row in shares.values())), aspect="auto")
    for i, row in enumerate(shares.values()):
        for j, share in enumerate(row):
            axes.text(j, i, f"{share:.2f}", ha="center", va="center", color="w" if share < 0.3 else "k", fontsize=7)
    axes.set_xticks(range(memories))
    axes.set_yticks(range(len(names)), labels=names, fontsize=7)
    axes.set(xlabel="memory", title="share of the routed tokens")
    figure.colorbar(image, ax=axes)
    return figure


def tokens_figure(counts: Mapping[str, Tensor], name: Name, top: int = 8, frequent: float = 0.002) -> Figure:
    """Draws the routes of each memory's most reliable tokens; one panel per layer, at most six layers.

    Args:
        counts: Maps a layer to its counts (M, V).
        name: Returns the name of a token.
        top: Number of tokens per memory.
        frequent: Only tokens with at least this share of all tokens are shown.
    """
    layers = list(counts)
    shown = [layers[round(i * (len(layers) - 1) / 5)] for i in range(6)] if len(layers) > 6 else layers
    figure = new_figure(1, len(shown), size=(2.4 * len(shown), 1.2 + 0.14 * top * len(counts[layers[0]])))
    for axes, layer in zip(figure.axes, shown, strict=True):
        table = counts[layer].double()
        total = table.sum(0)
        share = torch.where(total > frequent * total.sum(), table / total.clamp(min=1), 0)
        chosen: list[int] = []
        for memory, row in enumerate(share):  # each token under its most frequent memory
            own = torch.where(share.argmax(0) == memory, row, 0)
            chosen += [int(t) for t in own.topk(min(top, len(own))).indices if own[t] > 0]
        picture = share[:, chosen].T if chosen else torch.zeros(1, len(table))
        axes.imshow(picture.tolist(), vmin=0, vmax=float(share.max()) or 1.0, aspect="auto")
        labels = [name(token) for token in chosen]
        axes.set_yticks(range(len(labels)), labels=labels, fontsize=6, family="monospace")
        axes.set_xticks(range(len(table)))
        axes.set(title=layer, xlabel="memory")
    figure.suptitle("share of a token's routes that lead to each memory", fontsize=9)
    return figure


def routing_figure(weights: Mapping[str, Tensor], labels: list[str]) -> Figure:
    """Draws the weights of the memories along one sequence, with one panel per layer.

    Args:
        weights: Maps a layer to its weights (T, M).
        labels: Labels of the T tokens.
    """
    figure = new_figure(len(weights), 1, size=(1.5 + 0.11 * len(labels), 0.5 + 0.75 * len(weights)))
    for axes, (layer, table) in zip(figure.axes, weights.items(), strict=True):
        axes.imshow(table.T.tolist(), vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axes.set_yticks(range(table.shape[1]))
        axes.tick_params(labelsize=6)
        axes.set_ylabel(layer, fontsize=7)
        axes.set_xticks([])
    figure.axes[-1].set_xticks(range(len(labels)), labels=labels, fontsize=6, family="monospace")
    figure.suptitle("weight of each memory, token by token", fontsize=9)
    return figure


class MemoryLoad(Observer):
    """Logs and draws the loads of the routers.

    Args:
        top: Number of tokens shown per memory.
        tokens: Number of tokens of the first validation sequence whose routing is drawn.

    Raises:
        UserError: a setting is not accepted; at the start, the module has no routers.
    """

    def __init__(self, top: int = 8, tokens: int = 80) -> None:
        at_least(1, top=top, tokens=tokens)
        self.top, self.tokens = top, tokens
        self._handles: list[RemovableHandle] = []
        self._last: dict[str, Routing] = {}
        self._loads: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self._first: tuple[Tensor, dict[str, Tensor]] | None = None

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module without routers.

        Raises:
            UserError: the module has no routers.
        """
        if not isinstance(model, HasRouters) or not model.routers():
            raise UserError(f"memory_load: {type(model).__name__} has no routers")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Adds hooks to the routers."""
        assert isinstance(pl_module, HasRouters)
        for layer, router in pl_module.routers().items():
            self._handles.append(router.register_forward_hook(self._listener(layer)))

    def _listener(self, layer: str) -> Callable[[nn.Module, Any, Routing], None]:
        def listen(module: nn.Module, arguments: Any, routing: Routing) -> None:
            self._last[layer] = Routing(*(part.detach() for part in routing))

        return listen

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        """Logs the loads of this batch if the step is logged."""
        if self._last and getattr(pl_module, "records_step", True):
            loads = {layer: routing.selected.sum((0, 1)) for layer, routing in self._last.items()}
            self._log(pl_module, "train", loads)
        self._last.clear()

    def _log(self, pl_module: pl.LightningModule, part: str, loads: Mapping[str, Tensor]) -> None:
        shares = [load_shares(load) for load in loads.values()]
        values = {
            "min": torch.stack([share.min() for share in shares]).min(),
            "max": torch.stack([share.max() for share in shares]).max(),
            "entropy": torch.stack([load_entropy(share) for share in shares]).mean(),
        }
        for name, value in values.items():
            pl_module.log(f"{part}/load_{name}", value.float(), rank_zero_only=True)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Resets the counts."""
        self._loads, self._counts, self._first = {}, {}, None
        self._last.clear()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Adds the batch's loads and tokens."""
        tokens = batch.get("input_ids") if isinstance(batch, Mapping) else None
        for layer, routing in self._last.items():
            selected = routing.selected
            self._loads[layer] = self._loads.get(layer, 0) + selected.sum((0, 1)).cpu()
            if tokens is not None and tokens.shape == selected.shape[:2]:
                size = int(getattr(pl_module, "vocab_size", 0)) or int(tokens.max()) + 1
                counted = count_tokens(tokens, selected, size).cpu()
                self._counts[layer] = self._counts[layer] + counted if layer in self._counts else counted
        if self._first is None and tokens is not None and self._counts:
            start = {layer: routing.weights[0, : self.tokens].float().cpu() for layer, routing in self._last.items()}
            self._first = tokens[0, : self.tokens].cpu(), start
        self._last.clear()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sums over processes and logs."""
        if not self._loads:
            return
        for found in (self._loads, self._counts):
            for layer, counts in found.items():
                found[layer] = trainer.strategy.reduce(counts.to(pl_module.device), reduce_op="sum").cpu()  # type: ignore[union-attr]
        self._log(pl_module, "val", self._loads)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws, and writes the shares as JSON."""
        if not trainer.is_global_zero or trainer.fast_dev_run or not self._loads:  # type: ignore[attr-defined]
            return
        shares = {layer: load_shares(counts).tolist() for layer, counts in self._loads.items()}
        path = Path(trainer.default_root_dir) / "memory_load.json"
        write_text(path, json.dumps(shares, indent=2) + "\n")
        log_figure(trainer, "memory_load", load_figure(shares))
        name = token_name(getattr(getattr(trainer, "datamodule", None), "decode", None))
        if self._counts:
            log_figure(trainer, "memory_tokens", tokens_figure(self._counts, name, self.top))
        if self._first is not None:
            tokens, weights = self._first
            log_figure(trainer, "memory_routing", routing_figure(weights, [name(int(t)) for t in tokens]))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def token_name(decode: Callable[[list[int]], str] | None) -> Name:
    """Returns a token's label in a figure: its text with visible blanks, or its number if it is not text."""

    def name(token: int) -> str:
        text = decode([token]) if decode is not None else str(token)
        shown = text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥").replace("$", r"\$")
        return shown if shown.isprintable() and "�" not in shown and shown else f"#{token}"

    return name
