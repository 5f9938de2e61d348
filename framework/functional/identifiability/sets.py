"""Sets of latents that groups of observations depend on, and what they guarantee (set-theoretic indeterminacy).

Paper: Zheng, Li, Fan, Wilson, Zhang, 2026, "Diverse Dictionary Learning", ICLR, arXiv 2604.17568.

A support S (D, d) is true where observation x_i depends on latent z_j. For a group K of observations,
I_K = {j: S_ij for some i in K}. By Definition 5, two models that explain the observations agree up to a permutation π
of latents such that z_i is not a function of ẑ_π(j) wherever, for some groups K and V,

1. i ∈ I_K ∩ I_V and j ∈ I_K △ I_V, or
2. i ∈ I_K △ I_V and j ∈ I_K ∩ I_V, or
3. i ∈ I_K \\ I_V and j ∈ I_V \\ I_K, or the other way round.

Over all groups these are the ordered pairs of latents that some observation depends on and whose columns of S differ.
Latents with equal columns are one atom of the Venn diagram: only within it may they stay mixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Any

import numpy as np

from framework.errors import UserError
from framework.settings import brief

MOST_RUNS = 400  # of consecutive observations, of which each two are tried


@dataclass(frozen=True)
class SetParts:
    """The latents of two groups K and V of observations.

    Attributes:
        intersection: I_K ∩ I_V.
        symmetric: I_K △ I_V.
        only_k: I_K \\ I_V.
        only_v: I_V \\ I_K.
        outside: Latents of neither, the complement of I_K ∪ I_V.
    """

    intersection: tuple[int, ...]
    symmetric: tuple[int, ...]
    only_k: tuple[int, ...]
    only_v: tuple[int, ...]
    outside: tuple[int, ...]


@dataclass(frozen=True)
class Guarantee:
    """What holds for one latent.

    Attributes:
        latent: Its index.
        clauses: Which of the conditions 1, 2, 3 of sufficient diversity (Assumption 2) it satisfies.
        atom: The latents whose columns of the support equal its own.
        holds: ``element-wise`` (alone in its atom, so that it is isolated from all others), ``set-wise`` (isolated from
            latents outside its atom) or ``none`` (no observation depends on it).
    """

    latent: int
    clauses: tuple[int, ...]
    atom: tuple[int, ...]
    holds: str


@dataclass(frozen=True)
class DiversityReport:
    """Which guarantee holds for which latent.

    Attributes:
        latents: One entry per latent.
        atoms: The atoms of the Venn diagram.
        pairs: For each two of the chosen groups: K, V, and the forbidden pairs (i, j) of Definition 5.
    """

    latents: tuple[Guarantee, ...]
    atoms: tuple[tuple[int, ...], ...]
    pairs: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, int], ...]], ...] = ()

    @property
    def diverse(self) -> bool:
        """Whether every latent satisfies a clause of sufficient diversity, as Theorem 3 assumes."""
        return all(entry.clauses for entry in self.latents)

    def text(self) -> str:
        """Returns the report as lines of text."""
        lines = [f"sufficient diversity (Theorem 3): {'yes' if self.diverse else 'no'}"]
        lines.append(f"Venn atoms: {' '.join(_set(atom) for atom in self.atoms)}")
        for entry in self.latents:
            clauses = f"clauses {', '.join(map(str, entry.clauses))}" if entry.clauses else "no clause"
            scope = f", mixed at most within {_set(entry.atom)}" if entry.holds == "set-wise" else ""
            lines.append(f"z{entry.latent}: {entry.holds} ({clauses}){scope}")
        for k, v, found in self.pairs:
            for i in sorted({i for i, _ in found}):
                others = _set(tuple(j for first, j in found if first == i))
                lines.append(f"K = {_set(k)}, V = {_set(v)}: z{i} is no function of the estimates of {others}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for a JSON file."""
        return {
            "diverse": self.diverse,
            "atoms": [list(atom) for atom in self.atoms],
            "latents": [
                {"latent": e.latent, "clauses": list(e.clauses), "atom": list(e.atom), "holds": e.holds}
                for e in self.latents
            ],
            "pairs": [
                {"k": list(k), "v": list(v), "forbidden": [list(pair) for pair in found]} for k, v, found in self.pairs
            ],
        }


def _set(members: Iterable[int]) -> str:
    return "{" + ", ".join(map(str, members)) + "}"


def as_support(support: Any) -> np.ndarray:
    """Returns a support as truth values (D, d).

    Args:
        support: A matrix of 0 and 1, or of truth values.

    Raises:
        UserError: it is no matrix, is empty, or has other values.
    """
    found = np.asarray(support)
    if found.ndim != 2 or not found.size:
        raise UserError(f"support: the shape {found.shape} is not accepted; (observations, latents) is expected")
    if not np.isin(found, (0, 1)).all():
        raise UserError("support: has values that are not 0 or 1")
    return found.astype(bool)


def latents_of(support: np.ndarray, group: Iterable[int]) -> frozenset[int]:
    """Returns I_K, the latents that some observation of a group depends on.

    Args:
        support: (D, d).
        group: K, indices of observations.

    Raises:
        UserError: an index is none of an observation.
    """
    rows = sorted(set(group))
    if not rows or rows[0] < 0 or rows[-1] >= len(support):
        raise UserError(
            f"groups: {brief(rows)} is not accepted; at least one observation, from 0 to {len(support) - 1}"
        )
    return frozenset(np.flatnonzero(as_support(support)[rows].any(0)).tolist())


def set_parts(support: np.ndarray, k: Iterable[int], v: Iterable[int]) -> SetParts:
    """Returns intersection, differences and complement of the latents of two groups.

    Args:
        support: (D, d).
        k: Indices of the observations of K.
        v: Indices of those of V.
    """
    a, b = latents_of(support, k), latents_of(support, v)
    parts = (a & b, a ^ b, a - b, b - a, frozenset(range(np.shape(support)[1])) - a - b)
    return SetParts(*(tuple(sorted(part)) for part in parts))


def atoms(support: np.ndarray, groups: Sequence[Sequence[int]] | None = None) -> tuple[tuple[int, ...], ...]:
    """Returns the atoms of the Venn diagram of all I_K: latents that belong to the same sets.

    Args:
        support: (D, d).
        groups: The groups K; by default each observation alone, so that an atom has equal columns of the support.
    """
    rows = as_support(support)
    sets = [latents_of(rows, group) for group in (groups or [[i] for i in range(len(rows))])]
    found: dict[tuple[bool, ...], list[int]] = {}
    for j in range(rows.shape[1]):
        found.setdefault(tuple(j in one for one in sets), []).append(j)
    return tuple(tuple(atom) for atom in found.values())


def forbidden_pairs(support: np.ndarray, k: Iterable[int], v: Iterable[int]) -> frozenset[tuple[int, int]]:
    """Returns the pairs (i, j) of Definition 5 for two groups: z_i is no function of ẑ_π(j).

    Args:
        support: (D, d).
        k: Indices of the observations of K.
        v: Indices of those of V.
    """
    parts = set_parts(support, k, v)
    sides = (
        (parts.intersection, parts.symmetric),
        (parts.symmetric, parts.intersection),
        (parts.only_k, parts.only_v),
        (parts.only_v, parts.only_k),
    )
    return frozenset((i, j) for left, right in sides for i in left for j in right)


def all_forbidden_pairs(support: np.ndarray) -> frozenset[tuple[int, int]]:
    """Returns the forbidden pairs over all groups: different columns of the support, neither of them empty."""
    columns = as_support(support).T
    used = [j for j in range(len(columns)) if columns[j].any()]
    return frozenset((i, j) for i in used for j in used if not np.array_equal(columns[i], columns[j]))


def diversity_clauses(support: np.ndarray, latent: int) -> tuple[int, ...]:
    """Returns which clauses of sufficient diversity (Assumption 2) some set A of observations satisfies for a latent i.

    1. for some k ∈ A, the I of A cover all latents and I_k without those of A \\ k is {i};
    2. for some k ∈ A, the I of A cover all latents and the intersection of A \\ k without I_k is {i};
    3. the intersection of A is {i} (structural sparsity of Zheng, Ng & Zhang 2022).

    A larger A covers more and intersects in less, so only the largest A of each clause is looked at: that of all
    observations that depend on i, or of all that do not.

    Args:
        support: (D, d).
        latent: i.
    """
    rows = as_support(support)
    own = np.arange(rows.shape[1]) == latent
    with_it, without = rows[rows[:, latent]], rows[~rows[:, latent]]
    if not len(with_it):
        return ()
    found = []
    if bool((without.any(0) | own).all()):
        found.append(1)
    common = with_it.all(0)
    covered = with_it.any(0)
    if any(bool(((common & ~row) == own).all() and (covered | row).all()) for row in without):
        found.append(2)
    if bool((common == own).all()):
        found.append(3)
    return tuple(found)


def diversity_report(support: Any, groups: Sequence[Sequence[int]] = ()) -> DiversityReport:
    """Says which guarantee holds for which latent, and what chosen groups of observations disentangle.

    Args:
        support: (D, d), of 0 and 1.
        groups: Groups of observations; each two of them are K and V.

    Raises:
        UserError: the support is not accepted, or a group names no observation.
    """
    rows = as_support(support)
    found = atoms(rows)
    latents = []
    for j in range(rows.shape[1]):
        atom = next(atom for atom in found if j in atom)
        holds = "element-wise" if len(atom) == 1 else "set-wise"
        latents.append(Guarantee(j, diversity_clauses(rows, j), atom, holds if rows[:, j].any() else "none"))
    pairs = tuple((tuple(k), tuple(v), tuple(sorted(forbidden_pairs(rows, k, v)))) for k, v in combinations(groups, 2))
    return DiversityReport(tuple(latents), found, pairs)


def two_groups(support: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Returns two disjoint groups of observations with a common latent and each with latents of its own.

    Of runs of consecutive observations the two whose smallest part is largest, then those that cover most latents, then
    the first. ``None`` if no two runs have all three parts.

    Args:
        support: (D, d).
    """
    rows = as_support(support)
    count = len(rows)
    every = ((i, i + n) for n in range(1, count // 2 + 1) for i in range(count - n + 1))
    runs = [*islice(every, MOST_RUNS)]
    sets = np.array([rows[i:j].any(0) for i, j in runs], np.int64).reshape(len(runs), rows.shape[1])
    starts, stops = np.array(runs, np.int64).reshape(-1, 2).T
    both, sizes = sets @ sets.T, sets.sum(1)
    least = np.minimum(both, np.minimum(sizes[:, None], sizes) - both)
    worth = least * (rows.shape[1] + 1) + sizes[:, None] + sizes - both
    apart = (stops[:, None] <= starts) | (stops <= starts[:, None])
    worth = np.triu(np.where(apart & (least > 0), worth, 0), 1)
    if not worth.any():
        return None
    k, v = (runs[place] for place in np.unravel_index(worth.argmax(), worth.shape))
    return tuple(range(*k)), tuple(range(*v))
