"""Trains a small model in this process, with the order and the schedule of ``fit``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from framework.data.loader import ExactLoader
from framework.optim import OptimizerConfig, ScheduleConfig, build_optimizer, build_schedule


def train(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    dataset: Any,
    epochs: int,
    batch_size: int,
    optimizer: OptimizerConfig,
    schedule: ScheduleConfig,
    seed: int,
    after_epoch: Callable[[], Any] | None = None,
    trial: bool = False,
) -> list[Any]:
    """Trains ``model`` on a data set of ``(x, y)``; every process uses all of it and gets the same weights.

    Args:
        model: The model; trained in place and left in evaluation mode.
        loss: Returns the loss of a batch.
        dataset: Map-style data set that returns one or many samples for each call.
        epochs: Number of epochs.
        batch_size: Number of samples in a step.
        optimizer: Settings of the optimiser.
        schedule: Settings of the learning-rate schedule over these epochs.
        seed: Seed of the order and of augmentation.
        after_epoch: Called after each epoch, in evaluation mode.
        trial: Whether to end after one step.

    Returns:
        What ``after_epoch`` returned.
    """
    loader = ExactLoader(dataset, batch_size, shuffle=True, seed=seed, ranks=lambda: (1, 0))
    update = build_optimizer(model, optimizer)
    scheduler = build_schedule(update, schedule, epochs * len(loader), len(loader))
    results: list[Any] = []
    for epoch in range(epochs):
        model.train()
        loader.set_epoch(epoch)
        for x, y in loader:
            update.zero_grad()
            loss(x, y).backward()
            update.step()
            if scheduler is not None:
                scheduler.step()
            if trial:
                model.eval()
                return results
        model.eval()
        if after_epoch is not None:
            results.append(after_epoch())
    return results


@torch.no_grad()
def accuracy(model: Callable[[Tensor], Tensor], dataset: Any, batch_size: int = 512) -> float:
    """Share of a data set that is classified correctly; every process evaluates all of it.

    Args:
        model: Maps x to logits ``(B, classes)``.
        dataset: A data set of ``(x, y)``.
        batch_size: Samples at a time.
    """
    right = total = 0
    for x, y in ExactLoader(dataset, batch_size, seed=0, ranks=lambda: (1, 0)):
        right += int((model(x).argmax(-1) == y).sum())
        total += len(y)
    return right / total
