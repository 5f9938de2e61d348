"""States, gradients and the kernel of the leaky ReLU network against torch's and against autograd."""

import pytest
import torch
from torch import nn
from torch.func import jacrev

from framework.functional.laziness import kernel_alignment, representation_alignment
from framework.functional.ntk import tangent_kernel
from modules.dynamics.rich_lazy_rnn.network import Weights, gradients, recurrent_kernel, states

E, H, T, B, K, INPUTS = 2, 7, 4, 3, 2, 3


@pytest.fixture
def drawn():
    torch.manual_seed(0)
    weights = Weights(*(torch.randn(E, *shape, dtype=torch.float64) for shape in ((H, INPUTS), (H, H), (K, H))))
    return torch.randn(B, T, INPUTS, dtype=torch.float64), weights


def slow(x, w_in, w_rec, w_out, leak):
    """Outputs (T, B, K) of one member, step by step."""
    h, found = torch.zeros(len(x), H, dtype=x.dtype), []
    for t in range(x.shape[1]):
        h = ((1 - leak) * h + leak * (x[:, t] @ w_in.T + h @ w_rec.T)).relu()
        found.append(h @ w_out.T)
    return torch.stack(found)


class Torchs(nn.Module):
    """One member as torch has it, the output at the last time."""

    def __init__(self, weights, member):
        super().__init__()
        self.rnn = nn.RNN(INPUTS, H, nonlinearity="relu", bias=False, batch_first=True, dtype=torch.float64)
        self.out = nn.Linear(H, K, bias=False, dtype=torch.float64)
        with torch.no_grad():
            for own, value in zip(self.parameters(), weights, strict=True):
                own.copy_(value[member])

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])


def test_without_a_leak_it_is_torchs_network(drawn):
    x, weights = drawn
    found = states(x, weights)
    for member in range(E):
        torch.testing.assert_close(found[member], Torchs(weights, member).rnn(x)[0].transpose(0, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("leak", [1.0, 0.6])
def test_outputs_and_gradients_are_those_of_the_plain_loop(drawn, leak):
    x, weights = drawn
    outputs = states(x, weights, leak) @ weights.w_out[:, None].mT
    mixed = torch.randn(E, T, B, K, dtype=torch.float64)
    found = gradients(x, states(x, weights, leak), mixed, weights, leak)
    for member in range(E):
        own = [w[member].clone().requires_grad_() for w in weights]
        expected = slow(x, *own, leak)
        torch.testing.assert_close(outputs[member], expected.detach())
        by_autograd = torch.autograd.grad((expected * mixed[member]).sum(), own)
        for part, reference in zip(found, by_autograd, strict=True):
            torch.testing.assert_close(part[member], reference)


@pytest.mark.parametrize("leak", [1.0, 0.6])
@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_is_that_of_the_jacobian(drawn, leak, last_only, dtype):
    x, weights = drawn
    x, weights = x.to(dtype), Weights(*(w.to(dtype) for w in weights))
    found = recurrent_kernel(x, weights, leak, last_only)
    for member in range(E):
        w_in, w_rec, w_out = (w[member] for w in weights)

        def outputs(w, w_in=w_in, w_out=w_out):
            every = slow(x, w_in, w, w_out, leak).transpose(1, 2)  # (T, K, B)
            return (every[-1:] if last_only else every).flatten()

        jacobian = jacrev(outputs)(w_rec).flatten(1)
        expected = jacobian @ jacobian.T
        worst = (found[member] - expected).abs().max() / expected.abs().max()
        assert worst < (1e-5 if dtype == torch.float32 else 1e-10)


def test_the_kernel_of_any_module_is_the_same_for_torchs_network(drawn):
    x, weights = drawn
    found = recurrent_kernel(x, weights, last_only=True)
    for member in range(E):
        kernel = tangent_kernel(Torchs(weights, member), x, parameters=["rnn.weight_hh_l0"], apart=True)
        torch.testing.assert_close(kernel.transpose(0, 1).transpose(2, 3).reshape(K * B, K * B), found[member])


def test_alignments_of_a_copy_of_scaled_outputs_and_of_permuted_units(drawn):
    x, weights = drawn
    kernel, activity = recurrent_kernel(x, weights), states(x, weights)[:, -1]
    ones = torch.ones(E, dtype=torch.float64)
    torch.testing.assert_close(kernel_alignment(kernel, kernel.clone()), ones)
    torch.testing.assert_close(representation_alignment(activity, activity.clone()), ones)
    louder = weights._replace(w_out=3 * weights.w_out)
    torch.testing.assert_close(kernel_alignment(recurrent_kernel(x, louder), kernel), ones)
    order = torch.randperm(H)
    turned = Weights(weights.w_in[:, order], weights.w_rec[:, order][..., order], weights.w_out[..., order])
    torch.testing.assert_close(kernel_alignment(recurrent_kernel(x, turned), kernel), ones)
    torch.testing.assert_close(representation_alignment(states(x, turned)[:, -1], activity), ones)
    other = weights._replace(w_rec=weights.w_rec.flip(1))
    assert (kernel_alignment(recurrent_kernel(x, other), kernel) < 0.99).all()
