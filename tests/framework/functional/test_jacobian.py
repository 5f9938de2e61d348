"""The estimate of the Jacobian's norm, centroids and their invariances (the numbered checks of GrokAlign)."""

import pytest
import torch
from torch import nn

from framework.errors import UserError
from framework.functional.jacobian import (
    alignment,
    by_input,
    centroid,
    collapsed,
    grok_align,
    jacobian,
    jacobian_norms,
    rank_one_share,
    unit_vectors,
)


def relu_net(inputs=6, width=16, outputs=4):
    torch.manual_seed(0)
    layers = [nn.Linear(inputs, width, bias=False), nn.ReLU(), nn.Linear(width, width, bias=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs, bias=False)).double()


def opened(net, count=7, inputs=6):
    x = torch.randn(count, inputs, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    return x, net(x)


def test_the_square_is_unbiased_and_the_root_is_not():
    """Check 1: C |Jᵀ v|² is |J|_F² on average; its root is below |J|_F, whose exact value autograd gives too."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(10, 30, generator=generator, dtype=torch.float64)
    outputs = torch.zeros(20_000, 10, dtype=torch.float64)
    squares = jacobian_norms(outputs, lambda v: v @ matrix, power=2, generator=generator)
    exact = matrix.square().sum()
    assert abs(squares.mean() / exact - 1) < 0.02
    roots = jacobian_norms(outputs, lambda v: v @ matrix, generator=generator)
    assert roots.mean() < 0.998 * exact.sqrt()
    many = jacobian_norms(outputs[:200], lambda v: v @ matrix, projections=64, generator=generator)
    assert roots.mean() < many.mean() < exact.sqrt() * 1.01


def test_the_exact_norm_is_that_of_autograd():
    net = relu_net()
    x, outputs = opened(net)
    reference = torch.func.vmap(torch.func.jacrev(lambda one: net(one)))(x.detach())
    found = jacobian_norms(outputs, by_input(outputs, x), exact=True)
    torch.testing.assert_close(found, reference.flatten(1).norm(dim=1), rtol=1e-10, atol=0)
    torch.testing.assert_close(jacobian(outputs, x), reference, rtol=1e-10, atol=1e-12)
    assert torch.equal(grok_align(outputs, x, exact=True), found.mean())
    assert torch.equal(grok_align(outputs, x, exact=True, level=5.0), (5 - found.mean()).abs())


def test_projections_by_a_loop():
    net = relu_net()
    x, outputs = opened(net)
    drawn = unit_vectors(outputs, torch.Generator().manual_seed(3))
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(7, dtype=torch.float64))
    total = 0.0
    for i in range(7):
        matrix = torch.func.jacrev(lambda one: net(one))(x.detach()[i])
        total += float((4 * (matrix.T @ drawn[i]).square().sum()).sqrt())
    found = grok_align(outputs, x, generator=torch.Generator().manual_seed(3))
    assert float(found) == pytest.approx(total / 7, rel=1e-10)


def test_a_dead_sample_has_no_gradient():
    net = nn.Linear(3, 2, bias=False).double()
    nn.init.zeros_(net.weight)
    x, outputs = opened(net, inputs=3)
    found = grok_align(outputs, x)
    assert float(found) == pytest.approx(1e-4)
    assert not torch.autograd.grad(found, net.weight)[0].any()


def test_the_centroid_of_a_homogeneous_net():
    """Check 2: ⟨μ, x⟩ = Σ f_c(x), and μ at t x is μ at x."""
    net = relu_net()
    x, outputs = opened(net)
    mu = centroid(outputs, x)
    torch.testing.assert_close((mu * x).sum(1), outputs.sum(1), rtol=1e-10, atol=0)
    scaled = (3.7 * x.detach()).requires_grad_()
    torch.testing.assert_close(centroid(net(scaled), scaled), mu, rtol=1e-10, atol=0)


def test_alignment_does_not_depend_on_scale_and_is_one_where_the_jacobian_is_aligned():
    """Check 3."""
    net = relu_net()
    x, outputs = opened(net)
    found = alignment(centroid(outputs, x), x)
    assert (found.abs() <= 1).all()
    torch.testing.assert_close(alignment(centroid(5 * outputs, x), x), found)
    one = x.detach()[:1].requires_grad_()
    for c, expected in (([1.0, 2.0, -0.5], 1.0), ([-1.0, -2.0, 0.5], -1.0), ([1.0, 2.0, -3.0], 0.0)):
        weight = torch.outer(torch.tensor(c).double(), one.detach()[0])
        aligned = one @ weight.T
        assert float(alignment(centroid(aligned, one), one).abs()) == pytest.approx(abs(expected), abs=1e-9)
        assert float(rank_one_share(jacobian(aligned, one))) == pytest.approx(1)
    assert float(rank_one_share(torch.eye(3)[None])) == pytest.approx(1 / 3)
    assert float(rank_one_share(torch.diag(torch.tensor([3.0, 4.0]))[None])) == pytest.approx(16 / 25)


@pytest.mark.parametrize("power", [1, 2])
def test_its_gradient_by_the_parameters(power):
    """Check 5: by finite differences, away from kinks."""
    net = relu_net(3, 5, 2)
    shapes = [(name, p.shape) for name, p in net.named_parameters()]

    def value(*weights):
        named = {name: weight for (name, _), weight in zip(shapes, weights, strict=True)}
        x = torch.tensor([[0.3, -1.1, 0.8], [1.0, 0.4, -0.6]], dtype=torch.float64).requires_grad_()
        outputs = torch.func.functional_call(net, named, (x,))
        return grok_align(outputs, x, 2, power, generator=torch.Generator().manual_seed(0))

    weights = [p.detach().clone().requires_grad_() for p in net.parameters()]
    assert torch.autograd.gradcheck(value, weights, atol=1e-6)


def test_when_a_network_counts_as_collapsed():
    assert collapsed(0.001, 0.2, 0.5, 1)
    assert collapsed(0.001, 0.2, None, 1)
    assert not collapsed(0.1, 0.2, 0.5, 1), "the norm is large"
    assert not collapsed(1.0, 500.0, 0.85, 10), "it classifies"
    assert collapsed(1.0, 500.0, 0.12, 10)


def test_bad_settings_are_refused():
    x, outputs = opened(relu_net())
    with pytest.raises(UserError, match="projections: 0 is not accepted; at least 1"):
        grok_align(outputs, x, projections=0)
    with pytest.raises(UserError, match="power: 3 is not one of 1, 2"):
        grok_align(outputs, x, power=3)
    with pytest.raises(UserError, match="level: -1"):
        grok_align(outputs, x, level=-1)
