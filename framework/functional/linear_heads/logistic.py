"""Logistic regression by L-BFGS, with scikit-learn's objective ½ ‖W‖² + C Σ_i CE(y_i, W x_i + b)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.functional.linear_heads.rule import LinearRule
from framework.settings import above, at_least


def rows_of(classes: int) -> int:
    """Returns the number of weight vectors: one for two classes, as in scikit-learn."""
    return 1 if classes == 2 else classes


def logits_of(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """Returns x Wᵀ + b, or (0, w x + b) for a single row.

    Args:
        weight: (K, n), or (1, n) for two classes.
        bias: (K,) or (1,).
        x: (m, n).

    Returns:
        (m, K).
    """
    scores = torch.addmm(bias, x, weight.T)
    return torch.cat([torch.zeros_like(scores), scores], 1) if len(weight) == 1 else scores


def logistic_loss(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor, c: float, samples: int | None = None) -> Tensor:
    """Returns the objective divided by C m: the mean cross-entropy plus ‖W‖² / (2 C m).

    So the best learning rate does not depend on C and m.

    Args:
        weight: (K, n), or (1, n) for two classes.
        bias: (K,) or (1,); not in the penalty.
        x: (B, n).
        y: (B,) classes.
        c: C; infinite for no penalty.
        samples: m, if the batch is only a part of the samples; B by default.
    """
    penalty = weight.square().sum() / (2 * c * (samples or len(y)))
    return F.cross_entropy(logits_of(weight, bias, x), y) + penalty


def gradients(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor, c: float) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`logistic_loss` and its gradients with respect to weight and bias, without a graph.

    Args:
        weight: (K, n), or (1, n) for two classes.
        bias: (K,) or (1,).
        x: (m, n), all samples.
        y: (m,) classes.
        c: C; infinite for no penalty.

    Returns:
        The loss (), and gradients of the shapes of ``weight`` and ``bias``.
    """
    logits = logits_of(weight, bias, x)
    logs = logits.log_softmax(1)
    samples = len(y)
    loss = -logs.gather(1, y[:, None]).mean() + weight.square().sum() / (2 * c * samples)
    residual = logs.exp()
    residual[torch.arange(samples), y] -= 1
    if len(weight) == 1:
        residual = residual[:, 1:]
    residual /= samples
    return loss, residual.T @ x + weight / (c * samples), residual.sum(0)


def lbfgs(parameters: list[Tensor], max_iter: int, tolerance: float) -> torch.optim.LBFGS:
    """Returns an L-BFGS optimiser that runs the whole minimisation in one step.

    Args:
        parameters: The parameters.
        max_iter: Largest number of iterations.
        tolerance: It stops when the largest entry of the gradient is below this.
    """
    return torch.optim.LBFGS(
        parameters,
        max_iter=max_iter,
        history_size=10,
        tolerance_grad=tolerance,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )


def as_rule(weight: Tensor, bias: Tensor) -> LinearRule:
    """Returns the rule with K rows; a single row is split into two opposite halves."""
    if len(weight) == 1:
        return LinearRule(torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2)
    return LinearRule(weight, bias)


def fit_logistic(
    x: Tensor,
    y: Tensor,
    classes: int,
    c: float = 1.0,
    max_iter: int = 1000,
    tolerance: float = 1e-6,
    start: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Minimises the objective; in float64.

    Args:
        x: (m, n).
        y: (m,) classes.
        classes: K.
        c: C, the weight of the data.
        max_iter: Largest number of iterations of L-BFGS.
        tolerance: It stops when the largest entry of the mean loss's gradient is below this.
        start: Initial weight and bias; zeros by default.

    Returns:
        Weight (K, n) and bias (K,); for two classes (1, n) and (1,), see :func:`as_rule`.

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, c=c)
    at_least(2, classes=classes)
    at_least(1, max_iter=max_iter)
    at_least(0, tolerance=tolerance)
    x = x.double()
    rows = rows_of(classes)
    weight, bias = start if start is not None else (x.new_zeros(rows, x.shape[1]), x.new_zeros(rows))
    weight, bias = weight.clone(), bias.clone()
    optimizer = lbfgs([weight, bias], max_iter, tolerance)

    @torch.no_grad()
    def closure() -> float:
        loss, weight.grad, bias.grad = gradients(weight, bias, x, y, c)
        return float(loss)

    optimizer.step(closure)
    return weight, bias
