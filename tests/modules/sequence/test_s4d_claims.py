"""S4D: the claims that need no training hold, and the training loop behind the others learns."""

import pytest
import torch

from framework.claims import Reproduction
from modules.sequence.s4d.claims import frozen_memory, identities
from modules.sequence.s4d.plots import training_figure
from modules.sequence.s4d.training import pooled_digits, train_once


def test_identities_and_memory_hold(tmp_path):
    run = Reproduction(tmp_path)
    measured = [*identities(), *frozen_memory(run)]
    assert len(measured) >= 40
    assert [claim.text for claim in measured if not claim.holds] == []
    assert run.figures == [tmp_path / "memory.png"]
    assert run.figures[0].stat().st_size > 10_000


@pytest.mark.slow
def test_the_comparison_uses_the_digits_in_full():
    x, y, test_x, test_y = pooled_digits()
    assert x.shape == (4000, 196, 1)
    assert test_x.shape == (1000, 196, 1)
    assert torch.cat([y, test_y]).bincount().tolist() == [500] * 10
    assert abs(x.std() - 1) < 1e-4


def test_the_bare_loop_learns_and_repeats():
    torch.manual_seed(0)
    x = torch.randn(200, 20, 1)
    y = (x.mean((1, 2)) > 0).long()
    data = (x, y, x, y)
    options = {"epochs": 15, "d_model": 16, "n_layers": 1, "d_state": 8, "n_classes": 2}
    first = train_once(data, 0, **options)
    assert first > 0.8
    assert train_once(data, 0, **options) == first
    figure = training_figure({"lin": [0.8, 0.9], "real": [0.4]}, {"lin": 0.85})
    assert len(figure.axes) == 1
