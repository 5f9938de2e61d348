"""Throughput: the speed and memory of a language model's training and decoding, by length.

When training ends, three curves are written to ``throughput.json`` and a figure:

- tokens per second of forward and backward pass against the length of the sequence, at a constant number of tokens;
- bytes that the forward pass stores for the backward pass, per token;
- milliseconds per token of decoding, and bytes of the decoding state, against the position.

They are measured on random tokens, in the precision of the run. It works with any module that continues from a decoding
state (:class:`framework.protocols.Generates`) and does not change the model. Cost: some seconds with the default
lengths.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from framework.editing import Context, Observer
from framework.errors import UserError
from framework.figures import log_figure, new_figure
from framework.files import write_text
from framework.protocols import Generates
from framework.settings import at_least, not_empty

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _seconds(call: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Returns the shortest time of several calls, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def training_throughput(model: Any, lengths: list[int], tokens: int, repeats: int = 2) -> dict[str, list[float]]:
    """Returns tokens per second of forward and backward pass, and bytes stored per token, at each length.

    Args:
        model: Maps tokens (B, T) to logits (B, T, vocab_size), and has ``vocab_size``.
        lengths: Lengths T.
        tokens: Number of tokens B·T, at least one sequence.
        repeats: Number of passes; the fastest is used.

    Returns:
        ``tokens_per_second`` and ``kept_bytes_per_token``, one number per length.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = next(model.parameters()).device
    found: dict[str, list[float]] = {"tokens_per_second": [], "kept_bytes_per_token": []}
    for length in lengths:
        rows = max(1, tokens // length)
        batch = torch.randint(model.vocab_size, (rows, length), device=device)
        kept: dict[int, int] = {}

        def step(batch: Tensor = batch) -> None:
            torch.autograd.grad(model(batch).float().logsumexp(-1).mean(), parameters, allow_unused=True)

        def keep(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            step()
        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        total = sum(size for place, size in kept.items() if place not in own)
        found["tokens_per_second"].append(rows * length / _seconds(step, device, repeats))
        found["kept_bytes_per_token"].append(total / (rows * length))
    return found


@torch.no_grad()
def decoding_cost(model: Any, positions: list[int], steps: int = 8) -> dict[str, list[float]]:
    """Returns milliseconds per token and bytes of the state when decoding one sequence from each position.

    Args:
        model: A model with ``extend`` and ``vocab_size``.
        positions: Numbers of previous tokens.
        steps: Number of timed tokens; the fastest is used.
    """
    device = next(model.parameters()).device
    found: dict[str, list[float]] = {"milliseconds_per_token": [], "state_bytes": []}
    for position in positions:
        _, state = model.extend(torch.randint(model.vocab_size, (1, position), device=device))
        held = sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(state) if isinstance(leaf, Tensor))
        token = torch.randint(model.vocab_size, (1, 1), device=device)
        best = _seconds(lambda state=state, token=token: model.extend(token, state), device, steps)  # type: ignore[misc]
        found["milliseconds_per_token"].append(1000 * best)
        found["state_bytes"].append(held)
    return found


def throughput_figure(lengths: list[int], training: dict[str, list[float]], decoding: dict[str, list[float]]) -> Figure:
    """Draws the three curves.

    Args:
        lengths: Lengths in tokens.
        training: Values from :func:`training_throughput`.
        decoding: Values from :func:`decoding_cost`.
    """
    figure = new_figure(1, 3)
    panels = (
        ("training", "tokens per second", training["tokens_per_second"], "length [tokens]"),
        ("kept for the backward pass", "bytes per token", training["kept_bytes_per_token"], "length [tokens]"),
        ("decoding", "ms per token", decoding["milliseconds_per_token"], "position [tokens]"),
    )
    for axes, (title, unit, values, below) in zip(figure.axes, panels, strict=True):
        axes.plot(lengths, values, "o-", color="C0")
        axes.set(title=title, ylabel=unit, xlabel=below, xscale="log", ylim=(0, 1.25 * max(values)))
        axes.set_xticks(lengths, [str(length) for length in lengths])
        axes.minorticks_off()
    twin = figure.axes[-1].twinx()
    twin.plot(lengths, [size / 2**10 for size in decoding["state_bytes"]], "s--", color="C1")
    twin.set_ylim(bottom=0)
    twin.set_ylabel("state [KiB], dashed", color="C1")
    return figure


class Throughput(Observer):
    """Measures speed and memory against length when training ends.

    Args:
        lengths: Lengths in tokens.
        tokens: Number of tokens in a training batch, for all lengths.

    Raises:
        UserError: a setting is not accepted; at the start, the module has no decoding state.
    """

    def __init__(self, lengths: tuple[int, ...] = (256, 512, 1024, 2048), tokens: int = 4096) -> None:
        self.lengths = [int(length) for length in lengths]
        not_empty(lengths=self.lengths)
        at_least(1, lengths=self.lengths, tokens=tokens)
        self.tokens = tokens

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module that is not a language model.

        Raises:
            UserError: it has no ``extend``.
        """
        if not isinstance(model, Generates):
            raise UserError(f"throughput: {type(model).__name__} is not a language model (it lacks the method extend)")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures, writes and draws."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        with torch.random.fork_rng(), trainer.precision_plugin.forward_context():
            training = training_throughput(pl_module, self.lengths, self.tokens)
            decoding = decoding_cost(pl_module, self.lengths)
        path = Path(trainer.default_root_dir) / "throughput.json"
        write_text(path, json.dumps({"lengths": self.lengths, **training, **decoding}, indent=2) + "\n")
        log_figure(trainer, "throughput", throughput_figure(self.lengths, training, decoding))
