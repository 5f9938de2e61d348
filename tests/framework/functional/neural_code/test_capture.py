"""Where codes are read: any module's activations, functional, in place, repeated; what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from framework.errors import UserError
from framework.functional.neural_code import CodeReader, neural_codes


class Odd(nn.Module):
    """One ReLU module used twice, one in place, two functional ones, a residual sum."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.act, self.inplace = nn.ReLU(), nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        x = self.act(self.layers[0](x))
        x = x + self.act(self.layers[1](x))
        x = self.inplace(self.layers[2](x))
        x = F.relu(self.layers[3](x)).clamp(min=0)
        return self.head(x)

    def slow(self, x):
        """Its codes, layer by layer."""
        inputs = []
        for i in range(4):
            inputs.append(self.layers[i](x))
            x = inputs[-1].relu() + (x if i == 1 else 0)
        return torch.cat([*inputs, inputs[-1].relu()], 1) > 0


def test_every_call_is_a_layer_in_the_order_of_execution():
    torch.manual_seed(0)
    net, x = Odd(), torch.randn(7, 6)
    reader = CodeReader(net, x)
    assert [(layer.name, layer.bits) for layer in reader.layers] == [
        ("act", 6),
        ("act#2", 6),
        ("inplace", 6),
        ("forward", 6),
        ("forward#2", 6),
    ]
    assert reader.offsets == [0, 6, 12, 18, 24, 30]
    assert reader.kind == "neural_code"
    assert torch.equal(reader(x), net.slow(x))
    assert [layer.name for layer in CodeReader(net, x, ["act"]).layers] == ["act", "act#2"]
    assert not net.layers[0]._forward_hooks


def test_a_residual_network_of_timm():
    torch.manual_seed(0)
    net = timm.create_model("resnet18", num_classes=10, in_chans=1).train()
    net.bn1.eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
    x = torch.randn(5, 1, 32, 32)
    codes = neural_codes(net, x, batch_size=2)
    assert len(codes.layers) == 17
    assert codes.layers[-1].name == "layer4.1.act2"
    assert net.training
    assert not net.bn1.training  # modes are restored one by one
    net.eval()
    outputs = []
    for name in ("act1", "layer1.0.act1", "layer1.0.act2"):
        net.get_submodule(name).register_forward_hook(lambda m, i, o: outputs.append(o.detach().clone()))
    net(x)
    for index, output in enumerate(outputs):
        assert np.array_equal(codes.of_layer(index).unpacked(), (output > 0).flatten(1))
    assert np.array_equal(codes.unpacked()[:, : outputs[0][0].numel()], (outputs[0] > 0).flatten(1))
    channels = CodeReader(net, x, ["act1"], space="any")
    assert channels.layers[0].bits == 64
    assert torch.equal(channels(x)[:, :64], outputs[0].sum((2, 3)) > 0)


ACTIVATIONS = [
    (nn.ReLU(), "neural_code"),
    (nn.ReLU6(), "neural_code"),
    (nn.LeakyReLU(), "neural_code"),
    (nn.PReLU(), "neural_code"),
    (nn.RReLU(), "neural_code"),
    (nn.Threshold(0.0, 0.0), "neural_code"),
    (nn.GELU(), "sign_code"),
    (nn.SiLU(), "sign_code"),
    (nn.Tanh(), "sign_code"),
    (nn.ELU(), "sign_code"),
    (nn.Hardtanh(), "sign_code"),
    (nn.Softplus(), "sign_code"),
]


@pytest.mark.parametrize(("activation", "kind"), ACTIVATIONS, ids=lambda value: str(value).lower())
def test_the_kind_of_a_code_is_that_of_its_activations(activation, kind):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(3, 5), activation, nn.Linear(5, 2)), torch.randn(9, 3)
    codes = neural_codes(net, x)
    assert codes.kind == kind
    assert np.array_equal(codes.unpacked(), net[0](x).detach() > 0)


class Sine(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 5)

    def forward(self, x):
        return torch.sin(30 * self.linear(x))


def test_sines_gelus_beside_relus_and_chosen_outputs():
    torch.manual_seed(0)
    x = torch.randn(4, 3)
    sine = Sine()
    codes = neural_codes(sine, x)
    assert (codes.kind, codes.layers[0].function) == ("sign_code", "sin")
    assert np.array_equal(codes.unpacked(), sine.linear(x).detach() > 0)
    both = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 5), nn.ReLU())
    assert [layer.name for layer in CodeReader(both, x).layers] == ["3"]
    mixed = CodeReader(both, x, ["1", "3"])
    assert mixed.kind == "sign_code"
    outputs = CodeReader(both, x, ["0"])  # a module that is no activation: the sign of its output
    assert (outputs.kind, outputs.layers[0].function) == ("sign_code", "output")
    assert torch.equal(outputs(x), both[0](x) > 0)


def test_a_transformers_tokens_and_what_is_the_same_for_all_examples():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.scale = nn.Linear(4, 6), nn.Parameter(torch.randn(6))

        def forward(self, x):
            positions = torch.sin(torch.arange(x.shape[1] * 4.0)).view(1, -1, 4)
            flat = self.layer(x + positions).flatten(0, 1)
            return (F.gelu(flat) * torch.sigmoid(self.scale)).view(len(x), -1)

    torch.manual_seed(0)
    net, x = Tokens(), torch.randn(5, 3, 4)
    reader = CodeReader(net, x)
    assert [(layer.function, layer.bits) for layer in reader.layers] == [("gelu", 18)]


def test_half_precision_and_one_example():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU()).to(torch.bfloat16)
    x = torch.randn(1, 3)
    codes = neural_codes(net, x)
    assert np.array_equal(codes.unpacked(), net[0](x.bfloat16()).detach() > 0)


def test_inputs_of_another_floating_type():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(3, 5), nn.ReLU()), torch.randn(20, 3)
    expected = neural_codes(net, x).packed
    assert np.array_equal(neural_codes(net, x.double()).packed, expected)
    assert np.array_equal(neural_codes(net.double(), x).packed, expected)


def test_exactly_zero_is_off():
    x = torch.tensor([[0.0, -0.0, 1e-45, -1e-45]])
    assert neural_codes(nn.ReLU(), x).unpacked().tolist() == [[0, 0, 1, 0]]


def test_what_is_nan_is_off_and_said():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU()), torch.randn(20, 3)
    before = neural_codes(net, x).unpacked()
    x[3, 0] = float("nan")
    with pytest.warns(UserWarning, match="layers: 3 has NaN for some inputs; these bits are 0"):
        found = neural_codes(net, x).unpacked()
    assert not found[3].any()
    others = np.arange(20) != 3
    assert np.array_equal(found[others], before[others])
    net[0].weight.data.fill_(float("nan"))  # a training that diverged
    with pytest.warns(UserWarning, match="has NaN"):
        assert not neural_codes(net, x).unpacked().any()


@pytest.mark.parametrize("whole", [True, False])
def test_a_compiled_model_has_the_codes_of_the_model(whole):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(20, 3)
    expected = neural_codes(net, x)

    def backend(graph, inputs):
        raise AssertionError("it was compiled for its codes")

    if whole:
        compiled = torch.compile(net, backend=backend)
    else:
        compiled = net
        net[1].compile(backend=backend)
    found = neural_codes(compiled, x)
    assert [layer.bits for layer in found.layers] == [5]
    assert np.array_equal(found.packed, expected.packed)


def test_codes_do_not_depend_on_the_batch_and_keep_no_graph():
    torch.manual_seed(0)
    net, x = Odd(), torch.randn(33, 6, requires_grad=True)
    first = neural_codes(net, x, batch_size=4)
    for size in (1, 7, 64):
        assert np.array_equal(neural_codes(net, x, batch_size=size).packed, first.packed)
    assert not CodeReader(net, x)(x).requires_grad
    assert all(p.grad is None for p in net.parameters())


def test_what_is_refused():
    net, x = Odd(), torch.randn(4, 6)
    with pytest.raises(UserError, match=r"layers: 'actt' names nothing in the model; nearest: act"):
        CodeReader(net, x, ["actt"])
    with pytest.raises(UserError, match="Linear calls no activation for each example"):
        CodeReader(nn.Linear(3, 3), torch.randn(4, 3))
    with pytest.raises(UserError, match="space: 'all' is not one of each, any"):
        CodeReader(net, x, space="all")
    with pytest.raises(UserError, match=r"layers: \[\] is not accepted"):
        CodeReader(net, x, [])
    assert [layer.name for layer in CodeReader(net, x, "inplace").layers] == ["inplace"]  # no letters of it
    with pytest.raises(UserError, match="there are no examples"):
        neural_codes(net, x[:0])
    sizes = nn.Sequential(nn.ReLU(), nn.Flatten())
    reader = CodeReader(sizes, torch.randn(3, 4))
    with pytest.raises(UserError, match="expected 4 numbers for each"):
        reader(torch.randn(3, 5))

    class Sometimes(nn.Module):
        def forward(self, x):
            return x.relu() if x.mean() < 10 else x

    reader = CodeReader(Sometimes(), torch.randn(3, 4))
    with pytest.raises(UserError, match="forward is not called for all inputs"):
        reader(torch.randn(3, 4) + 100)
