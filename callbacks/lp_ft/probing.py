"""The plain function: a linear probe in any training loop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from framework.observing.linear_probe import ProbeFit, find_head, fit_probe, scale_head, see, write_head


def probe(
    model: nn.Module,
    batches: Iterable[Any],
    head: str | None = None,
    Cs: int = 10,
    cv: int = 5,
    max_iter: int = 5000,
    head_scale: float = 1.0,
    seed: int = 0,
    key: str = "lp_ft",
) -> ProbeFit:
    """Fits the head of a model on its features by logistic regression, and writes it.

    Args:
        model: Any module whose output is that of a linear layer.
        batches: The training data, as inputs and labels; read once. Do not use validation data.
        head: Name of the layer; found by default.
        Cs: Number of regularisation strengths to try.
        cv: Number of folds of the cross-validation.
        max_iter: Largest number of iterations of the solver.
        head_scale: Factor on V after the fit.
        seed: Seed of the fit.
        key: Start of error messages.

    Returns:
        The fit, not scaled.

    Raises:
        UserError: there is no such head, the data does not fit it, or the model's output is not that of the head.
    """
    name = find_head(model, head, f"{key}.head")
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    seen = see(model, name, batches, f"{key}.head")
    has_bias = layer.bias is not None
    fit = fit_probe(
        seen.features, seen.labels, layer.out_features, Cs, cv, max_iter, bias=has_bias, seed=seed, key=f"{key}.cv"
    )
    write_head(layer, fit)
    scale_head(layer, head_scale)
    return fit
