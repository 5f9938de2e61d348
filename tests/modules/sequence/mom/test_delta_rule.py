"""The gated delta rule: chunked form against the recurrence, the recurrence against its equation and an oracle."""

import warnings

import pytest
import torch
from torch.nn import functional as F

from modules.sequence.mom.delta_rule import chunk_gated_delta_rule, recurrent_gated_delta_rule


def example(length, heads=2, d=5, e=7, seed=0, dtype=torch.float64, decay=0.3):
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    q, k, v = draw(3, heads, length, d), F.normalize(draw(3, heads, length, d), dim=-1), draw(3, heads, length, e)
    beta, log_decay = draw(3, heads, length).sigmoid(), -decay * draw(3, heads, length).exp()
    return [x.to(dtype) for x in (q, k, v, beta, log_decay, draw(3, heads, d, e))]


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 50])
@pytest.mark.parametrize("decays", [True, False])
@pytest.mark.parametrize("carried", [True, False])
def test_chunks_equal_the_recurrence_with_gradients(length, decays, carried):
    results = []
    for form in (recurrent_gated_delta_rule, lambda *a: chunk_gated_delta_rule(*a, chunk=16)):
        inputs = [x.requires_grad_() for x in example(length)]
        q, k, v, beta, log_decay, state = inputs
        o, final = form(q, k, v, beta, log_decay if decays else None, state if carried else None)
        weight = torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view_as(o)
        used = [q, k, v, beta] + [log_decay] * decays + [state] * carried
        gradients = torch.autograd.grad((o * weight).sum() + final.square().sum(), used)
        results.append([o, final, *gradients])
    for slow, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)


def test_one_write_is_the_equation():
    q, k, v, beta, log_decay, state = example(1)
    o, final = recurrent_gated_delta_rule(q, k, v, beta, log_decay, state)
    alpha, b, key = log_decay.exp()[..., None], beta[..., None], k
    eye = torch.eye(k.shape[-1], dtype=k.dtype)
    expected = alpha * (eye - b * key.transpose(-1, -2) @ key) @ state + b * key.transpose(-1, -2) @ v
    torch.testing.assert_close(final, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(o, q @ expected, rtol=0, atol=1e-12)


def test_a_full_write_is_read_back_exactly_and_overwrites():
    _, k, v, _, _, state = example(1)
    one = torch.ones_like(k[..., 0])
    o, after = recurrent_gated_delta_rule(k, k, v, one, None, state)
    torch.testing.assert_close(o, v, rtol=0, atol=1e-12)
    again, _ = recurrent_gated_delta_rule(k, k, 2 * v, one, None, after)
    torch.testing.assert_close(again, 2 * v, rtol=0, atol=1e-12)


def test_strong_decay_stays_finite_in_float32():
    q, k, v, beta, _, _ = example(200, dtype=torch.float32)
    log_decay = torch.full_like(beta, -20.0).requires_grad_()
    o, final = chunk_gated_delta_rule(q, k, v, beta, log_decay)
    o.sum().backward()
    slow, _ = recurrent_gated_delta_rule(q, k, v, beta, log_decay.detach())
    torch.testing.assert_close(o.detach(), slow, rtol=1e-4, atol=1e-4)
    assert torch.isfinite(log_decay.grad).all()
    assert torch.isfinite(final).all()


def test_a_state_carries_over_a_cut():
    q, k, v, beta, log_decay, state = example(40)
    whole, final = chunk_gated_delta_rule(q, k, v, beta, log_decay, state, chunk=8)
    cut = [[x[:, :, :13] for x in (q, k, v, beta, log_decay)], [x[:, :, 13:] for x in (q, k, v, beta, log_decay)]]
    first, middle = chunk_gated_delta_rule(*cut[0], state, chunk=8)
    second, end = chunk_gated_delta_rule(*cut[1], middle, chunk=8)
    torch.testing.assert_close(torch.cat([first, second], 2), whole, rtol=0, atol=1e-10)
    torch.testing.assert_close(end, final, rtol=0, atol=1e-10)


def test_no_tokens_leave_the_state():
    q, k, v, beta, log_decay, state = example(0)
    for form in (recurrent_gated_delta_rule, chunk_gated_delta_rule):
        o, final = form(q, k, v, beta, log_decay, state)
        assert o.shape == v.shape
        assert torch.equal(final, state)


def test_against_the_oracle():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        naive = pytest.importorskip("fla.ops.gated_delta_rule.naive")
    q, k, v, beta, log_decay, state = example(70, dtype=torch.float32)
    theirs, their_state = naive.naive_recurrent_gated_delta_rule(
        *(x.transpose(1, 2) for x in (q, k, v, beta, log_decay)), initial_state=state, output_final_state=True
    )
    ours, final = chunk_gated_delta_rule(q * q.shape[-1] ** -0.5, k, v, beta, log_decay, state)
    torch.testing.assert_close(ours.transpose(1, 2), theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(final, their_state, rtol=0, atol=1e-5)
