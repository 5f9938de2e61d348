"""Initialisation of appendix A: scores of mean 1, and values that give the memory the variance of the FFN."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from modules.sequence.decoder import SwiGLU

SAMPLES = 512  # tokens on which scores are measured


def linear_std(d_model: int) -> float:
    """Returns √(2/(5D)), for every linear layer: its output for a normed input then has variance 0.4."""
    return math.sqrt(2 / (5 * d_model))


def target_variance(hidden: int, d_model: int, layers: int) -> float:
    """0.064 k/(2L), k = hidden/D: the paper's estimate of the variance of the FFN's output (SiLU taken as always
    positive; a real SwiGLU has 3.3 times less), which the memory is to have.

    Args:
        hidden: Inner width of the FFN.
        d_model: D.
        layers: L.
    """
    return 0.064 * hidden / d_model / (2 * layers)


def value_std(d_model: int, hidden: int, layers: int, energy: float, width: int, pre_width: int) -> float:
    """Standard deviation of values and pre-values, eq. 26: σ_V⁴ = 0.2 k D / (m heads (1+σ_s²) D_p D_v L).

    The printed form has σ_V² on the left; (22) = (25) gives σ_V⁴, because values and pre-values both have it. Without
    pre-values it is σ_V² = 0.08 k D / (m heads (1+σ_s²) D_v L), by the same equations.

    Args:
        d_model: D; cancels against k D, the inner width.
        hidden: Inner width of the FFN, k D.
        layers: L.
        energy: Σ ŝ² over the slots that a token reads, m heads (1+σ_s²) for scores of mean 1 and deviation σ_s.
        width: D_v.
        pre_width: D_p, or 0.
    """
    target = target_variance(hidden, d_model, layers)
    projected = width * linear_std(d_model) ** 2 * energy  # Var(out) for values, and 1 for each p·z'
    return (target / (projected * pre_width * 0.4)) ** 0.25 if pre_width else (target / projected) ** 0.5


@torch.no_grad()
def calibrate(scores: Tensor, gains: list[nn.Parameter], power: int) -> float:
    """Scales gains so that scores of degree ``power`` in a common gain get mean 1.

    Args:
        scores: Selected scores of some tokens, with the current gains.
        gains: Gains of queries and keys.
        power: 4 for Tucker scores, which are products of two inner products; 2 for one inner product.

    Returns:
        The standard deviation of the scaled scores.
    """
    mean, std = scores.mean().item(), scores.std().item()
    if not mean > 0:
        return std
    for gain in gains:
        gain.mul_(mean ** (-1 / power))
    return std / mean


@torch.no_grad()
def draw_linear(layer: nn.Linear, std: float) -> None:
    """Draws a weight from N(0, std²)."""
    nn.init.normal_(layer.weight, std=std)


def draw_block(attention: nn.Module, mlp: SwiGLU, d_model: int, layers: int) -> None:
    """Draws a block's linears with √(2/(5D)), those that write to the residual stream with 1/√(2L) of it.

    Args:
        attention: The attention, whose output layer is ``o_proj``.
        mlp: The MLP, whose output layer is ``down_proj``.
        d_model: D.
        layers: L.
    """
    std = linear_std(d_model)
    for module in (attention, mlp):
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Linear):
                writes = name in ("o_proj", "down_proj")
                draw_linear(layer, std / math.sqrt(2 * layers) if writes else std)
