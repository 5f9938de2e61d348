"""The exact affine map that a network applied to given images: f(x) = F(x) x + r(x) (arXiv 1908.05168).

Three ways to read F, which agree: probes of one pixel (columns), vector-Jacobian products through the frozen map
(rows), and products with any vector (``matvec``, ``rmatvec``, a SciPy ``LinearOperator``). r is the answer to a black
probe; it is subtracted from every column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self, get_args

import torch
from torch import Tensor, nn

from framework.errors import UserError
from framework.functional.linear_scope.calls import NormMode, Options, Rule, SmoothMode
from framework.functional.linear_scope.program import Program
from framework.functional.linear_scope.tracing import NAME, check_finite, name_of, trace
from framework.settings import above, at_least, one_of

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
_DENSE = 512  # outputs or inputs up to which an SVD is that of the whole matrix


class Readout(NamedTuple):
    """A part of A = F(x), with the check that goes with it.

    Attributes:
        values: Rows (N, Q, *input), columns (N, P, *output), or A (N, outputs, inputs).
        residual: b = r(x) of the outputs that were read: (N, Q) for rows, else (N, *output).
        error: |y − (A x + b)| (N,), the largest over the outputs that were read; for columns over all outputs.
    """

    values: Tensor
    residual: Tensor
    error: Tensor


class Basis(NamedTuple):
    """The leading singular vectors of F(x) = U S Vᵀ.

    Attributes:
        outputs: Eigen-outputs u_i (K, *output).
        gains: Singular values (K,), in descending order.
        inputs: Eigen-inputs v_i (K, *input).
    """

    outputs: Tensor
    gains: Tensor
    inputs: Tensor


class LinearInterpreter:
    """A context manager that opens a network's linear interpreter at some images.

    Within it the network is as before: nothing is hooked or changed. Its memory is freed at the end.

        with LinearInterpreter(model, x) as scope:
            rows = scope.rows([3, 7])  # what logits 3 and 7 read
            r = scope.residual()

    Args:
        model: A network that treats images independently, in ``eval`` mode.
        x: Images (N, …).
        smooth_mode: Of tanh, GELU, SiLU, …: ``secant``, ``tangent``, or ``auto``: secant where σ(0) = 0.
        norm_mode: Of normalisations by the image's own statistics: ``linear_mean`` or ``frozen_mean``.
        chunk: Probes that are computed together; the peak of memory depends on it, not on how much is asked for.
        dtype: ``float64`` or ``float32``, in which everything is computed.
        units: Rules of further operations by name, such as ``{"mylib.op": rule}``.
        tolerance: Largest error of f(x) = F x + r and of the map's linearity, relative to max |f(x)|; by default 1e-8
            in float64 and 1e-4 in float32.

    Attributes:
        x: The images, in ``dtype``.
        y: f(x) (N, *output), as the network computes it.
        error: |y − (F x + r)| (N,), the largest over the outputs.

    Raises:
        UserError: an operation cannot be replayed (it and its module are named), f(x) = F x + r does not hold to
            ``tolerance``.
        NotFinite: x, f(x) or r(x) has values that are not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        smooth_mode: SmoothMode = "auto",
        norm_mode: NormMode = "linear_mean",
        chunk: int = 64,
        dtype: torch.dtype = torch.float64,
        units: Mapping[str, Rule] | None = None,
        tolerance: float | None = None,
    ) -> None:
        at_least(1, chunk=chunk)
        if tolerance is not None:
            above(0, tolerance=tolerance)
        one_of(get_args(SmoothMode), smooth_mode=smooth_mode)
        one_of(get_args(NormMode), norm_mode=norm_mode)
        one_of(tuple(TOLERANCE), dtype=dtype)
        if not x.is_floating_point() or x.ndim < 2 or len(x) == 0:
            raise UserError(f"{NAME}: x is {x.dtype} {tuple(x.shape)}; images (N, …) of a floating type are expected")
        self.model, self.chunk, self.dtype, self.units = model, chunk, dtype, units
        self.options = Options(smooth_mode, norm_mode)
        self.x = x.detach().to(dtype)
        self.tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
        self.y = self.error = self._residual = torch.empty(0)
        self._program: Program | None = None

    @torch.inference_mode(False)  # in which no slope would be found
    def __enter__(self) -> Self:
        self.x = self.x.clone()  # of an inference tensor too
        check_finite(self.x, "x")
        traced = trace(self.model, self.x, self.dtype)
        self._program = Program(traced, self.x, self.options, self.units)
        self.y = traced.output
        if len(self.y) != len(self.x):
            raise UserError(f"{NAME}: {len(self.x)} images give an output {tuple(self.y.shape)}, not one for each")
        self._check(self._program)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._program = None

    @torch.no_grad()
    def _check(self, program: Program) -> None:
        generator = torch.Generator(self.x.device).manual_seed(0)
        z = torch.randn(self.x.shape, generator=generator, dtype=self.dtype, device=self.x.device)
        scale = float(self.y.abs().max())
        self._residual = program(torch.zeros_like(self.x))
        check_finite(self._residual, "r(x)")
        at_x, at_z, at_sum = program(self.x), program(z), program(self.x + z)
        self.error = (self.y - at_x).abs().reshape(len(self.x), -1).amax(1)
        bent = float((at_sum - at_x - at_z + self._residual).abs().max()) / max(
            float(at_sum.abs().max()), scale, 1e-300
        )
        limit = self.tolerance * max(scale, float(self._residual.abs().max()))
        if float(self.error.max()) > limit:
            raise UserError(
                f"{NAME}: |y − (A x + b)| is {float(self.error.max()):.2g} for {name_of(self.model)}, above "
                f"{limit:.2g}: it computes something that is not replayed"
            )
        if not bent <= self.tolerance:
            raise UserError(f"{NAME}: the map of {name_of(self.model)} is not affine, off by {bent:.2g} of it")

    @property
    def _map(self) -> Program:
        if self._program is None:
            raise RuntimeError("the interpreter is closed; use it within its `with` block")
        return self._program

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one image."""
        return tuple(self.x.shape[1:])

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of one image's output."""
        return tuple(self.y.shape[1:])

    @torch.no_grad()
    def __call__(self, z: Tensor) -> Tensor:
        """Returns L_x(z) = F(x) z + r(x) (N, *output) for probes z (N, *input), one for each image."""
        return self._map(z.to(self.x))

    def residual(self) -> Tensor:
        """Returns r(x) (N, *output)."""
        self._map  # noqa: B018 - raises if closed
        return self._residual

    @torch.no_grad()
    def matvec(self, z: Tensor) -> Tensor:
        """Returns F z (B, N, *output) for probes z (B, N, *input), or (B, *input) for every image."""
        z = self._spread(z.to(self.x), self.input_shape)
        if len(z) == 1:
            return (self._map(z[0]) - self._residual).unsqueeze(0)
        parts = [torch.vmap(self._map)(part) - self._residual for part in z.split(self.chunk)]
        return torch.cat(parts) if parts else z.new_zeros(0, *self.y.shape)

    def rmatvec(self, u: Tensor) -> Tensor:
        """Returns Fᵀ u (B, N, *input) for u (B, N, *output), or (B, *output) for every image."""
        u = self._spread(u.to(self.x), self.output_shape)
        pull = self._pull()
        parts = [pull(part) for part in u.split(self.chunk)]
        return torch.cat(parts) if parts else u.new_zeros(0, *self.x.shape)

    def _pull(self) -> Callable[[Tensor], Tensor]:
        """Returns u (B, N, *output) -> Fᵀ u (B, N, *input)."""
        with torch.inference_mode(False):
            transposed = torch.func.vjp(self._map, torch.zeros_like(self.x))[1]

        @torch.inference_mode(False)
        def pull(u: Tensor) -> Tensor:
            u = u.clone() if u.is_inference() else u
            if len(u) == 1:
                return transposed(u[0])[0].detach().unsqueeze(0)
            return torch.vmap(transposed)(u)[0].detach()

        return pull

    def _spread(self, z: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Returns probes (B, N, *shape)."""
        count = len(self.x)
        if tuple(z.shape[1:]) == shape and tuple(z.shape[2:]) != shape:
            return z.unsqueeze(1).expand(-1, count, *shape)
        if tuple(z.shape[1:]) != (count, *shape):
            raise UserError(
                f"{NAME}: probes {tuple(z.shape)}; (B, {', '.join(map(str, shape))}) or "
                f"(B, {count}, {', '.join(map(str, shape))}) are expected"
            )
        return z

    def _places(self, chosen: Sequence[int] | Sequence[Sequence[int]] | Tensor, shape: tuple[int, ...]) -> Tensor:
        """Returns flat indices (N, Q) of (Q,) or (N, Q) ones, or of Q tuples of one index a dimension."""
        shown, count = str(chosen)[:60], len(self.x)
        try:
            found = torch.as_tensor(chosen, device=self.x.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{NAME}: {shown} are not places in {shape}") from error
        if found.numel() == 0:
            return found.new_zeros(count, 0, dtype=torch.long)
        if isinstance(chosen, list | tuple) and isinstance(chosen[0], tuple):
            sides = torch.tensor(shape, device=found.device)
            steps = torch.tensor([prod(shape[i + 1 :]) for i in range(len(shape))], device=self.x.device)
            if found.shape[1] != len(shape) or bool(((found < 0) | (found >= sides)).any()):
                raise UserError(f"{NAME}: {shown} are not places in {shape}")
            found = (found * steps).sum(1)
        found = found.expand(count, -1) if found.ndim == 1 else found
        if found.ndim != 2 or len(found) != count or found.is_floating_point():
            raise UserError(
                f"{NAME}: {shown} are not places in {shape}; integers (Q,), or ({count}, Q) for {count} images"
            )
        low, high = int(found.min()), int(found.max())
        if low < 0 or high >= prod(shape):
            wrong = low if low < 0 else high
            raise UserError(f"{NAME}: index {wrong} is not accepted; 0 to {prod(shape) - 1}, of {shape}")
        return found

    def _impulses(self, places: Tensor, shape: tuple[int, ...]) -> Iterator[Tensor]:
        """Yields one-hot probes (B, N, *shape) for places (N, Q), a chunk at a time."""
        count, size = len(places), prod(shape)
        for part in places.split(self.chunk, 1) if places.shape[1] else ():
            z = self.x.new_zeros(part.shape[1], count, size)
            z.scatter_(2, part.T.unsqueeze(2), 1.0)
            yield z.reshape(part.shape[1], count, *shape)

    def iter_rows(self, outputs: Sequence[int] | Sequence[Sequence[int]] | Tensor) -> Iterator[Tensor]:
        """Yields rows of F (N, up to ``chunk``, *input), so that no more is in memory at any time."""
        pull = self._pull()
        for u in self._impulses(self._places(outputs, self.output_shape), self.output_shape):
            yield pull(u).transpose(0, 1)

    def rows(self, outputs: Sequence[int] | Sequence[Sequence[int]] | Tensor) -> Readout:
        """Returns rows of F: what outputs read.

        Args:
            outputs: Flat indices (Q,), one set of them for each image (N, Q), or tuples with an index a dimension.
        """
        places = self._places(outputs, self.output_shape)
        values = self.x.new_empty(len(self.x), places.shape[1], *self.input_shape)
        start = 0
        for part in self.iter_rows(places):
            values[:, start : start + part.shape[1]] = part
            start += part.shape[1]
        b, y = (t.reshape(len(t), -1).gather(1, places) for t in (self._residual, self.y))
        voted = (values * self.x.unsqueeze(1)).flatten(2).sum(2)
        error = (y - voted - b).abs()
        return Readout(values, b, error.amax(1) if places.shape[1] else self.error)

    @torch.no_grad()
    def iter_columns(self, pixels: Sequence[int] | Sequence[Sequence[int]] | Tensor) -> Iterator[Tensor]:
        """Yields columns of F (N, up to ``chunk``, *output), without r."""
        for z in self._impulses(self._places(pixels, self.input_shape), self.input_shape):
            yield self.matvec(z).transpose(0, 1)

    def columns(self, pixels: Sequence[int] | Sequence[Sequence[int]] | Tensor) -> Readout:
        """Returns columns of F: what pixels contribute anywhere, r subtracted.

        Args:
            pixels: As for :meth:`rows`, of the input.
        """
        places = self._places(pixels, self.input_shape)
        values = self.x.new_empty(len(self.x), places.shape[1], *self.output_shape)
        start = 0
        for part in self.iter_columns(places):
            values[:, start : start + part.shape[1]] = part
            start += part.shape[1]
        return Readout(values, self._residual, self.error)

    def matrix(self) -> Readout:
        """Returns F (N, outputs, inputs), by rows or by columns, whichever are fewer."""
        outputs, inputs = prod(self.output_shape), prod(self.input_shape)
        if outputs <= inputs:
            found = self.rows(range(outputs))
            return Readout(found.values.flatten(2), self._residual, found.error)
        values = self.columns(range(inputs)).values.flatten(2).transpose(1, 2)
        b = (
            self.y.flatten(1) - torch.einsum("noi,ni->no", values, self.x.flatten(1)) - self._residual.flatten(1)
        ).abs()
        return Readout(values, self._residual, b.amax(1))

    def operator(self) -> LinearOperator:
        """Returns F of a single image as a SciPy operator (outputs, inputs), without ever forming it.

        Raises:
            UserError: several images are interpreted.
        """
        from scipy.sparse.linalg import LinearOperator

        self._single()
        shape = prod(self.output_shape), prod(self.input_shape)

        def product(z, forward: bool):  # type: ignore[no-untyped-def] # NumPy's arrays
            given = self.output_shape if not forward else self.input_shape
            probes = torch.as_tensor(z.T.reshape(-1, 1, *given), dtype=self.dtype, device=self.x.device)
            found = self.matvec(probes) if forward else self.rmatvec(probes)
            answer = found.flatten(1).T.cpu().numpy()
            return answer if z.ndim == 2 else answer[:, 0]

        return LinearOperator(
            shape,
            matvec=lambda z: product(z.reshape(-1), True),
            rmatvec=lambda u: product(u.reshape(-1), False),
            matmat=lambda z: product(z, True),
            rmatmat=lambda u: product(u, False),
            dtype=torch.empty(0, dtype=self.dtype).numpy().dtype,
        )

    def svd(self, k: int = 16) -> Basis:
        """Returns the ``k`` leading singular triples of F of a single image, fewer if it has fewer.

        The whole matrix is decomposed if it has few rows or columns, else ARPACK works on products with it.

        Raises:
            UserError: several images are interpreted, or k is below 1.
        """
        at_least(1, k=k)
        self._single()
        outputs, inputs = prod(self.output_shape), prod(self.input_shape)
        if min(outputs, inputs) <= max(_DENSE, k + 1):
            u, s, vh = torch.linalg.svd(self.matrix().values[0], full_matrices=False)
            u, s, v = u.T[:k], s[:k], vh[:k]
        else:
            from scipy.sparse.linalg import svds

            found = svds(self.operator(), k=k, random_state=0)
            order = found[1].argsort()[::-1].copy()
            u, s, v = (
                torch.as_tensor(part.copy(), dtype=self.dtype, device=self.x.device)
                for part in (found[0].T[order], found[1][order], found[2][order])
            )
        return Basis(u.reshape(-1, *self.output_shape), s, v.reshape(-1, *self.input_shape))

    def _single(self) -> None:
        if len(self.x) != 1:
            raise UserError(f"{NAME}: {len(self.x)} images have a matrix each; interpret one, x[n : n + 1]")
