"""Lightning Attention-2 as one Triton kernel for the forward pass and, with time reversed, for the gradients.

With A(q, k, v) for o_t = q_t Σ_{s≤t} λ^(t−s) k_sᵀ v_s, and A' for the same with time reversed, the gradients are
dq = A(do, v, k), dk = A'(v, do, q), dv = A'(k, q, do). One program processes one head and a slice of the value's
columns, tile by tile, with the state in registers in float32. n is not a constant of the kernel, so another length
needs no new compilation. For tests it also runs on a CPU, if ``TRITON_INTERPRET=1`` is set before it is imported.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

WIDEST = 128  # columns of q and k in one program; wider ones are split, because products are sums over columns


@triton.jit
def _attend(
    q_ptr, k_ptr, v_ptr, o_ptr, slope_ptr, start_ptr, end_ptr,
    heads, n, d, e,
    q_row, k_row, v_row, o_row,
    HAS_START: tl.constexpr, REVERSED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, D: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0).to(tl.int64)
    rate = -tl.load(slope_ptr + head % heads).to(tl.float32)
    row = tl.arange(0, BLOCK)
    inner = tl.arange(0, D)
    column = tl.program_id(1) * E + tl.arange(0, E)
    columns, inners = column < e, inner < d
    state_at = head * d * e + inner[:, None] * e + column
    if HAS_START:
        state = tl.load(start_ptr + state_at, mask=inners[:, None] & columns, other=0.0).to(tl.float32)
    else:
        state = tl.zeros((D, E), tl.float32)
    ahead = row[:, None] - row
    within = tl.where(ahead >= 0, tl.exp(rate * tl.where(ahead >= 0, ahead, 0)), 0.0)
    query = tl.exp(rate * (row + 1))
    for first in range(0, n, BLOCK):
        tokens = tl.minimum(BLOCK, n - first)
        there = first + row < n
        at = first + row
        if REVERSED:
            at = n - 1 - at
        rows = (head * n + at).to(tl.int64)[:, None]
        q = tl.load(q_ptr + rows * q_row + inner, mask=there[:, None] & inners, other=0.0)
        k = tl.load(k_ptr + rows * k_row + inner, mask=there[:, None] & inners, other=0.0)
        v = tl.load(v_ptr + rows * v_row + column, mask=there[:, None] & columns, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * within
        out = tl.dot(scores.to(v.dtype), v, input_precision=PRECISION)
        out += tl.dot(q, state.to(q.dtype), input_precision=PRECISION) * query[:, None]
        tl.store(o_ptr + rows * o_row + column, out.to(o_ptr.dtype.element_ty), mask=there[:, None] & columns)
        left = tokens - 1 - row
        key = tl.where(left >= 0, tl.exp(rate * tl.where(left >= 0, left, 0)), 0.0)
        kept = tl.exp(rate * tokens)
        state = state * kept + tl.dot(tl.trans((k * key[:, None]).to(v.dtype)), v, input_precision=PRECISION)
    tl.store(end_ptr + state_at, state, mask=inners[:, None] & columns)


def _run(
    q: Tensor, k: Tensor, v: Tensor, slope: Tensor, start: Tensor | None = None, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Returns A(q, k, v), or A' with ``reverse``, and the last state (B, H, d, e), float32."""
    batch, heads, n, d = q.shape
    e = v.shape[-1]
    if d > WIDEST:
        parts = []
        for at in range(0, d, WIDEST):
            cut = slice(at, at + WIDEST)
            parts.append(_run(q[..., cut], k[..., cut], v, slope, None if start is None else start[:, :, cut], reverse))
        return sum((o.float() for o, _ in parts), torch.zeros(())).to(v.dtype), torch.cat([s for _, s in parts], 2)
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out = torch.empty_like(v)
    end = torch.empty(batch, heads, d, e, dtype=torch.float32, device=q.device)
    width = max(16, min(32 if d > 64 else 64, triton.next_power_of_2(e)))
    block = 64 if n > 32 else max(16, triton.next_power_of_2(n))
    given = end if start is None else start.float().contiguous()
    with torch.cuda.device(q.device) if q.is_cuda else torch.device(q.device):
        _attend[(batch * heads, triton.cdiv(e, width))](
            q, k, v, out, slope, given, end,
            heads, n, d, e,
            d, d, e, e,
            HAS_START=start is not None, REVERSED=reverse, PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
            BLOCK=block, D=max(16, triton.next_power_of_2(d)), E=width,
            num_warps=4 if d <= 64 else 8, num_stages=2,
        )  # fmt: skip
    return out, end


class TritonAttention(torch.autograd.Function):
    """Like :class:`modules.sequence.lightning_attention.tiled.TiledAttention`, by the kernel."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, slope: Tensor, start: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Returns (o, last state)."""
        ctx.save_for_backward(q, k, v, slope, start)
        return _run(q, k, v, slope, start)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, state_upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v and the first state."""
        q, k, v, slope, start = ctx.saved_tensors
        slope = slope.float()
        upstream = upstream.to(v.dtype)
        dq, _ = _run(upstream, v, k, slope, None if start is None else start.mT)
        dk, _ = _run(v, upstream, q, slope, reverse=True)
        dv, gathered = _run(k, q, upstream, slope, reverse=True)
        first = torch.exp(-slope)[:, None, None] * gathered
        if state_upstream is not None:
            n = q.shape[2]
            power = torch.exp(-slope[:, None] * torch.arange(n - 1, -1, -1, device=q.device))[..., None]
            dk = dk + (power * (v.float() @ state_upstream.mT)).to(dk.dtype)
            dv = dv + (power * (k.float() @ state_upstream)).to(dv.dtype)
            first = first + torch.exp(-slope * n)[:, None, None] * state_upstream
        return dq, dk, dv, None, first if start is not None else None
