"""What a resumed training's optimiser loads where its config has other settings than the checkpoint."""

from __future__ import annotations

import math

import pytest
import torch
from resume_harness import same
from torch import nn

from framework.errors import UserError
from framework.optim import OptimizerConfig, ScheduleConfig, adapt, build_optimizer, build_schedule

STEPS, TOTAL = 6, 10


class Slow(nn.Module):
    def __init__(self, lr: float) -> None:
        super().__init__()
        self.log_step = nn.Parameter(torch.ones(3))
        self.lr = lr

    def parameter_options(self):
        return {"log_step": {"max_lr": self.lr, "weight_decay": 0.0}}


def model(slow=1e-3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), Slow(slow))


def built(net, config, schedule, total):
    optimizer = build_optimizer(net, config)
    return optimizer, build_schedule(optimizer, schedule, total=total)


def trained(config, schedule, net):
    """The states after some steps, as a checkpoint has them."""
    optimizer, scheduler = built(net, config, schedule, TOTAL)
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        for parameter in net.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
        if scheduler is not None:
            scheduler.step(*([1.0 + step] if schedule.name == "plateau" else []))
    return optimizer.state_dict(), None if scheduler is None else scheduler.state_dict()


def resumed(old=None, new=None, before=None, after=None, total=TOTAL, slow=(1e-3, 1e-3), steps=STEPS):
    """The optimiser and the schedule of the new settings, loaded as Lightning does; the checkpoint's; the model."""
    state, schedule = trained(
        OptimizerConfig(**(old or {})), ScheduleConfig(**(before or {"name": "constant"})), model(slow[0])
    )
    net = model(slow[1])
    optimizer, scheduler = built(net, OptimizerConfig(**(new or {})), ScheduleConfig(**(after or {})), total)
    adapted = adapt(optimizer, scheduler, state, schedule, steps)
    assert adapted is not None
    optimizer.load_state_dict(adapted[0])
    if scheduler is not None:
        scheduler.load_state_dict(adapted[1])
    return optimizer, scheduler, (state, schedule), net


COSINE, PLATEAU = {"name": "cosine", "warmup": 0.2}, {"name": "plateau", "patience": 1}


@pytest.mark.parametrize("schedule", [{}, COSINE, PLATEAU, {"name": "step", "milestones": [2]}])
@pytest.mark.parametrize("name", ["adamw", "sgd", "rmsprop"])
def test_nothing_changes_where_nothing_was_changed(schedule, name):
    config = {"name": name, "lr": 0.01, "args": {"betas": [0.8, 0.9]} if name == "adamw" else {}}
    optimizer, scheduler, (state, saved), _ = resumed(config, config, schedule, schedule)
    assert same(optimizer.state_dict(), state)
    assert scheduler is None or same(scheduler.state_dict(), saved)


def test_what_others_set_meanwhile_is_kept():
    state, _ = trained(OptimizerConfig(), ScheduleConfig(), model())
    state["param_groups"][0] |= {"weight_decay": 0.5, "mine": 3}
    optimizer = build_optimizer(model(), OptimizerConfig(lr=0.5))
    groups = adapt(optimizer, None, state, None, STEPS)[0]["param_groups"]
    assert (groups[0]["lr"], groups[0]["weight_decay"]) == (0.5, 0.5)
    optimizer = build_optimizer(model(), OptimizerConfig())
    assert adapt(optimizer, None, state, None, STEPS)[0]["param_groups"][0]["mine"] == 3


def test_another_rate_under_a_schedule_is_that_of_the_step():
    optimizer, scheduler, (_, saved), _ = resumed({"lr": 0.01}, {"lr": 0.5}, COSINE, COSINE)
    factor = saved["_last_lr"][0] / saved["base_lrs"][0]
    assert optimizer.param_groups[0]["lr"] == 0.5 * factor == scheduler.get_last_lr()[0]
    assert optimizer.param_groups[1]["lr"] == saved["_last_lr"][1], "this one's own cap holds still"
    optimizer.step()
    scheduler.step()
    reference, theirs = built(model(), OptimizerConfig(lr=0.5), ScheduleConfig(**COSINE), TOTAL)
    for _ in range(STEPS + 1):
        reference.step()
        theirs.step()
    assert scheduler.get_last_lr() == theirs.get_last_lr()


def test_settings_of_an_argument_list_and_decay():
    new = {"weight_decay": 0.2, "args": {"betas": [0.5, 0.6]}}
    optimizer, _, (state, _), _ = resumed({"args": {"betas": [0.9, 0.99]}}, new)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.2, 0.0]
    assert all(list(g["betas"]) == [0.5, 0.6] for g in optimizer.param_groups)
    assert same(optimizer.state_dict()["state"], state["state"])


def by_name(state):
    return {
        name: state["state"][key] for g in state["param_groups"] for name, key in zip(g["names"], g["params"], strict=True)
    }  # fmt: skip


def test_groups_that_split_or_merge_keep_each_parameters_state():
    optimizer, _, (state, _), _ = resumed({}, {"decay_1d": False})
    assert [g["names"] for g in optimizer.param_groups] == [["0.weight"], ["0.bias", "1.log_step"]]
    assert same(by_name(optimizer.state_dict()), by_name(state))
    optimizer, _, (state, _), _ = resumed({"weight_decay": 0.0, "lr": 0.01}, {"weight_decay": 0.0, "lr": 1e-3})
    assert [len(g["params"]) for g in state["param_groups"]] == [2, 1]
    assert [(g["names"], g["lr"]) for g in optimizer.param_groups] == [(["0.weight", "0.bias", "1.log_step"], 1e-3)]
    assert same(by_name(optimizer.state_dict()), by_name(state))


def test_what_a_submodule_declares():
    _, scheduler, _, _ = resumed({"lr": 0.01}, {"lr": 0.01}, COSINE, COSINE, slow=(1e-3, 4e-3))
    assert scheduler.base_lrs == [0.01, 4e-3]


def test_a_schedule_is_taken_away_added_or_made_longer():
    short = {"name": "linear"}
    optimizer, scheduler, (state, _), _ = resumed({"lr": 0.01}, {"lr": 0.01}, short, {})
    assert scheduler is None
    assert state["param_groups"][0]["lr"] == pytest.approx(0.004)
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert "initial_lr" not in optimizer.param_groups[0]
    optimizer, scheduler, _, _ = resumed({"lr": 0.01}, {"lr": 0.01}, {}, short, total=12)
    assert (scheduler.last_epoch, optimizer.param_groups[0]["lr"]) == (STEPS, pytest.approx(0.005))
    optimizer, scheduler, _, _ = resumed({"lr": 0.01}, {"lr": 0.01}, short, short, total=20)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.007)
    optimizer, scheduler, _, _ = resumed({"lr": 0.01}, {"lr": 0.01}, short, {"name": "cosine"})
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.5 * (1 + math.cos(0.6 * math.pi)))
    optimizer, scheduler, _, _ = resumed({"lr": 0.01}, {"lr": 0.01}, PLATEAU, short)
    assert (scheduler.last_epoch, optimizer.param_groups[0]["lr"]) == (STEPS, pytest.approx(0.004))


def test_plateau_has_the_configs_settings_and_the_checkpoints_place():
    after = {"name": "plateau", "patience": 5, "gamma": 0.5}
    optimizer, scheduler, (state, saved), _ = resumed({"lr": 0.01}, {"lr": 0.02}, PLATEAU, after)
    assert (scheduler.factor, scheduler.patience) == (0.5, 5)
    assert (scheduler.best, scheduler.num_bad_epochs) == (saved["best"], saved["num_bad_epochs"])
    assert state["param_groups"][0]["lr"] == pytest.approx(1e-4), "it was reduced twice"
    assert optimizer.param_groups[0]["lr"] == pytest.approx(2e-4)
    optimizer, *_ = resumed({"lr": 0.01}, {"lr": 0.01}, PLATEAU, PLATEAU | {"min_lr": 5e-4})
    assert optimizer.param_groups[0]["lr"] == 5e-4


def test_momentum_can_begin_later():
    optimizer, *_, net = resumed(
        {"name": "sgd", "weight_decay": 0.0}, {"name": "sgd", "weight_decay": 0.0, "args": {"momentum": 0.9}}
    )
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert torch.equal(optimizer.state[net[0].weight]["momentum_buffer"], torch.ones(3, 2))


@pytest.mark.parametrize(
    ("kwargs", "found"),
    [
        ({"new": {"name": "sgd"}}, ["model.optimizer.name", "adamw", "sgd"]),
        ({"new": {"args": {"amsgrad": True}}}, ["model.optimizer.args.amsgrad", "False", "True", "max_exp_avg_sq"]),
        ({"after": PLATEAU}, ["model.schedule.name", "constant", "plateau"]),
        ({"before": COSINE, "after": PLATEAU}, ["model.schedule.name", "another schedule", "plateau"]),
        (
            {"old": {"name": "row_adamw"}, "new": {"name": "row_adamw", "args": {"untouched": "catch_up"}}},
            ["model.optimizer.args.untouched", "skip", "catch_up"],
        ),
    ],
)
def test_what_has_no_meaning_is_refused_with_both_values(kwargs, found):
    with pytest.raises(UserError) as error:
        resumed(**kwargs)
    assert all(text in str(error.value) for text in found), str(error.value)


def test_other_parameters_are_refused():
    state, _ = trained(OptimizerConfig(), ScheduleConfig(), model())
    net = model()
    net[0].bias.requires_grad_(False)
    with pytest.raises(UserError, match=r"has trained 0\.bias"):
        adapt(build_optimizer(net, OptimizerConfig()), None, state, None, 0)
    net = nn.Sequential(*model(), nn.Linear(1, 1))
    with pytest.raises(UserError, match=r"no state of 2\.bias \(2 such"):
        adapt(build_optimizer(net, OptimizerConfig()), None, state, None, 0)


def test_a_checkpoint_without_notes_is_read_by_place():
    state, saved = trained(OptimizerConfig(lr=0.01), ScheduleConfig(**COSINE), model())
    for group in state["param_groups"]:
        del group["names"], group["configured"]
    for lr in (0.01, 0.5):
        optimizer, scheduler = built(model(), OptimizerConfig(lr=lr), ScheduleConfig(**COSINE), TOTAL)
        groups = adapt(optimizer, scheduler, state, saved, STEPS)[0]["param_groups"]
        assert groups[0]["lr"] == lr * (saved["_last_lr"][0] / saved["base_lrs"][0])
        assert groups[1]["lr"] == state["param_groups"][1]["lr"]


def test_others_optimisers_and_schedules_are_left_alone():
    net = model()
    foreign = torch.optim.AdamW(net.parameters())
    assert adapt(foreign, None, foreign.state_dict(), None, 0) is None
    ours = build_optimizer(net, OptimizerConfig())
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(ours, 10)
    assert adapt(ours, theirs, ours.state_dict(), theirs.state_dict(), 0) is None
    for function in (lambda epoch: 0.9**epoch, Falling()):  # of a LambdaLR that others made nobody knows the functions
        theirs = torch.optim.lr_scheduler.LambdaLR(ours, function)
        assert adapt(ours, theirs, ours.state_dict(), theirs.state_dict(), 0) is None


class Falling:
    def __call__(self, epoch):
        return 0.9**epoch


def test_what_was_not_configured_otherwise_is_loaded_as_it_is():
    """Also where a hook has changed the rates since."""
    state, saved = trained(OptimizerConfig(lr=0.01), ScheduleConfig(**COSINE), model())
    for group in state["param_groups"]:
        group["lr"] *= 0.5
    optimizer, scheduler = built(model(), OptimizerConfig(lr=0.01), ScheduleConfig(**COSINE), TOTAL)
    adapted, schedule = adapt(optimizer, scheduler, state, saved, STEPS)
    assert same(adapted, state)
    assert same(schedule, saved)
    optimizer, scheduler = built(model(), OptimizerConfig(lr=0.01), ScheduleConfig(**COSINE), 2 * TOTAL)
    assert not same(adapt(optimizer, scheduler, state, saved, STEPS)[1], saved)
