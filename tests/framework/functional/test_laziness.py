"""Alignments and effective ranks against their definitions."""

import torch

from framework.functional.laziness import effective_ranks, kernel_alignment, representation_alignment


def test_alignments_are_cosines_of_matrices():
    torch.manual_seed(0)
    for units in (3, 30):  # fewer and more than inputs
        a, b = torch.randn(2, 4, 10, units, dtype=torch.float64)
        grams = a @ a.mT, b @ b.mT
        expected = torch.stack([torch.trace(x @ y) / (x.norm() * y.norm()) for x, y in zip(*grams, strict=True)])
        torch.testing.assert_close(representation_alignment(a, b), expected)
        torch.testing.assert_close(kernel_alignment(*grams), expected)
        torch.testing.assert_close(representation_alignment(a, 3 * a), torch.ones(4, dtype=torch.float64))
        order = torch.randperm(units)
        torch.testing.assert_close(representation_alignment(a[..., order], b), expected)


def test_effective_ranks():
    even = torch.stack([torch.diag(torch.tensor([2.0] * r + [0.0] * (6 - r))) for r in (1, 3, 6)])
    for found in effective_ranks(even):
        torch.testing.assert_close(found, torch.tensor([1.0, 3.0, 6.0]))
    participation, entropy = effective_ranks(torch.diag(torch.tensor([3.0, 1.0])))
    torch.testing.assert_close(participation, torch.tensor(1.6))
    torch.testing.assert_close(entropy, torch.tensor(4 / 3**0.75))
    broken = torch.eye(2).repeat(2, 1, 1)
    broken[1, 0, 0] = torch.inf
    for found in effective_ranks(broken):
        assert found[0] == 2
        assert found[1].isnan()
