"""The router of MoM, and its load-balancing loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from framework.functional.precision import full_precision
from framework.protocols import Routing


class Router(nn.Module):
    """p = softmax(x W) in float32; chooses the k most likely memories, with their probabilities as weights (Section
    3.2).

    Args:
        d_model: Width of x.
        num_memories: M.
        topk: k.
        renormalize: Whether the weights of a token sum to 1. With k = 1 they are then always 1, and the router learns
            from the balance loss only.
    """

    def __init__(self, d_model: int, num_memories: int, topk: int, renormalize: bool = True) -> None:
        super().__init__()
        self.topk, self.renormalize = topk, renormalize
        self.proj = nn.Linear(d_model, num_memories, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Routing:
        """Routes tokens (B, T, d_model); those with false in ``mask`` (B, T) are not routed."""
        with full_precision(x.device):
            p = self.proj(x.to(self.proj.weight.dtype)).to(torch.promote_types(x.dtype, torch.float32)).softmax(-1)
            chosen = p.topk(self.topk, -1).indices
            selected = torch.zeros_like(p, dtype=torch.bool).scatter_(-1, chosen, True)
            if mask is not None:
                selected = selected & mask[..., None]
            weights = torch.where(selected, p, 0)
            if self.renormalize:
                weights = weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)
        return Routing(p, selected, weights)


def balance_loss(routing: Routing, mask: Tensor | None = None) -> Tensor:
    """Returns M Σ_m f_m P_m of one layer: f the share of tokens that choose m (Σ f = k), P its mean probability.

    It is k for an even load, and up to M if k memories get all tokens. The gradient is that of P.

    Args:
        routing: Routing of a batch.
        mask: (B, T), false at padding, which is not counted.
    """
    p, selected = routing.probabilities, routing.selected
    count = torch.tensor(max(1, p.shape[:-1].numel()), device=p.device) if mask is None else mask.sum().clamp(min=1)
    if mask is not None:
        p = torch.where(mask[..., None], p, 0)
    f = selected.sum((0, 1)).to(p.dtype) / count
    return p.shape[-1] * (f * p.sum((0, 1)) / count).sum()


def pooled_balance_loss(routings: Sequence[Routing], mask: Tensor | None = None) -> Tensor:
    """Returns the loss over the tokens of all layers together, as in the authors' training code; for comparison.

    It cannot detect two layers that collapsed onto different memories.
    """
    joined = Routing(*(torch.cat(parts) for parts in zip(*routings, strict=True)))
    return balance_loss(joined, None if mask is None else torch.cat([mask] * len(routings)))
