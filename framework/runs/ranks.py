"""Makes an evaluation on several ranks return the same numbers as on one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler
from torchmetrics import Metric

from framework.data.loader import ExactLoader


class AsOneProcess(Callback):
    """Makes means and metrics over several ranks equal those of one process.

    - A mean that is logged with ``sync_dist=True`` is weighted by the samples of all ranks. Lightning divides the
      number of samples by the number of ranks and rounds it down.
    - In an evaluation a ``DistributedSampler``, Lightning's own or the user's, gives no sample twice.
    - A rank that would have one batch less than the others evaluates one more, with a sample that another rank has too:
      collective calls within a step need the same number of batches on each rank. The values that it logs for this
      batch, and its updates of the module's ``torchmetrics`` metrics, are not counted.

    Values that a module or a callback collects itself are not corrected: it sees all batches, and has to combine the
    ranks' values itself. If each rank logs a mean at the end of its epoch, all ranks have the same weight in the
    average. Values of single steps (``on_step``) are means over ranks too. A batch sampler that drops an incomplete
    last batch drops it on each rank.
    """

    def __init__(self) -> None:
        self._wrapped: list[tuple[Any, str]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wraps the loops and the strategy of this trainer."""
        self._release()
        if trainer.world_size == 1:
            return
        self._wrap(trainer.strategy, "reduce", _exact(trainer.strategy.reduce))
        loops: tuple[Any, ...] = (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop)
        for loop in loops:
            self._wrap(loop, "setup_data", self._without_repeats(loop, loop.setup_data))
            self._wrap(loop, "_evaluation_step", self._counted(pl_module, loop, loop._evaluation_step))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restores the trainer."""
        self._release()

    def _wrap(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        setattr(owner, name, function)
        self._wrapped.append((owner, name))

    def _release(self) -> None:
        for owner, name in self._wrapped:
            vars(owner).pop(name, None)
        self._wrapped = []

    @staticmethod
    def _without_repeats(loop: Any, make: Callable[[], None]) -> Callable[[], None]:
        def setup_data() -> None:
            make()
            for loader in () if loop._combined_loader is None else loop._combined_loader.flattened:
                if (sampler := _repeating(loader)) is not None and not _is_short(loader, sampler):
                    sampler.num_samples = own_samples(sampler)
                    sampler.total_size = len(sampler.dataset)  # type: ignore[arg-type]

        return setup_data

    @staticmethod
    def _counted(module: LightningModule, loop: Any, step: Callable[..., None]) -> Callable[..., None]:
        def evaluation_step(batch: Any, batch_idx: int, dataloader_idx: int, dataloader_iter: Any) -> None:
            if not (loop._is_sequential and fills_up(loop._combined_loader.flattened[dataloader_idx], batch_idx)):
                step(batch, batch_idx, dataloader_idx, dataloader_iter)
                return
            before = {id(metric): _states(metric) for metric in _metrics(module, loop)}
            step(batch, batch_idx, dataloader_idx, dataloader_iter)
            for metric in _metrics(module, loop):
                # a value logged for the first time is reset to its defaults; it stays registered, as on the other ranks
                _put_back(metric, before.get(id(metric), metric._defaults))

        return evaluation_step


def _exact(reduce: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a strategy's ``reduce`` whose mean of integers is not rounded."""

    def exact(tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        if isinstance(tensor, Tensor) and not tensor.is_floating_point() and reduce_op in ("mean", "avg"):
            tensor = tensor.to(torch.get_default_dtype())
        return reduce(tensor, group, reduce_op)

    return exact


def fills_up(loader: Any, position: int) -> bool:
    """Returns whether this rank's batch at a position only repeats another rank's sample, to have as many batches."""
    if isinstance(loader, ExactLoader):
        return loader.fills_up(position)
    sampler = _repeating(loader)
    return sampler is not None and position * _batch_size(loader) >= own_samples(sampler)


def own_samples(sampler: DistributedSampler) -> int:
    """Returns the number of samples of a sampler's rank, without repeated ones."""
    return len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))  # type: ignore[arg-type]


def _repeating(loader: Any) -> DistributedSampler | None:
    """Returns the loader's sampler if it is of a known class that may repeat samples."""
    if not isinstance(loader, DataLoader) or getattr(loader.batch_sampler, "drop_last", False):
        return None
    sampler: Any = getattr(loader.batch_sampler, "sampler", loader.sampler)
    known = type(sampler) in (DistributedSampler, DistributedSamplerWrapper)
    return sampler if known and not sampler.drop_last else None


def _batch_size(loader: Any) -> int:
    return getattr(loader.batch_sampler, "batch_size", None) or 1


def _is_short(loader: Any, sampler: DistributedSampler) -> bool:
    """Returns whether the rank has one batch less than others without a repeated sample."""
    size, most = _batch_size(loader), -(-len(sampler.dataset) // sampler.num_replicas)  # type: ignore[arg-type]
    return -(-own_samples(sampler) // size) < -(-most // size)


def _metrics(module: LightningModule, loop: Any) -> list[Metric]:
    return [*(part for part in module.modules() if isinstance(part, Metric)), *loop._results.values()]


def _states(metric: Metric) -> dict[str, Any]:
    values = {name: getattr(metric, name) for name in metric._defaults}
    return {name: list(value) if isinstance(value, list) else value.clone() for name, value in values.items()}


def _put_back(metric: Metric, before: dict[str, Any]) -> None:
    """Undoes a metric's update but keeps its update count: every rank has to take part when metrics are reduced."""
    for name, value in before.items():
        if isinstance(value, list):  # an empty slice keeps the type, the dimensions and the length of the list
            value = [*value, *(part.reshape(-1, *part.shape[1:])[:0] for part in getattr(metric, name)[len(value) :])]
        else:
            value = value.clone().to(getattr(metric, name).device)
        setattr(metric, name, value)
    metric._computed = None
