"""Closed forms of box growth and tightness, and the linear autoencoder of the paper (Mao et al. 2024,
arXiv 2306.10426), in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from framework.settings import at_least


def expected_tightness(*hidden: int) -> float:
    """Returns E r_* / E r_† of a deep linear network with Gaussian weights: Π √π Γ((d+1)/2) / (d Γ(d/2)).

    Args:
        hidden: Widths d of the hidden layers.

    Raises:
        UserError: a width is below 1.
    """
    at_least(1, hidden=list(hidden))
    logs = (math.lgamma((d + 1) / 2) - math.lgamma(d / 2) - math.log(d) for d in hidden)
    return math.prod(math.sqrt(math.pi) * math.exp(log) for log in logs)


def growth(fan_in: int, std: float, relu: bool = True) -> float:
    """Returns the factor on the mean half-width of a linear layer with Gaussian weights, and of ReLU after it.

    Args:
        fan_in: Inputs of a unit.
        std: Standard deviation of the weights.
        relu: Whether a ReLU follows, which halves it for symmetric centres.
    """
    return fan_in * math.sqrt(2 / math.pi) * std * (0.5 if relu else 1.0)


def projection_radius(inputs: int, rank: int) -> tuple[float, float]:
    """Returns the mean half-widths of W Wᵀ for boxes of half-width 1, layer by layer and exact, to first order.

    Args:
        inputs: d, rows of the random W with orthonormal columns.
        rank: k, its columns, below d.
    """
    layerwise = 2 * rank / math.pi
    rest = (inputs - 1) * math.sqrt(2 / math.pi)
    exact = rank / inputs + rest * math.sqrt(rank * (inputs - rank) / (inputs * (inputs - 1) * (inputs + 2)))
    return layerwise, exact


@dataclass(frozen=True)
class Autoencoder:
    """A linear autoencoder x → W₂ W₁ x.

    Attributes:
        encoder: W₁ (w, d).
        decoder: W₂ (d, w).
    """

    encoder: Tensor
    decoder: Tensor

    @property
    def layerwise(self) -> Tensor:
        """Half-widths |W₂||W₁| 1 of the outputs for boxes of half-width 1, (d,)."""
        return self.decoder.abs() @ self.encoder.abs().sum(1)

    @property
    def exact(self) -> Tensor:
        """Half-widths |W₂ W₁| 1, (d,)."""
        return (self.decoder @ self.encoder).abs().sum(1)

    @property
    def tightness(self) -> float:
        """The mean ratio of both."""
        return float((self.exact / self.layerwise).mean())


def orthonormal(inputs: int, rank: int, generator: torch.Generator) -> Tensor:
    """Returns a random matrix with orthonormal columns, (inputs, rank), float64.

    Args:
        inputs: Its rows.
        rank: Its columns, at most as many.
        generator: Draws a Gaussian matrix, whose polar factor it is.
    """
    left, _, right = torch.linalg.svd(
        torch.randn(inputs, rank, generator=generator, dtype=torch.float64), full_matrices=False
    )
    return left @ right


def train_autoencoder(
    x: Tensor, width: int, eps: float, generator: torch.Generator, steps: int = 100, ramp: int = 40, lr: float = 5e-3
) -> Autoencoder:
    """Trains a linear autoencoder as the authors' program does: on the worst error in boxes, or with eps 0 plainly.

    Full-batch gradient descent on the mean over samples of ‖max(|u − x|, |l − x|)‖₂; gradients add up from step to
    step, as the released loop never clears them; the rate is divided by 10 after step 50.

    Args:
        x: Samples (N, d), float64.
        width: Hidden units.
        eps: Half-width of the boxes, which grows linearly in the first ``ramp`` steps.
        generator: Draws the weights, uniform in ±1/√fan_in as PyTorch's.
        steps: Steps.
        ramp: Steps of growth.
        lr: Learning rate.
    """
    shapes = (width, x.shape[1]), (x.shape[1], width)
    weights = [
        ((torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1) / math.sqrt(shape[1])).requires_grad_()
        for shape in shapes
    ]
    sums = [torch.zeros_like(weight) for weight in weights]
    for step in range(steps):
        now = Autoencoder(*weights)
        error = (x @ weights[0].T @ weights[1].T - x).abs() + min(step / ramp, 1.0) * eps * now.layerwise
        gradients = torch.autograd.grad(error.norm(dim=1).mean(), weights)
        with torch.no_grad():
            for weight, total, gradient in zip(weights, sums, gradients, strict=True):
                total += gradient
                weight -= (lr if step <= 50 else lr / 10) * total
    return Autoencoder(*(weight.detach() for weight in weights))
