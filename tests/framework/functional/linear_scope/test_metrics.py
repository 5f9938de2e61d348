"""The metrics on arrays whose numbers are known."""

import pytest
import torch

from framework.errors import UserError
from framework.functional.linear_scope import BiasReliance, ColumnLocality, DCGain, centres_of


def test_bias_reliance_counts_each_part():
    f = torch.tensor([[3.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    r = torch.tensor([[2.0, 0.0], [0.5, 0.0], [-1.0, 0.0]])
    target = torch.tensor([0, 1, 1])
    metric = BiasReliance()
    metric.update(f[:2], r[:2], target[:2])
    metric.update(f[2:], r[2:], target[2:])
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found["acc_full"] == pytest.approx(2 / 3)  # 0, 1, 0
    assert found["acc_votes"] == pytest.approx(2 / 3)  # 0, 1, 0
    assert found["acc_bias"] == pytest.approx(2 / 3)  # 0, 0, 1
    assert found["norm_ratio"] == pytest.approx((2 / 3 + 0.5 + 1) / 3)


def test_bias_reliance_of_a_margin():
    metric = BiasReliance()
    metric.update(torch.tensor([[1.0], [-2.0]]), torch.tensor([[-1.0], [-2.0]]), torch.tensor([1, 0]))
    found = metric.compute()
    assert float(found["acc_full"]) == 1
    assert float(found["acc_bias"]) == 0.5


def test_gain_is_mean_and_deviation():
    metric = DCGain()
    values = torch.tensor([0.5, 1.5, 1.0, 2.0])
    metric.update(values[:1])
    metric.update(values[1:])
    assert float(metric.compute()["mean"]) == pytest.approx(1.25)
    assert float(metric.compute()["std"]) == pytest.approx(float(values.std(correction=0)))


def test_locality_is_the_share_of_energy_within_the_radius():
    column = torch.zeros(2, 1, 9, 9)
    column[0, 0, 4, 4], column[0, 0, 4, 7] = 2.0, 1.0  # 3 pixels away
    column[1, 0, 1, 1], column[1, 0, 8, 8] = 1.0, 3.0
    metric = ColumnLocality(2.0)
    metric.update(column, torch.tensor([[4.0, 4.0], [1.0, 1.0]]))
    assert float(metric.compute()) == pytest.approx((0.8 + 0.1) / 2)
    with pytest.raises(UserError, match="radius"):
        ColumnLocality(0.0)


def test_a_pixel_of_the_input_lies_in_the_middle_of_those_that_it_becomes():
    found = centres_of(torch.tensor([[0, 0, 3]]), (1, 4, 4), (1, 8, 12))
    assert found.tolist() == [[0.5, 10.0]]
