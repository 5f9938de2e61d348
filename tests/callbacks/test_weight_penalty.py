"""The norms against closed forms, beside a module that adds them itself, and which weights are meant."""

import pytest
import torch
from editing_toys import Net, trainer_of
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.weight_penalty import WeightPenalty, weight_norm
from framework.errors import UserError


def data():
    generator = torch.Generator().manual_seed(7)
    x, y = torch.randn(24, 5, generator=generator), torch.randint(0, 3, (24,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=4)


class Plain(Net):
    """With plain SGD, and by choice a term or a decay of its own."""

    def __init__(self, term=None, decay=0.0):
        super().__init__()
        self.term, self.decay = term, decay

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        return loss if self.term is None else loss + 0.1 * self.term(list(self.parameters()))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, weight_decay=self.decay)


def train(folder, *callbacks, options=None, **settings):
    torch.manual_seed(3)
    module = Plain(**settings)
    trainer_of(folder, *callbacks, **(options or {})).fit(module, data())
    return module.state_dict()


TENSORS = [torch.tensor([[3.0, -4.0]]), torch.tensor([-2.0])]


@pytest.mark.parametrize(("norm", "value"), [("l2", 14.5), ("l1", 9.0), ("group", 7.0)])
def test_the_norms(norm, value):
    assert float(weight_norm(TENSORS, norm)) == value
    assert weight_norm([w.bfloat16() for w in TENSORS], norm).dtype == torch.float32
    assert weight_norm([w.double() for w in TENSORS], norm).dtype == torch.float64
    assert float(weight_norm([], norm)) == 0


def test_their_gradients():
    leaves = [w.clone().requires_grad_() for w in TENSORS]
    expected = {"l2": leaves[0], "l1": leaves[0].sign(), "group": leaves[0] / 5}
    for norm, gradient in expected.items():
        assert torch.allclose(torch.autograd.grad(weight_norm(leaves, norm), leaves)[0], gradient)


def test_a_whole_group_at_zero_stays_there():
    zero = torch.zeros(3, requires_grad=True)
    assert torch.autograd.grad(weight_norm([zero], "group"), zero)[0].abs().sum() == 0


@pytest.mark.parametrize(
    "options",
    [{"accumulate_grad_batches": 2, "gradient_clip_val": 0.05}, {"precision": "bf16-mixed"}],
    ids=["accumulated and clipped", "bf16-mixed"],
)
def test_as_if_the_module_added_it_itself(tmp_path, options):
    ours = train(tmp_path, WeightPenalty(0.1, "l1"), options=options)
    own = train(tmp_path, options=options, term=lambda weights: weight_norm(weights, "l1"))
    assert all(torch.equal(ours[name], own[name]) for name in own)


def test_l2_is_the_weight_decay_of_sgd(tmp_path):
    ours, decayed = train(tmp_path, WeightPenalty(0.1)), train(tmp_path, decay=0.1)
    assert all(torch.allclose(ours[name], decayed[name], atol=1e-6) for name in decayed)
    assert not torch.allclose(ours["first.weight"], train(tmp_path)["first.weight"], atol=1e-3)


def test_chosen_weights_alone(tmp_path):
    ours = train(tmp_path, WeightPenalty(0.1, include=["first.*"], exclude=["*bias"]))
    own = train(tmp_path, term=lambda weights: weight_norm(weights[:1]))
    assert all(torch.equal(ours[name], own[name]) for name in own)


def test_what_is_frozen_is_left_out():
    module, penalty = Plain(), WeightPenalty(0.1)
    penalty.look_up(module)
    module.first.requires_grad_(False)
    expected = weight_norm(list(module.last.parameters()))
    assert torch.equal(penalty.penalty(module, None, None, None), expected)


def test_what_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^norm: 'l3' is not one of l2, l1, group"):
        WeightPenalty(0.1, "l3")
    with pytest.raises(UserError, match=r"^weight: -1 is not accepted; at least 0"):
        WeightPenalty(-1)
    with pytest.raises(UserError, match=r"techniques.weight_penalty.include: 'frist.\*' names nothing in the model"):
        train(tmp_path, WeightPenalty(0.1, include=["frist.*"]))
