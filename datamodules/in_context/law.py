"""The law from which prompts are drawn, and its settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from framework.errors import UserError
from framework.functional.regression_prompts import SPECTRA, Function, PromptLaw
from framework.settings import above, at_least, between, finite, one_of

Covariance = Literal["identity", "ar", "exponential", "uniform"]
Source = Literal["gaussian", "diabetes", "breast_cancer", "digits"]


def covariance(kind: Covariance, dim: int, correlation: float, eigenvalues: list[float] | None) -> Tensor:
    """Λ: the identity, Λ_ij = r^|i−j|, or diagonal.

    Args:
        kind: ``ar`` for r^|i−j|; else the identity.
        dim: d.
        correlation: r, above -1 and below 1.
        eigenvalues: The d numbers of a diagonal, above 0, whatever the kind; ``None`` for none.

    Returns:
        (d, d), float64.

    Raises:
        UserError: a setting is not accepted.
    """
    if eigenvalues is not None:
        above(0, **{"law.eigenvalues": eigenvalues})
        if len(eigenvalues) != dim:
            raise UserError(f"law.eigenvalues: {eigenvalues} is not accepted; dim ({dim}) numbers")
        return torch.diag(torch.tensor(eigenvalues, dtype=torch.float64))
    if kind != "ar":
        return torch.eye(dim, dtype=torch.float64)
    between(-1, 1, "()", **{"law.correlation": correlation})
    place = torch.arange(dim, dtype=torch.float64)
    return correlation ** (place[:, None] - place).abs()


def real_rows(source: Source, whiten: bool) -> Tensor:
    """Rows (n, d) of a data set of scikit-learn, each column with mean 0 and variance 1; constant columns left out.

    Args:
        source: One of :data:`Source` but the first.
        whiten: Whether columns are made uncorrelated too; directions without variance are left out.
    """
    from sklearn import datasets

    rows = np.asarray(getattr(datasets, f"load_{source}")().data, dtype=np.float64)
    rows = rows[:, rows.std(0) > 0]
    rows = (rows - rows.mean(0)) / rows.std(0)
    if whiten:
        u, s, _ = np.linalg.svd(rows, full_matrices=False)
        rows = u[:, s > 1e-8 * s[0]] * len(rows) ** 0.5
    return torch.as_tensor(rows)


@dataclass(frozen=True)
class LawConfig:
    """``x ~ N(0, Λ)``, ``w ~ N(w*, Ψ)``, ``y = f(⟨w, x⟩) + ε``, ``ε ~ N(0, σ²)``.

    Attributes:
        covariance: Λ of a Gaussian x: ``identity``, ``ar`` (``correlation`` to the distance), or ``exponential`` or
            ``uniform``: diagonal, with random entries of mean 1 for each prompt.
        correlation: r of ``ar``.
        eigenvalues: A diagonal Λ instead.
        scale: c, multiplies every x before it is labelled.
        query_scale: Multiplies the query's x on top of it, also before it is labelled.
        prior_mean: w*: a number m for m (1, …, 1)/√d, or d numbers.
        prior_variance: Ψ = this times the identity.
        noise: σ², a variance.
        noisy_query: Whether the query's label has noise too.
        function: f: ``linear``, ``relu``, ``tanh``, ``sine``, ``square`` or ``sign``.
        blocks: For several labels a point: the coordinates that each one's task looks at, for example
            ``[[0, 1, 2, 3], [2, 3, 4, 5]]``.

    Raises:
        UserError: a setting is not accepted.
    """

    covariance: Covariance = "identity"
    correlation: float = 0.5
    eigenvalues: list[float] | None = None
    scale: float = 1.0
    query_scale: float = 1.0
    prior_mean: float | list[float] = 0.0
    prior_variance: float = 1.0
    noise: float = 0.0
    noisy_query: bool = False
    function: Function = "linear"
    blocks: list[list[int]] | None = None

    def __post_init__(self) -> None:
        def named(*names: str) -> dict[str, Any]:
            return {f"law.{name}": getattr(self, name) for name in names}

        finite(**named("correlation", "eigenvalues", "prior_mean"))
        above(0, **named("scale", "query_scale"))
        at_least(0, **named("noise", "prior_variance"))
        one_of(get_args(Covariance), **named("covariance"))
        one_of(get_args(Function), **named("function"))

    def build(self, dim: int, source: Source = "gaussian", whiten: bool = False) -> PromptLaw:
        """What the settings say.

        Args:
            dim: d.
            source: Where x comes from.
            whiten: Whether real rows are made uncorrelated.

        Raises:
            UserError: they do not fit together.
        """
        mask = None
        if self.blocks is not None:
            mask = torch.zeros(len(self.blocks), dim, dtype=torch.float64)
            for row, block in zip(mask, self.blocks, strict=True):
                if not block or min(block) < 0 or max(block) >= dim:
                    raise UserError(f"law.blocks: {self.blocks} is not accepted; lists of coordinates below {dim}")
                row[block] = 1
        tasks = 1 if mask is None else len(mask)
        if isinstance(self.prior_mean, list):
            if len(self.prior_mean) != dim:
                raise UserError(f"law.prior_mean: {self.prior_mean} is not accepted; a number, or dim ({dim}) numbers")
            mean = torch.tensor(self.prior_mean, dtype=torch.float64)
        else:
            mean = torch.full((dim,), self.prior_mean / dim**0.5, dtype=torch.float64)
        x_cov, rows = covariance(self.covariance, dim, self.correlation, self.eigenvalues), None
        if source != "gaussian":
            rows = real_rows(source, whiten)
            if rows.shape[1] != dim:
                raise UserError(f"dim: {dim} is not accepted; {source} has {rows.shape[1]} columns")
            if self.query_scale != 1:
                raise UserError(f"law.query_scale: {self.query_scale} is not accepted with real rows; 1")
            x_cov = rows.T @ rows / len(rows)
        return PromptLaw(
            x_cov=x_cov,
            task_mean=mean.expand(tasks, -1).clone(),
            task_cov=self.prior_variance * torch.eye(dim, dtype=torch.float64),
            noise=self.noise,
            noisy_query=self.noisy_query,
            query_cov=None if self.query_scale == 1 else self.query_scale**2 * x_cov,
            spectrum=self.covariance if self.covariance in SPECTRA and source == "gaussian" else None,
            scale=self.scale,
            function=self.function,
            mask=mask,
            rows=rows,
        )
