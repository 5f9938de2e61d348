"""Recovery report: how much replacing layers increased a model's loss, and how much of it training has recovered.

When layers replace others (:class:`framework.protocols.Replacement`, as after ``liger``, arXiv 2503.01496), three
losses on the validation data are compared: that of the model before (*base*), that right after, before any training
(*zero-shot*), and the current one. At each epoch's end ``val/recovery`` = (zero-shot − now) / (zero-shot − base) is
logged, with ``val/base_loss`` and ``val/zero_shot_loss``; and ``recovery/<layer>``, the mean squared difference between
a layer's output and that of the replaced layer for the same input with the current weights, divided by the latter's
mean square, on the first validation batch. At the end ``recovery.json`` and a figure are written to the run folder.

It works with language models whose batches are mappings with ``input_ids`` and optionally ``targets`` or ``labels``,
and does not change the model. Cost: two passes over the validation data when the layers are replaced, and one batch per
epoch.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.editing import Context, Observer, Plan
from framework.errors import UserError
from framework.figures import log_figure, new_figure
from framework.files import write_text
from framework.protocols import Replacement
from framework.settings import at_least

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def replaced(model: nn.Module) -> dict[str, Any]:
    """Returns the layers that replace others, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Replacement)}


@contextlib.contextmanager
def as_before(model: nn.Module) -> Iterator[None]:
    """A context manager in which these layers compute the output of the replaced ones."""
    layers = replaced(model).values()
    for layer in layers:
        layer.as_original = True
    try:
        yield
    finally:
        for layer in layers:
            layer.as_original = False


def losses(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the summed −ln p of a batch's next tokens, and their number.

    Args:
        model: Maps ``input_ids`` and an ``attention_mask`` to logits ``(B, T, vocabulary)``.
        batch: A batch with ``targets`` of each position; or ``labels``, by default ``input_ids``, of the next position.
    """
    logits = model(batch["input_ids"], batch.get("attention_mask")).float()
    targets = batch.get("targets")
    if targets is None:
        targets, logits = batch.get("labels", batch["input_ids"])[:, 1:], logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum"), (targets != -100).sum()


@torch.no_grad()
def output_errors(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, float]:
    """Returns each layer's relative squared error to the replaced layer's output for the same input."""
    found: dict[str, float] = {}
    handles = []
    for name, layer in replaced(model).items():

        def compare(layer: Any, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
            layer.as_original = True
            try:
                reference = _first(layer.forward(*args, **kwargs)).float()
            finally:
                layer.as_original = False
            error = (_first(output).float() - reference).square().mean() / reference.square().mean()
            found[name] = float(error)

        handles.append(layer.register_forward_hook(compare, with_kwargs=True))
    try:
        losses(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def recovery_figure(
    base: float, zero_shot: float, curve: list[tuple[int, float]], errors: Mapping[str, list[float]]
) -> Figure:
    """Draws the loss between base and zero-shot over the steps, and each layer's error before and now.

    Args:
        base: Loss before the replacement.
        zero_shot: Loss right after it.
        curve: Steps and losses after it.
        errors: Maps a layer to its error right after the replacement, and the current one.
    """
    figure = new_figure(columns=2, size=(10.0, 3.6))
    left, right = figure.axes
    left.plot(*zip(*curve, strict=True), "o-", color="C0", label="now")
    left.axhline(zero_shot, color="C3", linestyle="--", label="zero-shot")
    left.axhline(base, color="C2", linestyle="--", label="base")
    right.set(yscale="log")
    left.set(xlabel="optimiser step", ylabel="validation loss [nats]", title="what training brings back")
    left.legend(frameon=False)
    layers = range(len(errors))
    for index, name in enumerate(("zero-shot", "now")):
        right.bar([i + 0.4 * index - 0.2 for i in layers], [row[index] for row in errors.values()], 0.4, label=name)
    step = max(1, len(errors) // 16)
    right.set_xticks([*layers][::step], [str(i) for i in layers][::step])
    right.set(xlabel="layer", ylabel="relative squared error", title="output against the replaced layer's")
    right.legend(frameon=False)
    return figure


class RecoveryReport(Observer):
    """Measures the loss before and after layers are replaced, and how much of the gap training closes.

    Args:
        eval_batches: Largest number of validation batches for base and zero-shot; by default those of a validation.

    Raises:
        UserError: a setting is not accepted; when it measures, there is no validation data.
    """

    def __init__(self, eval_batches: int | None = None) -> None:
        at_least(1, eval_batches=eval_batches)
        self.eval_batches = eval_batches
        self._start: dict[str, Any] = {}
        self._curve: list[tuple[int, float]] = []

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a run in which no layer is ever replaced.

        Raises:
            UserError: no technique changes the structure, and no layer replaces another.
        """
        from framework.editing import Edit

        edits = [t for t in context.techniques.values() if isinstance(t, Edit) and "structure" in t.changes]
        if not edits and not replaced(model):
            raise UserError("recovery_report: no technique of this run replaces a layer; add one such as liger")

    def state_dict(self) -> dict[str, Any]:
        """Returns the measurements, which cannot be repeated later."""
        return {"start": self._start, "curve": [list(row) for row in self._curve]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self._start = state_dict["start"]
        self._curve = [(int(step), float(loss)) for step, loss in state_dict["curve"]]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures, if the layers were replaced before training."""
        self._measure(trainer, pl_module)

    def on_model_edit(self, trainer: pl.Trainer, pl_module: pl.LightningModule, plan: Plan) -> None:
        """Measures, if they were replaced by this edit."""
        self._measure(trainer, pl_module)

    def _measure(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._start or not replaced(module):
            return
        modes = [(part, part.training) for part in module.modules()]
        module.eval()
        with as_before(module):
            base = self._loss(trainer, module)
        zero_shot = self._loss(trainer, module)
        errors = self._errors(trainer, module)
        for part, mode in modes:
            part.training = mode
        self._start = {"base": base, "zero_shot": zero_shot, "errors": errors, "step": trainer.global_step}
        self._curve = [(trainer.global_step, zero_shot)]

    def _batches(self, trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[Any]:
        source: Any = getattr(trainer, "datamodule", None) or module
        loader = source.val_dataloader()
        loader = loader[0] if isinstance(loader, list) and loader else loader
        if not loader:
            raise UserError("recovery_report: there is no validation data to measure the losses on")
        limit: Any = trainer.limit_val_batches
        limit = limit if isinstance(limit, int) else max(1, int(limit * len(loader)))
        limit = min(limit, self.eval_batches or limit)
        for index, batch in enumerate(loader):
            if index >= limit:
                break
            yield trainer.strategy.batch_to_device(batch, module.device)

    @torch.no_grad()
    def _loss(self, trainer: pl.Trainer, module: pl.LightningModule) -> float:
        sums = torch.zeros(2, dtype=torch.float64, device=module.device)
        with trainer.precision_plugin.forward_context():
            for batch in self._batches(trainer, module):
                sums += torch.stack([value.double() for value in losses(module, batch)])
        sums = trainer.strategy.reduce(sums, reduce_op="sum")
        return float(sums[0] / sums[1])

    def _errors(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
        with trainer.precision_plugin.forward_context():
            found = output_errors(module, next(self._batches(trainer, module)))
        return {
            name: float(trainer.strategy.reduce(torch.tensor(value, device=module.device), reduce_op="mean"))
            for name, value in found.items()
        }

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stores the loss."""
        loss = trainer.callback_metrics.get("val/loss")
        if self._start and loss is not None and not trainer.sanity_checking:
            self._curve.append((trainer.global_step, float(loss)))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the recovered share of the gap, and the layers' errors."""
        if not self._start:
            return
        for name, value in {
            "recovery": self._recovered(),
            "base_loss": self._start["base"],
            "zero_shot_loss": self._start["zero_shot"],
        }.items():
            pl_module.log(f"val/{name}", value, rank_zero_only=True)
        modes = [(part, part.training) for part in pl_module.modules()]
        pl_module.eval()
        for name, error in self._errors(trainer, pl_module).items():
            pl_module.log(f"recovery/{name}", error, rank_zero_only=True)
        for part, mode in modes:
            part.training = mode

    def _recovered(self) -> float:
        base, zero_shot, now = self._start["base"], self._start["zero_shot"], self._curve[-1][1]
        return (zero_shot - now) / (zero_shot - base) if zero_shot != base else float("nan")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the report."""
        if not self._start or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        modes = [(part, part.training) for part in pl_module.modules()]
        pl_module.eval()
        now = self._errors(trainer, pl_module)
        for part, mode in modes:
            part.training = mode
        if not trainer.is_global_zero:
            return
        base, last = self._start["base"], self._curve[-1][1]
        errors = {name: [before, now[name]] for name, before in self._start["errors"].items() if name in now}
        report = {
            "base_loss": base,
            "zero_shot_loss": self._start["zero_shot"],
            "loss": last,
            "recovery": self._recovered(),
            "base_over_loss": base / last,
            "steps": self._curve[-1][0] - self._start["step"],
            "curve": self._curve,
            "output_errors": errors,
        }
        path = Path(trainer.default_root_dir) / "recovery.json"
        write_text(path, json.dumps(report, indent=1))
        log_figure(trainer, "recovery", recovery_figure(base, self._start["zero_shot"], self._curve, errors))
