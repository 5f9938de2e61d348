"""What is evaluated on several ranks gives the numbers of one process."""

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
    """Makes means and metrics over several ranks those that one process finds.

    - A mean that is logged with ``sync_dist=True`` is weighted by the samples of all ranks. Lightning divides the
      number of samples by the number of ranks and rounds it down.
    - In an evaluation a ``DistributedSampler``, Lightning's own or the user's, gives no sample twice.
    - Where a rank would have a batch less than the others it evaluates one more, of a sample that another rank has
      too: collective calls within a step need as many batches on each. Its logged values, and what it adds to the
      metrics (of ``torchmetrics``) of the module, are counted out.

    What a module or a callback collects by itself is its own: it sees all batches, and adds up what the ranks have.
    An average of means that each rank logs at the end of its epoch weighs ranks alike. Values of single steps
    (``on_step``) are means over ranks too. A batch sampler that leaves out an incomplete last batch leaves it out on
    each rank.
    """

    def __init__(self) -> None:
        self._wrapped: list[tuple[Any, str]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Looks into the trainer's loops, on this trainer only."""
        self._release()
        if trainer.world_size == 1:
            return
        self._wrap(trainer.strategy, "reduce", _exact(trainer.strategy.reduce))
        loops: tuple[Any, ...] = (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop)
        for loop in loops:
            self._wrap(loop, "setup_data", self._without_repeats(loop, loop.setup_data))
            self._wrap(loop, "_evaluation_step", self._counted(pl_module, loop, loop._evaluation_step))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leaves the trainer as it was."""
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
                # what was logged for the first time starts from its defaults; that it was logged stays, as elsewhere
                _put_back(metric, before.get(id(metric), metric._defaults))

        return evaluation_step


def _exact(reduce: Callable[..., Any]) -> Callable[..., Any]:
    """A strategy's ``reduce`` whose mean of whole numbers is not rounded."""

    def exact(tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        if isinstance(tensor, Tensor) and not tensor.is_floating_point() and reduce_op in ("mean", "avg"):
            tensor = tensor.to(torch.get_default_dtype())
        return reduce(tensor, group, reduce_op)

    return exact


def fills_up(loader: Any, position: int) -> bool:
    """Whether this rank's batch at a position only fills up the number of batches, with a sample of another rank."""
    if isinstance(loader, ExactLoader):
        return loader.fills_up(position)
    sampler = _repeating(loader)
    return sampler is not None and position * _batch_size(loader) >= own_samples(sampler)


def own_samples(sampler: DistributedSampler) -> int:
    """How many samples the rank of a sampler has if none is repeated."""
    return len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))  # type: ignore[arg-type]


def _repeating(loader: Any) -> DistributedSampler | None:
    """The sampler of a loader that may repeat samples, if it is of a kind that is known."""
    if not isinstance(loader, DataLoader) or getattr(loader.batch_sampler, "drop_last", False):
        return None
    sampler: Any = getattr(loader.batch_sampler, "sampler", loader.sampler)
    known = type(sampler) in (DistributedSampler, DistributedSamplerWrapper)
    return sampler if known and not sampler.drop_last else None


def _batch_size(loader: Any) -> int:
    return getattr(loader.batch_sampler, "batch_size", None) or 1


def _is_short(loader: Any, sampler: DistributedSampler) -> bool:
    """Whether the rank has a batch less than others without a repeated sample."""
    size, most = _batch_size(loader), -(-len(sampler.dataset) // sampler.num_replicas)  # type: ignore[arg-type]
    return -(-own_samples(sampler) // size) < -(-most // size)


def _metrics(module: LightningModule, loop: Any) -> list[Metric]:
    return [*(part for part in module.modules() if isinstance(part, Metric)), *loop._results.values()]


def _states(metric: Metric) -> dict[str, Any]:
    values = {name: getattr(metric, name) for name in metric._defaults}
    return {name: list(value) if isinstance(value, list) else value.clone() for name, value in values.items()}


def _put_back(metric: Metric, before: dict[str, Any]) -> None:
    """Undoes an update, but not that there was one: every rank has to take part where metrics are added up."""
    for name, value in before.items():
        if isinstance(value, list):  # an empty part of what came keeps type, dimensions and the number of parts
            value = [*value, *(part.reshape(-1, *part.shape[1:])[:0] for part in getattr(metric, name)[len(value) :])]
        else:
            value = value.clone().to(getattr(metric, name).device)
        setattr(metric, name, value)
    metric._computed = None
