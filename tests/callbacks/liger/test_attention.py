"""Gates, recurrences and windowed attention: closed forms, references, another library."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from callbacks.liger.attention import Projections, Recipe, liger_attention
from callbacks.liger.gates import KINDS, TEMPERATURES, log_decay, pool
from callbacks.liger.grm import grm
from callbacks.liger.window import (
    Recent,
    looped_window_attention,
    remember,
    sliding_window_attention,
)
from framework.errors import UserError
from framework.functional.rotary import angles, rotate


def difference(a, b):
    return float((a - b).detach().abs().max())


def qkv(length, heads=4, kv_heads=None, dim=16, dtype=torch.float64):
    torch.manual_seed(length)
    q = torch.randn(2, heads, length, dim, dtype=dtype)
    k, v = torch.randn(2, 2, kv_heads or heads, length, dim, dtype=dtype)
    return q, k, v


# gates


def test_gates_are_those_of_the_table():
    k = torch.linspace(-4, 4, 12).view(1, 1, 1, 12)
    sigmoid, mean = k.sigmoid(), k.mean(-1, keepdim=True)
    expected = {
        "gla": sigmoid ** (1 / 16),
        "hgrn2": sigmoid,
        "rwkv6": (-k.exp()).exp(),
        "mamba2": (-F.softplus(mean)).exp(),
        "retention": mean.sigmoid() ** (1 / 16),
        "mlstm": mean.sigmoid() ** (1 / 16),
        "linear": torch.ones(1, 1, 1, 1),
        "gsa": k.view(1, 1, 1, 4, 3).mean(-1).sigmoid() ** (1 / 16),
    }
    assert expected.keys() == KINDS.keys()
    for variant, gate in expected.items():
        torch.testing.assert_close(log_decay(k, variant, slots=4).exp(), gate, msg=variant)
    torch.testing.assert_close(log_decay(k, "gla", tau=1.0).exp(), sigmoid)
    torch.testing.assert_close(log_decay(k, "hgrn2", lower_bound=0.3).exp(), 0.3 + 0.7 * sigmoid)
    assert TEMPERATURES["gla"] == 16


def test_pooling_a_head_is_pooling_all_heads_at_once():
    """The official code pools the heads side by side; before or after they are repeated is the same."""
    k = torch.randn(3, 2, 5, 16)  # B, H_kv, T, d
    for count in (1, 4, 7, 16, 32):
        flat = k.transpose(1, 2).flatten(2)
        official = F.adaptive_avg_pool1d(flat, 2 * count).unflatten(-1, (2, count)).transpose(1, 2)
        torch.testing.assert_close(pool(k, count), official)
    assert pool(k, 16) is k


def test_gates_are_in_float32_under_autocast():
    k = torch.randn(1, 2, 5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(log_decay(k, "gla"), log_decay(k, "gla").float())
        assert log_decay(k.bfloat16(), "gla").dtype == torch.float32


# recurrences


@pytest.mark.parametrize("variant", KINDS)
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_token_by_token_all_pairs_and_chunks_are_one(variant, kv_heads):
    q, k, v = qkv(90, 4, kv_heads)
    gate = log_decay(k, variant, slots=8).double()
    given = [x.requires_grad_() for x in (q, k, v, gate)]
    weight = torch.randn(2, 4, 90, 16, dtype=torch.float64)
    results = []
    for options in ({"form": "parallel"}, {"form": "recurrent"}, {"chunk": 16}, {"chunk": 64}):
        output, _ = grm(*given, variant, **options)
        gradients = torch.autograd.grad((output * weight).sum(), given, allow_unused=True)
        results.append([output, *(g for g in gradients if g is not None)])
    for other in results[1:]:
        assert max(difference(a, b) for a, b in zip(results[0], other, strict=True)) < 1e-10
    outputs, state = [], None
    for piece in q[:, :, :50], q[:, :, 50:51], q[:, :, 51:]:
        start = sum(x.shape[2] for x in outputs)
        rows = slice(start, start + piece.shape[2])
        output, state = grm(piece, k[:, :, rows], v[:, :, rows], gate[:, :, rows], variant, state)
        outputs.append(output)
    assert difference(torch.cat(outputs, 2), results[0][0]) < 1e-10


@pytest.mark.parametrize("variant", ["gla", "hgrn2", "gsa"])
def test_float32_over_1024_tokens(variant):
    q, k, v = qkv(1024, 2, dtype=torch.float32)
    gate = log_decay(4 * k, variant, tau=1.0, slots=8)
    exact, _ = grm(q.double(), k.double(), v.double(), gate.double(), variant, form="recurrent")
    assert difference(grm(q, k, v, gate, variant)[0], exact) < 1e-4


def test_closed_forms():
    d = 64
    zero, one = torch.zeros(1, 1, 400, d, dtype=torch.float64), torch.ones(1, 1, 400, d, dtype=torch.float64)

    def run(k, v):
        return grm(zero, k, v, log_decay(k, "gla").double(), form="chunk")[0]

    output = run(zero, one)
    assert output[0, 0, 0].tolist() == pytest.approx([1 / d] * d)
    limit = 1 / (d * (1 - 2 ** (-1 / 16)))
    assert limit == pytest.approx(0.36854267, abs=1e-8)
    assert output[0, 0, -1].tolist() == pytest.approx([limit] * d, rel=1e-6)
    values = torch.randn(1, 1, 400, d, dtype=torch.float64)
    torch.testing.assert_close(run(zero + 1e9, values), values.cumsum(2) / d, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(run(zero - 1e9, values), values / d)


def test_another_librarys_loops_agree():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gla = pytest.importorskip("fla.ops.gla.naive")
        gsa = pytest.importorskip("fla.ops.gsa.naive")
    q, k, v = qkv(70, 2, dtype=torch.float32)

    def theirs(function, *tensors, **options):
        return function(*(x.transpose(1, 2) for x in tensors), **options)[0].transpose(1, 2)

    gate = log_decay(k, "gla")
    scaled = q.softmax(-1) * 4  # it divides q by the root of 16
    expected = theirs(gla.naive_recurrent_gla, scaled, k.softmax(-1), v, gate)
    assert difference(grm(q, k, v, gate)[0], expected) < 1e-5
    gate = log_decay(k, "gsa", slots=8)
    expected = theirs(gsa.naive_recurrent_gsa, q, k, v, 1 - gate.exp(), gate, scale=1.0)
    assert difference(grm(q, k, v, gate, "gsa")[0], expected) < 1e-5


@pytest.mark.parametrize("variant", ["gla", "gsa", "hgrn2"])
def test_padding_leaves_no_trace_and_documents_do_not_meet(variant):
    q, k, v = qkv(60, 4, 2)
    gate = log_decay(k, variant, slots=8).double()
    mask = torch.ones(2, 60, dtype=torch.bool)
    mask[0, :7], mask[1, 20:24] = False, False
    output, state = grm(q, k, v, gate, variant, mask=mask, chunk=16)
    for row in (0, 1):
        short, end = grm(*(x[row : row + 1, :, mask[row]] for x in (q, k, v, gate)), variant)
        assert difference(output[row, :, mask[row]], short[0]) < 1e-12
        assert difference(state[row], end[0]) < 1e-12
    starts = torch.zeros(2, 60, dtype=torch.bool)
    starts[:, 33] = True
    output, _ = grm(q, k, v, gate, variant, starts=starts, chunk=16)
    alone, _ = grm(*(x[:, :, 33:] for x in (q, k, v, gate)), variant)
    assert difference(output[:, :, 33:], alone) < 1e-12


# the window


@pytest.mark.parametrize("window", [1, 3, 31, 33, 64, 70])
@pytest.mark.parametrize("length", [1, 50, 65])
def test_blocks_are_the_loop(window, length):
    q, k, v = (x.float().requires_grad_() for x in qkv(length))
    weight = torch.randn_like(v)
    results = []
    for function in (sliding_window_attention, looped_window_attention):
        output = function(q, k, v, window)
        results.append([output, *torch.autograd.grad((output * weight).sum(), (q, k, v))])
    assert difference(results[0][0], results[1][0]) < 1e-6
    assert max(difference(a, b) for a, b in zip(*results, strict=True)) < 1e-5
    if window == 1:
        torch.testing.assert_close(results[0][0], v)


def test_the_blocks_are_masked_softmax_attention():
    q, k, v = qkv(130, 4, 2, dtype=torch.float32)
    seen = torch.ones(130, 130, dtype=torch.bool).tril().triu(-63)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
    assert difference(sliding_window_attention(q, k, v, 64), expected) < 1e-6


def test_a_token_out_of_the_window_has_no_part():
    q, k, v = qkv(100)
    output = sliding_window_attention(q, k, v, 20)
    for place, changes in ((50 - 20, False), (50 - 19, True)):
        others = [x.clone() for x in (k, v)]
        for x in others:
            x[:, :, place] += 3
        change = difference(sliding_window_attention(q, *others, 20)[:, :, 50], output[:, :, 50])
        assert (change > 0) == changes


@pytest.mark.parametrize("window", [5, 40, 90])
def test_padding_and_documents_in_the_window(window):
    q, k, v = qkv(70)
    mask = torch.ones(2, 70, dtype=torch.bool)
    mask[0, :9], mask[1, 60:] = False, False
    output = sliding_window_attention(q, k, v, window, mask)
    assert bool(output.isfinite().all())
    for row in (0, 1):
        alone = sliding_window_attention(*(x[row : row + 1, :, mask[row]] for x in (q, k, v)), window)
        assert difference(output[row, :, mask[row]], alone[0]) < 1e-12
    documents = torch.zeros(2, 70, dtype=torch.int64)
    documents[:, 25:], documents[:, 50:] = 1, 2
    output = sliding_window_attention(q, k, v, window, documents=documents)
    for part in (slice(0, 25), slice(25, 50), slice(50, 70)):
        alone = sliding_window_attention(*(x[:, :, part] for x in (q, k, v)), window)
        assert difference(output[:, :, part], alone) < 1e-12


@pytest.mark.parametrize("pieces", [[60, 1, 1, 8], [1] * 70, [3, 67], [70]])
def test_the_window_goes_on_from_what_is_remembered(pieces):
    q, k, v = qkv(70)
    mask = torch.ones(2, 70, dtype=torch.bool)
    mask[0, :9] = False
    whole = sliding_window_attention(q, k, v, 16, mask)
    recent: Recent | None = None
    at, outputs = 0, []
    for size in pieces:
        rows = slice(at, at + size)
        given = (k[:, :, rows], v[:, :, rows])
        outputs.append(sliding_window_attention(q[:, :, rows], *given, 16, mask[:, rows], recent=recent))
        recent = remember(*given, 16, mask[:, rows], recent)
        at += size
    output = torch.cat(outputs, 2)
    assert difference(output[1], whole[1]) < 1e-12
    assert difference(output[0, :, 9:], whole[0, :, 9:]) < 1e-12
    assert recent is not None
    assert recent.keys.shape[2] == 15


def test_rotation_is_relative():
    q, k, _ = qkv(6)

    def scores(offset):
        turn = angles(torch.arange(6) + offset, 16, 100.0, torch.float64)
        return rotate(q, *turn) @ rotate(k, *turn).mT

    assert difference(scores(0), scores(1000)) < 1e-3  # angles are float32
    assert difference(scores(0), q @ k.mT) > 0.1


# both


@pytest.mark.parametrize("variant", KINDS)
def test_streaming_is_the_forward_pass(variant):
    """Token by token, T = 200 above w: the official code's cache keeps no keys for the window, and fails this."""
    q, k, v = (x / 2 for x in qkv(200, 4, 2, dtype=torch.float32))
    turn = angles(torch.arange(200), 16, 10000.0, torch.float32)
    x = Projections(q, k, v, rotate(q, *turn), rotate(k, *turn), k)
    recipe = Recipe(variant, window=16, slots=8)
    whole, _ = liger_attention(x, recipe)
    outputs, state = [], None
    for t in range(200):
        output, state = liger_attention(Projections(*(part[:, :, t : t + 1] for part in x)), recipe, state)
        outputs.append(output)
    assert difference(torch.cat(outputs, 2), whole) < 1e-5
    assert state is not None
    assert state.position == 200


def test_documents_do_not_meet_in_either_branch():
    q, k, v = qkv(60)
    x = Projections(q, k, v, q, k, k)
    documents = torch.arange(60).expand(2, 60) // 25
    output, _ = liger_attention(x, Recipe(window=16), documents=documents)
    alone, _ = liger_attention(Projections(*(part[:, :, 25:50] for part in x)), Recipe(window=16))
    assert difference(output[:, :, 25:50], alone) < 1e-6


def test_the_recurrences_share_is_small_as_the_pitfall_says():
    """Σ of the weights of the recurrence at k = 0: 23.6/d."""
    length, d = 500, 128
    zero = torch.zeros(1, 1, length, d)
    output, _ = grm(zero, zero, torch.ones(1, 1, length, d), log_decay(zero, "gla"))
    assert float(output[0, 0, -1, 0]) == pytest.approx(23.6 / d, rel=0.01)
    assert math.isclose(1 / (1 - 2 ** (-1 / 16)), 23.6, rel_tol=0.01)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"variant": "glaa"}, "^variant: 'glaa' is not one of gla, "),
        ({"tau": 0.0}, "^tau: 0.0 is not accepted"),
        ({"window": 0}, "^window: 0 is not accepted"),
        ({"chunk": 48}, "^chunk: 48 is not accepted; a power of two"),
        ({"alpha": 0.0, "beta": 0.0}, "^alpha: 0 is not accepted with beta: 0"),
        ({"lower_bound": 1.0}, "^lower_bound: 1.0 is not accepted"),
    ],
)
def test_settings_that_are_not_accepted(settings, said):
    with pytest.raises(UserError, match=said):
        Recipe(**settings)
