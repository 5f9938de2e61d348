"""The MoM layer: its forms agree, memories are isolated, routing, padding, decoding, settings."""

import math

import pytest
import torch
from torch.nn import functional as F

from framework.errors import UserError
from modules.sequence.mom.buckets import Buckets
from modules.sequence.mom.layer import Memories, MoMLayer
from modules.sequence.mom.routing import Router, Routing, balance_loss, pooled_balance_loss
from modules.sequence.mom.rules import RULES

OWN = ("n_heads", "head_dim", "output_gate")


def layer_of(seed=0, scale=4.0, **settings):
    """A layer in float64 whose outputs are of the order of 1."""
    torch.manual_seed(seed)
    own = {"n_heads": 2, "head_dim": 8} | {key: settings.pop(key) for key in OWN if key in settings}
    layer = MoMLayer(16, memory=Memories(**settings), **own).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.ndim == 2:
                parameter.mul_(scale)
    return layer


def tokens(batch=3, length=50, seed=1):
    return torch.randn(batch, length, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def no_one_goes_to(layer, memory):
    """Tokens with a positive first feature never choose ``memory``."""
    with torch.no_grad():
        layer.router.proj.weight[memory] = 0
        layer.router.proj.weight[memory, 0] = -1e3


def with_gradients(layer, x, mask=None):
    leaf = x.clone().requires_grad_()
    y = layer(leaf, mask)
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    gradients = torch.autograd.grad((y * weight).sum(), [leaf, *layer.parameters()], allow_unused=True)
    return [y, *(torch.zeros(()) if g is None else g for g in gradients)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "settings",
    [{}, {"shared": False, "expand_v": 0.5}, {"single_kv_proj": True, "conv_size": 0}, {"capacity": 0.8}],
    ids=["shared", "routed", "single", "capacity"],
)
def test_the_three_forms_agree_with_gradients(rule, settings):
    layer = layer_of(rule=rule, **settings)
    no_one_goes_to(layer, 3)
    x = tokens()
    x[2, :, 0] = x[2, :, 0].abs() + 0.1
    mask = torch.ones(3, 50, dtype=torch.bool)
    mask[1, :17] = False  # left padding
    assert not layer.router(x, mask).selected[2, :, 3].any()  # an empty bucket
    found = []
    for backend in ("loop", "masked", "varlen"):
        layer.backend = backend
        found.append(with_gradients(layer, x, mask))
    assert found[0][0].abs().max() > 0.1
    for other in found[1:]:
        for expected, value in zip(found[0], other, strict=True):
            torch.testing.assert_close(value, expected.expand_as(value), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("settings", [{}, {"conv_size": 0, "shared": False}], ids=["conv", "plain"])
def test_decoding_in_pieces_equals_the_whole(rule, settings):
    layer = layer_of(rule=rule, **settings)
    x = tokens(length=24)
    with torch.no_grad():
        whole = layer(x)
        states = []
        for backend in ("loop", "masked", "varlen"):
            layer.backend, state, pieces = backend, None, []
            for piece in (x[:, :7], x[:, 7:9], x[:, 9:15], *x[:, 15:].split(1, dim=1)):
                y, state = layer.extend(piece, state)
                pieces.append(y)
            torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-10)
            states.append(state)
    for state in states[1:]:
        for value, expected in zip(state, states[0], strict=True):
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


def plain_layer(layer, x):
    """One memory that takes every token, written from the equations, without router or buckets."""
    memory = layer.memories[0]
    qkv = torch.cat([layer.q_proj(x), memory.k_proj(x), memory.v_proj(x)], -1).transpose(1, 2)
    padded = F.pad(qkv, (layer.past, 0))
    q, k, v = F.silu(F.conv1d(padded, layer.conv.weight[:, None], groups=qkv.shape[1])).transpose(1, 2).split(16, -1)
    o, _ = layer.rule(q, k, v, memory.gate_proj(x), reference=True)
    o = o * torch.rsqrt(o.square().mean(-1, keepdim=True) + 1e-5) * layer.norm.weight
    return layer.o_proj(o.flatten(2) * F.silu(layer.gate_proj(x)))


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("backend", ["varlen", "masked", "loop"])
def test_one_memory_is_the_base_layer(dtype, limit, backend):
    layer = layer_of(scale=2.0, num_memories=1, topk=1, shared=False, backend=backend).to(dtype)
    x = tokens().to(dtype)
    torch.testing.assert_close(layer(x), plain_layer(layer, x), rtol=0, atol=limit)


def test_mixing_states_then_reading_is_reading_then_mixing():
    layer = layer_of(rule="linear", conv_size=0, output_gate=False, num_memories=3, shared=True)
    layer.norm = layer.o_proj = torch.nn.Identity()
    x = tokens(2, 20)
    q = layer.q_proj(x).view(2, 20, 2, 8).transpose(1, 2)
    q = q * torch.rsqrt(q.square().sum(-1, keepdim=True) + 1e-6) / math.sqrt(8)
    state, reads = None, []
    for t in range(20):
        _, state = layer.extend(x[:, t : t + 1], state)
        weights = layer.router(x[:, t : t + 1]).weights[:, 0]
        mixed = torch.einsum("bm,bmhde->bhde", torch.cat([weights, torch.ones(2, 1)], -1), state.memories)
        reads.append(torch.einsum("bhd,bhde->bhe", q[:, :, t], mixed))
    torch.testing.assert_close(layer(x), torch.stack(reads, 1).flatten(2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", ["varlen", "masked", "loop"])
def test_memories_are_isolated_and_nothing_looks_ahead(backend):
    layer = layer_of(backend=backend)
    x = tokens(1, 30)
    changed = x.clone()
    t = 11
    chosen = layer.router(x).selected[0, t]
    changed[0, t] = -0.3 * x[0, t].flip(0) + 0.1
    # The router's weights are such that the change does not move the token.
    with torch.no_grad():
        direction = changed[0, t] - x[0, t]
        weight = layer.router.proj.weight
        weight -= (weight @ direction)[:, None] * direction / direction.square().sum()
    chosen = layer.router(x).selected[0, t]
    assert torch.equal(layer.router(changed).selected, layer.router(x).selected)
    with torch.no_grad():
        (y, state), (other, after) = layer.extend(x), layer.extend(changed)
    assert torch.equal(y[:, :t], other[:, :t])
    assert not torch.equal(y[:, t], other[:, t])
    touched = [not torch.equal(state.memories[:, m], after.memories[:, m]) for m in range(5)]
    assert touched == [*chosen.tolist(), True]
    with torch.no_grad():
        _, before = layer.extend(x[:, :t])
        _, up_to = layer.extend(x[:, t : t + 1], before)
    for m in range(4):  # one token later: no write, no decay, no place in the convolution
        same = [torch.equal(a[:, m], b[:, m]) for a, b in zip(before, up_to, strict=True)]
        assert same == [not bool(chosen[m])] * 2


@pytest.mark.parametrize("backend", ["varlen", "masked"])
def test_memories_may_change_places(backend):
    layer = layer_of(backend=backend)
    x = tokens()
    before = layer(x)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        layer.router.proj.weight.copy_(layer.router.proj.weight[order])
    layer.memories = torch.nn.ModuleList([*(layer.memories[i] for i in order), layer.memories[4]])
    torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-6)


def test_padding_is_as_if_it_were_not_there():
    layer = layer_of()
    x = tokens(2, 30)
    mask = torch.ones(2, 30, dtype=torch.bool)
    mask[0, :12] = False
    y = layer(x, mask)
    torch.testing.assert_close(y[0, 12:], layer(x[:1, 12:])[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(y[1], layer(x[1:])[0], rtol=0, atol=1e-12)
    assert y[0, :12].abs().max() == 0
    x[0, :12] = 1e3
    assert torch.equal(layer(x, mask), y)
    assert layer(x, torch.zeros_like(mask)).abs().max() == 0


def test_the_convolution_is_the_same_in_training_and_evaluation_and_ends_at_rows():
    layer = layer_of()
    x = tokens()
    trained = layer.train()(x)
    assert torch.equal(layer.eval()(x), trained)
    torch.testing.assert_close(trained[1:2], layer(x[1:2]), rtol=0, atol=1e-12)


# --- routing ---


def test_weights_sum_to_one_over_k_memories():
    router = layer_of().router
    routing = router(tokens())
    assert torch.equal(routing.selected.sum(-1), torch.full((3, 50), 2))
    torch.testing.assert_close(routing.weights.sum(-1), torch.ones(3, 50, dtype=torch.float64))
    p = tokens().matmul(router.proj.weight.T).softmax(-1)
    top = p.sort(-1, descending=True).values
    expected = top[..., :2] / top[..., :2].sum(-1, keepdim=True)
    torch.testing.assert_close(routing.weights.sort(-1, descending=True).values[..., :2], expected)
    assert (routing.weights > 0).eq(routing.selected).all()


def test_the_router_learns_through_what_it_chose():
    layer = layer_of(shared=False)
    x = tokens(1, 1)
    chosen = layer.router(x).selected[0, 0]
    layer(x)[0, 0, 0].backward()
    moved = layer.router.proj.weight.grad.abs().sum(-1)
    # softmax then renormalised: the ratio of the chosen probabilities, in which the others' logits cancel
    assert moved[chosen].min() > 1e-6
    assert moved[~chosen].max() < 1e-12
    layer.zero_grad()
    balance_loss(layer.router(x)).backward()
    assert layer.router.proj.weight.grad.abs().sum(-1).min() > 1e-6


def test_one_memory_of_many_learns_only_with_its_probability():
    for renormalize, expected in ((True, False), (False, True)):
        layer = layer_of(topk=1, renormalize=renormalize, shared=False)
        layer(tokens()).square().sum().backward()
        assert bool(layer.router.proj.weight.grad.abs().max() > 1e-12) == expected


def routing_to(selected, p):
    selected = torch.tensor(selected, dtype=torch.bool)
    p = torch.tensor(p, dtype=torch.float64).expand(selected.shape)
    return Routing(p, selected, p)


def test_balance_loss_even_collapsed_and_in_layers():
    even = routing_to([[[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 0, 1]]], [0.25] * 4)
    first = routing_to([[[1, 1, 0, 0]] * 4], [0.5, 0.5, 0, 0])
    second = routing_to([[[0, 0, 1, 1]] * 4], [0, 0, 0.5, 0.5])
    assert float(balance_loss(even)) == pytest.approx(2.0)
    assert float(balance_loss(first)) == pytest.approx(4.0)
    assert float(torch.stack([balance_loss(first), balance_loss(second)]).mean()) == pytest.approx(4.0)
    assert float(pooled_balance_loss([first, second])) == pytest.approx(2.0)
    assert float(pooled_balance_loss([first, first])) == pytest.approx(4.0)


def test_balance_loss_of_no_tokens_is_zero():
    assert balance_loss(Router(8, 4, 2)(torch.randn(2, 0, 8))).item() == 0


def test_balance_loss_does_not_count_padding():
    router, x = layer_of().router, tokens()
    mask = torch.ones(3, 50, dtype=torch.bool)
    mask[:, :20] = False
    torch.testing.assert_close(balance_loss(router(x, mask), mask), balance_loss(router(x[:, 20:])))
    torch.testing.assert_close(pooled_balance_loss([router(x, mask)], mask), balance_loss(router(x[:, 20:])))


def test_router_stays_in_float32_under_autocast():
    router, x = Router(16, 4, 2), tokens().float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = router(x.bfloat16())
        assert inside.probabilities.dtype == torch.float32
        assert torch.equal(inside.probabilities, router(x.bfloat16()).probabilities)
    torch.testing.assert_close(router(x.bfloat16().float()).probabilities, inside.probabilities)


@pytest.mark.parametrize("backend", ["varlen", "masked", "loop"])
def test_runs_in_bfloat16_near_float32(backend):
    layer = layer_of(backend=backend, scale=2.0).float()
    x = tokens().float()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        _, state = layer.extend(x)
    y.float().sum().backward()
    assert state.memories.dtype == torch.float32
    assert F.mse_loss(y.float(), layer(x)) < 1e-3 * layer(x).square().mean()


def test_capacity_keeps_the_newest():
    layer = layer_of(capacity=0.5, shared=False, conv_size=0, num_memories=2, topk=1, renormalize=True)
    no_one_goes_to(layer, 1)
    x = tokens(1, 10)
    x[..., 0] = x[..., 0].abs() + 0.1  # all ten go to memory 0; five are kept
    y = layer.train()(x)
    assert y[0, :5].abs().max() == 0
    assert y[0, 5:].abs().min() > 0
    torch.testing.assert_close(y[:, 5:], layer.eval()(x[:, 5:]))
    assert layer(x)[0, :5].abs().max() > 0


# --- buckets ---


def test_buckets_are_the_stable_sort_by_memory_and_row():
    routed = torch.rand(4, 9, 3, generator=torch.Generator().manual_seed(0)) > 0.6
    routed[1, :, 2] = False
    b, t, m = routed.nonzero(as_tuple=True)
    order = torch.sort(m * 4 + b, stable=True).indices
    buckets = Buckets(routed)
    assert torch.equal(buckets.token, (b * 9 + t)[order])
    assert torch.equal(buckets.memory, m[order])
    counts = routed.sum(1).T.flatten()
    assert torch.equal(buckets.cu_seqlens, F.pad(counts[counts > 0].cumsum(0), (1, 0)))
    flat = torch.arange(1.0, len(order) + 1)[:, None]
    packed = buckets.pack(flat, past=2)
    assert packed.shape == (int((counts > 0).sum()), 2 + int(counts.max()), 1)
    assert torch.equal(buckets.unpack(packed[:, 2:]), flat)
    assert packed[:, 2:][~buckets.valid].abs().sum() == 0
    values = torch.rand(4, 3, 5)
    assert torch.equal(buckets.put(values, buckets.take(values)), values)
    written = buckets.put(values, torch.zeros(len(packed), 5))
    assert torch.equal(written[1, 2], values[1, 2])
    assert written.count_nonzero() == 5 * (12 - len(packed))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_heads": 3, "head_dim": None}, "n_heads: 3"),
        ({"topk": 5}, r"memory.topk: 5 is not accepted; at most 4 \(memory.num_memories\)"),
        ({"topk": 0}, "memory.topk: 0"),
        ({"expand_v": 0.3}, "memory.expand_v: 0.3"),
        ({"capacity": 0.0}, "memory.capacity: 0.0"),
        ({"conv_size": -1}, "memory.conv_size: -1"),
        ({"backend": "triton"}, "memory.backend: 'triton' is not one of varlen, masked, loop"),
    ],
)
def test_bad_settings_are_told(settings, message):
    with pytest.raises(UserError, match=message):
        layer_of(**settings)
