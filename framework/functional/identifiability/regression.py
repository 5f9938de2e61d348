"""How well sets of latents are predicted from estimates of other sets: the set-wise R².

Paper: Zheng, Li, Fan, Wilson, Zhang, 2026, "Diverse Dictionary Learning", ICLR, arXiv 2604.17568.

For two groups of observations the R² of four predictions that Definition 5 forbids, and of one for comparison:

    Int   z of I_K ∩ I_V from ẑ of I_K △ I_V        Comp A   z of I_K \\ I_V from ẑ of I_V \\ I_K
    Sym   z of I_K △ I_V from ẑ of I_K ∩ I_V        Comp B   z of I_V \\ I_K from ẑ of I_K \\ I_V
    Ref   all z from all ẑ

with the estimates matched to the latents. Lower is better but for Ref. Of a latent that is constant there is nothing to
predict, so it is left out. The regressor is kernel ridge regression with a
Gaussian kernel (the paper's is not known).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from framework.errors import UserError
from framework.functional.identifiability.matching import correlations, match
from framework.functional.identifiability.sets import set_parts
from framework.functional.identifiability.splits import OverSplits, halves, paired, summary
from framework.settings import brief

RIDGES = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
HELD_OUT = 1 / 3  # of the samples to fit to, by which the ridge is chosen


@dataclass(frozen=True)
class SetR2:
    """Set-wise R² over splits; ``None`` where a set is empty or has no latent that varies.

    Attributes:
        intersection: Int.
        symmetric: Sym.
        only_k: Comp A.
        only_v: Comp B.
        reference: Ref.
    """

    intersection: OverSplits | None
    symmetric: OverSplits | None
    only_k: OverSplits | None
    only_v: OverSplits | None
    reference: OverSplits

    def forbidden(self) -> float:
        """Returns the mean of the forbidden predictions that are defined; NaN without any."""
        parts = (self.intersection, self.symmetric, self.only_k, self.only_v)
        means = [part.mean for part in parts if part is not None]
        return float(np.mean(means)) if means else float("nan")

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for a JSON file."""
        return {name: None if part is None else part.as_dict() for name, part in vars(self).items()}


def kernel_r2(
    inputs: np.ndarray, targets: np.ndarray, held_inputs: np.ndarray, held_targets: np.ndarray, seed: int = 0
) -> float:
    """Returns the mean R² of targets on held-out samples, predicted by kernel ridge regression.

    Inputs are standardised, the Gaussian kernel is exp(-|x - y|² / p); the ridge is chosen on a third of the samples to
    fit to. A score below 0 means that the mean predicts better.

    Args:
        inputs: (n, p), to fit to.
        targets: (n, q).
        held_inputs: (m, p), to score on.
        held_targets: (m, q).
        seed: Of the third.
    """
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.metrics import r2_score

    mean, scale = inputs.mean(0), inputs.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    x, held = (inputs - mean) / scale, (held_inputs - mean) / scale
    centre = targets.mean(0)
    y = targets - centre
    order = np.random.default_rng(seed).permutation(len(x))
    cut = max(1, int(len(x) * HELD_OUT))
    choose, fit = order[:cut], order[cut:]

    def predicted(ridge: float, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():  # of a nearly singular kernel, which the ridge is there for
            warnings.simplefilter("ignore")
            model = KernelRidge(alpha=ridge, kernel="rbf", gamma=1 / x.shape[1])
            found: np.ndarray = model.fit(x[rows], y[rows]).predict(at)
        return found

    errors = {ridge: float(np.square(predicted(ridge, fit, x[choose]) - y[choose]).sum()) for ridge in RIDGES}
    best = min(errors, key=lambda ridge: errors[ridge])
    every = np.arange(len(x))
    return float(r2_score(held_targets - centre, predicted(best, every, held)))


def set_r2(
    z_true: Any,
    z_hat: Any,
    support: np.ndarray,
    k: Iterable[int],
    v: Iterable[int],
    permutation: np.ndarray | None = None,
    splits: int = 3,
    most: int = 600,
    seed: int = 0,
) -> SetR2:
    """Returns the set-wise R² of two groups of observations, fitted and scored on disjoint samples.

    Args:
        z_true: True latents (N, d).
        z_hat: Estimates (N, d).
        support: The true support (D, d).
        k: Indices of the observations of K.
        v: Indices of those of V.
        permutation: The estimate of each latent, (d,); by default it is matched on the samples to fit to.
        splits: Number of random splits.
        most: Largest number of samples to fit to, and to score on; the cost is cubic in it.
        seed: Of the splits.

    Raises:
        UserError: the numbers of latents differ, no latent varies, or ``permutation`` is none.
    """
    true, hat = paired(z_true, z_hat)
    latents = true.shape[1]
    if hat.shape[1] != latents or np.shape(support)[1] != latents:
        raise UserError(
            f"z_hat: {hat.shape[1]} estimates are not accepted; as many as latents ({latents}) and columns of the "
            f"support ({np.shape(support)[1]}) are needed"
        )
    if permutation is not None and sorted(np.asarray(permutation).tolist()) != list(range(latents)):
        raise UserError(f"permutation: {brief(permutation)} is not accepted; each of 0 to {latents - 1} once")
    varies = np.flatnonzero(true.min(0) < true.max(0)).tolist()
    if not varies:
        raise UserError("z_true: no latent varies")
    parts = set_parts(support, k, v)
    every = tuple(range(latents))
    tasks = {
        "intersection": (parts.intersection, parts.symmetric),
        "symmetric": (parts.symmetric, parts.intersection),
        "only_k": (parts.only_k, parts.only_v),
        "only_v": (parts.only_v, parts.only_k),
        "reference": (every, every),
    }
    values: dict[str, list[float]] = {name: [] for name in tasks}
    for fit, score in halves(len(true), splits, seed, most):
        order = match(correlations(true[fit], hat[fit])) if permutation is None else np.asarray(permutation)
        for name, (latents_of_set, sources) in tasks.items():
            targets = [i for i in latents_of_set if i in varies]
            if targets and sources:
                inputs, wanted = hat[:, order[list(sources)]], true[:, targets]
                values[name].append(kernel_r2(inputs[fit], wanted[fit], inputs[score], wanted[score], seed))
    found = {name: summary(scores) if scores else None for name, scores in values.items()}
    reference = found.pop("reference")
    assert reference is not None
    return SetR2(reference=reference, **found)
