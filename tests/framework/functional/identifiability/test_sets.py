"""Sets of latents, their guarantees and the conditions for them, against all sets by brute force."""

from itertools import combinations

import numpy as np
import pytest

from framework.errors import UserError
from framework.functional.identifiability import (
    all_forbidden_pairs,
    atoms,
    diversity_clauses,
    diversity_report,
    forbidden_pairs,
    latents_of,
    set_parts,
    two_groups,
)

RING4 = np.eye(4, dtype=bool) | np.roll(np.eye(4, dtype=bool), 1, axis=1)
FULL4 = np.ones((4, 4), bool)
COMPLEMENT5 = ~np.eye(5, dtype=bool)
BLOCKS4 = np.kron(np.eye(2, dtype=int), np.ones((2, 2), int)).astype(bool)


def clauses_by_brute_force(support, i):
    """Assumption 2 as it is written, over all sets A of observations."""
    rows = [frozenset(np.flatnonzero(row)) for row in support]
    every, found = frozenset(range(support.shape[1])), set()
    for size in range(1, len(rows) + 1):
        for chosen in combinations(range(len(rows)), size):
            union = frozenset().union(*(rows[j] for j in chosen))
            common = frozenset.intersection(*(rows[j] for j in chosen))
            if common == {i}:
                found.add(3)
            for k in chosen:
                rest = [rows[j] for j in chosen if j != k]
                if union == every and rows[k] - frozenset().union(*rest) == {i}:
                    found.add(1)
                if rest and union == every and frozenset.intersection(*rest) - rows[k] == {i}:
                    found.add(2)
    return tuple(sorted(found))


@pytest.mark.parametrize(
    ("support", "expected"),
    [(RING4, (1, 2, 3)), (FULL4, ()), (COMPLEMENT5, (1, 2, 3)), (BLOCKS4, ())],
    ids=["ring", "full", "complement of the identity", "two equal blocks"],
)
def test_which_supports_are_diverse(support, expected):
    assert {diversity_clauses(support, i) for i in range(len(support))} == {expected}
    assert diversity_report(support).diverse == bool(expected)


def test_clauses_are_those_of_brute_force():
    generator = np.random.default_rng(0)
    seen = set()
    for number in range(150):
        support = generator.random((1 + number % 5, 1 + number % 4)) < generator.random()
        for i in range(support.shape[1]):
            found = diversity_clauses(support, i)
            assert found == clauses_by_brute_force(support, i), support.astype(int)
            seen.add(found)
    assert seen >= {(), (1, 2, 3), (3,), (1, 3)}


def test_the_sets_of_two_groups():
    assert latents_of(RING4, [0, 1]) == {0, 1, 2}
    parts = set_parts(RING4, [0], [1])
    assert (parts.intersection, parts.symmetric) == ((1,), (0, 2))
    assert (parts.only_k, parts.only_v, parts.outside) == ((0,), (2,), (3,))
    # (i) shared against specific, (ii) the reverse, (iii) specific against specific
    assert forbidden_pairs(RING4, [0], [1]) == {(1, 0), (1, 2), (0, 1), (2, 1), (0, 2), (2, 0)}
    assert forbidden_pairs(FULL4, [0], [1, 2]) == set()
    with pytest.raises(UserError, match=r"groups: \[4\] is not accepted; at least one observation, from 0 to 3"):
        latents_of(RING4, [4])


def test_atoms_are_groups_of_equal_columns():
    assert atoms(BLOCKS4) == ((0, 1), (2, 3))
    assert atoms(RING4) == ((0,), (1,), (2,), (3,))
    assert atoms(RING4, [[0, 1], [2, 3]]) == ((0, 2), (1,), (3,))
    assert atoms(FULL4) == ((0, 1, 2, 3),)


def test_over_all_groups_the_forbidden_pairs_are_those_of_different_atoms():
    generator = np.random.default_rng(1)
    supports = [RING4, FULL4, COMPLEMENT5, BLOCKS4, np.array([[1, 0, 0], [1, 0, 1]], bool)]
    supports += [generator.random((4, 5)) < 0.5 for _ in range(10)]
    for support in supports:
        rows = range(len(support))
        groups = [group for size in range(1, len(support) + 1) for group in combinations(rows, size)]
        union = set().union(*(forbidden_pairs(support, k, v) for k, v in combinations(groups, 2)), set())
        assert union == all_forbidden_pairs(support)
        used = set(np.flatnonzero(support.any(0)))
        apart = {(i, j) for a, b in combinations(atoms(support), 2) for i in a for j in b} & {
            (i, j) for i in used for j in used
        }
        assert union == apart | {(j, i) for i, j in apart}


def test_the_report_says_which_guarantee_holds_for_which_latent():
    report = diversity_report(BLOCKS4, [[0], [2, 3]])
    assert [entry.holds for entry in report.latents] == ["set-wise"] * 4
    assert report.pairs == (((0,), (2, 3), tuple((i, j) for i in range(4) for j in range(4) if (i < 2) != (j < 2))),)
    text = report.text()
    assert "sufficient diversity (Theorem 3): no" in text
    assert "z0: set-wise (no clause), mixed at most within {0, 1}" in text
    assert "K = {0}, V = {2, 3}: z0 is no function of the estimates of {2, 3}" in text
    assert report.as_dict()["atoms"] == [[0, 1], [2, 3]]
    # no clause holds for the first latent, whose column lies between others, but no other column equals it
    nested = diversity_report(np.array([[1, 1, 1, 1], [1, 1, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0]]))
    assert [entry.holds for entry in nested.latents] == ["element-wise"] * 4
    assert not nested.latents[0].clauses
    assert not nested.diverse
    unused = diversity_report(np.array([[1, 0]]))
    assert [entry.holds for entry in unused.latents] == ["element-wise", "none"]


def test_two_groups_have_latents_in_common_and_of_their_own():
    for support in (RING4, COMPLEMENT5, np.eye(3, dtype=bool) | np.roll(np.eye(3, dtype=bool), 1, axis=1)):
        groups = two_groups(support)
        assert groups is not None
        parts = set_parts(support, *groups)
        assert parts.intersection
        assert parts.only_k
        assert parts.only_v
        assert not set(groups[0]) & set(groups[1])
    assert two_groups(FULL4) is None
    assert two_groups(np.ones((1, 3))) is None


def test_two_groups_are_the_best_of_all_pairs_of_runs():
    generator = np.random.default_rng(2)
    for number in range(30):
        support = generator.random((1 + number % 7, 1 + number % 5)) < 0.5
        count = len(support)
        runs = [range(i, i + n) for n in range(1, count // 2 + 1) for i in range(count - n + 1)]
        best, expected = (0, 0), None
        for k, v in combinations(runs, 2):
            parts = set_parts(support, k, v)
            worth = (
                min(len(parts.intersection), len(parts.only_k), len(parts.only_v)),
                len(parts.intersection) + len(parts.symmetric),
            )
            if not set(k) & set(v) and worth[0] and worth > best:
                best, expected = worth, (tuple(k), tuple(v))
        assert two_groups(support) == expected


def test_blocks_have_no_two_groups():
    assert two_groups(BLOCKS4) is None


@pytest.mark.parametrize(
    ("support", "message"),
    [
        ([1, 0], r"the shape \(2,\) is not accepted"),
        ([[0.5]], "values that are not 0 or 1"),
        ([[np.nan]], "not 0 or 1"),
    ],
)
def test_what_is_no_support_is_refused(support, message):
    with pytest.raises(UserError, match=message):
        diversity_report(support)
