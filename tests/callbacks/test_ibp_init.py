"""IBP initialisation: boxes keep their width, the last layer and the biases stay, the seed decides."""

import itertools
import math

import pytest
import torch
from editing_toys import trainer_of
from small_classifier import Data, Net
from torch import nn

from callbacks.ibp_init import IBPInit, ibp_init_, plan_ibp_init
from framework.errors import UserError
from framework.functional.interval import IntervalNetwork, pixel_box, tightness


def deep(width=1000, depth=4):
    torch.manual_seed(0)
    layers = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def test_boxes_keep_their_width():
    net = deep()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    x = torch.rand(8, 1000)
    before = IntervalNetwork(net).bounds(x, 0.01)
    ibp_init_(net, seed=0)
    after = IntervalNetwork(net).bounds(x, 0.01)
    widths = [
        float(pixel_box(x, 0.01).radius.mean()),
        *(float(after.layers[f"{i}"].radius.mean()) for i in (1, 3, 5, 7)),
    ]
    # the first layer's input is not centred at 0, so not half of its ReLUs are off
    for one, other in itertools.pairwise(widths):
        assert other / one == pytest.approx(1, abs=0.25)
    assert float(before.layers["7"].radius.mean()) / float(before.layers["1"].radius.mean()) > 100


def test_a_linear_layer_and_relu_keep_the_width_of_small_boxes_around_centred_inputs():
    net = nn.Sequential(nn.Linear(1000, 1000, bias=False), nn.ReLU(), nn.Linear(1000, 10))
    ibp_init_(net, seed=0)
    network = IntervalNetwork(net)
    from framework.functional.interval import Box

    x = torch.randn(32, 1000, generator=torch.Generator().manual_seed(0))
    found = network.propagate(Box(x, torch.full_like(x, 1e-4)))
    assert float(found.layers["1"].radius.mean()) / 1e-4 == pytest.approx(1, rel=0.05)


def test_two_layers_have_the_tightness_ratio_of_relu_networks():
    net = nn.Sequential(nn.Linear(500, 400), nn.ReLU(), nn.Linear(400, 10))
    ibp_init_(net, seed=1)
    x = torch.rand(64, 500, generator=torch.Generator().manual_seed(0))
    local, dln = (tightness(IntervalNetwork(net), x, 0.1, linear=off).mean for off in (False, True))
    assert local / dln == pytest.approx(math.sqrt(2), abs=0.05)


def test_what_is_drawn_and_what_stays():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 20), nn.Linear(20, 4)
    )
    before = {name: value.clone() for name, value in net.state_dict().items()}
    plan = ibp_init_(net, seed=3)
    assert {name: entry["std"] for name, entry in plan["weights"].items()} == {
        "0.weight": pytest.approx(math.sqrt(2 * math.pi) / 27),
        "4.weight": pytest.approx(math.sqrt(2 * math.pi) / 288),
    }
    changed = [name for name, value in net.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["0.weight", "4.weight"]
    drawn = {name: value.clone() for name, value in net.state_dict().items()}
    ibp_init_(net, seed=3)
    assert all(torch.equal(value, drawn[name]) for name, value in net.state_dict().items())
    assert list(plan_ibp_init(net, last="4")["weights"]) == ["0.weight", "5.weight"]
    assert list(plan_ibp_init(net, exclude=["0"])["weights"]) == ["4.weight"]
    assert float(net[4].weight.std()) == pytest.approx(math.sqrt(2 * math.pi) / 288, rel=0.05)


def test_what_is_refused():
    with pytest.raises(UserError, match="ibp_init: no layer is left to draw beside the last one, 0"):
        plan_ibp_init(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(UserError, match=r"ibp_init\.last: "):
        plan_ibp_init(deep(4), last="nothing")
    with pytest.raises(UserError, match=r"ibp_init\.include: "):
        plan_ibp_init(deep(4), include=["nothing.*"])
    with pytest.raises(UserError, match="seed: -1"):
        IBPInit(seed=-1)
    with pytest.raises(UserError, match=r"ibp_init\.kinds"):
        plan_ibp_init(nn.Sequential(nn.ReLU()))


def test_the_technique_draws_before_training(tmp_path):
    torch.manual_seed(0)
    model = Net()
    start = model.body[0].weight.detach().clone()
    trainer_of(tmp_path, IBPInit(seed=2), max_epochs=0).fit(model, datamodule=Data())
    expected = Net()
    ibp_init_(expected, seed=2)
    assert not torch.equal(model.body[0].weight, start)
    assert torch.equal(model.body[0].weight, expected.body[0].weight)
