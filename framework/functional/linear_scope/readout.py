"""What a classifier's interpreter says: votes of pixels, and the share of the bias parameters (arXiv 1908.05168)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from framework.errors import UserError
from framework.functional.linear_scope.calls import NormMode, SmoothMode
from framework.functional.linear_scope.interpreter import LinearInterpreter
from framework.functional.linear_scope.tracing import NAME


def contributions(scope: LinearInterpreter, outputs: Sequence[int] | Tensor) -> Tensor:
    """Returns the contribution maps C_q = F[q, :] ∘ x (N, Q, *input): Σ_p C_q[p] + r_q is output q.

    Args:
        scope: An open interpreter.
        outputs: Flat indices (Q,), or (N, Q).
    """
    return scope.rows(outputs).values * scope.x.unsqueeze(1)


def affine_parts(
    model: nn.Module,
    batches: Iterable[Tensor],
    smooth_mode: SmoothMode = "auto",
    norm_mode: NormMode = "linear_mean",
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns f(x), r(x) and the error |y − (A x + b)| for many images, on the CPU.

    F x = f(x) − r(x) is what the pixels contribute. It takes a few forward passes.

    Args:
        model: The network.
        batches: Batches of images (N, …).
        smooth_mode: See :class:`LinearInterpreter`.
        norm_mode: See :class:`LinearInterpreter`.
        dtype: ``float64`` or ``float32``.

    Raises:
        UserError: see :class:`LinearInterpreter`; or there are no images.
    """
    found = []
    for x in batches:
        with LinearInterpreter(model, x, smooth_mode, norm_mode, dtype=dtype) as scope:
            found.append((scope.y.cpu(), scope.residual().cpu(), scope.error.cpu()))
    if not found:
        raise UserError(f"{NAME}: there are no images")
    y, r, error = (torch.cat(parts) for parts in zip(*found, strict=True))
    return y, r, error
