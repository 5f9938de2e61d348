"""Update rules: chunked forms against the recurrence, the recurrence against each rule's own equation and oracles."""

import math
import warnings

import pytest
import torch
from torch.nn import functional as F

from framework.errors import UserError
from framework.optim import OptimizerConfig, parameter_groups
from modules.sequence.mom.layer import MoMLayer
from modules.sequence.mom.recurrence import chunk_scalar_decay, recurrent
from modules.sequence.mom.rules import RULES, build_rule

R, T, H, D, E = 3, 70, 2, 5, 4


def example(rule, length=T, seed=0):
    torch.manual_seed(seed)
    module = build_rule(rule, 16, H, D).double()
    gate = module.gate_projection()
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64)  # noqa: E731
    gates = None if gate is None else gate.double()(draw(R, length, 16))
    return module, [draw(R, length, H * D), draw(R, length, H * D), draw(R, length, H * E), gates], draw(R, H, D, E)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("length", [1, 2, 64, T])
def test_chunks_equal_the_recurrence_with_gradients(rule, length):
    module, inputs, state = example(rule, length)
    results = []
    for reference in (True, False):
        leaves = [x.detach().requires_grad_() for x in [*inputs, state] if x is not None]
        q, k, v, *rest = leaves
        gates, start = (None, rest[0]) if len(rest) == 1 else rest
        o, final = module(q, k, v, gates, None, start, reference)
        weight = torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view_as(o)
        results.append([o, final, *torch.autograd.grad((o * weight).sum() + final.square().sum(), leaves)])
    assert results[0][0].abs().max() > 0.1
    for slow, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rule", RULES)
def test_tokens_that_are_not_there_leave_the_memory_bitwise(rule):
    module, (q, k, v, gates), state = example(rule, 20)
    there = torch.arange(20) % 3 != 1
    valid = there.expand(R, -1)
    for reference in (True, False):
        o, final = module(q, k, v, gates, valid, state, reference)
        left = [None if x is None else x[:, there] for x in (q, k, v, gates)]
        packed, end = module(*left, None, state, reference)
        torch.testing.assert_close(o[:, there], packed, rtol=0, atol=1e-12)
        torch.testing.assert_close(final, end, rtol=0, atol=1e-12)
        _, same = module(q, k, v, gates, torch.zeros_like(valid), state, reference)
        assert torch.equal(same, state)


def written(rule, seed=0):
    """A state before and after one token, and what the token is made of, one row and head."""
    module, (q, k, v, gates), state = example(rule, 1, seed)
    _, final = module(q, k, v, gates, None, state)
    heads = [x[0, 0].view(H, -1)[0].detach() for x in (q, k, v)]
    gate = None if gates is None else gates[0, 0].detach()
    return module, heads, gate, state[0, 0], final[0, 0].detach()


def test_each_rule_is_its_equation():
    outer = lambda k, v: k[:, None] * v  # noqa: E731
    eye = torch.eye(D, dtype=torch.float64)

    _, (_, k, v), _, before, after = written("linear")
    torch.testing.assert_close(after, before + outer(F.normalize(k, dim=0), v), rtol=1e-5, atol=1e-5)

    _, (_, k, v), _, before, after = written("retnet")
    torch.testing.assert_close(after, (1 - 2**-5) * before + outer(k, v), rtol=0, atol=1e-7)

    module, (_, k, v), gate, before, after = written("mamba2")
    dt = F.softplus(gate[0] + module.dt_bias[0]).detach()
    alpha = torch.exp(-module.A_log[0].exp() * dt).detach()
    torch.testing.assert_close(after, alpha * before + dt * outer(k, v), rtol=0, atol=1e-12)

    _, (_, k, v), gate, before, after = written("gla")
    torch.testing.assert_close(
        after, gate[:D].sigmoid()[:, None] ** (1 / 16) * before + outer(k, v), rtol=0, atol=1e-12
    )

    _, (_, k, v), _, before, after = written("hgrn2")
    a = k.sigmoid()
    torch.testing.assert_close(after, a[:, None] * before + outer(1 - a, v), rtol=0, atol=1e-12)

    _, (_, k, v), gate, before, after = written("rwkv6")
    torch.testing.assert_close(after, torch.exp(-gate[:D].exp())[:, None] * before + outer(k, v), rtol=0, atol=1e-12)

    for rule in ("deltanet", "gated_deltanet"):
        module, (_, k, v), gate, before, after = written(rule)
        k, beta, alpha = k / math.sqrt(float(k.square().sum()) + 1e-6), gate[0].sigmoid(), torch.tensor(1.0)
        if rule == "gated_deltanet":
            alpha = torch.exp(-module.A_log[0].exp() * F.softplus(gate[H] + module.dt_bias[0])).detach()
        expected = alpha * (eye - beta * outer(k, k)) @ before + beta * outer(k, v)
        torch.testing.assert_close(after, expected, rtol=0, atol=1e-12)


def test_rwkv6_reads_before_it_is_written_with_a_bonus():
    module, (q, k, v, gates), state = example("rwkv6", 1)
    o, _ = module(q, k, v, gates, None, state)
    q, k, v = (x[:, 0].view(R, H, -1) for x in (q, k, v))
    u = module.bonus.detach().double()
    kv = state + u[:, :, None] * k[..., None] * v[:, :, None]
    torch.testing.assert_close(o[:, 0], torch.einsum("rhd,rhde->rhe", q / math.sqrt(D), kv), rtol=0, atol=1e-12)


def naive(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(f"fla.ops.{name}")


def test_gated_deltanet_against_the_oracle():
    oracle = naive("gated_delta_rule.naive").naive_recurrent_gated_delta_rule
    module, (q, k, v, gates), state = example("gated_deltanet")
    o, final = module(q, k, v, gates, None, state)
    heads = [x.detach().float().unflatten(-1, (H, -1)) for x in (q, k, v)]
    beta = gates[..., :H].sigmoid()
    g = -module.A_log.exp() * F.softplus(gates[..., H:] + module.dt_bias)
    theirs, their_state = oracle(
        F.normalize(heads[0], dim=-1), F.normalize(heads[1], dim=-1), heads[2], beta, g, None, state, True
    )
    torch.testing.assert_close(o.float(), theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(final.float(), their_state, rtol=0, atol=1e-5)


def test_gla_against_the_oracle():
    oracle = naive("gla.naive").naive_recurrent_gla
    module, (q, k, v, gates), state = example("gla")
    o, final = module(q, k, v, gates, None, state)
    g = F.logsigmoid(gates.unflatten(-1, (H, -1))) / 16
    theirs, their_state = oracle(*(x.unflatten(-1, (H, -1)) for x in (q, k, v)), g, state, True)
    torch.testing.assert_close(o.float(), theirs.float(), rtol=0, atol=1e-5)
    torch.testing.assert_close(final.float(), their_state.float(), rtol=0, atol=1e-5)


def test_retnet_against_the_oracle():
    oracle = naive("simple_gla.naive").naive_chunk_simple_gla
    module, (q, k, v, _), state = example("retnet")
    o, final = module(q, k, v, None, None, state)
    g = module.log_gamma.expand(R, T, H).double()
    theirs, their_state = oracle(*(x.unflatten(-1, (H, -1)) for x in (q, k, v)), g, state.float(), True)
    torch.testing.assert_close(o.float(), theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(final.float(), their_state, rtol=0, atol=1e-5)


def test_scalar_decay_stays_finite_where_it_is_strong():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 200, 4) for _ in range(3))
    log_decay = torch.full((1, 2, 200), -30.0, requires_grad=True)
    o, _ = chunk_scalar_decay(q, k, v, log_decay)
    o.sum().backward()
    torch.testing.assert_close(o.detach(), recurrent(q, k, v, log_decay.detach())[0], rtol=1e-4, atol=1e-5)
    assert torch.isfinite(log_decay.grad).all()


def test_rates_start_where_the_paper_draws_them_and_do_not_decay():
    torch.manual_seed(0)
    layer = MoMLayer(64, n_heads=64, head_dim=2)
    rates, steps = layer.rule.A_log.exp(), F.softplus(layer.rule.dt_bias)
    assert 0 < rates.min() < 2
    assert 14 < rates.max() <= 16
    assert 0.99e-3 < steps.min() < 2e-3
    assert 0.06 < steps.max() <= 0.1001
    groups = parameter_groups(torch.nn.ModuleList([layer]), OptimizerConfig(weight_decay=0.1))
    free = [name for group in groups if group["weight_decay"] == 0 for name in group["names"]]
    assert free == ["0.rule.A_log", "0.rule.dt_bias"]
    bound = 2**-2.5 * math.sqrt(6 / (64 + 128))
    assert 0.95 * bound < layer.q_proj.weight.abs().max() <= bound


def test_an_unknown_rule_is_told():
    with pytest.raises(UserError, match=r"rule: 'gated_deltnet' is not one of .*did you mean 'gated_deltanet'"):
        build_rule("gated_deltnet", 16, 2, 8)
