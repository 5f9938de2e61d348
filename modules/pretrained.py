"""Pretraining on a first task before fine-tuning, or loading pretrained weights from a file."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.checkpoints.weights_file import read_weights_file
from framework.errors import UserError


def pretrain(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    epochs: int = 20,
    lr: float = 2e-3,
    weight_decay: float = 0.05,
    batch_size: int = 100,
    seed: int = 0,
) -> None:
    """Trains a classifier in place by AdamW on cross-entropy; the order of the samples is fixed by ``seed``.

    Args:
        model: Maps ``x`` to logits.
        x: Samples (N, …).
        y: Labels (N,).
        epochs: Passes over the samples.
        lr: Learning rate.
        weight_decay: Decoupled weight decay.
        batch_size: Number of samples in a step.
        seed: Seed of the order.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, fused=x.device.type == "cpu")
    generator = torch.Generator().manual_seed(seed)
    training = model.training
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    optimizer.zero_grad()
    model.train(training)


def load_network(network: nn.Module, path: str | Path) -> None:
    """Loads a state dict into ``network``, strictly.

    Raises:
        UserError: the file is missing, is not a state dict, or does not fit.
    """
    state, _ = read_weights_file(path, "model.pretrained")
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"model.pretrained: {path} does not fit the network: {error}") from error
