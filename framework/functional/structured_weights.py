"""Weight matrices with a structure (a rank, signs, motifs, cell types), with the norm of the matrix they replace.

Liu et al. 2024, arXiv 2310.08513. All kinds have the Frobenius norm of a reference G (m, n); an entry w_ij goes from
unit j (column) to unit i (row).

    svd_lowrank  the best approximation of G of a rank
    dale         each column of one sign: an excitatory share positive, the others negative, and if balanced as much
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
from framework.readers.arrays import check_arrays, read_array
from framework.readers.tables import DELIMITED, read_numbers, suffix_of
from framework.readers.unpacking import refuse_missing
from framework.settings import at_least, between, finite_entries, one_of

Kind = Literal["svd_lowrank", "dale", "chain", "blocks", "from_file"]


@dataclass(frozen=True)
class Structure:
    """A kind and its settings; settings of other kinds are ignored.

    Attributes:
        kind: One of ``KINDS``.
        rank: For ``svd_lowrank``: the rank, from 1; at full rank the reference is not changed.
        excitatory: For ``dale``: share of positive columns, above 0 and below 1.
        balanced: For ``dale``: whether negative columns balance the positive ones.
        chain: For ``chain``: p, from 0 to ½; the outlying eigenvalues are of the order of √(p ρ n) times the others, so
            use a small p.
        correlation: For ``chain``: ρ, from -1 to 1.
        means: For ``blocks``: types x types.
        probabilities: For ``blocks``: types x types, from 0 to 1; by default all entries are kept.
        fractions: For ``blocks``: each type's share of the units; by default equal.
        noise: For ``blocks``: standard deviation around the means.
        path: For ``from_file``: ``.npy`` or ``.csv`` with the matrix.

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
    """Makes a :class:`Structure` from plain data.

    Raises:
        UserError: a setting is not known or not accepted.
    """
    names = [field.name for field in fields(Structure)]
    if unknown := [name for name in options if name not in names]:
        raise UserError(f"{unknown[0]}: not a setting of a structure; there are {', '.join(names)}")
    return Structure(**options)


def low_rank_part(matrix: Tensor, rank: int) -> Tensor:
    """Returns the best approximation (m, n) of a rank, at the norm of ``matrix``; ``matrix`` itself at full rank.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, rank=rank)
    finite_entries(matrix=matrix)
    if rank >= min(matrix.shape):
        return matrix.clone()
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    return match_norm((u[:, :rank] * s[:rank]) @ vt[:rank], matrix)


def match_norm(matrix: Tensor, reference: Tensor) -> Tensor:
    """Scales ``matrix`` to the Frobenius norm of ``reference``; 0 stays 0."""
    norm = matrix.norm()
    return matrix * (reference.norm() / norm) if norm > 0 else matrix


def dale(rows: int, columns: int, excitatory: float, balanced: bool, generator: torch.Generator) -> Tensor:
    """Draws |N(0, 1)| with signs by column, (rows, columns), float64.

    Args:
        rows: m.
        columns: n, 2 or more.
        excitatory: Share of positive columns, which are the first ones; at least one column has each sign.
        balanced: Whether negative columns are scaled so that rows have mean 0.
        generator: Source of randomness.

    Raises:
        UserError: there is only one column.
    """
    at_least(1, rows=rows)
    between(0, 1, excitatory=excitatory)
    if columns < 2:
        raise UserError(f"kind: 'dale' needs two columns or more, the matrix is {rows} x {columns}")
    positive = min(max(round(excitatory * columns), 1), columns - 1)
    signs = torch.ones(columns, dtype=torch.float64)
    signs[positive:] = -positive / (columns - positive) if balanced else -1.0
    return _normal(generator, rows, columns).abs() * signs


def chain(rows: int, columns: int, p: float, correlation: float, generator: torch.Generator) -> Tensor:
    """Draws √(1 − 2p) z + √p (a_i + b_j), (rows, columns), float64; a_i and b_i of one unit are correlated.

    Args:
        rows: m.
        columns: n.
        p: p, from 0 to ½.
        correlation: ρ, from -1 to 1.
        generator: Source of randomness.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, rows=rows, columns=columns)
    between(0, 0.5, p=p)
    between(-1, 1, correlation=correlation)
    a, b = _normal(generator, rows), _normal(generator, columns)
    n = min(rows, columns)
    b[:n] = correlation * a[:n] + (1 - correlation**2) ** 0.5 * b[:n]
    return (1 - 2 * p) ** 0.5 * _normal(generator, rows, columns) + p**0.5 * (a[:, None] + b)


def type_of(units: int, fractions: Sequence[float]) -> Tensor:
    """Returns the type of each unit (units,), int64: the first share has type 0, and so on."""
    ends = (torch.tensor(list(fractions), dtype=torch.float64).cumsum(0)[:-1] * units).round()
    return torch.bucketize(torch.arange(units, dtype=torch.float64), ends, right=True)


def blocks(rows: int, columns: int, structure: Structure, generator: torch.Generator) -> Tensor:
    """Draws the means of the pairs of types with noise and dropped entries, (rows, columns), float64.

    Args:
        rows: m.
        columns: n.
        structure: Its ``means``, ``fractions``, ``noise`` and ``probabilities`` are used.
        generator: Source of randomness.
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
    """Reads a matrix (rows, columns), float64, from a file.

    Args:
        path: ``.npy`` or ``.csv``.
        rows: m.
        columns: n.

    Raises:
        UserError: there is no such file, or it does not hold such a matrix.
    """
    file, expected = Path(path).expanduser(), f".npy or .csv with a matrix {rows} x {columns}"
    try:
        refuse_missing(file, expected)
        table = suffix_of(file) in DELIMITED
        found = read_numbers(file, header=False) if table else read_array(file, expected, np.float64)
        check_arrays({"the matrix": found}, {"the matrix": "rows columns"}, file, expected)
        if found.shape != (rows, columns) or not found.any():
            raise UserError(
                f"{file}: holds {found.shape[0]} x {found.shape[1]} numbers; expected {expected}, not all 0"
            )
    except UserError as error:
        raise UserError(f"path: {error}") from error
    return torch.as_tensor(found)


def structured(structure: Structure, reference: Tensor, generator: torch.Generator) -> Tensor:
    """Returns a matrix of this structure with the Frobenius norm and type of ``reference``, (m, n).

    Args:
        structure: The structure.
        reference: The matrix to replace; ``svd_lowrank`` approximates it.
        generator: Source of randomness, on the CPU; the draws do not depend on the reference's type.

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
