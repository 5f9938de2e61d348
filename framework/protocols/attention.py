"""Protocols of attention layers that techniques replace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class RotaryAttention(Protocol):
    """A token mixer ``(x (B, T, D), mask (B, T) | None) -> y`` that is softmax attention with rotary positions.

    It has only the projections ``q_proj``, ``k_proj``, ``v_proj``, ``o_proj``, in Llama's layout, and decodes with
    ``extend(x, state)``.
    """

    q_proj: Any
    k_proj: Any
    v_proj: Any
    o_proj: Any
    n_heads: int
    n_kv_heads: int
    head_dim: int
    rope_base: float

    def extend(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Returns the output for the tokens that follow ``state``, and the state after them."""
        ...


@runtime_checkable
class Replacement(Protocol):
    """A layer that replaces another one, and can still compute that one's output."""

    as_original: bool
    """Whether it computes the replaced layer's output."""
