"""Gated linear attention: three forms of one function, strong gates, long sequences, another library's loop."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from framework.errors import UserError
from framework.functional.gated_linear_attention import chunk_gla, parallel_gla, recurrent_gla


def inputs(length, d=16, e=12, batch=(2, 3), dtype=torch.float64, strength=2.0, decays=None):
    torch.manual_seed(length)
    q, k = torch.randn(2, *batch, length, d, dtype=dtype)
    v = torch.randn(*batch, length, e, dtype=dtype)
    gate = -strength * torch.rand(*batch, length, decays or d, dtype=dtype)
    return [x.requires_grad_() for x in (q, k, v, gate)]


def difference(a, b):
    return max(float((x - y).detach().abs().max()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("chunk", [1, 16, 64])
@pytest.mark.parametrize(("length", "decays"), [(90, None), (90, 1), (1, None), (64, None), (65, None)])
def test_chunks_are_the_recurrence_outputs_state_and_gradients(length, decays, chunk):
    given = inputs(length, decays=decays)
    start = torch.randn(2, 3, 16, 12, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, length, 12, dtype=torch.float64), torch.randn(2, 3, 16, 12, dtype=torch.float64)
    results = []
    for output, state in (recurrent_gla(*given, state=start), chunk_gla(*given, state=start, chunk=chunk)):
        total = (output * weights[0]).sum() + (state * weights[1]).sum()
        results.append([output, state, *torch.autograd.grad(total, [*given, start])])
    assert difference(*results) < 1e-10


def test_all_pairs_are_the_recurrence():
    given = inputs(90)
    parallel, (recurrent, _) = parallel_gla(*given), recurrent_gla(*given)
    assert difference([parallel], [recurrent]) < 1e-10
    weight = torch.randn_like(parallel)
    gradients = [torch.autograd.grad((x * weight).sum(), given) for x in (parallel, recurrent)]
    assert difference(*gradients) < 1e-10


def test_by_hand():
    q, k, v = (torch.ones(1, 3, 1, dtype=torch.float64) * x for x in (2.0, 3.0, 5.0))
    decay = torch.full((1, 3, 1), math.log(0.5), dtype=torch.float64)
    output, state = chunk_gla(q, k, v, decay)
    assert output.flatten().tolist() == pytest.approx([30.0, 45.0, 52.5])
    assert float(state) == pytest.approx(15 * 1.75)


def test_pieces_are_the_whole():
    given = inputs(100)
    whole, end = chunk_gla(*given, chunk=16)
    state, parts = None, []
    for piece in (slice(0, 37), slice(37, 38), slice(38, 100)):
        output, state = chunk_gla(*(x[..., piece, :] for x in given), state=state, chunk=16)
        parts.append(output)
    assert difference([torch.cat(parts, -2), state], [whole, end]) < 1e-12


def test_queries_share_keys_in_groups():
    torch.manual_seed(0)
    q = torch.randn(2, 3, 4, 50, 8, dtype=torch.float64)
    _, k, v, gate = (x.detach()[:, :, None] for x in inputs(50, 8, 8))
    output, state = chunk_gla(q, k, v, gate)
    assert state.shape == (2, 3, 1, 8, 8)
    repeated, _ = recurrent_gla(q, *(x.expand(2, 3, 4, 50, 8) for x in (k, v, gate)))
    assert difference([output], [repeated]) < 1e-10


@pytest.mark.parametrize("strength", [0.02, 50.0])
def test_float32_over_4096_positions(strength):
    """A single cumulative sum would lose the digits, and its exponential overflows from about 88."""
    given = [x.detach() for x in inputs(4096, 16, 16, (1, 2), torch.float32, strength)]
    given[3][..., 1::3, :] = -1e-3  # long memory beside instant forgetting
    output, state = chunk_gla(*given)
    expected, end = recurrent_gla(*(x.double() for x in given))
    scale = float(expected.abs().max())
    assert difference([output / scale, state / scale], [expected / scale, end / scale]) < 1e-5


def test_float32_over_1024_positions_has_the_gradients():
    given = [x.detach().requires_grad_() for x in inputs(1024, 16, 16, (1, 2), torch.float32, 5.0)]
    double = [x.detach().double().requires_grad_() for x in given]
    torch.manual_seed(1)
    weight = torch.randn(1, 2, 1024, 16)
    ours = torch.autograd.grad((chunk_gla(*given)[0] * weight).sum(), given)
    exact = torch.autograd.grad((recurrent_gla(*double)[0] * weight).sum(), double)
    assert difference(ours, exact) < 1e-4


def test_nothing_is_left_after_a_decay_of_zero():
    given = inputs(70)
    given[3].data[..., 40, :] = -math.inf
    output, state = chunk_gla(*given, chunk=16)
    fresh, end = chunk_gla(*(x[..., 40:, :] for x in given), chunk=16)
    assert difference([output[..., 40:, :], state], [fresh, end]) < 1e-12
    gradients = torch.autograd.grad(output.sum(), given)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert (
        float(torch.autograd.grad(chunk_gla(*given, chunk=16)[0][..., 40:, :].sum(), given[2])[0][..., :40, :].sum())
        == 0
    )


def test_under_autocast_the_state_stays_in_float32():
    given = [x.detach() for x in inputs(300, dtype=torch.float32, strength=0.1)]
    expected, _ = chunk_gla(*given)
    with torch.autocast("cpu", torch.bfloat16):
        output, state = chunk_gla(*given)
    assert state.dtype == torch.float32
    assert torch.equal(output, expected)
    assert chunk_gla(*(x.bfloat16() for x in given))[0].dtype == torch.bfloat16


@pytest.mark.parametrize("form", [chunk_gla, recurrent_gla])
def test_no_positions_leave_the_state_as_it_was(form):
    q, k, v, log_decay = (x.detach()[..., :0, :] for x in inputs(3))
    state = torch.randn(*k.shape[:-2], k.shape[-1], v.shape[-1], dtype=k.dtype)
    output, after = form(q, k, v, log_decay, state)
    assert output.shape == torch.broadcast_shapes(q.shape[:-1], v.shape[:-1]) + v.shape[-1:]
    assert torch.equal(after, state)


def test_chunk_must_be_a_power_of_two():
    with pytest.raises(UserError, match="chunk: 48 is not accepted; a power of two"):
        chunk_gla(*inputs(90), chunk=48)


def test_another_librarys_loop_agrees():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        naive = pytest.importorskip("fla.ops.gla.naive")
    q, k, v, gate = (x.detach() for x in inputs(90, 16, 12, dtype=torch.float32))
    theirs, end = naive.naive_recurrent_gla(*(x.transpose(1, 2) for x in (q, k, v, gate)), output_final_state=True)
    output, state = chunk_gla(q * 16**-0.5, k, v, gate)  # it scales q itself
    assert difference([output, state], [theirs.transpose(1, 2), end]) < 1e-5
