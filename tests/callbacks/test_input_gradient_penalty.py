"""Closed forms of linear and quadratic models, a module that adds the term itself, attention and tokens."""

import pytest
import torch
from editing_toys import trainer_of
from lightning.pytorch import LightningModule
from resume_harness import same
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.input_gradient_penalty import InputGradientPenalty, input_gradient_norm
from framework.editing.capture import Capture
from framework.errors import UserError


class Quadratic(nn.Module):
    """f(x) = ½ xᵀ A x, (B, 1), with A symmetric."""

    def __init__(self, size=3):
        super().__init__()
        root = torch.randn(size, size, dtype=torch.float64)
        self.a = nn.Parameter(root + root.mT)

    def forward(self, x):
        return ((x @ self.a) * x).sum(-1, keepdim=True) / 2


def penalty_of(net, x, penalty, loss=None):
    """Its value and its gradients by the parameters, of one step by hand."""
    capture = Capture(net, penalty.net, penalty.embed, key="p")
    with capture.watching():
        outputs = net(x)
    found = capture.captured((0,))
    value = penalty.penalty(None, None, outputs if loss is None else loss(outputs), found)
    return value, torch.autograd.grad(value, list(net.parameters()), allow_unused=True)


def test_the_jacobian_of_a_linear_model_is_its_weight():
    net = nn.Linear(4, 3).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    value, (gradient, bias) = penalty_of(net, x, InputGradientPenalty(outputs=[0, 2]))
    rows = net.weight.detach()[[0, 2]]
    assert torch.allclose(value, rows.square().sum())
    assert torch.allclose(gradient[[0, 2]], 2 * rows)
    assert not gradient[1].any()
    assert bias is None or not bias.any()
    value, _ = penalty_of(net, x, InputGradientPenalty(outputs=[0, 2], squared=False))
    assert torch.allclose(value, rows.norm(dim=1).sum())


def test_one_number_a_sample_as_input_and_as_output():
    """f(x) = w x, with x and f of shape (B,): the Jacobian of each sample is w."""
    net = nn.Linear(1, 1, bias=False).double()
    flat = nn.Sequential(nn.Unflatten(0, (-1, 1)), net, nn.Flatten(0))
    x = torch.randn(5, dtype=torch.float64)
    value, (gradient,) = penalty_of(flat, x, InputGradientPenalty(outputs=[0]))
    assert torch.allclose(value, net.weight.square().sum())
    assert torch.allclose(gradient, 2 * net.weight)
    with pytest.raises(UserError, match="outputs: 1 is not accepted; the network has 1 outputs"):
        penalty_of(flat, x, InputGradientPenalty(outputs=[1]))


def test_a_quadratic_model():
    """∇f = A x: the mean of ‖A x‖² is tr(A C A) with C = XᵀX/B, and its gradient by A is A C + C A."""
    net, x = Quadratic(), torch.randn(6, 3, dtype=torch.float64)
    value, (gradient,) = penalty_of(net, x, InputGradientPenalty(), loss=lambda outputs: outputs.mean())
    a, c = net.a.detach(), x.mT @ x / 6
    assert torch.allclose(value, (a @ c @ a).trace())
    # ½ xᵀ A x sees the symmetric part of A alone
    assert torch.allclose(gradient, a @ c + c @ a)


def test_the_loss_of_a_sample_whatever_the_size_of_the_batch():
    """Of least squares on a linear model: ∂ℓ/∂x = (w x − y) w."""
    net, x, y = nn.Linear(2, 1, bias=False), torch.randn(8, 2), torch.randn(8, 1)
    half = lambda outputs: ((outputs - y) ** 2).mean() / 2  # noqa: E731
    value, _ = penalty_of(net, x, InputGradientPenalty(), loss=half)
    expected = ((net(x) - y).square() * net.weight.square().sum()).mean()
    assert torch.allclose(value, expected)


def test_the_plain_function():
    x = torch.randn(4, 2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(x.square().sum((1, 2)).mean(), x, create_graph=True)
    found = input_gradient_norm([len(x) * gradient])
    assert torch.allclose(found, 4 * x.square().sum((1, 2)).mean())
    assert torch.allclose(torch.autograd.grad(found, x)[0], 8 * x / 4)
    assert input_gradient_norm([x.bfloat16()]).dtype == torch.float32
    assert torch.allclose(input_gradient_norm([x, x], squared=False), 2 * x.flatten(1).norm(dim=1).mean())


class Attends(LightningModule):
    """Tokens, attention without dropout, batch norm and dropout; by choice the term of its own."""

    def __init__(self, own=False):
        super().__init__()
        self.embed, self.mix = nn.Embedding(7, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.rest = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3))
        self.own = own

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.rest(self.mix(x, x, x, need_weights=False)[0].mean(1))

    def training_step(self, batch, batch_idx):
        if not self.own:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel(SDPBackend.MATH):
            x = self.embed(batch[0])
            logits = self.rest(self.mix(x, x, x, need_weights=False)[0].mean(1))
        loss = nn.functional.cross_entropy(logits, batch[1])
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        return loss + 0.1 * (len(x) * gradient).flatten(1).square().sum(1).mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


def train(folder, *callbacks, own=False, **options):
    generator = torch.Generator().manual_seed(7)
    tokens, y = torch.randint(0, 7, (20, 6), generator=generator), torch.randint(0, 3, (20,), generator=generator)
    torch.manual_seed(3)
    module = Attends(own)
    trainer_of(folder, *callbacks, **options).fit(module, DataLoader(TensorDataset(tokens, y), batch_size=4))
    return module.state_dict()


@pytest.mark.parametrize(
    "options",
    [{"accumulate_grad_batches": 2, "gradient_clip_val": 0.05}, {"precision": "bf16-mixed"}],
    ids=["accumulated and clipped", "bf16-mixed"],
)
def test_as_if_the_module_added_it_itself(tmp_path, options):
    ours = train(tmp_path, InputGradientPenalty(0.1, embed="embed"), **options)
    assert same(ours, train(tmp_path, own=True, **options))
    assert not same(ours, train(tmp_path, **options))


def test_what_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^outputs: \[0, -1\] is not accepted; each at least 0"):
        InputGradientPenalty(outputs=[0, -1])
    with pytest.raises(UserError, match=r"^outputs: \[\] is not accepted"):
        InputGradientPenalty(outputs=[])
    with pytest.raises(UserError, match=r"outputs: 3 is not accepted; the network has 3 outputs, from 0"):
        train(tmp_path, InputGradientPenalty(outputs=[1, 3], embed="embed"))
    with pytest.raises(UserError, match=r"techniques.input_gradient_penalty: the module itself was given no tensor of"):
        train(tmp_path, InputGradientPenalty())
