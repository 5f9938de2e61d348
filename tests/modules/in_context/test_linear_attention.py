"""The part of a linear attention layer that counts, against the layer as it is written."""

from __future__ import annotations

import pytest
import torch

from modules.in_context.linear_attention import LinearAttention, moments, whole_layer

DOUBLE = torch.float64


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def layer_of(dim=4, heads=1, **options):
    layer = LinearAttention(dim, heads, 2, dtype=DOUBLE, **options)
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed))
    return layer


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("guessed", ["zero", "given", "learnt"])
def test_answers_and_gradients_are_those_of_the_whole_layer(masked, averaged, heads, guessed):
    layer = layer_of(4, heads, masked=masked, averaged=averaged, learnt_guess=guessed == "learnt")
    x, y = normal(5, 8, 4, seed=10), normal(5, 8, 1, seed=11)
    given = normal(5, seed=12) if guessed == "given" else None
    found = layer(x, y, given)
    expected = torch.empty_like(found)
    for member in range(2):
        last = torch.zeros(5, dtype=DOUBLE)
        if guessed == "learnt":
            last = x[:, -1] @ layer.guess[member]
        elif given is not None:
            last = given
        labels = torch.cat([y[:, :-1, 0], last[:, None]], 1)
        embedding = torch.cat([x.mT, labels[:, None]], 1)
        value = torch.zeros(heads, 5, 5, dtype=DOUBLE)
        value[:, -1] = layer.value[member]
        expected[member] = whole_layer(embedding, value, layer.key_query[member], masked, averaged)[:, -1, -1]
    assert torch.allclose(found, expected, rtol=0, atol=1e-11)
    parameters = list(layer.parameters())
    ours = torch.autograd.grad(found.square().sum(), parameters)
    theirs = torch.autograd.grad(expected.square().sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def test_the_block_formula():
    layer = layer_of(4, masked=False)
    with torch.no_grad():
        layer.value[0, 0, :-1] = 0
    x, y = normal(3, 8, 4), normal(3, 8, 1, seed=1)
    embedding = torch.cat([x, torch.cat([y[:, :-1], torch.zeros(3, 1, 1, dtype=DOUBLE)], 1)], 2)
    gram = embedding.mT @ embedding / 7
    wanted = torch.einsum("i,bij,jk,bk->b", layer.value[0, 0], gram, layer.key_query[0, 0][:, :-1], x[:, -1])
    assert torch.allclose(layer(x, y)[0], wanted, rtol=0, atol=1e-12)
    masked = LinearAttention(4, 1, 2, dtype=DOUBLE)
    masked.load_state_dict(layer.state_dict())
    # with w21 of the values at 0 the query's own column is not seen
    assert torch.allclose(masked(x, y)[0], layer(x, y)[0], rtol=0, atol=1e-12)
    assert not torch.allclose(masked(x, y)[1], layer(x, y)[1], atol=1e-3)


def test_moments_with_the_query():
    x, y, guess = normal(3, 8, 4), normal(3, 8, 1, seed=1), normal(3, seed=2)
    z = torch.cat([x, torch.cat([y[:, :-1], guess[:, None, None]], 1)], 2)
    assert torch.allclose(moments(x, y, guess, masked=False), z.mT @ z / 7)
    assert torch.allclose(moments(x, y, averaged=False), z[:, :-1].mT @ z[:, :-1])


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
def test_laws_of_scale(factor):
    layer = layer_of(4, masked=True)
    with torch.no_grad():
        layer.value[:, :, :-1] = 0
        layer.key_query[:, :, -1] = 0
    x, y = normal(3, 8, 4), normal(3, 8, 1, seed=1)
    plain = layer(x, y)
    assert torch.allclose(layer(factor * x, y), factor**2 * plain, rtol=1e-12)
    assert torch.allclose(layer(factor * x, factor * y), factor**3 * plain, rtol=1e-12)
    one = x.clone()
    one[:, -1] *= factor
    assert torch.allclose(layer(one, y), factor * plain, rtol=1e-12)


def test_the_order_of_examples_and_the_querys_label_do_not_matter_and_a_guess_is_passed_on():
    layer = layer_of(4, 2)
    x, y, guess = normal(3, 8, 4), normal(3, 8, 1, seed=1), normal(3, seed=2)
    order = torch.tensor([3, 1, 0, 6, 5, 2, 4, 7])
    assert torch.allclose(layer(x, y, guess), layer(x[:, order], y[:, order], guess), rtol=0, atol=1e-12)
    other = y.clone()
    other[:, -1] = 9.0
    assert torch.equal(layer(x, y, guess), layer(x, other, guess))
    nothing = LinearAttention(4, 2, 1, dtype=DOUBLE)
    assert torch.equal(nothing(x, y, guess)[0], guess)


def test_gradcheck():
    layer = layer_of(2, 2, learnt_guess=True)
    x, y = normal(2, 4, 2), normal(2, 4, 1, seed=1)
    names = [name for name, _ in layer.named_parameters()]

    def answers(*values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x, y))

    assert torch.autograd.gradcheck(answers, tuple(p.detach().clone().requires_grad_() for p in layer.parameters()))
