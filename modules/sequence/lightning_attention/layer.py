"""TransNormerLLM's parts: gated linear attention, simple gated units, the norm without parameters, LRPE."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import BoolTensor, Tensor, nn

from framework.functional.precision import full_precision
from framework.settings import divides
from modules.sequence.decoder import SwiGLU
from modules.sequence.lightning_attention.attention import Form, lightning_attention
from modules.sequence.lightning_attention.tiled import wide


def simple_rms_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Returns x / (‖x‖₂/√d) over the last dimension, no parameters (SRMSNorm)."""
    return F.rms_norm(x, x.shape[-1:], eps=eps**2)  # torch adds it to the square


class SRMSNorm(nn.Module):
    """:func:`simple_rms_norm` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, d) to the same shape."""
        return simple_rms_norm(x)


class SimpleGLU(SwiGLU):
    """((x W_gate) ⊙ (x W_up)) W_down: gated without an activation (SGLU)."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, d_model) to the same shape."""
        return self.down_proj(self.gate_proj(x) * self.up_proj(x))


class LRPE(nn.Module):
    """Linearised relative positions: x at position p becomes [x cos θp, x sin θp], so q·k depends on distances.

    θ is learnt, 10000^(−2j/D) at the start over all D = H·d channels (LRPE-d; Qin et al. 2023, arXiv 2307.09270).

    Args:
        n_heads: H.
        head_dim: d.
    """

    def __init__(self, n_heads: int, head_dim: int) -> None:
        super().__init__()
        width = n_heads * head_dim
        theta = 10000 ** (-2 / width * torch.arange(width, dtype=torch.float32))
        self.theta = nn.Parameter(theta.reshape(n_heads, 1, head_dim))

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Returns (B, H, T, d) whose first token is number ``start``, to (B, H, T, 2d)."""
        positions = torch.arange(start, start + x.shape[2], device=x.device, dtype=torch.float32)[:, None]
        with full_precision(x.device):
            angle = self.theta.float() * positions
        return torch.cat([x * angle.cos().to(x.dtype), x * angle.sin().to(x.dtype)], -1)


class AttentionState(NamedTuple):
    """The state of linear attention after all tokens so far.

    Attributes:
        memory: S (B, H, d, e), float32.
        tokens: Number of tokens so far.
    """

    memory: Tensor
    tokens: int


class LightningAttention(nn.Module):
    """W_o[ U ⊙ SRMSNorm(concat_h A(φ(x W_q), φ(x W_k), x W_v)) ], U = x W_u, φ = SiLU; a mixer.

    Args:
        d_model: Width of the input and the output.
        n_heads: H.
        slopes: (H,) of the decays λ = exp(−slope).
        lrpe: Whether queries and keys carry positions (the first layer only, in TransNormerLLM).
        block: Tokens in a tile.
        form: As :func:`lightning_attention` takes it.

    Raises:
        UserError: the heads do not divide the width.
    """

    slopes: Tensor

    def __init__(
        self, d_model: int, n_heads: int, slopes: Tensor, lrpe: bool = False, block: int = 64, form: Form = "auto"
    ) -> None:
        super().__init__()
        divides({"d_model": d_model}, n_heads=n_heads)
        self.head_dim, self.block, self.form = d_model // n_heads, block, form
        self.qkvu_proj = nn.Linear(d_model, 4 * d_model, bias=False)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)
        self.lrpe = LRPE(n_heads, self.head_dim) if lrpe else None
        self.register_buffer("slopes", slopes.float(), persistent=False)

    def _projected(self, x: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        q, k, v, u = self.qkvu_proj(x).chunk(4, -1)
        q, k, v = (y.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for y in (F.silu(q), F.silu(k), v))
        if self.lrpe is not None:
            q, k = self.lrpe(q, start), self.lrpe(k, start)
        return q, k, v, u

    def _combined(self, out: Tensor, u: Tensor) -> Tensor:
        return self.o_proj(u * simple_rms_norm(out.transpose(1, 2).flatten(2)))

    def forward(self, x: Tensor, mask: BoolTensor | None = None) -> Tensor:
        """Maps (B, T, d_model) to the same shape; tokens where ``mask`` (B, T) is false write nothing."""
        q, k, v, u = self._projected(x, 0)
        if mask is not None:
            v = v * mask[:, None, :, None]
        out = lightning_attention(q, k, v, self.slopes, block=self.block, form=self.form)
        assert isinstance(out, Tensor)
        return self._combined(out, u)

    def extend(self, x: Tensor, state: AttentionState | None = None) -> tuple[Tensor, AttentionState]:
        """Returns the output for the next tokens: a single one by a step of the recurrence, more by tiles."""
        tokens = 0 if state is None else state.tokens
        q, k, v, u = self._projected(x, tokens)
        if x.shape[1] == 1 and state is not None:
            memory = torch.exp(-wide(self.slopes))[:, None, None] * state.memory + wide(k).mT * wide(v)
            out = (wide(q) @ memory).to(v.dtype)
        else:
            before = None if state is None else state.memory
            form = "tiled" if self.form == "left_product" else self.form
            out, memory = lightning_attention(q, k, v, self.slopes, before, self.block, return_state=True, form=form)
        return self._combined(out, u), AttentionState(memory, tokens + x.shape[1])
