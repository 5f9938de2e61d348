"""The split of the tangent kernel: exact identities on small networks, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.func import functional_call, jacrev

from callbacks.ntk_split.split import Split, kernel_regression, ntk_split, residual
from framework.errors import UserError
from framework.functional.ntk import tangent_kernel
from modules.finetuning.lp_ft.network import LinearToy, TransferMLP


def net(bias=True):
    torch.manual_seed(0)
    model = TransferMLP(4, (7, 6), 3).double()
    if not bias:
        model.head = nn.Linear(6, 3, bias=False).double()
    return model


X = torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Z = torch.randn(5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
Y = torch.arange(8) % 3


@pytest.mark.parametrize("bias", [True, False])
def test_the_parts_sum_to_the_kernel_of_all_parameters(bias):
    """Check 1."""
    model = net(bias)
    names = dict(model.named_parameters())

    def jacobian(points):
        found = jacrev(lambda values: functional_call(model, values, (points,)))(names)
        return torch.cat([part.flatten(2) for part in found.values()], 2).detach()

    for other in (None, Z):
        split = ntk_split(model, "head", X, other)
        right = jacobian(X if other is None else other)
        whole = torch.einsum("iap,jbp->iajb", jacobian(X), right)
        torch.testing.assert_close(split.whole(), whole, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(split.whole(), tangent_kernel(model, X, other, apart=True), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("frozen", [("bias",), ("weight",), ("weight", "bias")])
def test_what_is_frozen_in_the_head_has_no_part(frozen):
    model = net()
    for name in frozen:
        getattr(model.head, name).requires_grad_(False)
    expected = tangent_kernel(model, X, Z, apart=True)  # of all that is trained
    torch.testing.assert_close(ntk_split(model, "head", X, Z).whole(), expected, rtol=1e-10, atol=1e-10)


def test_scaling_the_head():
    """Check 2."""
    model = net()
    split = ntk_split(model, "head", X)
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        scaled.head.weight.mul_(3.0)
    other = ntk_split(scaled, "head", X)
    torch.testing.assert_close(other.pretrain, split.pretrain, rtol=1e-12, atol=0)
    torch.testing.assert_close(other.finetune, 9 * split.finetune, rtol=1e-12, atol=1e-12)
    features = tangent_kernel(model.backbone, X, apart=True)
    delta = residual(model(X).detach(), Y)
    moves = [torch.einsum("iajb,cb,jc->ia", features, m.head.weight.detach(), delta) for m in (model, scaled)]
    torch.testing.assert_close(moves[1], 3 * moves[0], rtol=1e-12, atol=1e-12)


def test_one_step_of_gradient_descent():
    """Check 3: predicted changes of logits and features, with an error of the order of η."""
    model = net()
    split = ntk_split(model, "head", X)
    logits, features = model(X).detach(), model.backbone(X).detach()
    delta = residual(logits, Y)
    logit_move = sum(split.changes(delta))
    feature_move = torch.einsum(
        "iajb,cb,jc->ia", tangent_kernel(model.backbone, X, apart=True), model.head.weight.detach(), delta
    )
    errors = []
    for eta in (2e-4, 1e-4):
        stepped = copy.deepcopy(model)
        F.cross_entropy(stepped(X), Y, reduction="sum").backward()
        with torch.no_grad():
            for parameter in stepped.parameters():
                parameter -= eta * parameter.grad
            moves = (stepped(X) - logits) / eta, (stepped.backbone(X) - features) / eta
        errors.append(
            [float((m - p).norm() / p.norm()) for m, p in zip(moves, (logit_move, feature_move), strict=True)]
        )
    for coarse, fine in zip(*errors, strict=True):
        assert fine < 1e-3
        assert coarse / fine == pytest.approx(2, rel=0.02)


def test_the_linear_toy_is_exact():
    """Check 4: F = ⟨x, x'⟩ V Vᵀ, and the features of what is orthogonal to the training inputs never move."""
    torch.manual_seed(0)
    model = LinearToy(6, 4, 3).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    x[:, 4:] = 0
    v = model.head.weight.detach()
    expected = torch.einsum("ij,ab->iajb", x @ x.T, v @ v.T)
    torch.testing.assert_close(ntk_split(model, "head", x).finetune, expected, rtol=1e-12, atol=1e-12)
    away, near = torch.zeros(2, 6, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    away[0, 4], away[1, 5] = 1.0, -2.0
    before = model.backbone(away).detach(), model.backbone(near).detach()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(model(x), torch.arange(5) % 3).backward()
        optimizer.step()
    torch.testing.assert_close(model.backbone(away).detach(), before[0], rtol=0, atol=1e-12)
    assert float((model.backbone(near).detach() - before[1]).norm()) > 0.1


def test_lora_at_the_start():
    """Check 5 (Prop. 4.4): P stays, F = ⟨A x, A x'⟩ V Vᵀ times s², the model computes what it did; and its mean."""
    torch.manual_seed(0)
    model = LinearToy(6, 4, 3).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    plain, out = ntk_split(model, "head", x), model(x).detach()
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=6, target_modules="backbone"), model, "lora")
    model.double()
    assert torch.equal(model(x), out)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name or name.startswith("head."))
    split = ntk_split(model, "head", x)
    torch.testing.assert_close(split.pretrain, plain.pretrain, rtol=1e-12, atol=0)
    a, v = model.backbone.lora_A["lora"].weight.detach(), model.head.weight.detach()
    expected = 3.0**2 * torch.einsum("ij,ab->iajb", (x @ a.T) @ (x @ a.T).T, v @ v.T)
    torch.testing.assert_close(split.finetune, expected, rtol=1e-12, atol=1e-12)

    rank, sigma, (one, two) = 4, 0.7, torch.randn(2, 6, dtype=torch.float64)
    draws = sigma * torch.randn(20_000, rank, 6, dtype=torch.float64)
    products = ((draws @ one) * (draws @ two)).sum(1) / (sigma**2 * rank)
    spread = (one.square().sum() * two.square().sum() + (one @ two) ** 2) / rank
    assert float(products.mean() - one @ two) == pytest.approx(0, abs=0.05 * float(spread.sqrt()))
    assert float(products.var()) == pytest.approx(float(spread), rel=0.05)


def test_ratio_and_ranks():
    split = Split(torch.eye(2, dtype=torch.float64), torch.zeros(2, 3, 2, 3, dtype=torch.float64))
    delta = torch.tensor([[1.0, -1, 0], [0, 2, -2]], dtype=torch.float64)
    assert split.ft_ratio(delta) == 0
    assert split.ranks() == (6, 0)
    both = Split(split.pretrain, 3 * split.pretrain_whole())
    assert both.ft_ratio(delta) == pytest.approx(0.75)
    model = net()
    with torch.no_grad():
        model.head.weight -= model.head.weight.mean(0)
    found = ntk_split(model, "head", X)
    assert found.ranks() == (3 * 7, 8 * 2)  # C (h + 1); N (C − 1), for the rows sum to 0
    torch.testing.assert_close(residual(torch.zeros(2, 4), torch.tensor([0, 3])).sum(1), torch.zeros(2).double())
    model.backbone.requires_grad_(False)
    with pytest.raises(UserError, match="none to differentiate by"):
        ntk_split(model, "head", X)


def test_kernel_regression_counts_answers():
    torch.manual_seed(0)
    labels, other = torch.arange(30) % 3, torch.arange(9) % 3
    x, z = (F.one_hot(y, 3).double() + 0.01 * torch.randn(len(y), 3) for y in (labels, other))
    split = Split(x @ x.T, torch.zeros(30, 3, 30, 3, dtype=torch.float64))
    test = Split(z @ x.T, torch.zeros(9, 3, 30, 3, dtype=torch.float64))
    assert kernel_regression(split.whole(), labels, test.whole(), other) == 1
    blind = torch.zeros(30, 3, 30, 3, dtype=torch.float64), torch.zeros(9, 3, 30, 3, dtype=torch.float64)
    assert kernel_regression(blind[0], labels, blind[1], other) == pytest.approx(2 / 3)
