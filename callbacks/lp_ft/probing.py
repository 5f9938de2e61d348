"""The plain function: a probed head in any training loop."""

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
        batches: The training data: inputs and labels each, read once. Validation data does not belong here.
        head: Name of the layer; found by default.
        Cs: Strengths of the regularisation that are tried.
        cv: Folds of the cross-validation.
        max_iter: Of the solver.
        head_scale: Multiplies V after the fit.
        seed: Of the fit.
        key: What errors begin with.

    Returns:
        The fit, not scaled.

    Raises:
        UserError: there is no such head, the data does not fit it, or the model's output is not the head's.
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
