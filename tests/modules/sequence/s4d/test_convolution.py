"""The form with second derivatives against the fast one and against differences."""

import pytest
import torch

from framework.protocols import second_derivatives
from modules.sequence.s4d.convolution import fft_convolution


@pytest.mark.parametrize("kernels", [1, 2])
def test_second_derivatives_where_they_are_needed(kernels):
    given = tuple(torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True) for _ in range(1 + kernels))
    with second_derivatives():
        assert torch.autograd.gradgradcheck(fft_convolution, given)
        composed = fft_convolution(*given)
    fast = fft_convolution(*given)
    torch.testing.assert_close(composed, fast, atol=1e-14, rtol=0)
    assert fast.grad_fn is not None
    upstream = torch.randn_like(fast)
    for one, other in zip(*(torch.autograd.grad(y, given, upstream) for y in (composed, fast)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-13, rtol=0)
