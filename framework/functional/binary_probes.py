"""Linear probes of binary labels: one L2-regularised logistic regression for each label.

As in "Differential privacy representation geometry for medical image analysis" (Tayebi Arasteh et al. 2026,
arXiv 2603.01098).

    min over w, b of  (|w|² + b²) / 2 + C Σ_i log(1 + exp(-s_i (w·z_i + b))),  s_i = ±1

This is liblinear's objective, as ``OneVsRestClassifier(LogisticRegression(C=C, solver="liblinear"))`` minimises it: the
intercept is penalised too. ``liblinear`` is scikit-learn's own; ``newton`` minimises the same by Newton's method, to
rounding, in time N D² for a step of which it needs about ten: faster for many samples.
"""

from __future__ import annotations

import warnings
from typing import Literal, get_args

import numpy as np
import torch

from framework.errors import UserError
from framework.settings import above, at_least, one_of

Solver = Literal["auto", "liblinear", "newton"]
_LARGE = 2**21  # numbers in the embeddings from which ``auto`` takes Newton's method


def fit_binary_probes(
    features: np.ndarray,
    labels: np.ndarray,
    strength: float = 1.0,
    solver: Solver = "auto",
    max_iter: int = 2000,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns weights (K, D) and intercepts (K,), float64.

    A label that has one class gets zeros.

    Args:
        features: Embeddings (N, D).
        labels: (N, K) of 0 and 1.
        strength: C, the inverse of the regularisation.
        solver: ``liblinear``, ``newton``, or ``auto``: Newton's method for two million numbers and more.
        max_iter: Largest number of iterations.

    Raises:
        UserError: a setting is not accepted, the numbers of samples differ, or the features are not finite.
    """
    above(0, strength=strength)
    one_of(get_args(Solver), solver=solver)
    at_least(1, max_iter=max_iter)
    if len(features) != len(labels):
        raise UserError(f"labels: {len(labels)} samples for {len(features)} embeddings")
    if not np.isfinite(features).all():
        raise UserError("the features are not finite, so no probe can be fitted")
    if solver == "auto":
        solver = "newton" if features.size >= _LARGE else "liblinear"
    fit = _newton if solver == "newton" else _liblinear
    weight, bias = np.zeros((labels.shape[1], features.shape[1])), np.zeros(labels.shape[1])
    for label in range(labels.shape[1]):
        positive = labels[:, label] == 1
        if positive.any() and not positive.all():
            weight[label], bias[label] = fit(features, positive, strength, max_iter)
    return weight, bias


def _liblinear(x: np.ndarray, positive: np.ndarray, strength: float, max_iter: int) -> tuple[np.ndarray, float]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=strength, solver="liblinear", max_iter=max_iter, random_state=0)
        model.fit(x, positive)
    return model.coef_[0], float(model.intercept_[0])


def _newton(x: np.ndarray, positive: np.ndarray, strength: float, max_iter: int) -> tuple[np.ndarray, float]:
    z = torch.as_tensor(x, dtype=torch.float64)
    z = torch.cat([z, torch.ones(len(z), 1, dtype=torch.float64)], 1)
    target = torch.as_tensor(positive, dtype=torch.float64)
    beta = torch.zeros(z.shape[1], dtype=torch.float64)

    def objective(value: torch.Tensor, margin: torch.Tensor) -> float:
        losses = torch.nn.functional.softplus(margin) - target * margin
        return float(value.square().sum() / 2 + strength * losses.sum())

    margin = z @ beta
    current = objective(beta, margin)
    for _ in range(max_iter):
        probability = margin.sigmoid()
        gradient = beta + strength * (z.T @ (probability - target))
        curvature = strength * probability * (1 - probability)
        hessian = (z.T * curvature) @ z
        hessian.diagonal().add_(1.0)
        step = torch.cholesky_solve(gradient[:, None], torch.linalg.cholesky(hessian))[:, 0]
        decrease = float(gradient @ step)
        if decrease <= 1e-14 * max(1.0, abs(current)):
            break
        along, size = z @ step, 1.0
        while size > 1e-10:
            following = objective(beta - size * step, margin - size * along)
            if following <= current - 1e-4 * size * decrease:
                break
            size /= 2
        else:
            break  # no further decrease than rounding
        beta, margin, current = beta - size * step, margin - size * along, following
    return beta[:-1].numpy(), float(beta[-1])
