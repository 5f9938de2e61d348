"""Diameters of regions against known intervals, and inputs that are no data."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from framework.errors import UserError
from framework.functional.neural_code import neural_codes
from modules.interpretability.hash_encoder.regions import class_centres, random_redundancy, region_diameters


def test_the_diameter_is_the_length_of_the_interval():
    """In one dimension regions are intervals between kinks."""
    net = nn.Sequential(nn.Linear(1, 3), nn.ReLU()).double()
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.copy_(torch.tensor([1.01, -0.52, -2.03]))  # kinks at -1.01, 0.52, 2.03
    x = torch.tensor([[0.0], [1.0], [9.0], [-4.0]], dtype=torch.float64)
    centre = torch.zeros_like(x) + 0.5
    found = region_diameters(net, x, centre)
    assert float(found[0]) == pytest.approx(0.05 * (20 + 10))  # whole steps to -1.01 and to 0.52
    assert float(found[1]) == pytest.approx(0.05 * (9 + 20))
    assert float(found[2]) == pytest.approx(10.0)  # 5 back to 4 and 5 on: the region has no end
    assert float(found[3]) == pytest.approx(0.05 * (100 + 59))
    relative = region_diameters(net, x[:1], centre[:1], normalize=False)
    assert float(relative) == pytest.approx(0.05 * (40 + 20))  # in units of the distance of 0.5
    one = region_diameters(net, x[:1], x[:1])  # its own centre: all points are one
    assert float(one) == pytest.approx(10.0)


def test_diameters_point_by_point():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU()), torch.randn(6, 3)
    y = torch.arange(6) % 2
    centres = class_centres(x, y)
    torch.testing.assert_close(centres[1], x[1::2].mean(0))
    found = region_diameters(net, x, centres, step=0.1, steps=20)
    for index in range(6):
        d = (centres[index] - x[index]) / (centres[index] - x[index]).norm()
        own = neural_codes(net, x[index : index + 1]).packed
        line = [neural_codes(net, (x[index] + 0.1 * k * d)[None]).packed for k in range(-20, 21) if k]
        assert float(found[index]) == pytest.approx(0.1 * sum((code == own).all() for code in line))


def test_random_inputs():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.ReLU())
    nn.init.eye_(net[1].weight)
    nn.init.zeros_(net[1].bias)
    assert random_redundancy(net, (3, 4), 50, batch_size=20) == pytest.approx(0.98)  # all on
    assert random_redundancy(net, (3, 4), 50, "negative") == pytest.approx(0.98)  # all off
    with torch.no_grad():
        net[1].bias -= 0.5
    assert random_redundancy(net, (3, 4), 50, seed=1) < 0.1
    with pytest.raises(UserError, match="noise: 'gauss' is not one of uniform, negative"):
        random_redundancy(net, (3, 4), 5, "gauss")
    with pytest.raises(UserError, match=r"step: 0\.0"):
        region_diameters(net, torch.randn(2, 12), torch.randn(2, 12), step=0.0)
