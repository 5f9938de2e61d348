"""RowAdamW: against torch's AdamW and SparseAdam, and against AdamW with zero gradients; clipping; state; data-parallel."""

import copy
import math

import pytest
import torch
from torch import nn

from framework.errors import UserError
from framework.optim import OptimizerConfig, ScheduleConfig, build_optimizer, build_schedule, parameter_groups
from framework.optim.row_adamw import RowAdamW, clip_norm_

ROWS, WIDTH = 23, 5
RATES = [1e-2 * (1 + 0.5 * math.sin(k)) for k in range(400)]


def sparse(rows, values, size=ROWS):
    return torch.sparse_coo_tensor(rows[None], values, (size, values.shape[1]), check_invariants=True)


def gradients(steps, seed=0, dtype=torch.float64, everything=False):
    """Rows (with repetitions) and values; some steps have none of most rows, so that gaps are long."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        rows = torch.randint(0, ROWS if step % 40 < 2 else 4, (7,), generator=generator)
        if everything:
            rows = torch.arange(ROWS)
        yield rows, torch.randn(len(rows), WIDTH, generator=generator, dtype=dtype)


def run(optimizer, parameter, steps=120, as_sparse=True, dtype=torch.float64, everything=False, skip=0):
    for step, (rows, values) in enumerate(gradients(steps, dtype=dtype, everything=everything)):
        if step < skip:
            continue
        gradient = sparse(rows, values)
        parameter.grad = gradient if as_sparse else gradient.to_dense()
        for group in optimizer.param_groups:
            group["lr"] = RATES[step]
        optimizer.step()
    return parameter.detach()


def start(dtype=torch.float64):
    return nn.Parameter(torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1), dtype=dtype))


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("untouched", ["skip", "catch_up"])
def test_all_rows_with_a_gradient_is_adamw(decay, untouched):
    ours, theirs = start(), start()
    found = run(RowAdamW([ours], weight_decay=decay, untouched=untouched), ours, everything=True)
    expected = run(torch.optim.AdamW([theirs], weight_decay=decay), theirs, as_sparse=False, everything=True)
    assert torch.allclose(found, expected, atol=1e-13, rtol=0)


@pytest.mark.parametrize("fused", [None, True])
def test_dense_gradients_are_adamws_to_the_last_bit(fused):
    ours, theirs = start(torch.float32), start(torch.float32)
    settings = {"weight_decay": 0.1, "betas": (0.9, 0.95), "fused": fused}
    found = run(RowAdamW([ours], **settings), ours, as_sparse=False, dtype=torch.float32)
    expected = run(torch.optim.AdamW([theirs], **settings), theirs, as_sparse=False, dtype=torch.float32)
    assert torch.equal(found, expected)


def test_skip_without_decay_is_sparse_adam():
    ours, theirs = start(), start()
    found = run(RowAdamW([ours], weight_decay=0.0), ours)
    expected = run(torch.optim.SparseAdam([theirs]), theirs)
    # SparseAdam has eps beside the root before the bias correction, so the two differ by the order of eps
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.9, 0.999), (0.0, 0.9)])
@pytest.mark.parametrize("eps", [1e-8, 1e-2])
def test_catch_up_is_dense_adamw_for_the_same_gradients(decay, betas, eps):
    ours, theirs = start(), start()
    settings = {"weight_decay": decay, "betas": betas, "eps": eps}
    optimizer = RowAdamW([ours], untouched="catch_up", **settings)
    behind = run(optimizer, ours, steps=233).clone()
    expected = run(torch.optim.AdamW([theirs], **settings), theirs, steps=233, as_sparse=False)
    if decay or betas[0]:
        assert not torch.allclose(behind, expected, atol=1e-6)  # rows wait for their turn
    optimizer.catch_up()
    assert torch.allclose(ours, expected, atol=1e-9)
    again = ours.detach().clone()
    optimizer.catch_up()
    assert torch.equal(ours.detach(), again)


def test_skip_leaves_other_rows_alone_and_decays_touched_ones_once():
    parameter = start()
    before = parameter.detach().clone()
    optimizer = RowAdamW([parameter], lr=0.1, weight_decay=0.5)
    parameter.grad = sparse(torch.tensor([3, 7]), torch.zeros(2, WIDTH, dtype=torch.float64))
    optimizer.step()
    changed = (parameter != before).any(1).nonzero().flatten().tolist()
    assert changed == [3, 7]
    assert torch.allclose(parameter[3], before[3] * 0.95)


@pytest.mark.parametrize("untouched", ["skip", "catch_up"])
def test_resumed_is_uninterrupted_and_the_state_is_plain(untouched, tmp_path):
    whole, half = start(torch.float32), start(torch.float32)
    settings = {"weight_decay": 0.1, "untouched": untouched, "betas": (0.9, 0.95)}
    expected = RowAdamW([whole], **settings)
    run(expected, whole, steps=120, dtype=torch.float32)
    first = RowAdamW([half], **settings)
    run(first, half, steps=70, dtype=torch.float32)
    torch.save({"optimizer": first.state_dict(), "weight": half.detach()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = nn.Parameter(saved["weight"].clone())
    optimizer = RowAdamW([resumed], **settings)
    optimizer.load_state_dict(saved["optimizer"])
    run(optimizer, resumed, steps=120, dtype=torch.float32, skip=70)
    optimizer.catch_up()
    expected.catch_up()
    assert torch.equal(resumed, whole)
    for key, value in expected.state[whole].items():
        assert torch.equal(optimizer.state[resumed][key], value), key
        assert optimizer.state[resumed][key].dtype == value.dtype


class Lookup(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 4, sparse=True)
        self.head = nn.Linear(4, 1)

    def forward(self, ids):
        return self.head(self.table(ids).sum(1)).squeeze(-1)


def test_clipping_sees_the_sum_of_repeated_rows():
    torch.manual_seed(0)
    model = Lookup()
    dense = copy.deepcopy(model)
    dense.table.sparse = False
    ids = torch.randint(0, 5, (16, 6))
    for _ in range(2):  # gradients of two passes add up, as with accumulate_grad_batches
        for net in (model, dense):
            net(ids).square().sum().backward()
    expected = nn.utils.clip_grad_norm_(dense.parameters(), 0.1)
    assert torch.allclose(clip_norm_(model.parameters(), 0.1), expected)
    assert expected > 0.1
    assert torch.allclose(model.table.weight.grad.to_dense(), dense.table.weight.grad, atol=1e-7)
    assert torch.allclose(model.head.weight.grad, dense.head.weight.grad, atol=1e-7)
    before = model.head.weight.grad.clone()
    clip_norm_(model.parameters(), 1.0)
    assert torch.equal(before, model.head.weight.grad)


def test_by_name_with_groups_and_dense_parameters():
    torch.manual_seed(0)
    model = Lookup()
    config = OptimizerConfig("row_adamw", lr=0.05, weight_decay=0.0, args={"betas": [0.9, 0.95]})
    optimizer = build_optimizer(model, config)
    assert isinstance(optimizer, RowAdamW)
    ids, y = torch.randint(0, 50, (64, 3)), torch.randn(64)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = (model(ids) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    with pytest.raises(UserError, match="untouched: 'skipp'"):
        build_optimizer(model, OptimizerConfig("row_adamw", args={"untouched": "skipp"}))
    with pytest.raises(UserError, match="refused its arguments"):
        build_optimizer(model, OptimizerConfig("row_adamw", lr=-1.0))


class Boosted(nn.Embedding):
    def parameter_options(self):
        return {"weight": {"boost": (4.0, 0.5)}}


def test_a_boosted_rate_falls_to_the_schedules():
    model = nn.Sequential(Boosted(4, 2), nn.Linear(2, 2))
    groups = parameter_groups(model, OptimizerConfig(lr=0.1))
    assert [group["names"] for group in groups] == [["0.weight"], ["1.weight", "1.bias"]]
    for schedule in (ScheduleConfig(), ScheduleConfig("cosine", warmup=0.1, final=0.1)):
        optimizer = build_optimizer(model, OptimizerConfig(lr=0.1))
        scheduler = build_schedule(optimizer, schedule, total=100)
        for step in range(100):
            boosted, plain = (group["lr"] for group in optimizer.param_groups)
            assert boosted / plain == pytest.approx(1 + 3 * max(0.0, 1 - step / 50))
            optimizer.step()
            scheduler.step()
    with pytest.raises(UserError, match=r"boosted learning rate needs trainer\.max_epochs"):
        build_schedule(optimizer, ScheduleConfig(), total=math.inf)
