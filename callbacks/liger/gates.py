"""Decays that are computed from the key without parameters (Lan et al. 2025, arXiv 2503.01496, Table 1).

A layer's key, before its rotation, is pooled to as many numbers as the recurrence has decays, and squashed to (0, 1).
Decays are logarithms in float32 here, divided by a temperature τ that is only in the paper's code
(``gate_logit_normalizer`` = 16 for gla and gsa): at k = 0 half of the state is left after τ tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

VECTOR, SCALAR, SLOTS = "vector", "scalar", "slots"
Variant = Literal["gla", "hgrn2", "rwkv6", "gsa", "mamba2", "retention", "mlstm", "linear"]

KINDS: dict[Variant, str] = {
    "gla": VECTOR,
    "hgrn2": VECTOR,
    "rwkv6": VECTOR,
    "gsa": SLOTS,
    "mamba2": SCALAR,
    "retention": SCALAR,
    "mlstm": SCALAR,  # the same gate and, without a normaliser, the same recurrence as retention
    "linear": SCALAR,
}
"""Maps each variant to its number of decays per head: one per key dimension, one, or one per slot."""

TEMPERATURES = {"gla": 16.0, "gsa": 16.0, "retention": 16.0, "mlstm": 16.0}
"""Default τ; 1 for the others."""


def pool(key: Tensor, count: int) -> Tensor:
    """Averages neighbouring entries of each head's key ``(…, d)`` to ``(…, count)``; the identity for d of them.

    This equals ``AdaptiveAvgPool1d`` over all heads, as in the official code: no bin spans two heads.
    """
    if count == key.shape[-1]:
        return key
    return F.adaptive_avg_pool1d(key.reshape(-1, 1, key.shape[-1]), count).reshape(*key.shape[:-1], count)


def log_decay(
    key: Tensor, variant: Variant, tau: float | None = None, slots: int = 64, lower_bound: float = 0.0
) -> Tensor:
    """Returns ln a_t of a head's key.

    Args:
        key: ``(…, d)``, before its rotation; or the output of the gate projection.
        variant: One of :data:`KINDS`. ``linear`` does not decay.
        tau: Temperature; the variant's own by default.
        slots: M, for ``gsa``.
        lower_bound: γ, for ``hgrn2``: a = γ + (1 − γ) σ(k).

    Returns:
        ``(…, d)``, ``(…, 1)`` or ``(…, M)``, float32 (float64 for such a key), 0 or less.
    """
    kind = KINDS[variant]
    logit = pool(
        key if key.dtype == torch.float64 else key.float(), {VECTOR: key.shape[-1], SCALAR: 1, SLOTS: slots}[kind]
    )
    if variant == "linear":
        return logit.new_zeros(logit.shape)
    if variant == "mamba2":
        gate = -F.softplus(logit)
    elif variant == "rwkv6":
        gate = -logit.exp()
    elif variant == "hgrn2" and lower_bound:
        gate = (lower_bound + (1 - lower_bound) * logit.sigmoid()).log()
    else:
        gate = F.logsigmoid(logit)
    return gate / (TEMPERATURES.get(variant, 1.0) if tau is None else tau)
