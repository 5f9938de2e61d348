"""Checks before the first batch that the data yields batches that can be trained on or evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.data import sized_len
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from framework.errors import UserError

_PARTS = {"fit": "train", "validate": "val", "test": "test", "predict": "predict"}


class Batches(Callback):
    """Refuses data without a batch, and batches of one sample if batch normalisation cannot train on them.

    The first is checked when the loaders are made, before training. The second depends on the input of the batch
    normalisation: one image has several values per channel, one row of features has one. So if an epoch has a batch of
    one sample, each layer's input is checked in the first training step, and training ends there, before a weight has
    changed.
    """

    def __init__(self) -> None:
        self._loops: list[Any] = []
        self._hooks: list[Any] = []
        self._samples: tuple[int, int] | None = None  # per batch and per epoch, if an epoch has a batch of one sample

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wraps the trainer's loops so that loaders are checked when they are made."""
        self._release()
        stage = str(getattr(stage, "value", stage))  # an enum of Lightning's
        loop = getattr(trainer, f"{stage}_loop")
        make: Callable[[], None] = loop.setup_data

        def setup_data() -> None:
            make()
            self._look(trainer, loop, stage)

        loop.setup_data = setup_data
        self._loops.append(loop)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restores the trainer."""
        self._release()

    def _release(self) -> None:
        for loop in self._loops:
            vars(loop).pop("setup_data", None)
        self._loops = []
        self._unhook()

    def _unhook(self, *_: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _look(self, trainer: Trainer, loop: Any, stage: str) -> None:
        part = _PARTS[stage]
        limit = getattr(trainer, f"limit_{part}_batches")
        if limit == 0:
            raise UserError(
                f"trainer.limit_{part}_batches: 0 is not accepted, it leaves nothing to {stage}; a whole number from "
                "1, or a share above 0 and at most 1.0"
            )
        if loop._combined_loader is None:
            return
        loaders = loop._combined_loader.flattened
        batches = loop.max_batches if stage == "fit" else sum(loop.max_batches)
        if batches == 0:
            raise UserError(next(filter(None, map(_why_empty, loaders)), f"data: there is no batch to {stage}"))
        if trainer.max_steps >= 0:  # with fewer steps the last batch is not reached
            batches = min(batches, trainer.max_steps * trainer.accumulate_grad_batches)
        self._samples = next(_with_one(loaders, batches), None) if stage == "fit" else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds hooks for the first step, if there is something to check."""
        self._unhook()
        if self._samples is None:
            return
        for name, layer in pl_module.named_modules():
            joined = isinstance(layer, nn.SyncBatchNorm) and trainer.world_size > 1
            if isinstance(layer, _BatchNorm) and not joined:
                self._hooks.append(layer.register_forward_pre_hook(self._check(name, *self._samples)))

    def on_train_batch_end(self, *_: Any) -> None:
        """Removes the hooks: the first step was fine."""
        if self._hooks:
            self._unhook()

    def on_exception(self, *_: Any) -> None:
        """Removes the hooks."""
        self._unhook()

    @staticmethod
    def _check(name: str, batch: int, epoch: int) -> Callable[[nn.Module, Any], None]:
        def check(layer: Any, given: tuple[Any, ...]) -> None:
            if not given or not isinstance(given[0], Tensor) or given[0].ndim < 2:
                return
            values = given[0].numel() // max(1, given[0].shape[1])
            if (layer.training or layer.running_mean is None) and values <= batch:
                which = "each batch" if batch == 1 else "an epoch's last batch"
                raise UserError(
                    f"batch_size: {which} of {epoch} samples would have one sample, and {name} "
                    f"({type(layer).__name__}) cannot train on one value per channel; accepted: a batch_size above 1 "
                    "that does not leave a single one, or drop_last: true"
                )

        return check


def _why_empty(loader: Any) -> str | None:
    """Returns why a loader has no batch, as far as it is known."""
    samples = sized_len(getattr(loader, "dataset", None))
    if samples == 0:
        return "data: the data set is empty, 0 samples"
    size, share = _sizes(loader)
    if size and share is not None and _drops(loader):
        among = f"the {share} of {samples} samples that a rank has" if share != samples else f"{samples} samples"
        accepted = f"at most {share}, or drop_last: false" if share else "drop_last: false, or fewer ranks"
        return f"batch_size: {size} is not accepted, with drop_last it leaves no batch of {among}; {accepted}"
    return None


def _with_one(loaders: list[Any], batches: float) -> Iterator[tuple[int, int]]:
    """Yields the samples per batch and per epoch of each loader with a batch of one sample among its ``batches``."""
    for loader in loaders:
        size, share = _sizes(loader)
        if not size or not share or (_drops(loader) and size > 1):
            continue
        if size == 1 or (share % size == 1 and -(-share // size) <= batches):
            yield min(size, share), share


def _sizes(loader: Any) -> tuple[int | None, int | None]:
    """Returns the samples per batch, and of all batches of this rank."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    size = getattr(loader, "batch_size", None) or getattr(batch_sampler, "batch_size", None)
    if (share := getattr(loader, "share_length", None)) is not None:  # an ExactLoader's
        return size, share(loader.ranks()[0])
    return size, sized_len(getattr(batch_sampler, "sampler", None))


def _drops(loader: Any) -> bool:
    return bool(getattr(loader, "drop_last", False) or getattr(loader.batch_sampler, "drop_last", False))
