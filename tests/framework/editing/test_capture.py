"""What is captured of a forward pass, gradients by the input, and what is refused by name."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from framework.editing import Captured
from framework.editing.capture import Capture, mistakes_of, refuse_compiled, submodule
from framework.errors import UserError


class Cubes(nn.Module):
    """f(x) = scale Σ x³, worked out in place; called in several ways."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        x = self.inner(x)
        x *= 1.0  # in place, which a leaf that requires gradients does not permit
        return self.scale * x.pow(3).sum(-1, keepdim=True)


def captured(module, step, **settings):
    capture = Capture(module, key="p", **settings)
    with capture.watching():
        step()
    return capture.captured((1, 2))


def test_the_gradient_by_the_input_can_be_differentiated_again():
    net, x = Cubes(), torch.tensor([[1.0, -2.0]])
    found = captured(net, lambda: net(x.clone()))
    gradient = found.gradient(found.output.sum())
    assert torch.equal(gradient, 6 * x.square())
    assert torch.equal(found.input, x)
    (second,) = torch.autograd.grad(gradient.square().sum(), net.scale)
    assert float(second) == float(2 * 2 * (3 * x.square()).square().sum())  # d/ds (3 s x²)² = 2 s (3 x²)²


def test_along_a_vector():
    net = nn.Linear(3, 2)
    found = captured(net, lambda: net(torch.randn(4, 3)))
    along = torch.randn(4, 2)
    assert torch.allclose(found.gradient(found.output, along), along @ net.weight)


@pytest.mark.parametrize("kind", ["keyword", "after a label", "inference", "a graph of its own"])
def test_ways_to_call_the_network(kind):
    class Takes(Cubes):
        def forward(self, y, x):
            return super().forward(x)

    net, x, y = Takes(), torch.tensor([[1.0, -2.0]]), torch.tensor([3])
    leaf = x.clone().requires_grad_()
    with torch.inference_mode(kind == "inference"):
        given = leaf * 1 if kind == "a graph of its own" else x.clone()
    found = captured(net, lambda: net(y, x=given) if kind == "keyword" else net(y, given))
    assert torch.equal(found.gradient(found.output.sum()), 6 * x.square())
    if kind == "a graph of its own":
        assert torch.equal(torch.autograd.grad(found.output.sum(), leaf)[0], 6 * x.square())


def test_the_batch_keeps_its_flags_and_the_hooks_go():
    net, x = Cubes(), torch.tensor([[1.0, -2.0]])
    captured(net, lambda: net(x))
    assert not x.requires_grad
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    capture = Capture(net, key="p")
    with pytest.raises(ValueError, match="mine"), capture.watching():
        raise ValueError("mine")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize("frozen", [False, True])
def test_by_an_embedding(frozen):
    net = nn.Sequential(nn.Embedding(5, 3), nn.Tanh(), nn.Linear(3, 2))
    net[0].requires_grad_(not frozen)
    tokens = torch.tensor([[1, 4]])
    found = captured(net, lambda: net(tokens), embed="0")
    x = net[0].weight[tokens].detach()
    expected = (1 - x.tanh().square()) * net[2].weight.sum(0)
    assert torch.allclose(found.gradient(found.output.sum()), expected)
    assert torch.equal(found.input, x)


class Output(dict):
    logits = torch.ones(2)


@pytest.mark.parametrize(("given", "message"), [((torch.ones(2), 3), None), (Output(), None), ({}, "returns a dict")])
def test_what_a_network_may_return(given, message):
    class Net(nn.Module):
        def forward(self, x):
            return given

    net = Net()
    if message is None:
        assert torch.equal(captured(net, lambda: net(torch.ones(2))).output, torch.ones(2))
    else:
        with pytest.raises(UserError, match=message):
            captured(net, lambda: net(torch.ones(2)))


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.heads = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.ModuleList([nn.Linear(2, 1)])


def test_a_network_that_is_not_called_is_told_what_is():
    net, x = Parts(), torch.ones(1, 2)
    with pytest.raises(UserError, match=r"^p.net: the module itself was not called .* calls body, heads.0; name one"):
        captured(net, lambda: net.heads[0](net.body(x)))
    with pytest.raises(UserError, match=r"p.embed: heads.0 was not called"):
        captured(net, lambda: net.body(x), net="body", embed="heads.0")
    assert captured(net, lambda: net.body(x), net="body").output is not None


def test_two_calls_are_refused():
    net, x = Parts(), torch.ones(1, 2)
    with pytest.raises(UserError, match=r"p.net: body is called more than once"):
        captured(net, lambda: net.body(net.body(x)), net="body")


def test_names():
    net = Parts()
    assert submodule(net, None, "p.net") is net
    assert submodule(net, "heads.0", "p.net") is net.heads[0]
    assert submodule(net, "1", "p.net") is net.body[1]
    with pytest.raises(UserError, match=r"p.net: 0 is not accepted; it names body.0, heads.0"):
        submodule(net, "0", "p.net")
    with pytest.raises(UserError, match=r"p.net: 'boddy' names nothing in the model; nearest: body"):
        submodule(net, "boddy", "p.net")


def test_what_cannot_be_differentiated_by():
    net = nn.Embedding(5, 3)
    with pytest.raises(UserError, match=r"no tensor of floating type .* for tokens name the embedding"):
        captured(net, lambda: net(torch.tensor([1])))
    rounding = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    rounding[0].register_forward_hook(lambda m, a, x: x.round().detach())
    found = captured(rounding, lambda: rounding(torch.ones(1, 2)))
    with pytest.raises(UserError, match=r"p: what is differentiated does not depend on the network's input"):
        found.gradient(found.output.sum())
    with pytest.raises(UserError, match="does not depend"):
        Captured().gradient(torch.ones(()))


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return 2 * grad * ctx.saved_tensors[0]


class Once(nn.Module):
    def __init__(self, of_input):
        super().__init__()
        self.weight, self.of_input = nn.Parameter(torch.ones(2)), of_input

    def forward(self, x):
        return Square.apply(x) + 0 * self.weight if self.of_input else x.square() * Square.apply(self.weight)


def test_a_function_with_one_derivative_is_named():
    """Where what comes from above is constant, torch itself would return a gradient without a graph and say nothing."""
    net = Once(True)
    found = captured(net, lambda: net(torch.ones(1, 2)))
    with pytest.raises(UserError, match=r"p needs second derivatives, and .*test_capture.Square has none"):
        found.gradient(found.output.sum())


def test_it_is_named_too_if_the_first_steps_return_no_loss():
    net = Once(True)
    capture = Capture(net, key="p")
    with capture.watching():
        net(torch.ones(1, 2))
    capture.forget()  # as after a step without a loss
    with capture.watching():
        net(torch.ones(1, 2))
    found = capture.captured((0,))
    with pytest.raises(UserError, match=r"p needs second derivatives, and .*test_capture.Square has none"):
        found.gradient(found.output.sum())


def test_one_that_makes_weights_is_none_of_it():
    """The gradient by the input does not pass it; the loss's passes it once."""
    net = Once(False)
    found = captured(net, lambda: net(torch.ones(1, 2)))
    found.gradient(found.output.sum()).square().sum().backward()
    assert torch.equal(net.weight.grad, torch.full((2,), 16.0))  # d/dw (2 x w²)² = 16 x² w³


def test_what_torch_says_is_told_as_a_mistake():
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    net = nn.Sequential(layer)
    net.forward = lambda x: checkpoint(layer, x, use_reentrant=True)
    found = captured(net, lambda: net(x))
    with pytest.raises(UserError, match=r"p needs second derivatives, and .*use_reentrant=True has no second"):
        found.gradient(found.output.sum())
    q = torch.randn(1, 2, 3, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(nn.functional.scaled_dot_product_attention(q, q, q).sum(), q, create_graph=True)
    with pytest.raises(UserError, match=r"and aten::_scaled_dot\S+ has no second derivative"), mistakes_of("p"):
        gradient.sum().backward()
    with pytest.raises(RuntimeError, match="another"), mistakes_of("p"):
        raise RuntimeError("another")


@pytest.mark.parametrize("how", ["wrapped", "in place", "by Lightning"])
def test_compiled_networks_are_refused(how):
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    refuse_compiled(net, "p")
    if how == "wrapped":
        net[0] = torch.compile(net[0], backend="eager")
    elif how == "in place":
        net[0].compile(backend="eager")
    else:
        net._compiler_ctx = {"compiler": "dynamo"}
    named = {"wrapped": "0 is compiled", "in place": "0 is compiled", "by Lightning": "Sequential is compiled"}[how]
    with pytest.raises(UserError, match=re.escape(f"p and torch.compile cannot be combined: {named}")):
        refuse_compiled(net, "p")


def test_draws_are_fixed_by_the_seed_and_leave_the_global_stream():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first, again, other = (torch.rand(2, generator=Captured(seed).generator) for seed in ((1, 2), (1, 2), (1, 3)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.rand(2), expected)
