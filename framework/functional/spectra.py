"""Condition numbers and log-volumes of many matrices (KappaTune, arXiv 2506.16289), faster than an SVD of each.

The spectrum of a matrix W (m x n, n <= m) is read from its Gram matrix G = WᵀW, which is formed once. For small
matrices all eigenvalues of G are computed, in batches of equal shapes. For a large one only the extreme eigenvalues and
the determinant are needed: Lanczos' method for the extremes (with full reorthogonalisation; from G itself, and for a
small σ_min from G's Cholesky factor), the Cholesky factor for the determinant.

Squaring loses digits: a relative error ε in G is an error ε κ² in σ_min². So G is formed in float32 only if κ is below
:data:`SINGLE`, in float64 up to :data:`DOUBLE`, and beyond that a float64 SVD is used. Compared with a float64 SVD, κ
has a relative error of at most 1e-4, mostly 1e-6 (as with a float32 SVD).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from framework.errors import UserError
from framework.settings import above, at_least

SINGLE = 20.0  # largest κ that is read from a float32 Gram matrix
DOUBLE = 3e4  # largest κ that is read from a float64 Gram matrix
FLOOR = 1e-8  # added to the smallest singular value, as in peft
_SMALL = 160  # up to this side length all eigenvalues take no more time than two extreme ones
_ENTRIES = 2**24  # number of entries of the matrices that are processed together
_TOLERANCE = 1e-6  # error bound of an eigenvalue, from its residual and the gap to the next one
_AGREEMENT = 1e-4  # of σ_min² from G and from the matrix itself; otherwise G's precision is not enough
_STEPS = 160  # steps of Lanczos' method, before all singular values are computed instead


@dataclass(frozen=True)
class WeightSpectrum:
    """Statistics of the singular values σ_1 >= … >= σ_n of a matrix; for a stack of matrices, means over them.

    Attributes:
        shape: Shape of the matrix, or of each in the stack.
        matrices: Number of matrices in the stack; 1 for a matrix.
        kappa: σ_1 / (σ_n + 1e-8), as in peft; infinite for a matrix of zeros.
        exact: σ_1 / σ_n; infinite if σ_n is zero to float64's accuracy.
        deficit: D = (n/2) ln(c/n) - Σ ln σ_i in nats, c = Σ σ_i²: the log-volume below that of a matrix with equal norm
            and equal singular values (0 for that one, infinite if a σ_i is zero).
    """

    shape: tuple[int, int]
    matrices: int
    kappa: float
    exact: float
    deficit: float

    @property
    def random(self) -> float:
        """Expected κ of a Gaussian random matrix of this shape (:func:`marchenko_pastur`)."""
        return marchenko_pastur(*self.shape)


def marchenko_pastur(rows: int, columns: int) -> float:
    """Returns the typical κ of a random matrix with independent entries of one variance, from its shape.

    (√m + √n) / (√m - √(n-1)) with m the larger side: for large matrices the ratio of the edges of the Marchenko-Pastur
    law, (1 + √(n/m)) / (1 - √(n/m)); for square ones, where that is infinite, 4n, the order that Rudelson and Vershynin
    (2009, "Smallest singular value of a random rectangular matrix") prove. For single square matrices κ varies widely.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, rows=rows, columns=columns)
    small, large = sorted((rows, columns))
    return (math.sqrt(large) + math.sqrt(small)) / (math.sqrt(large) - math.sqrt(small - 1))


def isotropy_bound(kappa: float) -> float:
    """Returns the largest Σ ln σ_i, minus its value at κ = 1, for a given norm and κ: ln(2κ / (1 + κ²)) nats.

    It does not depend on n: κ alone implies a deficit of at least minus this.

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, kappa=None if kappa == math.inf else kappa)
    return math.log(2) - math.log(kappa + 1 / kappa)


def condition_numbers(weights: Mapping[str, Tensor]) -> dict[str, WeightSpectrum]:
    """Computes the spectra of many weights.

    Args:
        weights: Maps a name to a matrix (m, n), a stack of matrices (E, m, n), or a convolution's kernel (out, in, …)
            of four or more dimensions, which is treated as the matrix (out, in·…). Any floating dtype, any device.

    Returns:
        One :class:`WeightSpectrum` per name, in order. The global generators are not used.

    Raises:
        UserError: a weight has fewer than two dimensions, is empty, is not floating, or has entries that are not
            finite.
    """
    groups: dict[tuple, list[tuple[str, Tensor]]] = {}
    matrices: dict[str, int] = {}
    shapes: dict[str, tuple[int, int]] = {}
    for name, weight in weights.items():
        if weight.ndim < 2 or not weight.numel() or not weight.is_floating_point():
            raise UserError(
                f"condition_numbers: {name!r} has shape {tuple(weight.shape)} and dtype {weight.dtype}; a floating "
                "matrix, or a stack of them, is needed"
            )
        stack = weight.detach() if weight.ndim == 3 else weight.detach().flatten(1)[None]
        stack = stack if stack.dtype == torch.float64 else stack.float()
        shapes[name] = (stack.shape[1], stack.shape[2])
        if stack.shape[1] < stack.shape[2]:
            stack = stack.mT
        matrices[name] = len(stack)
        groups.setdefault((stack.shape[1:], stack.dtype, stack.device), []).append((name, stack))
    numbers: dict[str, list[tuple[float, float, float]]] = {name: [] for name in weights}
    for members in groups.values():
        queue = [(name, matrix) for name, stack in members for matrix in stack]
        size = max(1, _ENTRIES // queue[0][1].numel())
        for start in range(0, len(queue), size):
            chunk = queue[start : start + size]
            for (name, _), found in zip(chunk, _spectra([matrix for _, matrix in chunk]), strict=True):
                if found is None:
                    raise UserError(f"condition_numbers: {name!r} has entries that are not finite")
                numbers[name].append(found)
    result = {}
    for name, rows in numbers.items():
        kappa, exact, deficit = (sum(column) / len(rows) for column in zip(*rows, strict=True))
        result[name] = WeightSpectrum(shapes[name], matrices[name], kappa, exact, deficit)
    return result


def _spectra(matrices: list[Tensor]) -> Iterator[tuple[float, float, float] | None]:
    """Returns κ, exact κ and deficit of tall matrices of one shape; ``None`` for one that is not finite."""
    rows, side = matrices[0].shape
    if side <= _SMALL or matrices[0].device.type != "cpu":
        batch = torch.stack(matrices).double()
        squares = batch.square().sum((-2, -1))
        sound = squares.isfinite()  # no eigenvalues are computed for entries that are not finite
        gram = torch.where(
            sound[:, None, None], batch.mT @ batch, torch.zeros((), dtype=batch.dtype, device=batch.device)
        )
        eigenvalues = torch.linalg.eigvalsh(gram)
        lowest, highest = eigenvalues[:, 0].tolist(), eigenvalues[:, -1].tolist()
        logs = (eigenvalues.clamp(min=0).log().sum(-1) / 2).tolist()
        for matrix, norm, low, high, log in zip(matrices, squares.tolist(), lowest, highest, logs, strict=True):
            if math.isfinite(norm) and high <= DOUBLE**2 * low and low > 0:
                yield _numbers(math.sqrt(high), math.sqrt(low), log, norm, side)
            else:
                yield _by_svd(matrix, norm)
        return
    for matrix in matrices:
        norm = float(torch.linalg.vector_norm(matrix, dtype=torch.float64)) ** 2
        found = None
        if math.isfinite(norm) and norm > 0:
            # By a power of two, without rounding, so that squares and their sums stay in float32's range.
            scale = 2.0 ** round(math.log2(norm / side) / 2)
            scaled = matrix / scale
            if matrix.dtype == torch.float32 and marchenko_pastur(rows, side) <= SINGLE:
                found = _by_extremes(scaled, SINGLE)
            found = found or _by_extremes(scaled.double(), DOUBLE)
        if found is None:
            yield _by_svd(matrix, norm)
        else:
            high, low, log = found
            yield _numbers(scale * high, scale * low, log + side * math.log(scale), norm, side)


def _numbers(largest: float, smallest: float, log: float, norm: float, side: int) -> tuple[float, float, float]:
    """Computes them from σ_1, σ_n, Σ ln σ_i and Σ σ_i²; rounding can make an orthogonal matrix's deficit negative."""
    return largest / (smallest + FLOOR), largest / smallest, max(0.0, side / 2 * math.log(norm / side) - log)


def _by_svd(matrix: Tensor, norm: float) -> tuple[float, float, float] | None:
    """Computes the statistics from a float64 SVD, for any matrix."""
    if norm == 0:
        return math.inf, math.inf, math.inf
    if not math.isfinite(norm):
        return None
    values = torch.linalg.svdvals(matrix.double())
    largest, smallest = float(values[0]), float(values[-1])
    if smallest <= max(matrix.shape) * torch.finfo(torch.float64).eps * largest:
        return largest / (smallest + FLOOR), math.inf, math.inf
    return _numbers(largest, smallest, float(values.log().sum()), norm, len(values))


def gram_matrix(matrix: Tensor, blocks: int = 4) -> Tensor:
    """Returns WᵀW of ``matrix`` (m, n) in its precision; blocks below the diagonal are copied, not computed."""
    columns = matrix.split(-(-matrix.shape[1] // blocks), dim=1)
    gram = matrix.new_empty(matrix.shape[1], matrix.shape[1])
    size = columns[0].shape[1]
    for i, left in enumerate(columns):
        for j, right in enumerate(columns[i:], start=i):
            block = left.mT @ right
            gram[i * size : i * size + block.shape[0], j * size : j * size + block.shape[1]] = block
            gram[j * size : j * size + block.shape[1], i * size : i * size + block.shape[0]] = block.mT
    return gram


def _by_extremes(matrix: Tensor, limit: float) -> tuple[float, float, float] | None:
    """Returns σ_1, σ_n and Σ ln σ_i of a tall matrix; ``None`` if κ exceeds ``limit`` or without convergence."""
    gram = gram_matrix(matrix)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if int(failed):
        return None
    rough = gram.float()  # precise enough for directions: the values are computed from the matrix itself

    def settled(ends: _Ends) -> bool:
        # If the smallest is far below the largest, G's own Krylov space converges too slowly: its inverse is used.
        return ends.found(-1) and (ends.found(0) or bool(ends.values[0] < 0.01 * ends.values[-1]))

    ends = _lanczos(lambda v: rough @ v, rough[0], settled)
    if not ends.found(-1):
        return None
    largest, lowest, low = _stretch(matrix, ends.vector(-1)), ends.vector(0), float(ends.values[0])
    if not ends.found(0):

        def solve(vector: Tensor) -> Tensor:
            return torch.cholesky_solve(vector[:, None], factor)[:, 0]

        ends = _lanczos(solve, gram[0], lambda ends: ends.found(-1), every=4)
        if not ends.found(-1):
            return None
        low = 1 / float(ends.values[-1])
        lowest = solve(ends.vector(-1))  # again, as remaining parts of large singular vectors are amplified by κ
    smallest = _stretch(matrix, lowest)
    # The effect of rounding in G along this vector is the difference between the two values.
    if largest > limit * smallest or abs(low - smallest**2) > _AGREEMENT * smallest**2:
        return None
    return largest, smallest, float(factor.diagonal().log().sum(dtype=torch.float64))


def _stretch(matrix: Tensor, vector: Tensor) -> float:
    """Returns |W v| / |v|: for a singular vector with an error δ, the singular value has an error of order δ²."""
    image = matrix @ vector.to(matrix.dtype)
    norms = [torch.linalg.vector_norm(x, dtype=torch.float64) for x in (image, vector.to(matrix.dtype))]
    return float(norms[0] / norms[1])


@dataclass
class _Ends:
    """The state of Lanczos' method: Ritz values in ascending order, and the data to compute their vectors."""

    values: Tensor
    residuals: Tensor
    coordinates: Tensor
    basis: Tensor

    def found(self, end: int) -> bool:
        """Returns whether the value at this end (0 or -1) is an eigenvalue to :data:`_TOLERANCE`."""
        value, residual = float(self.values[end]), float(self.residuals[end])
        if residual == 0 or len(self.values) < 2:
            return residual == 0
        gap = abs(float(self.values[end] - self.values[1 if end == 0 else -2]))
        return min(residual, residual**2 / max(gap, 1e-300)) <= _TOLERANCE * value and residual <= 1e-3 * value

    def vector(self, end: int) -> Tensor:
        """Returns the Ritz vector at this end."""
        return self.coordinates[:, end] @ self.basis


def _lanczos(
    apply: Callable[[Tensor], Tensor], like: Tensor, settled: Callable[[_Ends], bool], every: int = 8
) -> _Ends:
    """Runs Lanczos' method on a symmetric operator until ``settled``, for at most :data:`_STEPS` steps.

    The initial vector is random, so that it almost surely has a part along every eigenvector, and every vector is made
    orthogonal to all earlier ones, so that no value appears twice. The small eigenvalue problem is solved only after
    every few steps.
    """
    steps = min(_STEPS, len(like))
    basis = torch.empty(steps + 1, len(like), dtype=like.dtype)
    start = torch.randn(len(like), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    basis[0] = start / start.norm()
    small = torch.zeros(steps + 1, steps + 1, dtype=torch.float64)
    eps = torch.finfo(like.dtype).eps
    beside = torch.zeros((), dtype=like.dtype)
    for k in range(steps):
        vector = apply(basis[k])
        inner = basis[k] @ vector
        vector = vector - inner * basis[k]
        if k:
            vector -= beside * basis[k - 1]
        vector -= (basis[: k + 1] @ vector) @ basis[: k + 1]
        beside = vector.norm()
        small[k, k], small[k, k + 1], small[k + 1, k] = inner, beside, beside
        size = k + 1
        if size == steps or size % every == 0 or size <= 2:
            values, coordinates = torch.linalg.eigh(small[:size, :size])
            # the Krylov space is complete
            closed = size == len(like) or float(beside) <= 8 * eps * float(values[-1])
            residuals = small[k, size] * coordinates[-1].abs() * (not closed)
            ends = _Ends(values, residuals, coordinates.to(like.dtype), basis[:size])
            if closed or size == steps or settled(ends):
                break
        basis[size] = vector / beside
    return ends
