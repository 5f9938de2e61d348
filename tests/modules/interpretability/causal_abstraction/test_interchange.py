"""Interventions on any layer: what changes nothing, whole swaps, an alignment known in closed form, other networks."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import nn

from framework.errors import UserError
from modules.interpretability.causal_abstraction import (
    BlockMLP,
    IdentityMap,
    Interchange,
    InterchangeModel,
    MapConfig,
    OrthogonalMap,
    build_map,
    contiguous,
)
from modules.interpretability.causal_abstraction.interchange import (
    earlier_siblings,
    read_layer,
    rest_is_enough,
    run_edited,
    run_rest,
)

MAPS = (MapConfig("identity"), MapConfig("orthogonal"), MapConfig("revnet", 10, 16))


def model(config=MAPS[2], size=4, nodes=2, layer="blocks.1", **where):
    torch.manual_seed(0)
    partition = where.pop("partition", contiguous(nodes, size))
    return InterchangeModel(
        BlockMLP(16).double(), build_map(config, 16).double(), Interchange(layer, partition, **where)
    )


def inputs(batch=50, nodes=2):
    torch.manual_seed(1)
    return torch.randn(batch, 16, dtype=torch.float64), torch.randn(batch, nodes, 16, dtype=torch.float64)


@pytest.mark.parametrize("config", MAPS, ids=lambda c: c.name)
def test_what_changes_nothing(config):
    """Check 2: no node, and sources that are the base."""
    net = model(config)
    base, sources = inputs()
    plain = net.network(base)
    nodes = torch.zeros(50, 2)
    torch.testing.assert_close(net(base, sources, nodes), plain, atol=1e-5, rtol=0)
    same = base[:, None].expand(-1, 2, -1)
    for nodes in ([1, 0], [0, 1], [1, 1]):
        found = net(base, same, torch.tensor(nodes).expand(50, -1))
        torch.testing.assert_close(found, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", MAPS, ids=lambda c: c.name)
def test_a_whole_block_is_the_network_on_the_source(config):
    """Check 2: s = d, one node; and check 4: two halves of one source."""
    base, sources = inputs()
    expected = model().network(sources[:, 0])
    found = model(config, size=16, nodes=1)(base, sources[:, :1], torch.ones(50, 1))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    both = sources[:, :1].expand(-1, 2, -1)
    torch.testing.assert_close(model(config, size=8)(base, both, torch.ones(50, 2)), expected, atol=1e-5, rtol=0)


def test_by_loops():
    """The vectorised mix against a loop over rows, nodes and latents."""
    net = model(partition=((3, 9), (0, 1, 15)))
    base, sources = inputs(9)
    nodes = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).repeat(3, 1)[:9]
    expected = []
    for x, own, which in zip(base, sources, nodes, strict=True):
        z = net.alignment(read_layer(net.network, x[None], "blocks.1"))[0].clone()
        for node, block in enumerate(net.interchange.partition):
            if which[node]:
                source = net.alignment(read_layer(net.network, own[node][None], "blocks.1"))[0]
                for latent in block:
                    z[latent] = source[latent]
        h = net.alignment.inverse(z[None])
        expected.append(net.network.head(net.network.blocks[2](h))[0])
    torch.testing.assert_close(net(base, sources, nodes), torch.stack(expected))
    output, used = net.base_output(base), net.source_activity(sources, nodes)
    torch.testing.assert_close(net(base, sources, nodes, (output, used)), torch.stack(expected))
    assert net.partition == ((3, 9), (0, 1, 15))


def test_an_orthogonal_map_by_hand():
    """h' = h + Wᵀ P W (h' − h) for one node, without any mix: the closed form of a distributed interchange."""
    net = model(MAPS[1], nodes=1, size=5)
    base, sources = inputs(20, 1)
    w = net.alignment.layer.weight
    h, other = (read_layer(net.network, x, "blocks.1") for x in (base, sources[:, 0]))
    rows = w[:5]
    changed = h + (other - h) @ rows.T @ rows
    expected = net.network.head(net.network.blocks[2](changed))
    torch.testing.assert_close(net(base, sources, torch.ones(20, 1)), expected)


class Literal(nn.Module):
    """A network whose hidden layer is literally (e1, e2, 0, 0), rotated by Q, and whose head reads both."""

    def __init__(self, rotation):
        super().__init__()
        self.rotation = rotation
        self.hidden = nn.Identity()

    def forward(self, x):
        bits = torch.cat([x, torch.zeros_like(x)], 1)
        h = self.hidden(bits @ self.rotation.T)
        e1, e2 = (h @ self.rotation)[:, :2].T
        alike = 1 - (e1 - e2).abs()
        return torch.stack([1 - alike, alike], 1)


def test_an_alignment_that_is_known():
    """Check 6: φ = Qᵀ gives 1 exactly, the units themselves less."""
    torch.manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    host = Literal(rotation)
    bits = torch.randint(0, 2, (3, 2000, 2)).double()
    base, sources = bits[0], bits[1:].transpose(0, 1)
    nodes = torch.tensor([[1, 0], [0, 1], [1, 1]]).repeat(700, 1)[:2000]
    mixed = torch.stack([torch.where(nodes[:, i] > 0, sources[:, i, i], base[:, i]) for i in range(2)], 1)
    y = (mixed[:, 0] == mixed[:, 1]).long()
    where = Interchange("hidden", ((0,), (1,)))
    exact = OrthogonalMap(4).double()
    exact.layer.weight = rotation.T
    found = InterchangeModel(host, exact, where)(base, sources, nodes)
    assert bool((found.argmax(1) == y).all())
    torch.testing.assert_close(found.max(1).values, torch.ones(2000, dtype=torch.float64))
    units = InterchangeModel(host, IdentityMap(4), where)(base, sources, nodes)
    assert float((units.argmax(1) == y).double().mean()) < 0.95


def test_the_host_stays_in_evaluation_mode_and_has_no_gradients():
    """Check 3."""
    net = InterchangeModel(
        nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 2)),
        build_map(MapConfig(), 4),
        Interchange("1", contiguous(1, 2)),
    )
    before = {name: value.clone() for name, value in net.network.state_dict().items()}
    net.train()
    assert net.training
    assert not any(m.training for m in net.network.modules())
    x = torch.randn(8, 4)
    net(x, torch.randn(8, 1, 4), torch.ones(8, 1)).sum().backward()
    assert all(p.grad is None for p in net.network.parameters())
    assert all(p.grad is not None for p in net.alignment.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.network.state_dict().items())


def test_source_and_base_at_different_layers():
    base, sources = inputs(20, 1)
    net = model(MAPS[0], nodes=1, size=16, layer="blocks.2", source_layer="blocks.0")
    expected = net.network.head(read_layer(net.network, sources[:, 0], "blocks.0"))
    torch.testing.assert_close(net(base, sources, torch.ones(20, 1)), expected)


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 3)

    def forward(self, x):
        return self.second(self.first(x).relu()).mean((2, 3))


def test_convolutional_outputs_whole_at_a_place_and_some_units():
    torch.manual_seed(0)
    host = Convolutions()
    base, source = torch.randn(2, 4, 1, 6, 6)
    nodes = torch.ones(4, 1)
    h, other = (host.first(x).detach() for x in (base, source))
    whole = InterchangeModel(host, IdentityMap(48), Interchange("first", (tuple(range(48)),)))
    torch.testing.assert_close(whole(base, source[:, None], nodes), host(source))
    place = InterchangeModel(host, IdentityMap(3), Interchange("first", ((0, 2),), position=(1, 2)))
    expected = h.clone()
    expected[:, [0, 2], 1, 2] = other[:, [0, 2], 1, 2]
    found = place(base, source[:, None], nodes)
    torch.testing.assert_close(found, host.second(expected.relu()).mean((2, 3)))
    units = InterchangeModel(host, IdentityMap(2), Interchange("first", ((1,),), position=(1, 2), units=(1, 0)))
    expected = h.clone()
    expected[:, 0, 1, 2] = other[:, 0, 1, 2]
    torch.testing.assert_close(units(base, source[:, None], nodes), host.second(expected.relu()).mean((2, 3)))


class Skips(nn.Module):
    """Its end reads the first block too, so that the rest of it is not a function of the second block's output."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x):
        first = self.blocks[0](x)
        return self.blocks[1](first) + first


class Tuples(nn.Module):
    """Blocks that return tuples."""

    def __init__(self):
        super().__init__()
        self.block = Pair()

    def forward(self, x):
        h, more = self.block(x)
        return h * 2 + more


class Pair(nn.Module):
    def forward(self, x):
        return x + 1, x.sum(1, keepdim=True)


def test_the_rest_alone_only_where_it_is_enough():
    torch.manual_seed(0)
    x = torch.randn(6, 4)
    plain, skips = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)), Skips()
    assert [len(earlier_siblings(plain, name)) for name in ("0", "2")] == [0, 2]
    output = read_layer(plain, x, "1")
    assert rest_is_enough(plain, x, "1", output)
    torch.testing.assert_close(run_rest(plain, x, "1", output + 1), run_edited(plain, x, "1", lambda h: h + 1))
    assert not rest_is_enough(skips, x, "blocks.1", read_layer(skips, x, "blocks.1"))
    torch.testing.assert_close(plain(x), plain[2](plain[1](plain[0](x))))  # nothing is left of it
    base, sources = torch.randn(5, 4), torch.randn(5, 1, 4)
    net = InterchangeModel(skips, IdentityMap(4), Interchange("blocks.1", ((0, 1),)))
    cached = net.base_output(base), net.source_activity(sources, torch.ones(5, 1))
    torch.testing.assert_close(net(base, sources, torch.ones(5, 1), cached), net(base, sources, torch.ones(5, 1)))
    tuples = Tuples()
    torch.testing.assert_close(run_edited(tuples, x, "block", lambda h: h * 0), x.sum(1, keepdim=True).expand(-1, 4))
    assert not rest_is_enough(tuples, x, "block", read_layer(tuples, x, "block"))


@pytest.mark.parametrize("activation", [nn.ReLU(True), nn.LeakyReLU(0.3, True)])
@pytest.mark.parametrize("layer", ["0", "1", "2"])
@pytest.mark.parametrize("config", MAPS, ids=lambda c: c.name)
def test_activations_in_place(activation, layer, config):
    """The rest is run alone, gives what the whole network does, and leaves the kept outputs as they are."""
    torch.manual_seed(0)
    host = nn.Sequential(nn.Linear(4, 4), activation, nn.Linear(4, 4), nn.ReLU(True), nn.Linear(4, 2))
    net = InterchangeModel(host, build_map(config, 4), Interchange(layer, ((0, 1),)))
    base, sources, nodes = torch.randn(6, 4), torch.randn(6, 1, 4), torch.ones(6, 1)
    output, used = net.base_output(base), net.source_activity(sources, nodes)
    kept = output.clone()
    found = net(base, sources, nodes, (output, used))
    assert net._short
    assert torch.equal(output, kept)
    torch.testing.assert_close(found, net(base, sources, nodes))
    if config.name != "identity":
        found.sum().backward()


class Twice(nn.Module):
    """Calls its block two times."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    def forward(self, x):
        return self.block(self.block(x))


class Named(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


class NamedPair(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Identity()
        self.block.forward = lambda x: Named(x + 1, x)

    def forward(self, x):
        return self.block(x).first * 2


@pytest.mark.parametrize("host", [Twice, NamedPair])
def test_a_layer_that_is_called_twice_and_named_tuples(host):
    torch.manual_seed(0)
    net = InterchangeModel(host(), build_map(MAPS[1], 4), Interchange("block", ((0, 1),)))
    base, sources, nodes = torch.randn(5, 4), torch.randn(5, 1, 4), torch.ones(5, 1)
    cached = net.base_output(base), net.source_activity(sources, nodes)
    torch.testing.assert_close(net(base, sources, nodes, cached), net(base, sources, nodes))
    torch.testing.assert_close(net(base, sources, nodes * 0), net.network(base))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("config", MAPS, ids=lambda c: c.name)
def test_a_host_of_another_precision_than_the_map(config, dtype):
    torch.manual_seed(0)
    host = BlockMLP(16).to(dtype)
    base, sources, nodes = torch.randn(6, 16).to(dtype), torch.randn(6, 2, 16).to(dtype), torch.zeros(6, 2)
    found = InterchangeModel(host, build_map(config, 16), Interchange("blocks.1", contiguous(2, 4)))(
        base, sources, nodes
    )
    assert found.dtype == dtype
    torch.testing.assert_close(found, host(base), atol=1e-5 if dtype == torch.float64 else 2e-2, rtol=0)


def test_several_partitions_at_a_time():
    net = model(MAPS[0], nodes=2, size=1)
    base, sources = inputs(10)
    nodes = torch.tensor([[1, 0], [0, 1]]).repeat(5, 1)
    owners = torch.full((3, 16), -1)
    for row, (a, b) in enumerate(((0, 1), (5, 2), (9, 9 + 1))):
        owners[row, a], owners[row, b] = 0, 1
    output, used = net.base_output(base), net.source_activity(sources, nodes)
    found = net.logits_of_units(base, output, used, nodes, owners)
    for row, owner in enumerate(owners):
        net.owner.copy_(owner)
        torch.testing.assert_close(found[:, row], net(base, sources, nodes))


def test_an_interchange_is_plain_data():
    where = Interchange("a.b", ((0, 1), (2,)), "a.c", (-1,), (3, 4, 5))
    assert Interchange.from_dict(where.as_dict()) == where


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"layer": "block.1", "partition": ((0,),)}, r"layer: 'block\.1' names nothing in the model; nearest: blocks"),
        ({"layer": "blocks.1", "partition": ((0,),), "source_layer": "no"}, "source_layer: 'no' names nothing"),
        ({"layer": "blocks.1", "partition": ((0, 1), (1,))}, "partition: 2 blocks"),
        ({"layer": "blocks.1", "partition": ((16,),)}, r"each from 0 to 15 \(features - 1\)"),
        ({"layer": "blocks.1", "partition": ((0,),), "units": (0, 1)}, r"units: 2 are named; 16 different ones"),
        ({"layer": "blocks.1", "partition": ((0,),), "units": (*range(15), -1)}, "units: 16 are named; 16 different"),
        ({"layer": "blocks.1", "partition": ((0.0,),)}, r"partition: 0\.0 is not accepted; int"),
    ],
)
def test_what_is_refused(where, message):
    with pytest.raises(UserError, match=message):
        InterchangeModel(BlockMLP(16), IdentityMap(16), Interchange(**where))


def test_a_layer_that_does_not_fit_is_refused():
    base, sources = torch.randn(4, 16), torch.randn(4, 1, 16)
    net = InterchangeModel(BlockMLP(16), IdentityMap(8), Interchange("blocks.1", ((0,),)))
    with pytest.raises(UserError, match=r"features: 8, but blocks\.1 has 16 numbers"):
        net(base, sources, torch.ones(4, 1))
    with pytest.raises(UserError, match=r"sources, nodes: shapes \(4, 1, 16\) and \(4, 2\) are not accepted"):
        net(base, sources, torch.ones(4, 2))
    net = InterchangeModel(BlockMLP(16), IdentityMap(1), Interchange("blocks.1", ((0,),), units=(16,)))
    with pytest.raises(UserError, match="units: 16 is not there; 0 to 15"):
        net(base, sources, torch.ones(4, 1))
    net = InterchangeModel(BlockMLP(16), IdentityMap(16), Interchange("blocks.1", ((0,),), position=(0,)))
    with pytest.raises(UserError, match=r"position: \[0\] is no place in an output of shape \(4, 16\)"):
        net(base, sources, torch.ones(4, 1))
