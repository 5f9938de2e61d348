"""Trains many small perceptrons in parallel: their weights are stacked, and each uses its own order of the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Weights = list[tuple[Tensor, Tensor]]  # of each layer: (M, out, in) and (M, out)


def stack(nets: Sequence[nn.Module]) -> Weights:
    """Copies of the linear layers' weights and biases of M perceptrons of equal shape, stacked."""
    layers = [[part for part in net.modules() if isinstance(part, nn.Linear)] for net in nets]
    return [
        (torch.stack([p.weight.detach() for p in parts]), torch.stack([p.bias.detach() for p in parts]))
        for parts in zip(*layers, strict=True)
    ]


def unstack(weights: Weights, index: int, net: nn.Module) -> nn.Module:
    """Copies the weights of model ``index`` into ``net`` and returns it.

    Args:
        weights: Weights of M models.
        index: From 0 to M − 1.
        net: A perceptron of the same shape.
    """
    layers = [part for part in net.modules() if isinstance(part, nn.Linear)]
    with torch.no_grad():
        for (weight, bias), layer in zip(weights, layers, strict=True):
            layer.weight.copy_(weight[index])
            layer.bias.copy_(bias[index])
    return net


def rows_of(weights: Weights, index: Tensor) -> Weights:
    """Returns the models at ``index``."""
    return [(weight[index], bias[index]) for weight, bias in weights]


def mixed(shrink: Tensor, old: Weights, perturb: Tensor, new: Weights) -> Weights:
    """Returns ``shrink * old + perturb * new`` of each model.

    Args:
        shrink: Factors ``(M,)``.
        old: Weights of M models.
        perturb: Factors ``(M,)``.
        new: Weights of M models of the same shape.
    """
    return [
        (
            shrink[:, None, None] * w_old + perturb[:, None, None] * w_new,
            shrink[:, None] * b_old + perturb[:, None] * b_new,
        )
        for (w_old, b_old), (w_new, b_new) in zip(old, new, strict=True)
    ]


def forward(weights: Weights, x: Tensor) -> Tensor:
    """Maps ``(M, B, in)`` to logits ``(M, B, out)``, ReLU between the layers."""
    for index, (weight, bias) in enumerate(weights):
        x = torch.baddbmm(bias[:, None], F.relu(x) if index else x, weight.mT)
    return x


def predict(weights: Weights, x: Tensor) -> Tensor:
    """Logits ``(M, N, out)`` of the same inputs ``(N, in)`` for every model."""
    models = len(weights[0][0])
    with torch.no_grad():
        return torch.stack([forward(rows_of(weights, torch.tensor([m])), x[None])[0] for m in range(models)])


def train(
    weights: Weights,
    x: Tensor,
    y: Tensor,
    order: Callable[[int, int], Tensor],
    threshold: float = 0.99,
    max_epochs: int = 1000,
    batch_size: int = 128,
    lr: float = 1e-3,
) -> tuple[Weights, list[int], list[list[float]]]:
    """Trains each model with Adam (Kingma & Ba 2015, torch's defaults) until its accuracy in an epoch reaches a
    threshold.

    A model that has reached it is removed from the stack, so that it costs no more time and does not change.

    Args:
        weights: The initial weights; not changed.
        x: Inputs ``(N, in)``.
        y: Classes ``(N,)``.
        order: ``(model, epoch)`` to the rows of ``x`` that this model reads in this epoch, in order, ``(n,)``; n is
            equal for all models.
        threshold: Threshold of the accuracy on an epoch's training batches.
        max_epochs: Largest number of epochs of a model.
        batch_size: Number of samples in a batch; the last one of an epoch may be smaller.
        lr: Learning rate.

    Returns:
        The end, the epochs that each model took, and the mean loss of each of its epochs.
    """
    models = len(weights[0][0])
    end = [(weight.clone(), bias.clone()) for weight, bias in weights]
    epochs, losses = [max_epochs] * models, [[] for _ in range(models)]  # type: tuple[list[int], list[list[float]]]
    active = list(range(models))
    live = [tensor.clone().requires_grad_() for pair in weights for tensor in pair]
    first, second = [torch.zeros_like(t) for t in live], [torch.zeros_like(t) for t in live]
    step = 0
    for epoch in range(max_epochs):
        rows = torch.stack([order(model, epoch) for model in active])
        right = torch.zeros(len(active), dtype=torch.long)
        total = torch.zeros(len(active), dtype=torch.float64)
        for batch in rows.split(batch_size, dim=1):
            step += 1
            target = y[batch]
            logits = forward(list(zip(live[::2], live[1::2], strict=True)), x[batch])
            loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(target).mean(1)
            gradients = torch.autograd.grad(loss.sum(), live)
            with torch.no_grad():
                right += (logits.argmax(-1) == target).sum(1)
                total += loss.double() * batch.shape[1]
                _adam(live, gradients, first, second, step, lr)
        accuracy = right / rows.shape[1]
        done = (accuracy >= threshold) | (epoch + 1 == max_epochs)
        for place, model in enumerate(active):
            losses[model].append(float(total[place]) / rows.shape[1])
        if not done.any():
            continue
        for place in done.nonzero().flatten().tolist():
            epochs[active[place]] = epoch + 1
            for tensor, target_tensor in zip(live, [t for pair in end for t in pair], strict=True):
                target_tensor[active[place]] = tensor[place].detach()
        keep = (~done).nonzero().flatten()
        active = [active[place] for place in keep.tolist()]
        if not active:
            break
        live = [tensor.detach()[keep].requires_grad_() for tensor in live]
        first, second = [t[keep] for t in first], [t[keep] for t in second]
    return end, epochs, losses


def _adam(
    live: list[Tensor], gradients: Sequence[Tensor], first: list[Tensor], second: list[Tensor], step: int, lr: float
) -> None:
    """One step with β = (0.9, 0.999), ε = 1e-8, in place."""
    torch._foreach_lerp_(first, list(gradients), 0.1)
    torch._foreach_mul_(second, 0.999)
    torch._foreach_addcmul_(second, list(gradients), list(gradients), 0.001)
    roots = torch._foreach_sqrt(second)
    torch._foreach_div_(roots, math.sqrt(1 - 0.999**step))
    torch._foreach_add_(roots, 1e-8)
    torch._foreach_addcdiv_(live, first, roots, -lr / (1 - 0.9**step))
