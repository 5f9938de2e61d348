"""Initialisations of the modes of a diagonal SSM: the spectra of the paper and of its ablations.

A real SSM of state size N is stored as N/2 complex modes whose conjugates are implied. Each initialisation gives
``A`` (the modes, real parts negative) and ``B`` (their input weights) of shape ``(N/2,)``, in complex128.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framework.settings import multiple_of, one_of

Init = Literal["lin", "inv", "inv2", "quad", "legs", "real", "random_imag", "random_normal"]
"""Every named spectrum; ``random_real`` and ``imag_scale`` modify any of them."""


def hippo_legs(n: int) -> tuple[NDArray, NDArray, NDArray]:
    """Returns the HiPPO-LegS system and its rank-one correction.

    Returns:
        ``A`` (N, N) with ``-sqrt((2i+1)(2k+1))`` below the diagonal and ``-(i+1)`` on it, ``B = sqrt(2i+1)`` and
        ``P = sqrt(i+1/2)``; ``A + P Pᵀ`` is ``-I/2`` plus a skew-symmetric matrix.
    """
    i = np.arange(n)
    root = np.sqrt(2.0 * i + 1)
    a = -np.tril(np.outer(root, root), -1) - np.diag(i + 1.0)
    return a, root, np.sqrt(i + 0.5)


def legs_modes(n: int) -> tuple[NDArray, NDArray, NDArray]:
    """Diagonalises the normal part ``A^(N) = A + P Pᵀ`` of HiPPO-LegS, one mode of each conjugate pair.

    The skew part is diagonalised by ``eigh`` in float64, which keeps the eigenvectors orthonormal, unlike ``eig``. The
    phase of an eigenvector is arbitrary; its first entry is made real and positive, so that the result does not depend
    on the LAPACK in use.

    Returns:
        ``(lambda, V, b)``: eigenvalues ``-1/2 + i w`` with w > 0 in ascending order (N/2,), eigenvectors (N, N/2), and
        ``b = V* B`` (N/2,), neither halved (as Theorem 3 wants it) nor clipped (as the layer wants it).
    """
    a, b, p = hippo_legs(n)
    skew = a + np.outer(p, p) + 0.5 * np.eye(n)
    frequencies, vectors = np.linalg.eigh(-1j * skew)
    frequencies, vectors = frequencies[n // 2 :], vectors[:, n // 2 :]
    vectors = vectors * np.exp(-1j * np.angle(vectors[0]))
    return -0.5 + 1j * frequencies, vectors, vectors.conj().T @ b


def legs_frequencies(n: int) -> NDArray:
    """Im A of S4D-LegS without an eigenvalue solver, in ascending order (N/2,).

    They solve ``sum_{j<N} arctan(w / (j + 1/2)) = (N - 1 - 2m) pi / 2``; the left side increases with w, so bisection
    finds each in O(N) to machine precision. Largest: ``N²/pi - pi/6 + o(1)``.
    """
    target = (n - 1 - 2 * np.arange(n // 2)) * math.pi / 2
    low, high = np.zeros(n // 2), np.full(n // 2, n * n / 1.0)
    poles = np.arange(n) + 0.5
    for _ in range(200):
        middle = (low + high) / 2
        above = np.arctan(middle[:, None] / poles).sum(1) > target
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return ((low + high) / 2)[::-1]


def initial_modes(
    init: Init,
    d_state: int,
    copies: int = 1,
    *,
    imag_scale: float = 1.0,
    random_real: bool = False,
    legs_clip: float | None = 2.0,
) -> tuple[Tensor, Tensor]:
    """Returns the initial ``A`` and ``B`` of ``copies`` independent SSMs.

    With n = 0 … N/2 - 1:

    ================= ====================================================================================
    ``lin``           ``A = -1/2 + i pi n`` (eq. 9; approximates S4-FouT)
    ``inv``           ``A = -1/2 + i (N/pi)(N/(2n+1) - 1)`` (eq. 8; approximates S4D-LegS)
    ``inv2``          ``A = -1/2 + i (N/pi)(N/(n+1) - 1)`` (ablation)
    ``quad``          ``A = -1/2 + i (2n+1)²/pi`` (ablation)
    ``legs``          eigenvalues of the normal part of HiPPO-LegS, ``B`` projected on them
    ``real``          ``A = -(n+1)``: N/2 real modes in the complex path
    ``random_imag``   ``A = -1/2 + i exp(N(0,1))`` (ablation)
    ``random_normal`` ``A = -1/2 + i N(0,1)`` (ablation)
    ================= ====================================================================================

    Args:
        init: One of the above.
        d_state: N, even.
        copies: Number of SSMs; random parts are drawn for each.
        imag_scale: Factor on every imaginary part.
        random_real: Draw ``-Re A`` from U[0, 1) instead.
        legs_clip: Bound on ``|Im B|`` for ``legs``; ``None`` for no bound.

    Returns:
        ``A`` and ``B`` of shape (copies, N/2), complex128; B is one except for ``legs``.

    Raises:
        UserError: an unknown ``init`` or an odd ``d_state``.
    """
    one_of(get_args(Init), init=init)
    multiple_of(2, d_state=d_state)
    shape = (copies, d_state // 2)
    n = torch.arange(d_state // 2, dtype=torch.float64).expand(shape)
    real = torch.full(shape, 0.5, dtype=torch.float64)
    b = torch.ones(shape, dtype=torch.complex128)
    if init == "lin":
        imag = math.pi * n
    elif init == "inv":
        imag = d_state / math.pi * (d_state / (2 * n + 1) - 1)
    elif init == "inv2":
        imag = d_state / math.pi * (d_state / (n + 1) - 1)
    elif init == "quad":
        imag = (2 * n + 1).square() / math.pi
    elif init == "legs":
        modes, _, weights = legs_modes(d_state)
        imag = torch.tensor(modes.imag.copy()).expand(shape)
        if legs_clip is not None:
            weights = weights.real + 1j * np.clip(weights.imag, -legs_clip, legs_clip)
        b = torch.tensor(weights).expand(shape)
    elif init == "real":
        real, imag = n + 1, torch.zeros(shape, dtype=torch.float64)
    else:
        imag = torch.randn(shape, dtype=torch.float64)
        imag = imag.exp() if init == "random_imag" else imag
    if random_real:
        real = torch.rand(shape, dtype=torch.float64)
    return torch.complex(-real, imag_scale * imag), b


def legendre_kernels(n: int, t: NDArray) -> NDArray:
    """The limit of the S4D-LegS basis (Theorem 3), ``K_n(t) = sqrt(2n+1) e^{-t} P_n(2 e^{-t} - 1)``: (n, len(t))."""
    from scipy.special import eval_legendre

    order = np.arange(n)[:, None]
    return np.sqrt(2 * order + 1) * np.exp(-t) * eval_legendre(order, 2 * np.exp(-t) - 1)
