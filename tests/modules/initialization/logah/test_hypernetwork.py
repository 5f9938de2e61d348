"""The decoder's algebra, what normalisation does, gradients, padding; the published sizes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from framework.errors import UserError
from modules.initialization.logah.decoder import LowRankDecoder
from modules.initialization.logah.encoder import GraphEncoder, channel_sizes, nearest
from modules.initialization.logah.families import Task, build, recognise
from modules.initialization.logah.graph import OPERATIONS, Graph, Node, Slot, trace
from modules.initialization.logah.hypernetwork import SIZES, HyperNetwork, fan_in, gain


def network(family: str, **shape):
    task = Task(num_classes=7, channels=1, image_size=8, length=12)
    with torch.device("meta"):
        net = build(family, task, shape)
    known = recognise(net)
    assert known is not None
    return net, trace(net, known.args, known.kwargs)


def mlp(*widths: int, bias: bool = False):
    return network("mlp", widths=list(widths), bias=bias)


def hypernetwork(**settings) -> HyperNetwork:
    torch.manual_seed(0)
    return HyperNetwork(**{"dim": 16, "rank": 4, "layers": 2, "heads": 4, "size": 64, **settings})


@pytest.mark.parametrize("size", [64, 10])
def test_check_1_the_formula_and_the_rank(size):
    """Also where one row of y is not enough for the rows of A."""
    torch.manual_seed(0)
    decoder, x = LowRankDecoder(8, 4, size).double(), torch.randn(3, 8).double()
    z = decoder.square(decoder.hidden(x)).view(3, 8, 4).relu()
    y = (z @ decoder.wide.weight.T + decoder.wide.bias).reshape(3, 2 * size, 4)
    a, b = y[:, :size], y[:, size:].transpose(1, 2)
    shape = (3, 4, 3, 2)  # c_out k_h = 9 rows, c_in k_w = 8 columns
    found = decoder(x, shape)
    expected = (a[:, :9] @ b[:, :, :8]).view(3, 3, 3, 4, 2).transpose(2, 3)
    assert found.shape == (3, *shape)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    ranks = torch.linalg.matrix_rank(decoder(x, (10, 10, 1, 1))[..., 0, 0])
    assert ranks.tolist() == [4, 4, 4]
    assert not decoder.tiles((10, 10, 1, 1))


def test_check_2_a_small_prediction_is_the_corner_of_a_larger_one():
    torch.manual_seed(0)
    decoder, x = LowRankDecoder(8, 4, 32), torch.randn(2, 8)
    whole = decoder(x, (32, 32, 1, 1))
    torch.testing.assert_close(decoder(x, (5, 9, 1, 1)), whole[:, :5, :9])


def test_what_is_too_large_is_tiled():
    torch.manual_seed(0)
    decoder, x = LowRankDecoder(8, 4, 16), torch.randn(2, 8)
    whole, found = decoder(x, (16, 16, 1, 1)), decoder(x, (40, 16, 1, 1))
    assert decoder.tiles((40, 16, 1, 1))
    for start in (0, 16):
        assert torch.equal(found[:, start : start + 16], whole)
    assert torch.equal(found[:, 32:], whole[:, :8])


def test_check_3_gradients_reach_the_hypernetwork_and_not_the_network():
    net, graph = network("vit", depth=1, width=12, heads=3, patch_size=2)
    ghn = hypernetwork().double()
    x = torch.randn(2, 1, 8, 8).double()

    def loss() -> torch.Tensor:
        (values,) = ghn([graph], torch.Generator().manual_seed(0))
        return torch.func.functional_call(net, values, (x,)).square().sum()

    loss().backward()
    assert all(parameter.grad is None for parameter in net.parameters())
    named = dict(ghn.named_parameters())
    for name in (
        "decoder.wide.weight", "decoder.square.weight", "encoder.operation.weight", "encoder.layers.0.qkv.weight",
        "encoder.edge.2.weight",
    ):  # fmt: skip
        parameter = named[name]
        assert parameter.grad is not None
        place = int(parameter.grad.abs().argmax())
        with torch.no_grad():
            flat, values = parameter.view(-1), []
            for change in (1e-5, -2e-5):
                flat[place] += change
                values.append(float(loss()))
            flat[place] += 1e-5
        slope = (values[0] - values[1]) / 2e-5
        assert float(parameter.grad.view(-1)[place]) == pytest.approx(slope, rel=1e-3), name


def test_check_4_scales_shifts_and_fan_in():
    _, graph = network("vit", depth=2, width=24, heads=3, patch_size=2)
    ghn = hypernetwork()
    with torch.no_grad():
        for parameter in ghn.decoder.parameters():
            parameter.mul_(1.5)  # large predictions, but not so large that tanh is 1
        (found,) = ghn([graph])
    for _, slot in graph.slots:
        value = found[slot.name]
        if slot.role == "scale":
            assert (value > 0).all()
            assert (value < 2).all()
            assert value.std() > 0
        elif slot.role in ("shift", "bias"):
            assert (value.abs() < 1).all()
            assert value.std() > 0


@pytest.mark.parametrize(("shape", "groups", "expected"), [
    ((8, 32, 1, 1), 1, math.sqrt(2 / 32)), ((8, 3, 4, 4), 1, math.sqrt(2 / 48)), ((8, 1, 3, 3), 8, math.sqrt(1 / 9)),
    ((8, 2, 1, 3), 1, math.sqrt(1 / 6)),
])  # fmt: skip
def test_check_4_what_weights_are_multiplied_by(shape, groups, expected):
    node = Node("conv", shape, groups=groups)
    assert math.sqrt(gain(node) / fan_in(node)) == pytest.approx(expected)
    slot = Slot("w", "weight", shape)
    raw = torch.randn(shape)
    torch.testing.assert_close(hypernetwork()._fitted(raw, slot, node), raw * expected)


def test_gpt2_weights_have_the_deviation_of_its_config_and_embeddings_are_as_predicted():
    net, graph = network("gpt2", depth=1, width=16, heads=8)
    ghn = hypernetwork(normalise="std")
    (found,) = ghn([graph])
    for _, slot in graph.slots:
        if slot.role == "weight":
            assert float(found[slot.name].detach().std(correction=0)) == pytest.approx(0.02, rel=1e-4)
    embeddings = ghn.encoder(ghn.encoder.batch([graph]))
    (number,) = (n for n, slot in graph.slots if slot.name == "transformer.wte.weight")
    raw = ghn.decoder(embeddings[:, number], (7, 16, 1, 1))[0, :, :, 0, 0]
    torch.testing.assert_close(found["transformer.wte.weight"], raw)
    tokens = torch.randint(7, (2, 5))
    assert torch.func.functional_call(net, found, (tokens,)).logits.shape == (2, 5, 7)


def test_positions_are_a_square_and_that_of_the_class_token_is_drawn():
    _, graph = network("vit", depth=1, width=12, heads=3, patch_size=2)
    ghn = hypernetwork()
    (found,) = ghn([graph])
    (number,) = (n for n, slot in graph.slots if slot.role == "position")
    raw = ghn.decoder(ghn.encoder(ghn.encoder.batch([graph]))[:, number], (1, 12, 4, 4))[0, 0]
    positions = found["pos_embed"][0]
    assert positions.shape == (17, 12)
    torch.testing.assert_close(positions[1:], raw.flatten(1).T)
    generator = torch.Generator().manual_seed(5)
    (again,) = ghn([graph], generator)
    generator.manual_seed(5)
    drawn = {"cls_token": torch.randn(1, 1, 12, generator=generator) * 0.02}
    drawn["pos_embed"] = torch.randn(1, 1, 12, generator=generator) * 0.02
    assert torch.equal(again["cls_token"], drawn["cls_token"])
    assert torch.equal(again["pos_embed"][:, :1], drawn["pos_embed"])
    torch.testing.assert_close(again["pos_embed"][:, 1:], found["pos_embed"][:, 1:])


def test_positions_of_a_rectangle_are_all_predicted():
    slot = Slot("pos", "position", (1, 12, 6))
    raw = torch.randn(1, 6, 3, 3)
    fitted = hypernetwork()._fitted(raw, slot, Node("position", (1, 6, 3, 3)))[0]
    torch.testing.assert_close(fitted[3:], raw[0].flatten(1).T)
    torch.testing.assert_close(fitted[:3], raw[0].flatten(1).T[6:])


@pytest.mark.parametrize(("name", "millions"), [("tiny", 2.54), ("small", 21.4), ("base", 78.2), ("large", 289.4)])
def test_check_5_the_published_sizes(name, millions):
    dim, rank, layers, heads = SIZES[name]
    with torch.device("meta"):
        ghn = HyperNetwork(dim, rank, layers, heads)
    assert sum(p.numel() for p in ghn.parameters()) / 1e6 == pytest.approx(millions, rel=0.005)


def test_check_6_padding_and_the_order_of_graphs_do_not_matter():
    graphs = [mlp(8)[1], mlp(8, 16, 24)[1], network("vit", depth=1, width=12, heads=3, patch_size=2)[1]]
    ghn = hypernetwork()
    alone = [ghn([graph], torch.Generator().manual_seed(0))[0] for graph in graphs]
    together = ghn(graphs, torch.Generator().manual_seed(0))
    turned = ghn(graphs[::-1], torch.Generator().manual_seed(0))[::-1]
    for one, two, three in zip(alone, together, turned, strict=True):
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(three[name], value, rtol=1e-4, atol=1e-5)


def test_check_8_the_direction_of_edges_matters():
    _, graph = mlp(8, 16)
    backwards = Graph(graph.nodes, tuple((b, a) for a, b in graph.edges), graph.distances.T.contiguous(), graph.tied)
    encoder = GraphEncoder(16, 2, 4)
    batch, turned = encoder.batch([graph]), encoder.batch([backwards])
    same = torch.equal(batch.operations, turned.operations)
    assert same
    # the tables of degrees and depths aside, which see the direction as well
    kept = type(batch)(batch.operations, batch.shapes, batch.degrees, batch.depths, turned.distances, batch.mask)
    assert not torch.allclose(encoder(batch), encoder(kept), atol=1e-4)


def test_the_encoder_by_hand():
    """Tables, degrees, depths, edge bias and layers, node by node."""
    _, graph = network("vit", depth=1, width=12, heads=3, patch_size=2)
    torch.manual_seed(0)
    encoder = GraphEncoder(8, 2, 2).double()
    n = len(graph.nodes)
    rows = []
    for number, node in enumerate(graph.nodes):
        channels = [encoder.channel.weight[encoder.channels(size)] for size in node.shape[:2]]
        kernels = [encoder.kernel.weight[encoder.kernels(size)] for size in node.shape[2:]]
        into, out = (sum(edge[end] == number for edge in graph.edges) for end in (1, 0))
        rows.append(
            encoder.operation.weight[OPERATIONS.index(node.operation)] + torch.cat([*channels, *kernels])
            + encoder.degree_in.weight[into] + encoder.degree_out.weight[out]
            + encoder.depth.weight[graph.distances[0, number]]
        )  # fmt: skip
    x, tables = torch.stack(rows), encoder.distance.weight
    angle = 3 / 10000.0 ** (2 / 8)
    assert tables[4, 2:4].tolist() == pytest.approx([math.sin(angle), math.cos(angle)], rel=1e-6)
    assert not tables[0].any()

    def row(distance: int) -> torch.Tensor:
        return tables[distance + 2 if distance else 0]

    far = graph.distances.tolist()
    bias = torch.stack(
        [torch.stack([encoder.edge(torch.cat([row(far[i][j]), row(far[j][i])])) for j in range(n)]) for i in range(n)]
    )
    for layer in encoder.layers:
        q, k, v = layer.qkv(layer.norm1(x)).chunk(3, 1)
        heads = [
            ((q[:, part] @ k[:, part].T) / 2 + bias[..., head]).softmax(1) @ v[:, part]
            for head, part in enumerate((slice(0, 4), slice(4, 8)))
        ]
        x = x + layer.proj(torch.cat(heads, 1))
        inner = nn.functional.gelu(layer.mlp[0](layer.norm2(x)))
        x = x + layer.mlp[2](inner)
    torch.testing.assert_close(encoder(encoder.batch([graph]))[0], encoder.norm(x))


def test_numbers_of_channels_count_as_the_nearest():
    assert nearest([5, 60, 70, 9000], [1, 3, 64, 80]) == [1, 2, 2, 3]
    assert channel_sizes((10,))[:4] == (1, 3, 8, 10)


def test_bias_is_the_second_row_and_scale_and_shift_are_both():
    net, graph = mlp(8, bias=True)
    ghn = hypernetwork()
    (found,) = ghn([graph])
    embeddings = ghn.encoder(ghn.encoder.batch([graph]))
    for number, slot in graph.slots:
        if slot.role == "bias":
            count = slot.shape[0]
            rows = ghn.decoder(embeddings[:, number], (2 * count, 1, 1, 1))[0].flatten().view(2, count)
            torch.testing.assert_close(found[slot.name], torch.tanh(0.2 * rows[1]))
    raw = torch.randn(6, 1, 1, 1)
    scale = ghn._fitted(raw, Slot("w", "scale", (3,)), Node("norm", (3, 1, 1, 1)))
    torch.testing.assert_close(scale, 2 * torch.sigmoid(raw.flatten()[:3] / 2))
    assert set(found) == {name for name, _ in net.named_parameters()}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"dim": 18}, "dim: 18"), ({"rank": 0}, "rank"), ({"normalise": "none"}, "normalise"), ({"size": 0}, "size")],
)
def test_settings_that_are_not_accepted(settings, message):
    with pytest.raises(UserError, match=message):
        hypernetwork(**settings)


def test_memory_grows_with_the_weight_and_not_with_ck():
    """Of y only what A and B need is computed."""
    decoder = LowRankDecoder(8, 4, 4096)
    largest = 0

    def seen(module: nn.Module, args, out) -> None:
        nonlocal largest
        largest = max(largest, out.numel())

    decoder.wide.register_forward_hook(seen)
    found = decoder(torch.randn(2, 8), (32, 32, 1, 1))
    assert largest < 4096
    assert found.shape == (2, 32, 32, 1, 1)
