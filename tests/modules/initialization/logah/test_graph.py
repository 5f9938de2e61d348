"""Graphs of networks: every parameter once, whatever the code of ``forward`` is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from framework.errors import UserError
from modules.initialization.logah.families import Space, Task, build, draw, recognise
from modules.initialization.logah.graph import CUTOFF, shortest_paths, trace, with_shapes

IMAGE = torch.zeros(1, 3, 32, 32, device="meta")


def meta(make, *args, **kwargs):
    with torch.device("meta"):
        return make(*args, **kwargs)


def vit(depth: int = 2, width: int = 24, heads: int = 3) -> nn.Module:
    shape = {"depth": depth, "width": width, "heads": heads, "patch_size": 8}
    return meta(build, "vit", Task(channels=3, image_size=32), shape)


def gpt2(depth: int = 2, tied: bool = False, **settings) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=50, n_positions=16, n_embd=16, n_layer=depth, n_head=2, bos_token_id=None, eos_token_id=None,
        tie_word_embeddings=tied, **settings,
    )  # fmt: skip
    return meta(GPT2LMHeadModel, config)


def graph_of(net: nn.Module):
    known = recognise(net)
    assert known is not None
    return trace(net, known.args, known.kwargs)


def described(graph):
    return [(n.operation, n.shape, n.slots, n.groups) for n in graph.nodes], graph.edges


NETWORKS = {
    "timm's ViT": (lambda: vit(), (IMAGE,), {}),
    "torchvision's ViT": (
        lambda: meta(torchvision.models.VisionTransformer, 32, 8, 2, 2, 24, 48, num_classes=5),
        (IMAGE,),
        {},
    ),
    "ResNet-18": (lambda: meta(torchvision.models.resnet18, num_classes=5), (IMAGE,), {}),
    "GPT-2": (lambda: gpt2(), (torch.zeros(1, 8, dtype=torch.long, device="meta"),), {"use_cache": False}),
    "a tied GPT-2": (
        lambda: gpt2(tied=True),
        (torch.zeros(1, 8, dtype=torch.long, device="meta"),),
        {"use_cache": False},
    ),
    "an encoder": (
        lambda: meta(lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32), 2)),
        (torch.zeros(5, 1, 16, device="meta"),),
        {},
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_check_7_every_parameter_is_held_once(name):
    make, args, kwargs = NETWORKS[name]
    net = make()
    graph = trace(net, args, kwargs)
    held = [slot.name for _, slot in graph.slots]
    assert sorted(held) == sorted(name for name, _ in net.named_parameters())
    assert all(tuple(net.get_parameter(slot.name).shape) == slot.shape for _, slot in graph.slots)
    assert set(graph.tied) == {"lm_head.weight"} if name == "a tied GPT-2" else not graph.tied
    assert all(a < b for a, b in graph.edges), "an edge goes from what is computed to what reads it"
    reached = set(graph.distances[0].nonzero()[:, 0].tolist())
    constant = {n for n, node in enumerate(graph.nodes) if node.operation == "embedding"}
    assert set(range(1, len(graph.nodes))) <= reached | constant


def test_a_block_has_ten_operations_in_order():
    one, two = graph_of(vit(1)), graph_of(vit(2))
    assert len(two.nodes) - len(one.nodes) == 10
    kinds = [node.operation for node in one.nodes]
    assert kinds == [
        "input", "conv", "token", "position", "norm", "linear", "attention", "linear", "sum", "norm", "linear",
        "activation", "linear", "sum", "norm", "linear",
    ]  # fmt: skip
    assert (3, 8) in one.edges, "the residual connection"
    assert (7, 8) in one.edges


def test_attention_by_hand_and_by_one_call_are_the_same_graph():
    fused, eager = graph_of(gpt2()), graph_of(gpt2(attn_implementation="eager"))
    assert described(fused) == described(eager)


def test_training_and_evaluation_are_the_same_graph():
    net = gpt2()
    assert described(graph_of(net.train())) == described(graph_of(net.eval()))
    assert not net.training
    net.train()
    graph_of(net)
    assert net.training


class Functional(nn.Module):
    """Functions in place of modules, one module used twice, a product with a matrix, a scale and a shift."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Linear(8, 6), nn.ReLU(inplace=True)
        self.second = nn.Parameter(torch.zeros(6, 6))
        self.gamma, self.beta = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6))
        self.last = nn.Linear(6, 2, bias=False)

    def forward(self, x):
        h = self.act(self.first(x))
        g = self.act(h @ self.second) * self.gamma + self.beta
        return F.linear(F.gelu(h * g), self.last.weight)


def test_functions_and_modules_used_twice():
    graph = trace(Functional(), (torch.zeros(3, 8),))
    kinds = [node.operation for node in graph.nodes]
    assert kinds == [
        "input", "linear", "activation", "linear", "activation", "scale", "bias", "product", "activation", "linear",
    ]  # fmt: skip
    (second,) = (slot for _, slot in graph.slots if slot.name == "second")
    assert second.transposed
    assert graph.nodes[3].shape == (6, 6, 1, 1)


def test_an_operation_without_a_rule_is_refused_by_name():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.zeros(4, 4))

        def forward(self, x):
            return x + torch.linalg.inv(self.table)[0]

    with pytest.raises(UserError, match="Odd: the operation linalg_inv with the parameter table has no rule"):
        trace(Odd(), (torch.zeros(2, 4),))

    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(UserError, match=r"Unused: no operation with a rule reads unused\.weight, unused\.bias"):
        trace(Unused(), (torch.zeros(2, 4),))

    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match=r"Branching has no graph here: torch\.export cannot follow it"):
        trace(Branching(), (torch.zeros(2, 4),))


class Viewed(nn.Module):
    def __init__(self, shape: tuple[int, ...], as_matrix: bool) -> None:
        super().__init__()
        self.table, self.as_matrix = nn.Parameter(torch.zeros(shape)), as_matrix

    def forward(self, x):
        weight = self.table.view(4, 4)
        return x @ weight if self.as_matrix else F.linear(x, weight)


@pytest.mark.parametrize("shape", [(4, 4, 1, 1), (16,), (2, 2, 4)])
@pytest.mark.parametrize("as_matrix", [True, False])
def test_a_matrix_that_is_a_view_of_something_else_is_refused_by_name(shape, as_matrix):
    with pytest.raises(UserError, match=r"Viewed: the operation .* with the parameter table has no rule"):
        trace(Viewed(shape, as_matrix), (torch.zeros(2, 4),))
    kinds = [node.operation for node in trace(Viewed((4, 4), as_matrix), (torch.zeros(2, 4),)).nodes]
    assert kinds == ["input", "linear"]


@pytest.mark.parametrize("family", ["mlp", "vit", "gpt2"])
def test_one_trace_serves_all_widths_of_a_depth(family):
    task = Task(num_classes=20, channels=3, image_size=32)
    space = Space(family, layers=(3, 3), patch_size=(4, 8))
    first, second = (meta(build, family, task, draw(space, task, seed)) for seed in (0, 1))
    assert described(with_shapes(graph_of(first), second)) == described(graph_of(second))
    assert described(graph_of(first)) != described(graph_of(second))


def test_distances_are_those_of_networkx():
    import networkx  # torch needs it

    graph = graph_of(vit(3))
    other = networkx.DiGraph(list(graph.edges))
    for source, found in networkx.all_pairs_shortest_path_length(other):
        for target in other:
            expected = found.get(target, 0)
            assert graph.distances[source, target] == (expected if expected <= CUTOFF else 0)
    long = shortest_paths(CUTOFF + 3, [(i, i + 1) for i in range(CUTOFF + 2)])
    assert long[0, CUTOFF] == CUTOFF
    assert long[0, CUTOFF + 1] == 0


def test_the_generators_of_the_paper():
    task = Task(num_classes=100, channels=3, image_size=32)
    seen = set()
    for seed in range(300):
        shape = draw(Space("vit", patch_size=(2, 4)), task, seed)
        low, high = {3: (384, 512), 4: (256, 384), 5: (256, 384)}.get(shape["depth"], (128, 256))
        assert 3 <= shape["depth"] <= 9
        assert low <= shape["width"] <= high
        assert shape["width"] % 32 == 0
        heads = {n for n in (3, 6, 12) if shape["width"] % n == 0} or {4, 8}
        assert shape["heads"] in heads
        seen.add((shape["depth"], shape["patch_size"]))
        shape = draw(Space("gpt2"), Task(num_classes=50257, length=1024), seed)
        low, high = {3: (176, 256), 4: (128, 176), 5: (128, 176)}.get(shape["depth"], (72, 176))
        assert low <= shape["width"] <= high
        assert shape["width"] % 8 == 0
        assert shape["heads"] == 8
        assert draw(Space("gpt2"), task, seed) == draw(Space("gpt2"), task, seed)
    assert len(seen) == 14
    with pytest.raises(UserError, match="more than 50,000,000 parameters"):
        draw(Space("gpt2", layers=(12, 12), widths=(1024, 1024)), task, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "rnn"}, "architectures.family: 'rnn'"),
        ({"layers": (3, 2)}, r"architectures.layers: \[3, 2\]"),
        ({"widths": (0, 2)}, "architectures.widths"),
        ({"step": 0}, "architectures.step"),
        (
            {"family": "vit", "widths": (8, 24), "step": 8, "heads": (3, 5), "layers": (1, 1)},
            r"architectures.heads: none of \[3, 5\] divides the width 8",
        ),
    ],
)
def test_spaces_that_are_not_accepted(settings, message):
    with pytest.raises(UserError, match=message):
        Space(**settings)
