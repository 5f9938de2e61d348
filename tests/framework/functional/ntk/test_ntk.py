"""Limit kernels against tables, quadrature and scaling; predictions against training a linearised model."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.func import functional_call, jvp

from framework.errors import UserError
from framework.functional.ntk import (
    ACTIVATIONS,
    KernelPredictor,
    alignment,
    drift,
    infinite_kernels,
    inflation,
    kernel_vector_product,
    tangent_kernel,
)


def circle(*angles):
    gamma = torch.tensor(angles, dtype=torch.float64)
    return torch.stack([gamma.cos(), gamma.sin()], 1)


def test_the_limit_is_the_table():
    nngp, ntk = infinite_kernels(circle(0, math.pi / 6, math.pi / 4, math.pi / 2, 2.0, math.pi))
    theta = [0.282500, 0.207364, 0.169971, 0.092702, 0.073347, 0.064354]
    sigma = [0.081250, 0.075168, 0.069867, 0.055760, 0.051277, 0.048097]
    torch.testing.assert_close(ntk[0], torch.tensor(theta).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(nngp[0], torch.tensor(sigma).double(), rtol=0, atol=1e-6)
    for depth, value in ((2, 0.52), (3, 0.4025), (4, 0.2825), (6, 0.13125)):
        assert float(infinite_kernels(circle(0.0), depth=depth)[1]) == pytest.approx(value, abs=1e-9)
    assert torch.linalg.eigvalsh(infinite_kernels(circle(*range(6)))[1]).min() > 0


@pytest.mark.parametrize(("a", "b", "c"), [(1.0, 0.5, 0.3), (0.2, 0.2, -0.1), (2.0, 1.0, 1.2)])
def test_relu_and_erf_against_quadrature(a, b, c):
    tensors = [torch.tensor([value], dtype=torch.float64) for value in (a, b, c)]
    rest = math.sqrt(b - c * c / a)

    def over_v(z, slope):
        mean = c / math.sqrt(a) * z
        tail = stats.norm.cdf(mean / rest)
        inner = tail if slope else mean * tail + rest * stats.norm.pdf(mean / rest)
        return (1.0 if slope else math.sqrt(a) * z) * inner * stats.norm.pdf(z)

    for slope, found in enumerate(ACTIVATIONS["relu"].dual(*tensors)):
        assert float(found) == pytest.approx(integrate.quad(over_v, 0, 12, args=(slope,))[0], abs=1e-6)

    def erf_over_v(z, slope):
        u, mean, spread = math.sqrt(a) * z, c / math.sqrt(a) * z, 1 + 2 * rest**2
        if slope:
            return 4 / math.pi * math.exp(-(u**2) - mean**2 / spread) / math.sqrt(spread) * stats.norm.pdf(z)
        return math.erf(u) * math.erf(mean / math.sqrt(spread)) * stats.norm.pdf(z)

    for slope, found in enumerate(ACTIVATIONS["erf"].dual(*tensors)):
        assert float(found) == pytest.approx(integrate.quad(erf_over_v, -12, 12, args=(slope,))[0], abs=1e-8)


def tanh_expectations(a, b, rho):
    """E[tanh(u) tanh(v)] and E[tanh'(u) tanh'(v)] by adaptive quadrature."""

    def bump(x):
        return 1 - math.tanh(x) ** 2 if abs(x) < 1 else 4 * math.exp(-2 * abs(x)) / (1 + math.exp(-2 * abs(x))) ** 2

    rest = math.sqrt(1 - rho**2)

    def mean(f, g):
        def over_v(z):
            own, centre = f(math.sqrt(a) * z), math.sqrt(b) * rho * z
            if rest == 0:
                return own * g(centre) * stats.norm.pdf(z)
            scale = math.sqrt(b) * rest
            turn = -centre / scale  # where v = 0
            ends = sorted({-9.0, 9.0, *(min(9, max(-9, turn + k / scale)) for k in (-15, -4, -1, 0, 1, 4, 15))})
            parts = pairwise(ends)
            return (
                own
                * stats.norm.pdf(z)
                * sum(
                    integrate.fixed_quad(
                        lambda w: np.array([g(centre + scale * x) for x in w]) * stats.norm.pdf(w), low, high, n=30
                    )[0]
                    for low, high in parts
                )
            )

        ends = sorted({-9.0, 9.0, *(min(9, max(-9, k / math.sqrt(a))) for k in (-15, -4, -1, 0, 1, 4, 15))})
        parts = pairwise(ends)
        return sum(integrate.quad(over_v, low, high, epsabs=1e-10, epsrel=1e-9)[0] for low, high in parts)

    return mean(math.tanh, math.tanh), mean(bump, bump)


@pytest.mark.parametrize(
    ("a", "b", "rho"),
    [
        *((v, v, 1.0) for v in (0.01, 1.0, 4.0, 16.0, 60.0, 1000.0)),
        (0.01, 0.01, 0.5),
        (1000.0, 1000.0, -1.0),
        (60.0, 60.0, 0.999),
        (1000.0, 4.0, -0.9),
    ],
)
def test_tanh_against_adaptive_quadrature(a, b, rho):
    tensors = [torch.tensor([x], dtype=torch.float64) for x in (a, b, rho * math.sqrt(a * b))]
    for found, wanted in zip(ACTIVATIONS["tanh"].dual(*tensors), tanh_expectations(a, b, rho), strict=True):
        assert float(found) == pytest.approx(wanted, rel=1e-7, abs=1e-12)


def test_tanh_has_the_limits_of_small_and_large_variances():
    zero, large = torch.zeros(1, dtype=torch.float64), torch.full((1,), 1e12, dtype=torch.float64)
    value, slope = ACTIVATIONS["tanh"].dual(zero, zero, zero)
    assert (float(value), float(slope)) == (0, pytest.approx(1, abs=1e-10))
    value, slope = ACTIVATIONS["tanh"].dual(large, large, 0.5 * large)
    assert float(value) == pytest.approx(1 / 3, abs=1e-5)  # that of the sign, 2/π arcsin ρ
    assert float(slope) == pytest.approx(2 / math.pi / 1e12 / math.sqrt(0.75), rel=1e-5)


def test_the_limit_is_neural_tangents():
    reason = "neural-tangents is optional"
    stax = pytest.importorskip("neural_tangents.stax", reason=reason, exc_type=ImportError)
    dense = {"W_std": 1.0, "b_std": 0.1, "parameterization": "ntk"}
    layers = [layer for _ in range(3) for layer in (stax.Dense(1, **dense), stax.Relu())]
    x = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = stax.serial(*layers, stax.Dense(1, **dense))[2](x.numpy(), None, ("nngp", "ntk"))
    for ours, theirs in zip(infinite_kernels(x), (found.nngp, found.ntk), strict=True):
        torch.testing.assert_close(ours, torch.tensor(theirs).double(), rtol=0, atol=1e-5)


def test_without_biases_it_scales_and_zeros_are_legal():
    x, y = circle(0.3), circle(1.1)
    one, other = infinite_kernels(x, y, beta=0)[1], infinite_kernels(2 * x, 3 * y, beta=0)[1]
    torch.testing.assert_close(other, 6 * one, rtol=1e-12, atol=1e-12)
    assert infinite_kernels(torch.zeros(2, 2), activation="tanh")[1].isfinite().all()


@pytest.mark.parametrize("flow", [False, True])
def test_the_closed_form_is_training_of_the_linearised_model(flow):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 20), nn.Tanh(), nn.Linear(20, 1)).double()
    x, there, y = torch.randn(5, 2).double(), torch.randn(3, 2).double(), torch.randn(5).double()
    start = {name: value.detach() for name, value in net.named_parameters()}
    moved = {name: torch.zeros_like(value) for name, value in start.items()}

    def linear(change, points):
        value, slope = jvp(lambda state: functional_call(net, state, (points,))[:, 0], (start,), (change,))
        return value + slope

    rate, steps = (1e-4, 3000) if flow else (0.05, 400)
    kernel, cross = tangent_kernel(net, x), tangent_kernel(net, there, x)
    for _ in range(steps):
        leaves = {name: value.requires_grad_() for name, value in moved.items()}
        loss = (linear(leaves, x) - y).square().mean() / 2
        slopes = torch.autograd.grad(loss, list(leaves.values()))
        moved = {n: (v - rate * s).detach() for (n, v), s in zip(leaves.items(), slopes, strict=True)}
    predictor = KernelPredictor(kernel, rate, discrete=not flow)
    f, g = net(x)[:, 0].detach(), net(there)[:, 0].detach()
    tolerance = 1e-4 if flow else 1e-6
    torch.testing.assert_close(predictor.on_data(f, y, steps), linear(moved, x), rtol=0, atol=tolerance)
    torch.testing.assert_close(predictor.at(cross, g, f, y, steps), linear(moved, there), rtol=0, atol=tolerance)


def test_the_limit_of_training():
    x, y = circle(0.3, 1.4, 2.9, 4.6), torch.tensor([0.1, -0.2, 0.3, 0.0], dtype=torch.float64)
    nngp, ntk = infinite_kernels(x)
    predictor = KernelPredictor(ntk)
    mean, variance = predictor.limit(ntk, y, nngp.diagonal(), nngp, nngp)
    torch.testing.assert_close(mean, y)
    torch.testing.assert_close(variance, torch.zeros(4).double(), rtol=0, atol=1e-12)
    zero = torch.zeros(4).double()
    torch.testing.assert_close(predictor.at(ntk, zero, zero, y, math.inf), y)
    torch.testing.assert_close(predictor.on_data(zero, y, math.inf), y)
    values, components = predictor.principal_components()
    torch.testing.assert_close(ntk / 4 @ components, components * values)
    torch.testing.assert_close(components.square().mean(0), torch.ones(4).double())
    twice = infinite_kernels(circle(0.3, 0.3))
    with pytest.raises(UserError, match="singular"):
        KernelPredictor(twice[1]).limit(twice[1], y[:2], twice[0].diagonal(), *twice[:1] * 2)


class Scaled(nn.Module):
    """A network with a parameter of no dimension."""

    def __init__(self):
        super().__init__()
        self.scale, self.net = (
            nn.Parameter(torch.tensor(2.0)),
            nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 2)),
        )

    def forward(self, x):
        return self.scale * self.net(x)


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_the_kernel_is_the_sum_over_single_derivatives(chunk):
    torch.manual_seed(0)
    model = Scaled().double()
    x, y = torch.randn(5, 3).double(), torch.randn(4, 3).double()

    def rows(points):
        outputs = model(points).flatten()
        found = [torch.autograd.grad(value, list(model.parameters()), retain_graph=True) for value in outputs]
        return torch.stack([torch.cat([part.flatten() for part in row]) for row in found])

    slow = (rows(x) @ rows(y).T).view(5, 2, 4, 2)
    torch.testing.assert_close(tangent_kernel(model, x, y, chunk=chunk, apart=True), slow)
    torch.testing.assert_close(tangent_kernel(model, x, y, chunk=chunk), slow.diagonal(dim1=1, dim2=3).sum(-1))


def test_measures_and_what_is_refused():
    y = torch.tensor([1.0, 2.0], dtype=torch.float64)
    kernel = torch.outer(y, y)
    assert float(alignment(kernel, y)) == pytest.approx(1)
    assert float(drift(2 * kernel, kernel)) == pytest.approx(1)
    assert float(inflation(2 * kernel, kernel)) == pytest.approx(2)
    net, x = nn.Linear(2, 3), torch.randn(4, 2)
    torch.testing.assert_close(tangent_kernel(net, x, parameters=["weight"]), 3 * (x @ x.T).double())
    v = torch.ones(4, 3)
    torch.testing.assert_close(kernel_vector_product(net, x, v, parameters=["bias"]), 4 * v)
    with pytest.raises(UserError, match="parameters: scale not in the model; it has weight, bias"):
        tangent_kernel(net, x, parameters=["scale"])
    with pytest.raises(UserError, match="all are frozen"):
        tangent_kernel(net.requires_grad_(False), x)
    with pytest.raises(UserError, match="activation"):
        infinite_kernels(x, activation="step")
    with pytest.raises(UserError, match="square"):
        KernelPredictor(torch.zeros(2, 3))
