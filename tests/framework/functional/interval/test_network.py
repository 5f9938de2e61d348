"""Interval bounds hold, agree with brute force and with exact optimisation, and refuse what has no rule by name."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import Bounds as Limits
from scipy.optimize import LinearConstraint, milp
from torch import Tensor, nn

from framework.errors import UserError
from framework.functional.interval import Box, IntervalNetwork, certified, pixel_box
from framework.functional.interval.network import merged_margins, separate_margins


class Normalised(nn.Module):
    """Normalises by hand, with a residual sum, and flattens by sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.3, 0.5]).view(1, 2, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.4]).view(1, 2, 1, 1))
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(4 * 2 * 2, 3)
        self.mix = nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.std
        x = F.relu(self.norm(self.first(x)))
        x = x + 2 * self.second(x)
        x = F.avg_pool2d(self.pool(1 - x.relu()), 1)
        return self.head(x.view(x.size(0), -1)) @ self.mix


def mlp(seed: int, *widths: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def trained_norms(net: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            for values in (layer.running_mean, layer.weight.data, layer.bias.data):
                values.copy_(torch.randn(values.shape, generator=generator))
            layer.running_var.copy_(torch.rand(layer.running_var.shape, generator=generator) + 0.5)
    return net


@pytest.mark.parametrize("seed", range(50))
def test_no_point_of_the_box_leaves_the_bounds(seed: int) -> None:
    net = mlp(seed, 6, 9, 7, 3)
    generator = torch.Generator().manual_seed(seed)
    x, labels = torch.rand(4, 6, generator=generator), torch.arange(4) % 3
    found = IntervalNetwork(net).bounds(x, 0.15, labels)
    lower, upper = (x - 0.15).clamp(min=0), (x + 0.15).clamp(max=1)
    drawn = torch.rand(200, 4, 6, generator=generator)
    drawn[100:] = drawn[100:].round()  # corners
    outputs = net(lower + drawn * (upper - lower))
    assert found.output is not None
    assert found.margins is not None
    assert (outputs >= found.output.lower - 1e-5).all()
    assert (outputs <= found.output.upper + 1e-5).all()
    margins = outputs - outputs.gather(2, labels[None, :, None].expand(200, 4, 1))
    assert (margins <= found.margins + 1e-5).all()


def test_one_layer_is_exact() -> None:
    net = mlp(0, 5, 4).double()
    x = torch.rand(3, 5, dtype=torch.float64)
    labels = torch.tensor([0, 1, 3])
    found = IntervalNetwork(net).bounds(x, 0.2, labels)
    corners = torch.tensor(list(itertools.product((0.0, 1.0), repeat=5)), dtype=torch.float64)
    lower, upper = (x - 0.2).clamp(min=0), (x + 0.2).clamp(max=1)
    outputs = net(lower + corners[:, None] * (upper - lower))
    torch.testing.assert_close(found.output.lower, outputs.amin(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.output.upper, outputs.amax(0), rtol=0, atol=1e-6)
    margins = (outputs - outputs.gather(2, labels[None, :, None].expand(32, 3, 1))).amax(0)
    torch.testing.assert_close(found.margins, margins, rtol=0, atol=1e-6)


def test_layers_written_by_hand() -> None:
    """Every rule against bounds of each operation alone, computed another way: of the layer's explicit matrix."""
    net = trained_norms(Normalised()).double().eval()
    network = IntervalNetwork(net)
    x = torch.rand(2, 2, 4, 4, dtype=torch.float64)
    found = network.bounds(x, 0.1)
    box, bounds = pixel_box(x, 0.1), found.layers
    sigma = net.std
    torch.testing.assert_close(bounds["truediv"].radius, box.radius / sigma)
    torch.testing.assert_close(bounds["truediv"].centre, (box.centre - net.mean) / sigma)
    first = bounds["truediv"]
    matrix = torch.func.jacrev(lambda v: net.first(v[None])[0])(torch.zeros(2, 4, 4, dtype=torch.float64))
    torch.testing.assert_close(bounds["first"].radius, torch.einsum("abcdef,ndef->nabc", matrix.abs(), first.radius))
    gain = (net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt()).view(1, 4, 1, 1)
    torch.testing.assert_close(bounds["norm"].radius, bounds["first"].radius * gain.abs())
    torch.testing.assert_close(bounds["norm"].centre, net.norm(bounds["first"].centre))
    torch.testing.assert_close(bounds["relu"].lower, bounds["norm"].lower.relu())
    torch.testing.assert_close(bounds["relu"].upper, bounds["norm"].upper.relu())
    torch.testing.assert_close(bounds["add"].radius, bounds["relu"].radius + 2 * bounds["second"].radius)
    torch.testing.assert_close(bounds["pool"].upper, F.max_pool2d(bounds["sub_1"].upper, 2))
    torch.testing.assert_close(found.output.radius, bounds["head"].radius @ net.mix.abs())
    assert list(found.relus) == ["relu", "relu_1"]


def test_zero_eps_gives_the_outputs() -> None:
    net = trained_norms(Normalised()).eval()
    x = torch.rand(5, 2, 4, 4)
    found = IntervalNetwork(net).bounds(x, 0.0)
    torch.testing.assert_close(found.output.centre, net(x))
    assert not found.output.radius.any()


def exact_margin(net: nn.Sequential, lower: np.ndarray, upper: np.ndarray, label: int, other: int) -> float:
    """The largest logit_other − logit_label of a one-layer ReLU net over a box, as a mixed-integer programme."""
    first, last = net[0], net[2]
    w, b = (p.detach().numpy().astype(float) for p in (first.weight, first.bias))
    v, c = (p.detach().numpy().astype(float) for p in (last.weight, last.bias))
    hidden, inputs = w.shape
    low, high = np.minimum(w * lower, w * upper).sum(1) + b, np.maximum(w * lower, w * upper).sum(1) + b
    low, high = np.minimum(low, -1e-9), np.maximum(high, 1e-9)
    # variables: x, h, z; h >= Wx + b, h <= Wx + b - low (1 - z), h <= high z
    zero, eye = np.zeros((hidden, inputs)), np.eye(hidden)
    above = LinearConstraint(np.hstack([-w, eye, 0 * eye]), b, np.inf)
    below = LinearConstraint(np.hstack([-w, eye, -np.diag(low)]), -np.inf, b - low)
    off = LinearConstraint(np.hstack([zero, eye, -np.diag(high)]), -np.inf, 0)
    cost = np.concatenate([np.zeros(inputs), -(v[other] - v[label]), np.zeros(hidden)])
    limits = Limits(
        np.concatenate([lower, np.zeros(2 * hidden)]), np.concatenate([upper, np.full(hidden, np.inf), np.ones(hidden)])
    )
    integer = np.concatenate([np.zeros(inputs + hidden), np.ones(hidden)])
    found = milp(cost, constraints=[above, below, off], bounds=limits, integrality=integer)
    assert found.success
    return float(-found.fun + c[other] - c[label])


def test_exact_margins_by_optimisation_are_never_above_the_bound() -> None:
    net = mlp(3, 4, 6, 3)
    x, labels = torch.rand(3, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2])
    bound = IntervalNetwork(net).bounds(x, 0.1, labels).margins
    box = pixel_box(x, 0.1)
    for row, label in enumerate(labels.tolist()):
        for other in {0, 1, 2} - {label}:
            exact = exact_margin(net, box.lower[row].numpy(), box.upper[row].numpy(), label, other)
            assert exact <= bound[row, other] + 1e-5
            drawn = box.lower[row] + torch.rand(2000, 4) * 2 * box.radius[row]
            outputs = net(drawn).detach()
            assert float((outputs[:, other] - outputs[:, label]).max()) <= exact + 1e-5


def test_elision_never_loosens() -> None:
    net = mlp(5, 8, 16, 4)
    x, labels = torch.rand(20, 8), torch.arange(20) % 4
    network = IntervalNetwork(net)
    found = network.bounds(x, 0.1, labels)
    loose = separate_margins(found.output, labels)
    assert (found.margins <= loose + 1e-6).all()
    assert (found.margins < loose - 1e-3).any()
    assert not found.margins.gather(1, labels[:, None]).any()


def test_margins_without_a_linear_head_are_those_of_the_logits() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Flatten())
    network = IntervalNetwork(net)
    assert network.head is None
    x, labels = torch.rand(2, 4), torch.tensor([0, 2])
    found = network.bounds(x, 0.1, labels)
    torch.testing.assert_close(found.margins, separate_margins(found.output, labels))
    with pytest.raises(UserError, match="not that of a linear layer"):
        _ = network.head_layer


def test_certified() -> None:
    labels = torch.tensor([0, 1, 1])
    margins = torch.tensor([[0.0, -1.0], [-0.1, 0.0], [float("nan"), 0.0]])
    assert certified(margins, labels).tolist() == [True, True, False]
    assert certified(torch.tensor([[0.0, 0.0]]), torch.tensor([0])).tolist() == [False]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_proves_nothing(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.rand(5, 4)
    labels = net(x).argmax(1)
    expected = IntervalNetwork(net).propagate(pixel_box(x, 0.01), labels).margins
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = IntervalNetwork(net).propagate(pixel_box(x, 0.01), labels).margins
    assert expected is not None
    assert found is not None
    assert torch.equal(found, expected)  # autocast is left aside
    margins = IntervalNetwork(net.to(kind)).propagate(pixel_box(x.to(kind), 0.01), labels).margins
    assert margins is not None
    with pytest.raises(UserError, match=f"{kind} prove nothing"):
        certified(margins, labels)


def test_batch_norm_in_training_uses_the_statistics_of_the_inputs_and_updates_once() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).train()
    x = torch.rand(8, 4)
    reference = nn.BatchNorm1d(6)
    expected = net[3](reference(net[0](x)).relu())
    found = IntervalNetwork(net).propagate(Box(x, torch.zeros_like(x)), clean=x)
    torch.testing.assert_close(found.output.centre, expected)
    torch.testing.assert_close(net[1].running_mean, reference.running_mean)
    torch.testing.assert_close(net[1].running_var, reference.running_var)
    assert int(net[1].num_batches_tracked) == 1
    # gradients flow through the statistics: centring makes the sum over the batch not depend on the first bias
    found = IntervalNetwork(net).propagate(pixel_box(x, 0.1), torch.zeros(8, dtype=torch.long), clean=x)
    found.margins.sum().backward()
    assert net[0].weight.grad.abs().sum() > 0


def test_gradients_of_the_loss_agree_with_plain_code() -> None:
    net = mlp(1, 5, 7, 3).double()
    x, labels = torch.rand(6, 5, dtype=torch.float64), torch.arange(6) % 3
    box = pixel_box(x, 0.1)
    F.cross_entropy(IntervalNetwork(net).propagate(box, labels).margins, labels).backward()
    found = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    lower, upper = box.lower, box.upper
    w, b = net[0].weight, net[0].bias
    low = lower @ w.clamp(min=0).T + upper @ w.clamp(max=0).T + b
    high = upper @ w.clamp(min=0).T + lower @ w.clamp(max=0).T + b
    low, high = low.relu(), high.relu()
    z = []
    for i, label in enumerate(labels.tolist()):
        rows = net[2].weight - net[2].weight[label]
        z.append(high[i] @ rows.clamp(min=0).T + low[i] @ rows.clamp(max=0).T + net[2].bias - net[2].bias[label])
    F.cross_entropy(torch.stack(z), labels).backward()
    for one, other in zip(found, net.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad)


def test_refusals_name_the_operation() -> None:
    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x

    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match=r"^1: GELU has no interval bounds here; accepted: linear"):
        IntervalNetwork(nn.Sequential(nn.Linear(2, 2), nn.GELU()))
    with pytest.raises(UserError, match="mul: mul has no interval bounds"):
        IntervalNetwork(Product())
    with pytest.raises(UserError, match=r"Branch has no interval bounds here: torch\.fx cannot follow its forward"):
        IntervalNetwork(Branch())
    with pytest.raises(UserError, match="0: Conv2d has no interval bounds"):
        IntervalNetwork(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")))


def test_inputs_outside_the_pixels_and_boxes_without_width_are_errors() -> None:
    network = IntervalNetwork(mlp(0, 3, 4, 2))
    with pytest.raises(UserError, match="the inputs are from -1 to 2"):
        network.bounds(torch.tensor([[-1.0, 0.5, 2.0]]), 0.1)
    with pytest.raises(UserError, match="the inputs are from nan"):
        network.bounds(torch.tensor([[float("nan"), 0.5, 0.0]]), 0.1)
    with pytest.raises(UserError, match="eps: 8 is not accepted"):
        network.bounds(torch.rand(1, 3), 8)
    with pytest.raises(UserError, match="int64"):
        network.bounds(torch.ones(1, 3, dtype=torch.int64), 0.1)
    net = mlp(0, 3, 4, 2)
    net[0].weight.data.zero_()
    with pytest.raises(UserError, match=r"^0: with eps above 0 the boxes have zero width"):
        IntervalNetwork(net).bounds(torch.rand(1, 3), 0.1)
    IntervalNetwork(net).bounds(torch.rand(1, 3), 0.0)


def test_known_networks_of_others_are_followed() -> None:
    import torchvision

    net = trained_norms(torchvision.models.resnet18(num_classes=4)).eval()
    x = torch.rand(1, 3, 32, 32)
    found = IntervalNetwork(net).bounds(x, 0.0)
    torch.testing.assert_close(found.output.centre, net(x), rtol=1e-3, atol=1e-3)


def test_a_network_whose_layers_were_replaced_is_no_longer_current() -> None:
    net = mlp(0, 3, 4, 2)
    network = IntervalNetwork(net)
    assert network.current
    net[0] = nn.Linear(3, 4)
    assert not network.current


def test_adapters_are_merged() -> None:
    import peft

    net = mlp(0, 5, 6, 3)
    config = peft.LoraConfig(r=2, target_modules=["0"], init_lora_weights=False, lora_dropout=0.1)
    adapted = peft.inject_adapter_in_model(config, net).eval()
    x = torch.rand(3, 5)
    found = IntervalNetwork(adapted).bounds(x, 0.1)
    box = pixel_box(x, 0.1)
    weight = adapted[0].base_layer.weight + adapted[0].get_delta_weight("default")
    torch.testing.assert_close(found.layers["0"].radius, box.radius @ weight.abs().T)
    torch.testing.assert_close(IntervalNetwork(adapted).bounds(x, 0.0).output.centre, adapted(x))


def test_merged_margins_without_a_bias() -> None:
    net = nn.Linear(4, 3, bias=False)
    box, labels = pixel_box(torch.rand(2, 4), 0.1), torch.tensor([1, 2])
    from framework.functional.interval.network import affine_of

    found = merged_margins(box, affine_of(net), labels)
    for row, label in enumerate(labels.tolist()):
        rows = net.weight - net.weight[label]
        torch.testing.assert_close(found[row], box.centre[row] @ rows.T + box.radius[row] @ rows.abs().T)
