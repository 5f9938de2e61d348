"""Weight matrices with a structure (a rank, signs, motifs, cell types), each with the norm of the one it replaces.

Liu et al. 2024, arXiv 2310.08513. All kinds have the Frobenius norm of a reference G (m, n); an entry w_ij goes from
unit j (column) to unit i (row).

    svd_lowrank  the best approximation of G of a rank
    dale         each column of one sign: an excitatory share positive, the others negative, and where balanced as much
                 larger as there are fewer of them, so that rows have mean 0
    chain        √(1 − 2p) z_ij + √p (a_i + b_j), all N(0, 1), corr(a_i, b_i) = ρ: chains i ← j ← k are more frequent
                 than by chance, by p ρ
    blocks       mean of the pair of cell types + noise, kept with the pair's probability
    from_file    the user's
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from framework.errors import UserError
from framework.settings import at_least, between, one_of

Kind = Literal["svd_lowrank", "dale", "chain", "blocks", "from_file"]


@dataclass(frozen=True)
class Structure:
    """A kind and its settings; those of other kinds are not looked at.

    Attributes:
        kind: One of ``KINDS``.
        rank: Of ``svd_lowrank``, from 1; from the smaller side on the reference stays as it is.
        excitatory: Of ``dale``: share of positive columns, above 0 and below 1.
        balanced: Of ``dale``: whether negative columns make up for the positive ones.
        chain: p of ``chain``, from 0 to ½; its outlying eigenvalues are of the order of √(p ρ n) times the others, so
            small.
        correlation: ρ of ``chain``, from -1 to 1.
        means: Of ``blocks``: types x types.
        probabilities: Of ``blocks``: types x types, from 0 to 1; by default all entries are kept.
        fractions: Of ``blocks``: each type's share of the units; by default equal.
        noise: Of ``blocks``: standard deviation around the means.
        path: Of ``from_file``: ``.npy`` or ``.csv`` with the matrix.

    Raises:
        UserError: a setting is not accepted.
    """

    kind: Kind = "svd_lowrank"
    rank: int = 1
    excitatory: float = 0.8
    balanced: bool = True
    chain: float = 0.02
    correlation: float = 0.8
    means: list[list[float]] | None = None
    probabilities: list[list[float]] | None = None
    fractions: list[float] | None = None
    noise: float = 1.0
    path: str | Path | None = None

    def __post_init__(self) -> None:
        one_of(get_args(Kind), kind=self.kind)
        at_least(1, rank=self.rank)
        between(0, 1, "()", excitatory=self.excitatory)
        between(0, 0.5, chain=self.chain)
        between(-1, 1, correlation=self.correlation)
        at_least(0, noise=self.noise)
        if self.kind == "from_file" and self.path is None:
            raise UserError("path: None is not accepted with kind 'from_file'; a .npy or .csv file")
        if self.kind == "blocks":
            self._check_blocks()

    def _check_blocks(self) -> None:
        means = self.means or []
        if not means or any(len(row) != len(means) for row in means):
            raise UserError(f"means: {self.means} is not accepted with kind 'blocks'; a square table, types x types")
        kept = self.probabilities
        if kept is not None and (
            [len(row) for row in kept] != [len(means)] * len(means) or not all(0 <= p <= 1 for row in kept for p in row)
        ):
            raise UserError(f"probabilities: {kept} is not accepted; {len(means)} x {len(means)} numbers from 0 to 1")
        shares = self.fractions
        if shares is not None and (len(shares) != len(means) or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6):
            raise UserError(f"fractions: {shares} is not accepted; {len(means)} numbers above 0 with sum 1")


def structure_of(options: dict[str, Any]) -> Structure:
    """A :class:`Structure` of plain data.

    Raises:
        UserError: a setting is not known or not accepted.
    """
    names = [field.name for field in fields(Structure)]
    if unknown := [name for name in options if name not in names]:
        raise UserError(f"{unknown[0]}: not a setting of a structure; there are {', '.join(names)}")
    return Structure(**options)


def low_rank_part(matrix: Tensor, rank: int) -> Tensor:
    """The best approximation of a rank of (m, n), at the norm of ``matrix``; ``matrix`` itself if it has no more."""
    if rank >= min(matrix.shape):
        return matrix.clone()
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    return match_norm((u[:, :rank] * s[:rank]) @ vt[:rank], matrix)


def match_norm(matrix: Tensor, reference: Tensor) -> Tensor:
    """``matrix`` at the Frobenius norm of ``reference``; 0 stays 0."""
    norm = matrix.norm()
    return matrix * (reference.norm() / norm) if norm > 0 else matrix


def dale(rows: int, columns: int, excitatory: float, balanced: bool, generator: torch.Generator) -> Tensor:
    """|N(0, 1)| with signs by column, (rows, columns), float64.

    Args:
        rows: m.
        columns: n, 2 or more.
        excitatory: Share of the columns, the first ones, that are positive; at least one is, and at least one is not.
        balanced: Whether negative columns are as much larger as there are fewer of them.
        generator: What the numbers come from.

    Raises:
        UserError: there is but one column.
    """
    if columns < 2:
        raise UserError(f"kind: 'dale' needs two columns or more, the matrix is {rows} x {columns}")
    positive = min(max(round(excitatory * columns), 1), columns - 1)
    signs = torch.ones(columns, dtype=torch.float64)
    signs[positive:] = -positive / (columns - positive) if balanced else -1.0
    return _normal(generator, rows, columns).abs() * signs


def chain(rows: int, columns: int, p: float, correlation: float, generator: torch.Generator) -> Tensor:
    """√(1 − 2p) z + √p (a_i + b_j), (rows, columns), float64; a_i and b_i of one unit are correlated.

    Args:
        rows: m.
        columns: n.
        p: From 0 to ½.
        correlation: ρ, from -1 to 1.
        generator: What the numbers come from.
    """
    a, b = _normal(generator, rows), _normal(generator, columns)
    n = min(rows, columns)
    b[:n] = correlation * a[:n] + (1 - correlation**2) ** 0.5 * b[:n]
    return (1 - 2 * p) ** 0.5 * _normal(generator, rows, columns) + p**0.5 * (a[:, None] + b)


def type_of(units: int, fractions: Sequence[float]) -> Tensor:
    """The type of each unit (units,), int64: the first share of them has type 0, and so on."""
    ends = (torch.tensor(list(fractions), dtype=torch.float64).cumsum(0)[:-1] * units).round()
    return torch.bucketize(torch.arange(units, dtype=torch.float64), ends, right=True)


def blocks(rows: int, columns: int, structure: Structure, generator: torch.Generator) -> Tensor:
    """Means of the pairs of types, with noise and left-out entries, (rows, columns), float64.

    Args:
        rows: m.
        columns: n.
        structure: With ``means``; its ``fractions``, ``noise`` and ``probabilities`` are looked at too.
        generator: What the numbers come from.
    """
    means = torch.tensor(structure.means, dtype=torch.float64)
    shares = structure.fractions or [1 / len(means)] * len(means)
    to, source = type_of(rows, shares)[:, None], type_of(columns, shares)
    found = means[to, source] + structure.noise * _normal(generator, rows, columns)
    if structure.probabilities is not None:
        kept = torch.tensor(structure.probabilities, dtype=torch.float64)[to, source]
        found = found * (torch.rand(rows, columns, generator=generator, dtype=torch.float64) < kept)
    return found


def read_matrix(path: str | Path, rows: int, columns: int) -> Tensor:
    """A matrix (rows, columns), float64, of a file.

    Args:
        path: ``.npy`` or ``.csv``.
        rows: m.
        columns: n.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    file, expected = Path(path).expanduser(), f".npy or .csv with a matrix {rows} x {columns} is expected"
    if not file.is_file():
        raise UserError(f"path: {file} not found; {expected}")
    try:
        found = np.load(file, allow_pickle=False) if file.suffix == ".npy" else np.loadtxt(file, delimiter=",", ndmin=2)
        matrix = torch.as_tensor(np.asarray(found, dtype=np.float64))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"path: {file} cannot be read ({error}); {expected}") from None
    if matrix.shape != (rows, columns) or not bool(matrix.isfinite().all()) or not bool(matrix.any()):
        raise UserError(f"path: {file} holds {tuple(matrix.shape)} numbers; {expected}, finite and not all 0")
    return matrix


def structured(structure: Structure, reference: Tensor, generator: torch.Generator) -> Tensor:
    """A matrix of this structure at the Frobenius norm of ``reference``, (m, n), in its type.

    Args:
        structure: Which.
        reference: What it replaces; ``svd_lowrank`` is a part of it.
        generator: On the CPU; the draws do not depend on the reference's type.

    Raises:
        UserError: the structure does not fit the shape; a file cannot be read or holds another shape.
    """
    rows, columns = reference.shape
    exact = reference.detach().to("cpu", torch.float64)
    if structure.kind == "svd_lowrank":
        found = low_rank_part(exact, structure.rank)
    elif structure.kind == "dale":
        found = dale(rows, columns, structure.excitatory, structure.balanced, generator)
    elif structure.kind == "chain":
        found = chain(rows, columns, structure.chain, structure.correlation, generator)
    elif structure.kind == "blocks":
        found = blocks(rows, columns, structure, generator)
    else:
        assert structure.path is not None
        found = read_matrix(structure.path, rows, columns)
    if structure.kind != "svd_lowrank":
        found = match_norm(found, exact)
    return found.to(reference)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
