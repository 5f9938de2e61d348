"""What the switch switches, and that it is off again."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from framework.protocols import second_derivatives, second_derivatives_needed


def penalised():
    q = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(scaled_dot_product_attention(q, q, q).sum(), q, create_graph=True)
    return torch.autograd.grad(gradient.square().sum(), q)


def test_within_it_attention_has_a_second_derivative():
    with pytest.raises(RuntimeError, match="is not implemented"):
        penalised()  # or this test shows nothing
    with second_derivatives():
        assert second_derivatives_needed()
        with second_derivatives():
            penalised()
        assert second_derivatives_needed()
    assert not second_derivatives_needed()


def test_it_is_off_after_an_error():
    with pytest.raises(ValueError, match="x"), second_derivatives():
        raise ValueError("x")
    assert not second_derivatives_needed()
    assert torch.backends.cuda.flash_sdp_enabled()
