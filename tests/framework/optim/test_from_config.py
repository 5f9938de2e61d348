from __future__ import annotations

import copy
import math
from typing import get_args

import pytest
import torch
from torch import nn

from framework.errors import UserError
from framework.optim import (
    OptimizerConfig,
    ScheduleConfig,
    ScheduleName,
    build_optimizer,
    build_schedule,
    changed,
    parameter_groups,
    schedule_factor,
)


class Slow(nn.Module):
    def __init__(self, options=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))
        self.step = nn.Parameter(torch.ones(3))
        self._options = options or {"step": {"max_lr": 1e-3, "weight_decay": 0.0}}

    def parameter_options(self):
        return self._options


def model(options=None):
    return nn.Sequential(nn.Linear(2, 3), Slow(options))


def test_groups_by_what_submodules_declare():
    groups = parameter_groups(model(), OptimizerConfig(lr=0.01, weight_decay=0.1))
    assert [(g["names"], g["lr"], g["weight_decay"]) for g in groups] == [
        (["0.weight", "0.bias", "1.weight"], 0.01, 0.1),
        (["1.step"], 1e-3, 0.0),
    ]
    (only,) = parameter_groups(model({"step": {"max_lr": 1.0}}), OptimizerConfig(lr=0.01))
    assert only["lr"] == 0.01
    assert parameter_groups(model({"step": {"lr": 1.0}}), OptimizerConfig(lr=0.01))[1]["lr"] == 1.0


def test_declarations_survive_a_deep_copy():
    before = parameter_groups(model(), OptimizerConfig(lr=0.01))
    after = parameter_groups(copy.deepcopy(model()), OptimizerConfig(lr=0.01))
    assert [g["names"] for g in before] == [g["names"] for g in after]


def test_biases_may_go_without_decay_and_frozen_parameters_are_left_out():
    net = nn.Linear(2, 3)
    groups = parameter_groups(net, OptimizerConfig(weight_decay=0.1, decay_1d=False))
    assert [(g["names"], g["weight_decay"]) for g in groups] == [(["weight"], 0.1), (["bias"], 0.0)]
    net.bias.requires_grad_(False)
    assert [g["names"] for g in parameter_groups(net, OptimizerConfig())] == [["weight"]]


def test_tied_parameters_appear_once():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    (group,) = parameter_groups(net, OptimizerConfig())
    assert group["names"] == ["0.weight", "0.bias", "1.bias"]


@pytest.mark.parametrize(("name", "kind"), [("adamw", "AdamW"), ("SGD", "SGD"), ("NAdam", "NAdam"), ("lion", "Lion")])
def test_optimisers_by_name_from_torch_and_timm(name, kind):
    optimizer = build_optimizer(model(), OptimizerConfig(name=name, lr=0.01))
    assert type(optimizer).__name__ == kind
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 1e-3]


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "adagrad"])
def test_the_fused_form_takes_the_same_steps(name):
    results = []
    for args in ({}, {"fused": False}):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
        optimizer = build_optimizer(net, OptimizerConfig(name=name, lr=0.01, weight_decay=0.1, args=args))
        assert bool(optimizer.param_groups[0]["fused"]) is not bool(args)
        for _ in range(20):
            optimizer.zero_grad()
            net(torch.ones(4, 5)).square().sum().backward()
            optimizer.step()
        results.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def test_nothing_is_fused_away_from_the_cpu():
    with torch.device("meta"):
        net = nn.Linear(2, 2)
    assert not build_optimizer(net, OptimizerConfig()).param_groups[0]["fused"]


@pytest.mark.parametrize(
    ("net", "config", "said"),
    [
        (model(), OptimizerConfig(name="adamm"), "nearest: adam"),
        (model(), OptimizerConfig(args={"momentun": 1}), "refused its arguments"),
        (model(), OptimizerConfig(lr=-1.0), "refused its arguments"),
        (model({"nothing": {}}), OptimizerConfig(), "'nothing', which is not a parameter"),
        (nn.Linear(1, 1).requires_grad_(False), OptimizerConfig(), "no parameter of the model is trainable"),
    ],
)
def test_mistakes_are_said(net, config, said):
    with pytest.raises(UserError, match=said):
        build_optimizer(net, config)


def test_cosine_with_warm_up_is_the_closed_form():
    config = ScheduleConfig("cosine", warmup=10, final=0.1)
    factors = [schedule_factor(config, step, 110) for step in range(111)]
    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert factors[10:] == pytest.approx([0.1 + 0.45 * (1 + math.cos(math.pi * t / 100)) for t in range(101)])


@pytest.mark.parametrize("warmup", [0.3, 30])
def test_onecycle_is_torchs(warmup):
    net = nn.Linear(1, 1)
    ours = torch.optim.SGD(net.parameters(), lr=0.1)
    schedule = build_schedule(ours, ScheduleConfig("onecycle", warmup=warmup), total=100)
    theirs = torch.optim.SGD(net.parameters(), lr=0.1)
    oracle = torch.optim.lr_scheduler.OneCycleLR(theirs, 0.1, total_steps=101, pct_start=31 / 101, cycle_momentum=False)
    for _ in range(100):
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-12)
        ours.step()
        theirs.step()
        schedule.step()
        oracle.step()


def test_the_other_shapes():
    assert [schedule_factor(ScheduleConfig("linear"), s, 4) for s in range(5)] == [1, 0.75, 0.5, 0.25, 0]
    steps = ScheduleConfig("step", milestones=(2, 3), gamma=0.1)
    assert [schedule_factor(steps, s, 40, 10) for s in (19, 20, 30)] == pytest.approx([1, 0.1, 0.01])
    assert build_schedule(torch.optim.SGD(model().parameters(), lr=1), ScheduleConfig(), total=10) is None


def rates(optimizer, schedule, steps):
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_a_step_every_so_many_epochs_is_torchs():
    ours, theirs = (torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1) for _ in range(2))
    schedule = build_schedule(ours, ScheduleConfig("step", every=20, gamma=0.99), total=300, steps_per_epoch=3)
    oracle = torch.optim.lr_scheduler.StepLR(theirs, step_size=60, gamma=0.99)
    assert rates(ours, schedule, 300) == pytest.approx(rates(theirs, oracle, 300), rel=1e-12)


def test_cosine_in_cycles_is_torchs_warm_restarts_with_each_peak_lower():
    ours, theirs = (torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1) for _ in range(2))
    schedule = build_schedule(ours, ScheduleConfig("cosine", cycles=4, cycle_decay=0.5), total=80)
    oracle = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(theirs, T_0=20)
    expected = [rate * 0.5 ** (step // 20) for step, rate in enumerate(rates(theirs, oracle, 80))]
    assert rates(ours, schedule, 80) == pytest.approx(expected, rel=1e-12)
    lowest = ScheduleConfig("cosine", cycles=4, cycle_decay=0.5, final=0.3)
    factors = [schedule_factor(lowest, step, 40) for step in range(41)]
    assert [factors[10 * cycle] for cycle in range(4)] == pytest.approx(
        [1, 0.5, 0.3, 0.3]
    )  # as timm's CosineLRScheduler
    assert factors[5] == pytest.approx(0.65)
    assert factors[15] == pytest.approx(0.4)
    assert min(factors) == pytest.approx(0.3)


def test_every_group_keeps_its_ratio():
    optimizer = build_optimizer(model(), OptimizerConfig(lr=0.01))
    schedule = build_schedule(optimizer, ScheduleConfig("cosine"), total=10)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(10 * optimizer.param_groups[1]["lr"])


def test_schedule_mistakes_are_said():
    optimizer = torch.optim.SGD(model().parameters(), lr=1)
    with pytest.raises(UserError, match=", ".join(get_args(ScheduleName))):
        build_schedule(optimizer, ScheduleConfig("cosin"), total=10)
    with pytest.raises(UserError, match="max_epochs or"):
        build_schedule(optimizer, ScheduleConfig("cosine"), total=-1)
    with pytest.raises(UserError, match=r"schedule\.cycles: 0 is not accepted"):
        build_schedule(optimizer, ScheduleConfig("cosine", cycles=0), total=10)
    with pytest.raises(UserError, match=r"optimizer\.lrr: there is no such setting; accepted: name, lr, "):
        changed(OptimizerConfig(), {"lrr": 1}, "optimizer")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": "fast"}, r"stage\.lr: 'fast' is not accepted; a number of at least 0"),
        ({"lr": True}, r"stage\.lr: True is not accepted; a number of at least 0"),
        ({"lr": float("nan")}, r"stage\.lr: nan is not accepted"),
        ({"weight_decay": -1}, r"stage\.weight_decay: -1 is not accepted"),
        ({"name": 3}, r"stage\.name: 3 is not accepted; a name"),
        ({"decay_1d": "no"}, r"stage\.decay_1d: 'no' is not accepted; true or false"),
        ({"args": [1]}, r"stage\.args: \[1\] is not accepted; a mapping"),
    ],
)
def test_changes_of_another_kind_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        changed(OptimizerConfig(), values, "stage")


def test_changes_of_a_schedule():
    found = changed(ScheduleConfig(), {"milestones": [3, 5], "warmup": 2, "name": "step"}, "stage")
    assert (found.milestones, found.warmup, found.name) == ([3, 5], 2, "step")
    with pytest.raises(UserError, match=r"stage\.milestones: 3 is not accepted; a list of epochs"):
        changed(ScheduleConfig(), {"milestones": 3}, "stage")
