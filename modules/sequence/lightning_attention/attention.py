"""Linear attention with exponential decay, in the form that suits the machine; and the decays."""

from __future__ import annotations

import math
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor

from framework.errors import UserError
from framework.protocols import second_derivatives_needed
from framework.settings import one_of
from modules.sequence.lightning_attention.reference import left_product
from modules.sequence.lightning_attention.tiled import TiledAttention

Form = Literal["auto", "tiled", "triton", "left_product"]
Slopes = Literal["alibi", "tnl_paper", "none"]


def lightning_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slope: Tensor,
    state: Tensor | None = None,
    block: int = 64,
    return_state: bool = False,
    form: Form = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """o_t = q_t (λ^(t+1) S_0 + Σ_{s≤t} λ^(t−s) k_sᵀ v_s), λ = exp(−slope): no softmax, no 1/√d, no denominator.

    Lightning Attention-2 (Qin et al. 2024, arXiv 2401.04658): time and memory linear in T; only q, k, v and S_0 are
    saved for the backward pass. Decays and states are float32 in half precision. T may be 0: the state is
    then returned as it was.

    Args:
        q: (B, H, T, d).
        k: (B, H, T, d).
        v: (B, H, T, e).
        slope: (H,) at least 0, not learned; 0 is plain causal linear attention.
        state: S_0 (B, H, d, e), the state after the earlier tokens; zero by default.
        block: Tokens in a tile of the PyTorch form; about d is fastest.
        return_state: Whether to also return the last state.
        form: ``tiled`` (PyTorch), ``triton``, ``left_product`` (n² time, for comparison), or ``auto``: Triton on a GPU,
            unless second derivatives are needed, which it does not have.

    Returns:
        o (B, H, T, e); with ``return_state`` also S_T (B, H, d, e), float32 (float64 for float64).

    Raises:
        UserError: the form is not known, or does not support these tensors.
    """
    if form == "auto":
        fast = q.is_cuda and q.dtype != torch.float64 and triton_found() and not second_derivatives_needed()
        form = "triton" if fast else "tiled"
    if form == "tiled":
        out, last = TiledAttention.apply(q, k, v, slope, state, block)
    elif form == "triton":
        if q.dtype == torch.float64 or not triton_found():
            raise UserError("form: triton needs the package triton and tensors of at most 32 bits")
        from modules.sequence.lightning_attention.kernels import TritonAttention

        out, last = TritonAttention.apply(q, k, v, slope, state)
    elif form == "left_product" and state is None and not return_state:
        return left_product(q, k, v, slope)
    else:
        one_of(get_args(Form), form=form)
        raise UserError("form: 'left_product' is not accepted with states; auto, tiled or triton")
    return (out, last) if return_state else out


@cache
def triton_found() -> bool:
    """Returns whether Triton can be imported."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def alibi_slopes(heads: int) -> Tensor:
    """2^(−8h/H), h = 1 … H; for other H than powers of two, those of the power below and every second of the next."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    between = [2 ** (-4 * (h + 1) / power) for h in range(2 * power)]
    return torch.tensor([*slopes, *between[::2]][:heads])


def layer_slopes(kind: Slopes, heads: int, layer: int, layers: int) -> Tensor:
    """Returns the slopes (H,) of one layer.

    Args:
        kind: ``alibi``, as in the released models: ALiBi's, times 1 − l/(L−1) + 1e-5; ``tnl_paper``, as in the paper
            (arXiv 2307.14995): (8h/H)(1 − l/L), h from 1; ``none``: 0.
        heads: H.
        layer: l, from 0.
        layers: L.

    Raises:
        UserError: there is no such kind.
    """
    one_of(get_args(Slopes), slopes=kind)
    if kind == "alibi":
        return alibi_slopes(heads) * (1 - layer / max(layers - 1, 1) + 1e-5)
    if kind == "tnl_paper":
        return 8 * torch.arange(1, heads + 1) / heads * (1 - layer / layers)
    return torch.zeros(heads)
