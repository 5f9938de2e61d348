"""Coding rates: closed forms, both sides of the determinant, chunks, invariances, degenerate batches, gradients."""

import math

import pytest
import torch

from modules.representation.manifold_clustering import rates
from modules.representation.manifold_clustering.rates import (
    cluster_rate,
    coding_rate,
    mean_log_det,
    membership_rate,
)
from modules.representation.manifold_clustering.sinkhorn import balance, memberships

EPS = 0.2


def unit(n, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)


def rates_written_out(z, gamma):
    """The paper's equations, one point after the other, features as columns."""
    z, (n, d) = z.T, z.shape
    eye = torch.eye(d, dtype=z.dtype)
    whole = torch.logdet(eye + d / (n * EPS) * z @ z.T)
    parts = [torch.logdet(eye + d / EPS * z @ torch.diag(gamma[:, j]) @ z.T) for j in range(n)]
    return whole, torch.stack(parts).mean()


def random_doubly_stochastic(n, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return balance(scores + scores.T, 1.0, 1e-14, 5000).matrix


@pytest.mark.parametrize(("n", "d"), [(12, 5), (5, 12), (6, 6)])
def test_both_sides_and_chunks_are_the_papers_equations_with_their_gradients(n, d):
    z, gamma = unit(n, d).requires_grad_(), random_doubly_stochastic(n, 1).requires_grad_()
    expected = rates_written_out(z, gamma)
    wanted = torch.autograd.grad(expected[0] - expected[1], (z, gamma))
    for chunk in (None, 1, 5):
        whole, parts = coding_rate(z, EPS), membership_rate(z, gamma, EPS, chunk)
        torch.testing.assert_close((whole, parts), expected, atol=1e-8, rtol=0)
        found = torch.autograd.grad(whole - parts, (z, gamma))
        torch.testing.assert_close(found, wanted, atol=1e-8, rtol=0)


def test_gradients_by_finite_differences_where_weights_are_zero_too():
    z, weights = unit(4, 7), torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    shares = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    inputs = [each.requires_grad_() for each in (z, weights, shares)]
    assert torch.autograd.gradcheck(lambda *a: mean_log_det(*a, 3.0, 2), inputs)
    assert torch.autograd.gradgradcheck(lambda *a: mean_log_det(*a, 3.0, 2), inputs)
    zero = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(mean_log_det(z, zero, shares, 3.0), zero)
    expected = 3.0 * z.square().sum(1)[:, None] * shares  # a p_j |z_i|²
    torch.testing.assert_close(found, expected.detach())


def test_ideal_union_of_subspaces():
    d, k, r = 24, 4, 3
    basis = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    z = basis.T[: k * r].repeat(10, 1)
    labels = (torch.arange(k * r) // r).repeat(10)
    same = (labels[:, None] == labels).double()
    found = float(coding_rate(z, EPS) - membership_rate(z, same / same.sum(0), EPS))
    assert found == pytest.approx(k * r * math.log(1 + d / (k * r * EPS)) - r * math.log(1 + d / (r * EPS)), abs=1e-9)


def test_uniform_memberships_give_the_whole_rate_permutations_the_least_and_all_others_lie_between():
    n, d = 10, 6
    z = unit(n, d)
    whole, least = float(coding_rate(z, EPS)), math.log(1 + d / EPS)
    uniform = torch.full((n, n), 1 / n, dtype=torch.float64)
    assert float(membership_rate(z, uniform, EPS)) == pytest.approx(whole, abs=1e-9)
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        permutation = torch.eye(n, dtype=torch.float64)[torch.randperm(n, generator=generator)]
        assert float(membership_rate(z, permutation, EPS)) == pytest.approx(least, abs=1e-9)
        between = float(membership_rate(z, random_doubly_stochastic(n, seed), EPS))
        assert least < between < whole


def test_blocks_of_unequal_clusters_give_the_rate_of_the_clusters():
    z, sizes = unit(15, 6), [1, 4, 10]
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    same = (labels[:, None] == labels).double()
    members = torch.nn.functional.one_hot(labels, 4)  # the last cluster is empty
    by_points = float(membership_rate(z, same / same.sum(0), EPS))
    assert float(cluster_rate(z, members, EPS)) == pytest.approx(by_points, abs=1e-9)
    expected = 0.0
    for k, size in enumerate(sizes):
        own = z[labels == k]
        expected += size / 15 * float(torch.logdet(torch.eye(6).double() + 6 / (size * EPS) * own.T @ own))
    assert by_points == pytest.approx(expected, abs=1e-9)


def test_rotations_of_features_and_permutations_of_points_change_nothing():
    z, gamma = unit(9, 5), random_doubly_stochastic(9, 3)
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))[0]
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    first = coding_rate(z, EPS), membership_rate(z, gamma, EPS)
    for other, matrix in ((z @ turn, gamma), (z[order], gamma[order][:, order])):
        torch.testing.assert_close((coding_rate(other, EPS), membership_rate(other, matrix, EPS)), first)


@pytest.mark.parametrize("kind", ["zero", "equal", "rank one", "tiny"])
@pytest.mark.parametrize(("n", "d"), [(40, 8), (8, 40)])
def test_degenerate_batches_are_finite_in_float32_with_finite_gradients(kind, n, d):
    line = unit(1, d)[0].float()
    signs = torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0)
    z = {
        "zero": torch.zeros(n, d),
        "equal": line.expand(n, d).clone(),
        "rank one": signs[:, None] * line,
        "tiny": 1e-30 * unit(n, d).float(),
    }[kind].requires_grad_()
    gamma = torch.eye(n, requires_grad=True)
    whole, parts = coding_rate(z, 1e-4), membership_rate(z, gamma, 1e-4)
    found = torch.autograd.grad(whole - parts, (z, gamma))
    assert all(bool(each.isfinite().all()) for each in (whole, parts, *found))
    if kind in ("equal", "rank one"):
        # entries of d/ε² = 8e4 and more leave 5e-3 of the identity's in float32
        assert float(whole.detach()) == pytest.approx(math.log(1 + d / 1e-4), rel=2e-3)


def test_half_precision_and_autocast_compute_in_float32():
    z, gamma = unit(20, 6).float(), random_doubly_stochastic(20, 0).float()
    expected = coding_rate(z, EPS), membership_rate(z, gamma, EPS)
    with torch.autocast("cpu", torch.bfloat16):
        found = coding_rate(z, EPS), membership_rate(z, gamma, EPS)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert coding_rate(z.bfloat16(), EPS).dtype == torch.float32


def test_memory_for_the_backward_pass_does_not_grow_with_points_times_squared_dimensions():
    z, gamma = unit(60, 20).float().requires_grad_(), random_doubly_stochastic(60, 0).float().requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        membership_rate(z, gamma, EPS, chunk=4)
    assert sum(kept) <= 2 * (60 * 20 + 60 * 60 + 60)


def test_memory_does_not_grow_with_points_times_squared_dimensions_at_all(monkeypatch):
    z, gamma = unit(60, 20).requires_grad_(), random_doubly_stochastic(60, 0).requires_grad_()
    whole = torch.autograd.grad(membership_rate(z, gamma, EPS), (z, gamma))
    sizes, outer = [], rates._outer
    monkeypatch.setattr(rates, "_outer", lambda rows: sizes.append(len(rows)) or outer(rows))
    parts = torch.autograd.grad(membership_rate(z, gamma, EPS, chunk=7), (z, gamma))
    assert max(sizes) == 7
    torch.testing.assert_close(parts, whole)


def test_features_that_are_nan_give_nan_and_no_error():
    for n, d in ((6, 3), (3, 6)):
        z = torch.full((n, d), math.nan)
        assert math.isnan(float(coding_rate(z, EPS)))
        assert math.isnan(float(membership_rate(z, memberships(z, 0.2), EPS)))
