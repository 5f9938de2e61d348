"""Tightness agrees with explicit matrices, with closed forms of random networks, and with the authors' numbers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from framework.errors import UserError
from framework.functional.interval import Box, IntervalNetwork, pixel_box, relu_states, tightness


def linear(*widths: int, generator: torch.Generator | None = None, relu: bool = False) -> nn.Sequential:
    """Layers without biases, of standard normal weights."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layer = nn.Linear(a, b, bias=False)
        layer.weight.data.normal_(generator=generator)
        layers += [layer, nn.ReLU()] if relu else [layer]
    return nn.Sequential(*layers[:-1] if relu else layers)


def tau(d: int) -> float:
    """E r_* / E r_† of two Gaussian layers with d units between: √π Γ((d+1)/2) / (d Γ(d/2))."""
    return math.sqrt(math.pi) / d * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))


def ratio_of_means(*widths: int, draws: int = 20) -> float:
    generator = torch.Generator().manual_seed(0)
    exact = layerwise = 0.0
    for _ in range(draws):
        net = linear(*widths, generator=generator)
        x = torch.zeros(1, widths[0])
        found = tightness(IntervalNetwork(net), x, torch.ones_like(x))
        exact += float(found.exact.sum())
        layerwise += float(found.layerwise.sum())
    return exact / layerwise


def test_the_closed_form_at_known_widths() -> None:
    assert tau(1) == pytest.approx(1)
    assert tau(2) == pytest.approx(math.pi / 4)
    assert tau(64) == pytest.approx(0.156054, abs=1e-6)
    assert tau(256) == pytest.approx(0.0782557, abs=1e-7)


@pytest.mark.parametrize("d", [1, 2, 16, 64])
def test_two_gaussian_layers(d: int) -> None:
    assert ratio_of_means(200, d, 50) == pytest.approx(tau(d), rel=0.01)


def test_deep_gaussian_layers_are_the_product() -> None:
    assert ratio_of_means(200, 16, 8, 32, 20, draws=100) == pytest.approx(tau(16) * tau(8) * tau(32), rel=0.03)


class Strided(nn.Module):
    """Strided convolutions with batch norm, a pooling, and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1)
        )
        self.relu = nn.ReLU()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head((self.relu(x) + x).flatten(1))


def by_matrices(net: Strided, x: Tensor, radius: Tensor, label: int) -> tuple[Tensor, Tensor]:
    """Half-widths of one sample from the layers' explicit matrices, multiplied from the back."""
    body = net.body
    shapes, values = [x.shape[1:]], x
    jacobians = []
    for part in (body[0], body[1], body[2], body[3], body[4]):
        jacobian = torch.func.jacrev(part)(values)[0, ..., 0, :, :, :]
        jacobians.append(jacobian.reshape(part(values)[0].numel(), -1))
        values = part(values)
        shapes.append(values.shape[1:])
    mask = (values.flatten() >= 0).double()
    rows = net.head.weight - net.head.weight[label]
    rows = rows[[j for j in range(3) if j != label]]
    exact = rows @ torch.diag(mask + 1)
    layerwise = radius.flatten()
    for jacobian in reversed(jacobians):
        exact = exact @ jacobian
    for jacobian in jacobians:
        layerwise = jacobian.abs() @ layerwise
    return exact.abs() @ radius.flatten(), rows.abs() @ (layerwise * mask + layerwise)


def test_convolutions_agree_with_explicit_matrices() -> None:
    torch.manual_seed(0)
    net = Strided().double().eval()
    net.body[1].running_mean.normal_()
    net.body[1].weight.data.normal_()
    x, labels = torch.rand(3, 2, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2])
    found = tightness(IntervalNetwork(net), x, 0.1, labels)
    radius = pixel_box(x, 0.1).radius
    for row, label in enumerate(labels.tolist()):
        exact, layerwise = by_matrices(net, x[row : row + 1], radius[row], label)
        torch.testing.assert_close(found.exact[row], exact, rtol=1e-5, atol=0)
        torch.testing.assert_close(found.layerwise[row], layerwise, rtol=1e-5, atol=0)
    assert found.ratio.shape == (3, 2)
    assert (found.ratio <= 1).all()
    assert found.mean == pytest.approx(float((found.exact / found.layerwise).mean()))


def test_a_network_without_negative_weights_is_tight() -> None:
    net = linear(6, 12, 8, 3, generator=torch.Generator().manual_seed(2), relu=True)
    for parameter in net.parameters():
        parameter.data.abs_()
    found = tightness(IntervalNetwork(net), torch.rand(5, 6), 0.1)
    torch.testing.assert_close(found.ratio, torch.ones(5, 3), rtol=0, atol=1e-6)


def test_the_exact_half_width_is_never_above() -> None:
    for seed in range(10):
        net = linear(6, 12, 8, 3, generator=torch.Generator().manual_seed(seed), relu=True)
        for labels in (None, torch.tensor([0, 1, 2, 0, 1])):
            for off in (False, True):
                found = tightness(IntervalNetwork(net), torch.rand(5, 6), 0.1, labels, linear=off)
                assert (found.exact <= found.layerwise * (1 + 1e-5)).all()


def test_propagation_invariance_of_sign_aligned_layers() -> None:
    """sign W₂ = a bᵀ and sign W₁ = b cᵀ give boxes that are exact, and one other sign does not."""
    generator = torch.Generator().manual_seed(0)
    signs = [(torch.rand(n, generator=generator) < 0.5).float() * 2 - 1 for n in (3, 5, 4)]
    a, b, c = signs
    net = linear(4, 5, 3)
    net[0].weight.data = torch.rand(5, 4, generator=generator).add(0.1) * b[:, None] * c
    net[1].weight.data = torch.rand(3, 5, generator=generator).add(0.1) * a[:, None] * b
    x = torch.zeros(1, 4)
    assert tightness(IntervalNetwork(net), x, torch.ones(1, 4)).mean == pytest.approx(1, abs=1e-6)
    net[0].weight.data[0, 0] *= -1
    assert tightness(IntervalNetwork(net), x, torch.ones(1, 4)).mean < 1 - 1e-3


def test_relus_make_it_the_root_of_two_larger() -> None:
    """Masks halve the live width, so two layers at the start are √2 tighter than without ReLUs."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(300, 400), nn.ReLU(), nn.Linear(400, 10))
    x = torch.rand(64, 300)
    network = IntervalNetwork(net)
    local, deep = (tightness(network, x, 0.1, linear=off).mean for off in (False, True))
    assert local / deep == pytest.approx(math.sqrt(2), abs=0.05)


def paper_cnn(depth: int) -> nn.Sequential:
    """The authors' networks of two and three layers for 32x32 images of three channels."""
    if depth == 2:
        return nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 32 * 32, 10))
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()),
        nn.Linear(32 * 8 * 8, 10),
    )


@pytest.mark.parametrize(("depth", "local", "deep"), [(2, 0.1383, 0.0957), (3, 0.02491, 0.01224)])
def test_the_authors_numbers_at_the_start(depth: int, local: float, deep: float) -> None:
    found: dict[bool, list[float]] = {False: [], True: []}
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))  # as normalised ones
    labels = torch.arange(16) % 10
    for seed in range(4):
        torch.manual_seed(seed)
        network = IntervalNetwork(paper_cnn(depth))
        for off in (False, True):
            found[off].append(tightness(network, images, torch.ones_like(images), labels, linear=off).mean)
    assert sum(found[False]) / 4 == pytest.approx(local, rel=0.05)
    assert sum(found[True]) / 4 == pytest.approx(deep, rel=0.05)


def test_the_floor_and_the_scale() -> None:
    net = linear(6, 12, 3, generator=torch.Generator().manual_seed(0), relu=True)
    x = torch.rand(4, 6)
    network = IntervalNetwork(net)
    one, other = (tightness(network, x, torch.full_like(x, r), floor=0).ratio for r in (1.0, 1e-10))
    torch.testing.assert_close(one, other)
    assert tightness(network, x, torch.full_like(x, 1e-10)).mean > one.mean()  # clamped
    net[0].weight.data.zero_()
    assert tightness(network, x, torch.ones_like(x), floor=0).mean == 1  # 0 over 0
    with pytest.raises(UserError, match="floor"):
        tightness(network, x, 0.1, floor=-1)


def test_modes_gradients_and_generators_are_left_alone() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    with torch.no_grad():
        found = tightness(IntervalNetwork(net), torch.rand(2, 4, generator=torch.Generator()), 0.1)
    assert not found.ratio.requires_grad
    assert all(layer.training for layer in net)
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())


def test_states_of_relus() -> None:
    box = Box(torch.tensor([[-2.0, 0.0, 2.0, -1.0]]), torch.tensor([[1.0, 1.0, 1.0, 1.0]]))
    assert relu_states({"a": box}) == {"dead": 0.5, "active": 0.25, "unstable": 0.25}
    assert relu_states({}) == {"dead": 0, "active": 0, "unstable": 0}
