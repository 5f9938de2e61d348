"""Columns of a decoder's Jacobian and their sparsity, against loops, reverse mode, closed forms and finite differences."""

import itertools

import pytest
import torch
from torch import nn

from framework.errors import UserError
from framework.functional.dependency import (
    ELEMENTWISE,
    dependency_sparsity,
    dependency_strength,
    draw_columns,
    jacobian_columns,
    sparsity,
)


def decoder(inputs=3, outputs=4, activation=nn.Tanh):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 8), activation(), nn.Linear(8, outputs))


@pytest.mark.parametrize("activation", ELEMENTWISE)
def test_columns_are_those_of_jacrev(activation):
    net, z = decoder(activation=activation), torch.randn(5, 3)
    columns = jacobian_columns(net, z)
    torch.testing.assert_close(jacobian_columns(net.forward, z), columns, msg="the chain rule is not the general way")
    expected = torch.stack([torch.func.jacrev(net)(one) for one in z])  # (B, D, d)
    torch.testing.assert_close(columns.permute(1, 2, 0), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(jacobian_columns(net, z, torch.tensor([2, 0])), columns[[2, 0]])
    torch.testing.assert_close(jacobian_columns(net, z, chunk=2), columns)


@pytest.mark.parametrize("general", [False, True], ids=["chain rule", "vmap"])
def test_gradients_of_the_weights_are_those_of_a_loop_in_reverse_mode(general):
    net, z = nn.Sequential(*decoder(activation=nn.LeakyReLU), nn.GELU(), nn.Linear(4, 4)), torch.randn(4, 3)
    penalty = dependency_sparsity(net.forward if general else net, z)
    found = torch.autograd.grad(penalty, [*net.parameters()], allow_unused=True)
    total = 0
    for one in z:
        x = one.clone().requires_grad_()
        outputs = net(x)
        for k in range(4):
            total = total + torch.autograd.grad(outputs[k], x, create_graph=True)[0].abs().sum() / 4
    expected = torch.autograd.grad(total, [*net.parameters()], allow_unused=True)
    for a, b in zip(found, expected, strict=True):
        zero = torch.zeros(())
        torch.testing.assert_close(*(zero if g is None else g for g in (a, b)), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("general", [False, True], ids=["chain rule", "vmap"])
def test_of_a_function_linear_on_pieces_it_has_no_gradient_by_the_latents(general):
    """So of the paper's decoders it is the same whether gradients may pass to the encoder."""
    net, z = decoder(activation=nn.LeakyReLU), torch.randn(4, 3).requires_grad_()
    (found,) = torch.autograd.grad(dependency_sparsity(net.forward if general else net, z) + 0 * z.sum(), z)
    assert not found.any()


def test_a_layer_whose_call_was_replaced_is_called():
    net, z = decoder(), torch.randn(4, 3)
    expected = 2 * jacobian_columns(net, z)
    own = net[2].forward
    net[2].forward = lambda x: 2 * own(x)
    torch.testing.assert_close(jacobian_columns(net, z), expected)


def test_of_a_linear_decoder_it_is_the_sum_of_absolute_weights_and_its_gradient_the_signs():
    net = nn.Linear(3, 5)
    penalty = dependency_sparsity(net, torch.randn(7, 3))
    torch.testing.assert_close(penalty, net.weight.detach().abs().sum(), check_stride=False)
    penalty.backward()
    torch.testing.assert_close(net.weight.grad, net.weight.detach().sign())
    assert net.bias.grad is None or not net.bias.grad.any()


def test_the_mean_over_all_choices_of_columns_is_the_whole_penalty():
    net, z = decoder().double(), torch.randn(6, 3, dtype=torch.float64)
    for norm, count in itertools.product(("l1", "group", "log"), (1, 2)):
        every = [
            sparsity(jacobian_columns(net, z, torch.tensor(chosen)), 3, norm)
            for chosen in itertools.combinations(range(3), count)
        ]
        torch.testing.assert_close(torch.stack(every).mean(), dependency_sparsity(net, z, norm))


def test_drawn_columns_come_from_the_generator_each_once():
    draws = [draw_columns(5, 3, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*draws)
    assert len(set(draws[0].tolist())) == 3
    assert draw_columns(5, None) is None
    with pytest.raises(UserError, match=r"columns: 6 is not accepted; at most 5 \(latents\)"):
        draw_columns(5, 6)


def test_norms_by_their_formulas():
    columns = torch.tensor([[[1.0, -2.0], [3.0, 0.0]], [[0.0, 0.5], [0.0, -0.5]]])  # (d = 2, B = 2, D = 2)
    assert float(sparsity(columns, 2)) == pytest.approx((3 + 3 + 0.5 + 0.5) / 2)
    assert float(sparsity(columns, 2, "group")) == pytest.approx(5**0.5 + 2**0.5 + 0.5, abs=1e-5)
    logs = torch.log1p(columns.abs() / 0.1).sum() / torch.log1p(torch.tensor(10.0)) / 2
    torch.testing.assert_close(sparsity(columns, 2, "log"), logs)
    zero = torch.zeros(2, 2, 2, requires_grad=True)
    sparsity(zero, 2, "group").backward()
    assert zero.grad.isfinite().all()
    with pytest.raises(UserError, match="'l2' is not one of l1, group, log"):
        sparsity(columns, 2, "l2")


def test_double_backward_by_finite_differences():
    net = decoder(2, 3).double()
    z = torch.randn(3, 2, dtype=torch.float64)
    names = [name for name, _ in net.named_parameters()]

    def penalty(*values):
        def call(x):
            return torch.func.functional_call(net, dict(zip(names, values, strict=True)), (x,))

        return dependency_sparsity(call, z)

    values = tuple(p.detach().clone().requires_grad_() for p in net.parameters())
    assert torch.autograd.gradcheck(penalty, values, eps=1e-6, atol=1e-6)
    assert torch.autograd.gradgradcheck(penalty, values, eps=1e-6, atol=1e-5)


def test_samples_are_alone_and_nothing_is_drawn_or_counted():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2)).train()
    z, state = torch.randn(4, 3), torch.get_rng_state()
    whole = jacobian_columns(net, z)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert int(net[1].num_batches_tracked) == 0
    torch.testing.assert_close(jacobian_columns(net, z[:1]), whole[:, :1])


def test_decoders_of_pictures_tuples_and_latents_of_several_dimensions():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Unflatten(1, (3, 1, 1)), nn.ConvTranspose2d(3, 2, 4), nn.GroupNorm(1, 2), nn.GELU())
    z = torch.randn(2, 3)
    expected = torch.stack([torch.func.jacrev(lambda x: net(x[None]).flatten())(one) for one in z])
    torch.testing.assert_close(jacobian_columns(net, z).permute(1, 2, 0), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(jacobian_columns(lambda x: (net(x), 0), z), jacobian_columns(net, z))
    assert jacobian_columns(lambda x: x.flatten(1)[:, :2], torch.randn(3, 2, 2)).shape == (4, 3, 2)


def test_strength_is_the_mean_of_absolute_entries():
    net, z = decoder(), torch.randn(6, 3)
    expected = torch.stack([torch.func.jacrev(net)(one) for one in z]).abs().mean(0)
    torch.testing.assert_close(dependency_strength(net, z), expected)
    assert not dependency_strength(net, z).requires_grad
