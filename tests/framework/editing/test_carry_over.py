from __future__ import annotations

import pytest
import torch
from torch import nn

from framework.editing.carry_over import _remap, transplant
from framework.errors import UserError


def stepped(parameters: list[nn.Parameter], **options: float) -> torch.optim.AdamW:
    optimizer = torch.optim.AdamW([{"params": parameters}], **options)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def test_states_move_with_what_lives_on_and_the_rest_starts_empty() -> None:
    a, b, c = (nn.Parameter(torch.ones(2)) for _ in range(3))
    old = stepped([a, b], lr=0.5)
    old.param_groups[0]["lr"] = 0.25  # a schedule's doing
    new = torch.optim.AdamW([c, b], lr=0.5)
    assert transplant(old, new, {id(b): b}, {}) == [0]
    assert [*new.state] == [b]
    assert torch.equal(new.state[b]["exp_avg"], old.state[b]["exp_avg"])
    assert new.param_groups[0]["lr"] == 0.25


def test_a_new_group_joins_one_with_the_same_options_else_takes_the_schedules_factor() -> None:
    a, c, d = (nn.Parameter(torch.ones(2)) for _ in range(3))
    old = stepped([a], lr=0.4)
    old.param_groups[0] |= {"initial_lr": 0.4, "lr": 0.1}
    groups = [
        {"params": [a], "lr": 0.4, "initial_lr": 0.4},
        {"params": [c], "lr": 0.4, "initial_lr": 0.4},
        {"params": [d], "lr": 2.0, "initial_lr": 2.0},
    ]
    new = torch.optim.AdamW(groups)
    assert transplant(old, new, {id(a): a}, {}) == [0, 0, None]
    assert [group["lr"] for group in new.param_groups] == pytest.approx([0.1, 0.1, 0.5])


def test_a_grown_momentum_is_padded_and_a_shrunk_one_refused() -> None:
    small, big = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3, 4))
    old, new = stepped([small], lr=0.1), torch.optim.AdamW([big])
    transplant(old, new, {id(big): small}, {id(big): "w"})
    moment = new.state[big]["exp_avg"]
    assert torch.equal(moment[:2, :3], old.state[small]["exp_avg"])
    assert moment.sum() == moment[:2, :3].sum()
    with pytest.raises(UserError, match=r"w went from \(3, 4\) to \(2, 3\)"):
        transplant(stepped([big], lr=0.1), torch.optim.AdamW([small]), {id(small): big}, {id(small): "w"})


def test_a_factored_state_of_a_grown_tensor_is_refused_by_name() -> None:
    small, big = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3, 3))
    old = torch.optim.Adafactor([small])
    small.grad = torch.ones_like(small)
    old.step()
    with pytest.raises(UserError, match="w grew, and 'row_var' of its optimiser state"):
        transplant(old, torch.optim.Adafactor([big]), {id(big): small}, {id(big): "w"})


def test_one_group_from_two_with_other_rates_is_refused_by_name() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    old = torch.optim.SGD([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.2}])
    with pytest.raises(UserError, match="put a and b in one group"):
        transplant(old, torch.optim.SGD([a, b], lr=0.1), {id(a): a, id(b): b}, {id(a): "a", id(b): "b"})


@pytest.mark.parametrize("nested", [False, True])
def test_a_scheduler_gains_a_group_and_keeps_its_place(nested: bool) -> None:
    def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        if not nested:
            return decay
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, total_iters=2)
        return torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, decay], [2])

    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    old = torch.optim.SGD([a], lr=0.1)
    was = schedule(old)
    for _ in range(5):
        old.step()
        was.step()
    new = torch.optim.SGD([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.4}])
    now = schedule(new)
    matched = transplant(old, new, {id(a): a}, {})
    now.load_state_dict(_remap(was.state_dict(), now.state_dict(), matched, new.param_groups))
    for _ in range(5):
        rates = [group["lr"] for group in new.param_groups]
        assert rates == pytest.approx([old.param_groups[0]["lr"], 4 * old.param_groups[0]["lr"]])
        for optimizer, scheduler in ((old, was), (new, now)):
            optimizer.step()
            scheduler.step()
