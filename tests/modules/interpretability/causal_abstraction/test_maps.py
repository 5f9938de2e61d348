"""Alignment maps: inversion, volume, orthogonality, gradients through the inverse, your own class."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from framework.errors import UserError
from modules.interpretability.causal_abstraction import AlignmentMap, MapConfig, OrthogonalMap, RevNet, build_map


class Shift(AlignmentMap):
    """z = h + by."""

    def __init__(self, features, by=1.0):
        super().__init__(features)
        self.by = nn.Parameter(torch.full((features,), float(by)))

    def forward(self, h):
        return h + self.by

    def inverse(self, z):
        return z - self.by


def maps(dtype):
    torch.manual_seed(0)
    found = [build_map(MapConfig(name, depth=10, width=16), 16) for name in ("identity", "orthogonal", "revnet")]
    found.append(RevNet(16, depth=3, width=5, hidden_layers=2))
    return [phi.to(dtype) for phi in found]


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_inversion(dtype, most):
    """Check 1."""
    h = torch.randn(1000, 16, dtype=dtype)
    for phi in maps(dtype):
        with torch.no_grad():
            assert float((phi.inverse(phi(h)) - h).abs().max()) <= most
            assert float((phi(phi.inverse(h)) - h).abs().max()) <= most


def test_a_revnet_preserves_volume_and_an_orthogonal_map_lengths():
    """Check 1."""
    _, orthogonal, *revnets = maps(torch.float64)
    point = torch.randn(16, dtype=torch.float64)
    for phi in revnets:
        jacobian = torch.autograd.functional.jacobian(lambda h, phi=phi: phi(h[None])[0], point)
        assert abs(float(torch.linalg.slogdet(jacobian).logabsdet)) < 1e-8
    w = orthogonal.layer.weight
    assert float((w.T @ w - torch.eye(16, dtype=w.dtype)).norm().detach()) <= 1e-6
    torch.testing.assert_close(orthogonal(point[None])[0], w @ point)


def test_orthogonal_maps_start_as_rotations_and_reflections():
    torch.manual_seed(0)
    signs = {round(float(torch.det(OrthogonalMap(4).layer.weight.detach()))) for _ in range(20)}
    assert signs == {-1, 1}


def test_a_revnet_by_loops():
    torch.manual_seed(0)
    phi = RevNet(6, depth=2, width=4)
    h = torch.randn(3, 6)
    a, b = h[:, :3], h[:, 3:]
    for block in range(2):
        f, g = phi.first[block], phi.second[block]
        a = a + f[2](f[1](f[0](b)))
        b = b + g[2](g[1](g[0](a)))
    torch.testing.assert_close(phi(h), torch.cat([a, b], 1))
    assert [tuple(p.shape) for p in phi.first[0].parameters()] == [(4, 3), (4,), (3, 4), (3,)]


def test_gradients_through_the_inverse():
    """Check 8: of a loss of φ⁻¹(mix(φ(h), φ(h'))), by φ's parameters."""
    torch.manual_seed(0)
    phi = RevNet(4, depth=2, width=3).double()
    h, other = torch.randn(2, 3, 4, dtype=torch.float64)
    names = [name for name, _ in phi.named_parameters()]

    def loss(*values):
        given = dict(zip(names, values, strict=True))
        z, source = (torch.func.functional_call(phi, given, (x,)) for x in (h, other))
        mixed = torch.cat([source[:, :2], z[:, 2:]], 1)
        # the inverse is another method of the same module
        return torch.func.functional_call(Inverse(phi), {f"phi.{n}": v for n, v in given.items()}, (mixed,)).sin().sum()

    assert torch.autograd.gradcheck(loss, tuple(p.detach().clone().requires_grad_() for p in phi.parameters()))


class Inverse(nn.Module):
    def __init__(self, phi):
        super().__init__()
        self.phi = phi

    def forward(self, z):
        return self.phi.inverse(z)


def test_your_own_map_by_its_path():
    path = f"{Shift.__module__}.{Shift.__qualname__}"
    phi = build_map(MapConfig(path, args={"by": 2.0}), 3, may_import=False)
    torch.testing.assert_close(phi(torch.zeros(1, 3)), torch.full((1, 3), 2.0))
    with pytest.raises(UserError, match="refused its arguments"):
        build_map(MapConfig(path, args={"of": 2.0}), 3, may_import=False)


def test_what_is_refused():
    with pytest.raises(UserError, match="'rotation' is not one of identity, orthogonal, revnet"):
        build_map(MapConfig("rotation"), 4)
    with pytest.raises(UserError, match=r"features: 5 is not accepted; a multiple of 2"):
        build_map(MapConfig(), 5)
    with pytest.raises(UserError, match=r"alignment\.name: .*no module"):
        build_map(MapConfig("nowhere.at.All"), 4)
    with pytest.raises(UserError, match="which imports nothing"):
        build_map(MapConfig("antigravity.Map"), 4, may_import=False)
    with pytest.raises(UserError, match=r"depth: 0"):
        build_map(MapConfig(depth=0), 4)
