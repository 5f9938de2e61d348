"""Growing classifiers: the square that is cut out, and the phase after a look at a member."""

import pytest
import torch
from torch import nn

from callbacks.mixture_growth import convert_to_templates, phase_of
from modules.initialization.mixture_growth import computing, cutout


@pytest.mark.parametrize("size", [1, 4, 5])
def test_the_square_has_its_sides(size):
    torch.manual_seed(0)
    hit = cutout(torch.ones(4000, 2, 12, 14), size) == 0
    assert int(hit.sum((2, 3)).max()) == size**2
    assert int(hit.any(2).sum(2).max()) == int(hit.any(3).sum(2).max()) == size
    assert torch.equal(hit[:, 0], hit[:, 1])
    assert hit.any(0).all()
    assert int(hit.sum((2, 3)).min()) >= (size // 2) ** 2  # at a corner a quarter is left


def test_a_look_at_a_member_leaves_the_phase():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    convert_to_templates(model)
    with computing(model, 1):
        assert phase_of(model) == 1
    assert [layer.phase for layer in (model[0], model[2])] == [0, 0]
    with pytest.raises(ZeroDivisionError), computing(model, 2):
        raise ZeroDivisionError
    assert phase_of(model) == 0
