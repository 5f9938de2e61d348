"""structured_init: which matrices it rewrites, at which norm, and that a checkpoint repeats it."""

import numpy as np
import pytest
import torch
from torch import nn

from callbacks.structured_init import StructuredInit, choose_matrices, structured_init_
from framework.editing import edit, ledger_of
from framework.errors import UserError
from framework.functional.structured_weights import Structure, low_rank_part
from framework.module import Module


class Net(Module):
    """Square and other weights, a recurrent layer of four gates, a convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3)
        self.rnn = nn.LSTM(8, 6)
        self.square = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)


def rank(matrix):
    return int(torch.linalg.matrix_rank(matrix.detach()))


def test_by_default_square_matrices_and_each_gate_by_itself():
    torch.manual_seed(0)
    model = Net()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    assert structured_init_(model, Structure("svd_lowrank", rank=2)) == ["rnn.weight_hh_l0", "square.weight"]
    for name, value in model.named_parameters():
        if name not in ("rnn.weight_hh_l0", "square.weight"):
            assert torch.equal(value, before[name])
    for gate, old in zip(model.rnn.weight_hh_l0.split(6), before["rnn.weight_hh_l0"].split(6), strict=True):
        torch.testing.assert_close(gate.detach(), low_rank_part(old.double(), 2).float())
        torch.testing.assert_close(gate.norm(), old.norm())
    assert rank(model.square.weight) == 2


def test_named_ones_of_any_shape():
    torch.manual_seed(0)
    model = Net()
    before = model.conv.weight.detach().clone()
    assert structured_init_(model, Structure("dale"), ["conv.weight", "head.weight"], seed=3) == [
        "conv.weight",
        "head.weight",
    ]
    columns = model.conv.weight.flatten(1)
    assert ((columns >= 0).all(0) | (columns <= 0).all(0)).all()
    torch.testing.assert_close(columns.norm(), before.norm())
    other = Net()
    other.load_state_dict({**other.state_dict(), "conv.weight": before})
    structured_init_(other, Structure("dale"), ["conv.weight"], seed=3)
    assert torch.equal(other.conv.weight, model.conv.weight)
    structured_init_(other, Structure("dale"), ["conv.weight"], seed=4)
    assert not torch.equal(other.conv.weight, model.conv.weight)


def test_stacks_of_matrices():
    model = nn.ParameterDict({"w": torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(0))})
    norms = model["w"].detach().flatten(1).norm(dim=1)
    structured_init_(model, Structure("chain"), seed=0)
    torch.testing.assert_close(model["w"].detach().flatten(1).norm(dim=1), norms)
    assert not torch.allclose(model["w"][0] / norms[0], model["w"][1] / norms[1])


def test_the_technique_records_what_it_did(tmp_path):
    torch.manual_seed(0)
    model = Net()
    edit(model, StructuredInit("svd_lowrank", rank=1, include=["square.weight"]))
    assert rank(model.square.weight) == 1
    (plan,) = ledger_of(model).plans
    assert plan.decision["weights"] == ["square.weight"]
    assert plan.decision["structure"]["rank"] == 1
    np.save(tmp_path / "w.npy", np.eye(6))
    edit(other := Net(), StructuredInit("from_file", path=str(tmp_path / "w.npy"), include=["square.weight"]))
    weight = other.square.weight.detach()
    torch.testing.assert_close(weight, weight[0, 0] * torch.eye(6))


def test_two_draws_of_one_seed_are_one():
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        model = Net()
        edit(model, StructuredInit("blocks", means=[[1.0, -1.0], [0.0, 1.0]], seed=5))
        found.append(model.square.weight.detach())
    assert torch.equal(*found)


def test_what_it_refuses(tmp_path):
    with pytest.raises(UserError, match=r"^kind: 'odd'"):
        StructuredInit("odd")
    with pytest.raises(UserError, match=r"structured_init.include: 'squares.weight' names nothing.*square.weight"):
        choose_matrices(Net(), ["squares.weight"])
    with pytest.raises(UserError, match="'square weights' names nothing"):
        choose_matrices(nn.Linear(2, 3))
    with pytest.raises(UserError, match="leaves nothing of include"):
        choose_matrices(Net(), ["head.weight"], ["head.*"])
    np.save(tmp_path / "w.npy", np.eye(4))
    with pytest.raises(UserError, match=r"structured_init.path: .*w.npy: holds 4 x 4.*6 x 6.*\(square.weight\)"):
        edit(Net(), StructuredInit("from_file", path=str(tmp_path / "w.npy"), include=["square.weight"]))
