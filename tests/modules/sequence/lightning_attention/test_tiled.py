"""Second derivatives of the tiles, with a tile that is not full and a first state."""

import torch

from modules.sequence.lightning_attention.tiled import TiledAttention


def test_second_derivatives():
    q, k, v, state = (
        torch.randn(1, 2, *shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 2), (3, 2), (3, 1), (2, 1))
    )
    slope = torch.tensor([0.1, 0.0], dtype=torch.float64)
    assert torch.autograd.gradgradcheck(
        lambda *given: TiledAttention.apply(*given[:3], slope, given[3], 2), (q, k, v, state)
    )
