"""Penalties to compare with: on the size of latents, products of Jacobian columns, and mixed second derivatives."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.functional.dependency import Decoder, jacobian_columns
from framework.functional.jacobian import sample_outputs


def latent_l1(z: Tensor) -> Tensor:
    """Returns the mean over the batch of Σ_j |z_j|, of latents (B, d)."""
    return z.abs().sum(1).mean()


def orthogonal_jacobian(decoder: Decoder, z: Tensor) -> Tensor:
    """Returns the mean over the batch of Σ_{i≠j} (J_iᵀ J_j)² over the Jacobian's columns (OroJaR).

    Wei et al. 2021, "Orthogonal Jacobian Regularization for Unsupervised Disentanglement in Image Generation", arXiv
    2108.07668; exact here, where the authors draw random directions.

    Args:
        decoder: Maps latents (B, d) to outputs.
        z: Latents (B, d).
    """
    columns = jacobian_columns(decoder, z)
    gram = torch.einsum("ibo,jbo->bij", columns, columns)
    off = gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2))
    return off.square().sum((1, 2)).mean()


def hessian_penalty(decoder: Decoder, z: Tensor, draws: int = 2, epsilon: float = 0.1) -> Tensor:
    """Returns the variance over directions v ∈ {-1, 1}^d of vᵀHv, mean over the batch and the outputs.

    Its expectation is 2 Σ_{i≠j} H_ij². Peebles et al. 2020, "The Hessian Penalty", arXiv 2008.10599, with their second
    differences (g(z + εv) - 2 g(z) + g(z - εv))/ε²; they take the largest output where this takes the mean.

    Args:
        decoder: Maps latents (B, d) to outputs.
        z: Latents (B, d).
        draws: Directions, each for the whole batch, from torch's global generator.
        epsilon: ε.
    """
    centre = 2 * sample_outputs(decoder(z))
    seconds = []
    for _ in range(draws):
        step = epsilon * (2.0 * torch.randint(2, z.shape, device=z.device) - 1).to(z)
        both = sample_outputs(decoder(z + step)) + sample_outputs(decoder(z - step))
        seconds.append((both - centre) / epsilon**2)
    return torch.stack(seconds).var(0).mean()
