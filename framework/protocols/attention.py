"""What techniques ask of attention layers that they replace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class RotaryAttention(Protocol):
    """A token mixer ``(x (B, T, D), mask (B, T) | None) -> y`` that is softmax attention with rotary positions.

    It has projections ``q_proj``, ``k_proj``, ``v_proj``, ``o_proj`` and no more than them, in Llama's layout, and
    decodes by ``extend(x, state)``.
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
        """The same on the tokens that follow ``state``, and the state after them."""
        ...


@runtime_checkable
class Replacement(Protocol):
    """A layer that stands in for another one, and can still compute what that one did."""

    as_original: bool
    """While true it does."""
