from __future__ import annotations

import pytest
from torch import nn

from framework.functional.evaluating import evaluating


def test_each_part_gets_its_own_mode_back_also_after_an_error():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout()), nn.BatchNorm1d(2))
    model.train()
    model[2].eval()
    with evaluating(model):
        assert not any(part.training for part in model.modules())
    with pytest.raises(ValueError), evaluating(model):
        raise ValueError
    assert [part.training for part in model.modules()] == [True, True, True, True, False]
