"""Rebalancing two factors."""

import torch

from framework.functional.low_rank import rebalance


def test_the_product_stays_and_the_singular_values_are_beta():
    torch.manual_seed(0)
    f, g = torch.randn(3, 7, 4, dtype=torch.float64), torch.randn(3, 5, 4, dtype=torch.float64)
    beta = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    first, second = rebalance(f, g, beta)
    torch.testing.assert_close(first @ second.mT, f @ g.mT, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.linalg.svdvals(first), beta[:, None].expand(3, 4))
    alone, _ = rebalance(f[0], g[0], 0.5)
    torch.testing.assert_close(alone, first[0])


def test_a_factor_without_full_rank_stays_finite():
    f = torch.zeros(1, 6, 3, dtype=torch.float64)
    f[..., 0] = 1.0
    g = torch.randn(1, 4, 3, dtype=torch.float64)
    first, second = rebalance(f, g, 1.0)
    assert first.isfinite().all()
    assert second.isfinite().all()
    torch.testing.assert_close(first @ second.mT, f @ g.mT, rtol=1e-9, atol=1e-9)
