"""Regression prompts (as in arXiv 2208.01066, 2306.09927): their distribution, and how batches are drawn.

A prompt is N labelled examples (x_i, y_i) and a query x_q: ``y = f(⟨w, x⟩) + ε`` with its own task w. A batch has ``x``
(B, N + 1, d), the query last, and ``y`` (B, N + 1, T), the query's label last, with T labels per point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from framework.settings import at_least, finite

Prompts = dict[str, Tensor]


class InputSpectrum(NamedTuple):
    """A distribution of a positive number: its map from uniform numbers, and its first three moments."""

    draw: Callable[[Tensor], Tensor]
    moments: tuple[float, float, float]


SPECTRA = {
    "exponential": InputSpectrum(lambda u: -torch.log1p(-u), (1.0, 2.0, 6.0)),
    "uniform": InputSpectrum(lambda u: 2 * u, (1.0, 4 / 3, 2.0)),
}
"""Distributions of the entries of a diagonal covariance that is drawn for each prompt."""

Function = Literal["linear", "relu", "tanh", "sine", "square", "sign"]

FUNCTIONS: dict[Function, Callable[[Tensor], Tensor]] = {
    "linear": lambda z: z,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sine": torch.sin,
    "square": torch.square,
    "sign": torch.sign,
}
"""Functions f of ⟨w, x⟩, applied before the noise."""


@dataclass(frozen=True)
class PromptLaw:
    """The distribution of prompts: ``w ~ N(w*, Ψ)``, ``x ~ N(0, Λ)``, ``y = f(⟨w, x⟩) + ε``, ``ε ~ N(0, σ²)``.

    Attributes:
        x_cov: Λ (d, d) of the examples, float64, positive definite; with ``rows`` their second moment.
        task_mean: w* (T, d).
        task_cov: Ψ (d, d), of each task.
        noise: σ², a variance.
        noisy_query: Whether the query's label has noise too.
        query_cov: Λ of the query (d, d); by default that of the examples.
        spectrum: A name in ``SPECTRA``: each prompt has the covariance Λ^½ diag(λ) Λ^½ with λ_i drawn from it.
        scale: Factor c on examples and query, applied before they are labelled.
        function: A name in ``FUNCTIONS``.
        mask: (T, d) of zeros and ones: the coordinates that each task uses; by default all.
        rows: (n, d) points from which the x are drawn with replacement, instead of a Gaussian.
        active: Number of leading coordinates of x that are not zero; by default all.

    Raises:
        UserError: a number is not accepted.
    """

    x_cov: Tensor
    task_mean: Tensor
    task_cov: Tensor
    noise: float = 0.0
    noisy_query: bool = False
    query_cov: Tensor | None = None
    spectrum: str | None = None
    scale: float = 1.0
    function: Function = "linear"
    mask: Tensor | None = None
    rows: Tensor | None = None
    active: int | None = None

    def __post_init__(self) -> None:
        at_least(0, noise=self.noise, active=self.active)
        finite(scale=self.scale)

    @property
    def dim(self) -> int:
        """d."""
        return self.x_cov.shape[0]

    @property
    def tasks(self) -> int:
        """T."""
        return self.task_mean.shape[0]

    def with_changes(self, **changes: Any) -> PromptLaw:
        """Returns a copy with some attributes replaced."""
        return replace(self, **changes)

    def sample(
        self, prompts: int, length: int, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Prompts:
        """Draws prompts on the generator's device.

        Args:
            prompts: Number of prompts B.
            length: Number of examples N in a prompt.
            generator: Source of randomness; the numbers are the same for the same state, device and sizes.
            dtype: Type of the returned tensors.

        Returns:
            ``x`` (B, N + 1, d), ``y`` (B, N + 1, T), ``w`` (B, T, d).
        """
        device = generator.device
        shape = (prompts, length + 1, self.dim)

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=generator, device=device, dtype=dtype)

        def root(covariance: Tensor) -> Tensor | None:
            """Returns Λ^½, or ``None`` for the identity."""
            if torch.equal(covariance, torch.eye(len(covariance), dtype=covariance.dtype)):
                return None
            values, vectors = torch.linalg.eigh(covariance)
            return ((vectors * values.clamp(min=0).sqrt()) @ vectors.T).to(device, dtype)

        if self.rows is not None:
            chosen = torch.randint(len(self.rows), shape[:2], generator=generator, device=device)
            x = self.rows.to(device, dtype)[chosen]
        else:
            x = normal(*shape)
            if self.spectrum is not None:
                u = torch.rand((prompts, 1, self.dim), generator=generator, device=device, dtype=dtype)
                x *= SPECTRA[self.spectrum].draw(u).sqrt()
            turn = root(self.x_cov)
            if self.query_cov is not None:
                other = root(self.query_cov)
                query = x[:, -1] if other is None else x[:, -1] @ other
                x = torch.cat([x[:, :-1] if turn is None else x[:, :-1] @ turn, query[:, None]], 1)
            elif turn is not None:
                x = x @ turn
        if self.scale != 1:
            x = x * self.scale
        if self.active is not None:
            x[..., self.active :] = 0
        w = normal(prompts, self.tasks, self.dim)
        turn = root(self.task_cov)
        w = (w if turn is None else w @ turn) + self.task_mean.to(device, dtype)
        if self.mask is not None:
            w = w * self.mask.to(device, dtype)
        y = x @ w.mT
        if self.function != "linear":
            y = FUNCTIONS[self.function](y)
        if self.noise:
            noise = self.noise**0.5 * normal(prompts, length + 1, self.tasks)
            if not self.noisy_query:
                noise[:, -1] = 0
            y += noise
        return {"x": x, "y": y, "w": w}
