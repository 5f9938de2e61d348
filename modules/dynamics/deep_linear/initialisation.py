"""Initialisations of deep linear networks: decoupled modes, orthogonal, Gaussian, small, and layer-wise pretrained."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from framework.errors import UserError
from framework.settings import above, at_least, finite_entries, one_of
from modules.dynamics.deep_linear.network import modes

Init = Literal["decoupled", "orthogonal", "gaussian", "glorot_uniform", "small", "pretrained"]


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Returns a Haar-distributed matrix with orthonormal columns (or rows, if there are fewer).

    Args:
        rows: m.
        columns: n.
        generator: Source of randomness.

    Returns:
        (m, n), float64.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, rows=rows, columns=columns)
    tall = torch.randn(max(rows, columns), min(rows, columns), dtype=torch.float64, generator=generator)
    q, r = torch.linalg.qr(tall)
    q = q * r.diagonal().sign()  # without it the signs would be those of the QR algorithm
    return q if rows >= columns else q.mT


def decoupled(widths: Sequence[int], s31: Tensor, u0: float, generator: torch.Generator) -> list[Tensor]:
    """Returns W^l = R_(l+1) D R_lᵀ with D = u0^(1/L) on the modes of Σ31, R_1 = V and R_(L+1) = U (modes independent).

    Args:
        widths: N_1 … N_(L+1).
        s31: Σ31 (N_(L+1), N_1).
        u0: The product's strength on each mode.
        generator: Source of randomness.

    Raises:
        UserError: a hidden layer has fewer units than there are modes.
    """
    at_least(1, widths=list(widths))
    above(0, u0=u0)
    u, _, v = modes(s31)
    count = u.shape[1]
    if min(widths) < count:
        raise UserError(f"widths: {list(widths)} are not accepted for init 'decoupled'; at least the {count} modes")
    frames = [v, *(orthonormal(width, count, generator) for width in widths[1:-1]), u]
    gain = u0 ** (1 / (len(widths) - 1))
    return [gain * after @ before.mT for before, after in pairwise(frames)]


def draw(
    kind: Init,
    widths: Sequence[int],
    generator: torch.Generator,
    s31: Tensor,
    s11: Tensor,
    u0: float = 1e-3,
    std: float = 0.01,
    gain: float = 1.0,
) -> list[Tensor]:
    """Weights of one network, float64.

    Args:
        kind: ``decoupled`` (:func:`decoupled`), ``orthogonal``, ``gaussian`` (standard deviation 1/√fan_in),
            ``glorot_uniform``, ``small`` (Gaussian of ``std``) or ``pretrained`` (:func:`pretrained`).
        widths: N_1 … N_(L+1).
        generator: Source of randomness.
        s31: For ``decoupled``.
        s11: For ``pretrained``.
        u0: For ``decoupled``.
        std: For ``small``.
        gain: For ``orthogonal``, ``gaussian`` and ``glorot_uniform``: Section 4's g, a factor of each matrix.

    Raises:
        UserError: there is no such kind, or it does not fit the widths.
    """
    at_least(1, widths=list(widths))
    above(0, u0=u0, std=std, gain=gain)
    pairs = list(pairwise(widths))
    if kind == "decoupled":
        return decoupled(widths, s31, u0, generator)
    if kind == "pretrained":
        return pretrained(widths, s11, generator)
    if kind == "orthogonal":
        return [gain * orthonormal(after, before, generator) for before, after in pairs]
    one_of(get_args(Init), init=kind)
    found = []
    for before, after in pairs:
        if kind == "glorot_uniform":
            limit = (6 / (before + after)) ** 0.5
            drawn = torch.rand(after, before, dtype=torch.float64, generator=generator)
            found.append((2 * drawn - 1) * limit * gain)
        else:
            scale = std if kind == "small" else gain * before**-0.5
            found.append(scale * torch.randn(after, before, dtype=torch.float64, generator=generator))
    return found


def pretrained(widths: Sequence[int], s11: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Returns the weights of greedy layer-wise linear autoencoders, in closed form as after training (Section 3).

    The best linear autoencoder of width N_(l+1) projects its input on the leading principal components, in any
    orthonormal basis. The last layer is not trained as an autoencoder; it is a random orthogonal matrix.

    Args:
        widths: N_1 … N_(L+1).
        s11: Σ11 (N_1, N_1).
        generator: Source of randomness.

    Returns:
        L matrices (N_(l+1), N_l), float64, first layer first.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, widths=list(widths))
    finite_entries(s11=s11)
    found = []
    covariance = s11
    for before, after in pairwise(widths[:-1]):
        kept = min(before, after)
        axes = torch.linalg.eigh(covariance)[1][:, -kept:]
        weight = orthonormal(after, kept, generator) @ axes.mT
        found.append(weight)
        covariance = weight @ covariance @ weight.mT
    return [*found, orthonormal(widths[-1], widths[-2], generator)]


def consistency(s31: Tensor, s11: Tensor, axes: Tensor | None = None) -> float:
    """Off-diagonal over total Frobenius norm of Vᵀ Σ11 V: 0 if pretraining finds the task's axes (eq. 18).

    Args:
        s31: Σ31, whose right singular vectors are V.
        s11: Σ11.
        axes: (N_in, r), used in place of V.

    Raises:
        UserError: an argument is not accepted.
    """
    finite_entries(s31=s31, s11=s11)
    v = modes(s31)[2] if axes is None else axes
    m = v.mT @ s11 @ v
    return float((m - torch.diag(m.diagonal())).norm() / m.norm())
