"""The Jacobian of a network by its input: estimates of its norm, its centroid and how both are aligned with the input.

GrokAlign (Walker, Humayun, Balestriero, Baraniuk 2025, arXiv 2506.12284); the estimate of the norm by random
projections is that of Hoffman, Roberts & Yaida 2019, arXiv 1908.02729.

For f: R^d → R^C, J_x = ∂f/∂x is C x d. On samples that do not influence each other, one gradient gives J_xᵀ v for all
samples of a batch, with its own v for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from framework.settings import at_least, one_of

SMALLEST = 1e-8
"""The smallest squared norm whose root is taken; below it the gradient is 0."""

Power = Literal[1, 2]


def by_input(outputs: Tensor, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns v (B, C) ↦ Jᵀ v (B, …), which can be differentiated again.

    Args:
        outputs: f(x), (B, C).
        x: (B, …), with ``requires_grad``.
    """

    def product(along: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(outputs, x, along, create_graph=True)
        return found

    return product


def unit_vectors(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws a uniform unit vector for each sample: v ~ N(0, I), v / |v|.

    Args:
        like: (B, C); of its type and on its device.
        generator: A generator on the CPU; torch's own by default.
    """
    drawn = torch.randn(like.shape, generator=generator, dtype=torch.promote_types(like.dtype, torch.float32))
    return (drawn / drawn.norm(dim=1, keepdim=True)).to(like)


def _square(gradient: Tensor) -> Tensor:
    wide = gradient.flatten(1) if gradient.ndim > 1 else gradient[:, None]
    return wide.to(torch.promote_types(wide.dtype, torch.float32)).square().sum(1)


def jacobian_norms(
    outputs: Tensor,
    product: Callable[[Tensor], Tensor],
    projections: int = 1,
    power: Power = 1,
    exact: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """R(x) = sqrt(max(C/n Σ_i |J_xᵀ v_i|², 1e-8)) of each sample, or its square.

    C/n Σ|Jᵀ v|² is an unbiased estimate of |J|_F²; its root is smaller than |J|_F on average, unless C = 1.

    Args:
        outputs: f(x), (B, C).
        product: v (B, C) ↦ Jᵀ v (B, …), as :func:`by_input` returns it.
        projections: n, the number of gradients.
        power: 1, or 2 for R², which is not bounded below.
        exact: Whether |J_x|_F is computed from C gradients instead.
        generator: A generator on the CPU for the v.

    Returns:
        (B,), float32 or wider, with a graph.
    """
    classes = outputs.shape[1]
    if exact:
        rows = torch.eye(classes, dtype=outputs.dtype, device=outputs.device)
        total = torch.stack([_square(product(row.expand_as(outputs))) for row in rows]).sum(0)
    else:
        drawn = [_square(product(unit_vectors(outputs, generator))) for _ in range(projections)]
        total = torch.stack(drawn).sum(0) * (classes / projections)
    return total if power == 2 else total.clamp(min=SMALLEST).sqrt()


def grok_align(
    outputs: Tensor,
    product: Callable[[Tensor], Tensor] | Tensor,
    projections: int = 1,
    power: Power = 1,
    exact: bool = False,
    level: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The term of GrokAlign without its weight, a scalar: the mean of R(x) over the batch, or |level − mean|.

    In a loop of one's own::

        x = x.clone().requires_grad_()
        logits = net(x)
        (criterion(logits, y) + 1e-3 * grok_align(logits, x)).backward()

    Args:
        outputs: f(x), (B,) or (B, …); all outputs of a sample count.
        product: x itself, or v ↦ Jᵀ v.
        projections: Number of random projections of each sample.
        power: 1 (the authors' program) or 2.
        exact: Whether the norm is computed from as many gradients as there are outputs.
        level: Target of the mean norm; by default there is none, and the norm itself is the term.
        generator: A generator on the CPU for the projections; torch's own by default.

    Raises:
        UserError: a setting is not accepted.
    """
    check_grok_align(projections, power, level)
    flat = outputs[:, None] if outputs.ndim == 1 else outputs.flatten(1)
    mean = jacobian_norms(
        flat, by_input(flat, product) if isinstance(product, Tensor) else product, projections, power, exact, generator
    ).mean()
    return mean if level is None else (level - mean).abs()


def check_grok_align(projections: int, power: Power, level: float | None) -> None:
    """Checks settings.

    Args:
        projections: Number of random projections of each sample, at least 1.
        power: 1 or 2.
        level: Target of the mean norm, 0 or more, or ``None``.

    Raises:
        UserError: one is not accepted.
    """
    at_least(1, projections=projections)
    one_of((1, 2), power=power)
    at_least(0, level=level)


def jacobian(outputs: Tensor, x: Tensor) -> Tensor:
    """Returns J_x of each sample, (B, C, d), without a graph; C gradients.

    Args:
        outputs: f(x), (B, C), with a graph that stays.
        x: (B, …), d numbers per sample.
    """
    rows = [torch.autograd.grad(outputs[:, k].sum(), x, retain_graph=True)[0] for k in range(outputs.shape[1])]
    return torch.stack([row.reshape(len(x), -1) for row in rows], 1)


def centroid(outputs: Tensor, x: Tensor) -> Tensor:
    """Returns μ_x = J_xᵀ 1, the sum of the rows of J_x, (B, …) as ``x``, without a graph; one gradient.

    For a network that is affine on pieces μ_x parametrises the cell of the power diagram that x lies in.

    Args:
        outputs: f(x), (B, …), with a graph that stays.
        x: (B, …).
    """
    (found,) = torch.autograd.grad(outputs.sum(), x, retain_graph=True)
    return found


def alignment(mu: Tensor, x: Tensor) -> Tensor:
    """Returns ⟨μ, x⟩ / max(|μ| |x|, 1e-8) of each sample, (B,), between -1 and 1.

    Args:
        mu: Centroids (B, …).
        x: (B, …).
    """
    wide = torch.promote_types(mu.dtype, torch.float32)
    mu, x = mu.flatten(1).to(wide), x.flatten(1).to(wide)
    return (mu * x).sum(1) / (mu.norm(dim=1) * x.norm(dim=1)).clamp(min=SMALLEST)


def rank_one_share(matrices: Tensor) -> Tensor:
    """Returns σ₁² / Σ σ_j² of each matrix, from 1/rank to 1; NaN of zeros and of what is not finite.

    Args:
        matrices: (B, C, d).
    """
    wide = matrices.double()
    gram = wide @ wide.mT if wide.shape[1] <= wide.shape[2] else wide.mT @ wide
    finite = gram.isfinite().flatten(1).all(1)
    gram = gram.where(finite[:, None, None], 0.0)  # eigvalsh raises an error otherwise
    return torch.linalg.eigvalsh(gram)[:, -1] / gram.diagonal(dim1=1, dim2=2).sum(1)


def collapsed(norm: float, start: float, accuracy: float | None, outputs: int, share: float = 0.05) -> bool:
    """Whether a network has become nearly constant: its centroids have vanished, and it does not classify.

    A small |μ| alone is not enough: from a large initialisation it shrinks by orders of magnitude in good training.

    Args:
        norm: Mean |μ|.
        start: The same at the start.
        accuracy: From 0 to 1; ``None`` if it is not known, then |μ| decides.
        outputs: C; chance is 1/C, or 1/2 for one output.
        share: Of the start, below which |μ| is small.
    """
    return norm < share * start and (accuracy is None or accuracy <= 1 / max(2, outputs) + 0.1)


def sample_outputs(outputs: Any) -> Tensor:
    """Returns a network's output as (B, C): the tensor, its ``logits``, or the first of several, flattened."""
    given = getattr(outputs, "logits", outputs)
    found: Tensor = given[0] if isinstance(given, tuple | list) else given
    return found[:, None] if found.ndim == 1 else found.flatten(1)
