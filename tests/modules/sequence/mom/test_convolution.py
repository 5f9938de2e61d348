"""Second derivatives of the short convolution."""

import torch

from modules.sequence.mom.convolution import short_convolution


def test_second_derivatives():
    x, weight = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 5, 2), (2, 3)))
    assert torch.autograd.gradgradcheck(short_convolution, (x, weight))
