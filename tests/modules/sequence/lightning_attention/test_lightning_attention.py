"""The tiled form, the recurrence and the left product are one function; its gradients, states, memory."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from framework.errors import UserError
from modules.sequence.lightning_attention import alibi_slopes, layer_slopes, lightning_attention
from modules.sequence.lightning_attention.reference import left_product, recurrence, right_product

DECAYS = (1.0, 0.97, 0.5, math.exp(-8))
SLOPES = torch.tensor([-math.log(decay) for decay in DECAYS], dtype=torch.float64)


def drawn(n, d=7, e=5, heads=4, batch=2, dtype=torch.float64, grad=False):
    generator = torch.Generator().manual_seed(n)
    return [
        torch.randn(batch, heads, n, width, dtype=dtype, generator=generator).requires_grad_(grad)
        for width in (d, d, e)
    ]


@pytest.mark.parametrize("block", [1, 16, 64, 256])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 197])
def test_tiles_give_what_the_definition_says(n, block):
    q, k, v = drawn(n)
    out = lightning_attention(q, k, v, SLOPES, block=block)
    # the definition, term by term: o_t = q_t Σ λ^(t−i) k_iᵀ v_i
    ahead = (torch.arange(n)[:, None] - torch.arange(n)).double()
    expected = torch.stack(
        [((q[:, h] @ k[:, h].mT) * (DECAYS[h] ** ahead.clamp(min=0)).tril()) @ v[:, h] for h in range(4)], 1
    )
    assert ((out - expected).abs().max() / expected.abs().max()) < 1e-9
    torch.testing.assert_close(out, recurrence(q, k, v, SLOPES)[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(out, left_product(q, k, v, SLOPES), rtol=1e-9, atol=1e-9)


def test_float32_stays_close_over_a_long_sequence():
    q, k, v = drawn(4096, 32, 32, batch=1)
    expected = lightning_attention(q, k, v, SLOPES)
    out = lightning_attention(q.float(), k.float(), v.float(), SLOPES.float())
    assert (out - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("n", [1, 37, 64, 65])
def test_gradients_are_those_of_the_recurrence(n):
    q, k, v = drawn(n, grad=True)
    state = torch.randn(2, 4, 7, 5, dtype=torch.float64, requires_grad=True)
    fast = lightning_attention(q, k, v, SLOPES, state, block=16, return_state=True)
    slow = recurrence(q, k, v, SLOPES, state)
    upstream = [torch.randn_like(part) for part in slow]
    found, expected = (torch.autograd.grad(parts, (q, k, v, state), upstream) for parts in (fast, slow))
    for name, one, other in zip("qkvS", found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9, msg=name)


def test_gradcheck():
    q, k, v = drawn(37, 3, 2, heads=2, batch=1, grad=True)
    state = torch.randn(1, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    slopes = torch.tensor([0.03, 0.7], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *args: lightning_attention(*args[:3], slopes, args[3], block=16, return_state=True), (q, k, v, state)
    )


def test_the_block_does_not_matter():
    q, k, v = drawn(300)
    outputs = [lightning_attention(q, k, v, SLOPES, block=block) for block in (16, 32, 64, 128)]
    assert max(float((out - outputs[0]).abs().max()) for out in outputs[1:]) < 1e-10


@pytest.mark.parametrize("m", [1, 63, 64, 100, 196])
def test_two_segments_equal_one_pass(m):
    q, k, v = drawn(197)
    whole, last = lightning_attention(q, k, v, SLOPES, return_state=True)
    first, state = lightning_attention(q[:, :, :m], k[:, :, :m], v[:, :, :m], SLOPES, return_state=True)
    second, end = lightning_attention(q[:, :, m:], k[:, :, m:], v[:, :, m:], SLOPES, state, return_state=True)
    assert (torch.cat([first, second], 2) - whole).abs().max() < 1e-10
    assert (end - last).abs().max() < 1e-10


def test_limits_of_the_decay():
    q, k, v = drawn(100)
    none = torch.zeros(4, dtype=torch.float64)
    torch.testing.assert_close(lightning_attention(q, k, v, none), right_product(q, k, v), rtol=1e-9, atol=1e-9)
    alone = lightning_attention(q, k, v, torch.full((4,), 50.0, dtype=torch.float64))
    own = (q * k).sum(-1, keepdim=True) * v
    assert (alone - own).abs().max() < 1e-15 * own.abs().max()
    ones = torch.full((1, 1, 90, 4), 0.5, dtype=torch.float64)  # q·k = 1
    out = lightning_attention(ones, ones, torch.ones(1, 1, 90, 1, dtype=torch.float64), SLOPES[1:2])
    t = torch.arange(1.0, 91, dtype=torch.float64)
    torch.testing.assert_close(out[0, 0, :, 0], (1 - 0.97**t) / (1 - 0.97), rtol=1e-12, atol=0)


@pytest.mark.parametrize("j", [0, 17, 64, 99])
def test_what_comes_later_changes_nothing(j):
    q, k, v = drawn(100)
    before = lightning_attention(q, k, v, SLOPES, block=16)
    k[:, :, j] += 3
    v[:, :, j] -= 5
    after = lightning_attention(q, k, v, SLOPES, block=16)
    assert torch.equal(before[:, :, :j], after[:, :, :j])
    assert not torch.equal(before[:, :, j], after[:, :, j])


def test_another_library_agrees():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        naive = pytest.importorskip("fla.ops.simple_gla.naive")
    q, k, v = (x.float() for x in drawn(150, 16, 24))
    there = [x.transpose(1, 2) for x in (q, k, v)]
    gates = -SLOPES.float().expand(2, 150, 4)
    expected = naive.naive_recurrent_simple_gla(*there, gates, scale=1.0)[0].transpose(1, 2)
    out = lightning_attention(q, k, v, SLOPES.float())
    assert (out - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("block", [16, 64, 128])
def test_only_q_k_and_v_are_kept(block):
    q, k, v = (x.float().requires_grad_() for x in drawn(1024, 16, 24))
    kept: dict[int, int] = {}

    def keep(x):
        kept[x.data_ptr()] = x.numel() * x.element_size()
        return x

    with saved_tensors_hooks(keep, lambda x: x):
        lightning_attention(q, k, v, SLOPES.float(), block=block)
    assert sum(kept.values()) == pytest.approx((2 * 16 + 24) * 1024 * 4 * 8, rel=0.05)


def test_the_left_product_of_half_precision_decays_in_float32():
    q, k, v = (x.bfloat16() for x in drawn(500, 16, 16))
    slopes = torch.full((4,), 0.03)
    expected = left_product(q.double(), k.double(), v.double(), slopes.double())
    plain = lightning_attention(q, k, v, slopes, form="left_product")
    assert plain.dtype == torch.bfloat16
    assert (plain.double() - expected).abs().max() < 2**-8 * expected.abs().max()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(left_product(q.float(), k.float(), v.float(), slopes).bfloat16(), plain)


def test_half_precision_keeps_the_state_in_float32():
    q, k, v = drawn(500, 16, 16)
    expected = lightning_attention(q.bfloat16().double(), k.bfloat16().double(), v.bfloat16().double(), SLOPES)
    out, state = lightning_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), SLOPES.float(), return_state=True)
    assert out.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert (out.double() - expected).abs().max() < 2**-8 * expected.abs().max()
    with torch.autocast("cpu", torch.bfloat16):
        same = lightning_attention(q.float(), k.float(), v.float(), SLOPES.float())
    torch.testing.assert_close(same, lightning_attention(q.float(), k.float(), v.float(), SLOPES.float()))


def test_slopes_of_the_released_models_and_of_the_paper():
    torch.testing.assert_close(alibi_slopes(8), 2.0 ** -torch.arange(1.0, 9))
    # not a power of two: those of 32, then every second of 64 (the value that 40 heads begin with: 2^(−1/4) = 0.84)
    forty = alibi_slopes(40)
    assert len(forty) == 40
    assert forty[0] == pytest.approx(2**-0.25)
    assert forty[32] == pytest.approx(2**-0.125)
    torch.testing.assert_close(layer_slopes("alibi", 8, 3, 4), alibi_slopes(8) * 1e-5)
    torch.testing.assert_close(layer_slopes("tnl_paper", 4, 1, 4), torch.tensor([1.5, 3.0, 4.5, 6.0]))
    assert not layer_slopes("none", 4, 0, 4).any()
    with pytest.raises(UserError, match="slopes: 'alibj' is not one of alibi, tnl_paper, none"):
        layer_slopes("alibj", 4, 0, 4)


def test_forms_that_do_not_fit_are_refused():
    q, k, v = drawn(10)
    with pytest.raises(UserError, match="form: 'fast' is not one of auto, tiled, triton, left_product"):
        lightning_attention(q, k, v, SLOPES, form="fast")
    with pytest.raises(UserError, match="'left_product' is not accepted with states"):
        lightning_attention(q, k, v, SLOPES, form="left_product", return_state=True)
    with pytest.raises(UserError, match="at most 32 bits"):
        lightning_attention(q, k, v, SLOPES, form="triton")
