"""The projection on doubly stochastic matrices: marginals, closed form, POT, gradients, small η."""

import math

import pytest
import torch

from modules.representation.manifold_clustering.sinkhorn import (
    SinkhornConfig,
    balance,
    memberships,
    row_perplexity,
    sinkhorn_projection,
)

EXACT = SinkhornConfig(tolerance=1e-14, max_iterations=5000)


def scores_of(n, d=6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    c = torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=dtype), dim=1)
    return c, c @ c.T


@pytest.mark.parametrize("eta", [0.05, 0.2, 1.0, 10.0])
def test_rows_and_columns_sum_to_one_and_the_matrix_is_symmetric(eta):
    _, scores = scores_of(50)
    found = balance(scores, eta, 1e-9)
    assert found.error <= 1e-9
    for side in (0, 1):
        torch.testing.assert_close(found.matrix.sum(side), torch.ones(50).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.matrix, found.matrix.T, atol=1e-14, rtol=1e-12)
    rebuilt = (scores / eta + found.potentials[:, None] + found.potentials).exp()
    torch.testing.assert_close(rebuilt, found.matrix)


@pytest.mark.parametrize(("a", "b", "c"), [(1.0, 1.0, 0.3), (2.0, -1.0, 0.5), (0.0, 0.0, 4.0), (30.0, -20.0, 1.0)])
@pytest.mark.parametrize("eta", [0.1, 1.0])
def test_two_points_in_closed_form(a, b, c, eta):
    scores = torch.tensor([[a, c], [c, b]], dtype=torch.float64)
    found = sinkhorn_projection(scores, eta, EXACT)
    share = 1 / (1 + math.exp(-(a + b - 2 * c) / (2 * eta)))
    expected = torch.tensor([[share, 1 - share], [1 - share, share]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("eta", [0.1, 0.2, 1.0])
def test_against_pot(eta):
    ot = pytest.importorskip("ot", reason="the oracle is POT, of the extra dev")
    _, scores = scores_of(16)
    uniform = torch.full((16,), 1 / 16, dtype=torch.float64)
    plan = ot.bregman.sinkhorn_log(uniform, uniform, -scores, eta, stopThr=1e-9, numItermax=50_000)
    torch.testing.assert_close(sinkhorn_projection(scores, eta, EXACT), 16 * plan, atol=1e-6, rtol=0)


@pytest.mark.parametrize("absolute", [False, True])
def test_the_gradient_is_that_of_finite_differences(absolute):
    c, _ = scores_of(7, 4)
    config = SinkhornConfig(1e-14, 5000, absolute=absolute)
    weights = torch.randn(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    c.requires_grad_()
    assert torch.autograd.gradcheck(lambda c: (weights * memberships(c, 0.4, config)).sum(), (c,), atol=1e-4)


def test_the_gradient_is_that_through_unrolled_iterations():
    c, _ = scores_of(9, 4)
    c.requires_grad_()
    weights = torch.randn(9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    logits = c @ c.T / 0.3
    f = torch.zeros(9, dtype=torch.float64)
    for _ in range(200):
        f = 0.5 * (f - (logits + f).logsumexp(1))
    unrolled = (logits + f[:, None] + f).exp()
    (expected,) = torch.autograd.grad((weights * unrolled).sum(), c)
    (found,) = torch.autograd.grad((weights * memberships(c, 0.3, EXACT)).sum(), c)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_detached_potentials_are_constants_of_the_gradient_and_change_no_value():
    c, _ = scores_of(9, 4)
    c.requires_grad_()
    weights = torch.randn(9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    config = SinkhornConfig(1e-14, 5000, detach=True)
    found = memberships(c, 0.3, config)
    assert torch.equal(found, memberships(c, 0.3, EXACT))
    f = balance(c.detach() @ c.detach().T, 0.3, 1e-14, 5000).potentials
    constant = (c @ c.T / 0.3 + f[:, None] + f).exp()
    expected, other = (torch.autograd.grad((weights * m).sum(), c)[0] for m in (constant, memberships(c, 0.3, EXACT)))
    torch.testing.assert_close(torch.autograd.grad((weights * found).sum(), c)[0], expected)
    assert float((expected - other).abs().max()) > 1e-3


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_a_small_eta_is_finite_in_float32(scale):
    c, scores = scores_of(64, 8, dtype=torch.float32)
    found = balance(scale * scores, 0.02)
    assert found.error < 1e-4
    assert bool(found.matrix.isfinite().all())
    c.requires_grad_()
    row_perplexity(memberships(c, 0.02)).backward()
    assert bool(c.grad.isfinite().all())


def test_a_tolerance_below_the_rounding_ends():
    _, scores = scores_of(64, 8, dtype=torch.float32)
    found = balance(scores, 0.2, 1e-12)
    assert found.iterations < 100
    assert found.error < 1e-5


def test_scores_without_a_dominant_diagonal_ask_for_new_potentials_and_converge():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    scores = 300 * (scores + scores.T) - 2000 * torch.eye(12)
    found = balance(scores, 100.0, 1e-9, 100_000)
    assert found.error <= 1e-9
    # rows and columns of very different sizes: no update of the plain kernel could represent them
    one = torch.tensor([[0.0, 800.0], [800.0, -900.0]], dtype=torch.float32)
    assert float((balance(one, 1.0).matrix.sum(1) - 1).abs().max()) < 1e-3


def test_large_and_small_eta_give_the_uniform_matrix_and_the_identity():
    c, scores = scores_of(20)
    assert float((sinkhorn_projection(scores, 1e4, EXACT) - 1 / 20).abs().max()) < 1e-4
    assert float((sinkhorn_projection(scores, 1e-3, EXACT) - torch.eye(20)).abs().max()) < 1e-6
    perplexities = [float(row_perplexity(memberships(c, eta))) for eta in (0.01, 0.1, 0.3, 1.0, 100.0)]
    assert perplexities == sorted(perplexities)
    assert perplexities[0] == pytest.approx(1, abs=0.01)
    assert perplexities[-1] == pytest.approx(20, abs=0.01)


def test_autocast_computes_in_float32():
    c, _ = scores_of(20, dtype=torch.float32)
    expected = memberships(c, 0.2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(memberships(c, 0.2), expected)


@pytest.mark.parametrize("detach", [False, True])
def test_second_derivatives(detach):
    c, _ = scores_of(5, 3)
    c.requires_grad_()
    config = SinkhornConfig(1e-14, 5000, detach=detach)
    weights = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def value(c):
        return (weights * memberships(c, 0.4, config)).sum()

    if not detach:
        assert torch.autograd.gradgradcheck(value, (c,))
        return
    # a constant stays one in the second derivative only for the first's own terms: it is no derivative of a function
    (first,) = torch.autograd.grad(value(c), c, create_graph=True)
    assert bool(torch.autograd.grad(first.sum(), c)[0].isfinite().all())
