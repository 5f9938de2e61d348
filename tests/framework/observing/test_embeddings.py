"""What goes into a projection and comes out of it, and which layer that is."""

from __future__ import annotations

import pytest
import torch

from framework.errors import UserError
from framework.observing.embeddings import embed, find_projection
from modules.vision.small_cnn import SmallCNN


def test_the_head_is_found():
    wrapped = torch.nn.ModuleDict({"net": SmallCNN(), "other": torch.nn.Linear(2, 2)})
    assert find_projection(wrapped) == "net.head"
    assert find_projection(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))) == "2"
    assert find_projection(wrapped, "other") == "other"
    adapted = torch.nn.Module()
    adapted.base_layer, adapted.adapter = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert find_projection(torch.nn.Sequential(torch.nn.Linear(3, 2), adapted, torch.nn.ReLU())) == "1"
    with pytest.raises(UserError, match="projection"):
        find_projection(wrapped, "haed")
    with pytest.raises(UserError, match="a layer with weights"):
        find_projection(torch.nn.Sequential(torch.nn.ReLU()))


def test_embeddings_do_not_depend_on_batches_and_leave_the_mode():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    x, y = torch.randn(10, 3), torch.arange(10)
    one, _ = embed(model, [(x, y)], "2", "both")
    several, targets = embed(model, [(x[:7], y[:7]), (x[7:], y[7:])], "2", "both")
    assert model.training
    assert torch.equal(targets, y)
    for name, shape in (("pre", (10, 4)), ("post", (10, 2))):
        assert one[name].shape == shape
        torch.testing.assert_close(one[name], several[name])


def test_a_layer_without_a_vector_for_each_example_is_refused():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Flatten(0), torch.nn.Identity())
    with pytest.raises(UserError, match=r"key\.projection: 1 has no output for each example of a batch"):
        embed(model, [(torch.randn(5, 3), torch.arange(5))], "1", "post", key="key.projection")
    with pytest.raises(UserError, match="key: there is no data"):
        embed(model, [], "0", key="key.projection")
