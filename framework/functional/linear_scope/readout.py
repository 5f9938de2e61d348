"""What a classifier's interpreter says: votes of pixels, and the share of the bias parameters (arXiv 1908.05168)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from framework.errors import UserError
from framework.functional.linear_scope.calls import NormMode, SmoothMode
from framework.functional.linear_scope.interpreter import LinearInterpreter
from framework.functional.linear_scope.tracing import NAME


class Standardised(nn.Module):
    """A network of raw pixels: (x − mean) / std, then the network.

    A normalisation of the input moves mass between F x and r, so that what an image and what the biases contribute
    depends on it.

    Args:
        net: The network.
        mean: Subtracted from each channel.
        std: Divides each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float64).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float64).reshape(-1, 1, 1))

    def raw(self, x: Tensor) -> Tensor:
        """Maps the network's input to raw pixels."""
        return (x * self.std.to(x) + self.mean.to(x)).detach()

    def forward(self, x: Tensor) -> Tensor:
        """Maps raw pixels (N, C, H, W) to the network's output."""
        return self.net((x - self.mean.to(x)) / self.std.to(x))


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
