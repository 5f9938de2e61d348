"""The update rules of a memory: those of the paper's Table 1 that are exactly one recurrence.

Every rule converts a token's projections into the arguments of :func:`modules.sequence.mom.recurrence.scan`. Per head,
with row vectors q, k, v and gates g of the token:

    linear          S + kᵀv                               q, k of norm 1
    retnet          γ S + kᵀv                             γ_h = 1 − 2^(−5−h)                 Sun et al. 2023
    mamba2          α S + dt kᵀv                          dt = softplus(g + b), α = e^(−A dt)    Dao & Gu 2024
    gla             (aᵀ1) ⊙ S + kᵀv                       a = σ(g)^(1/16), a d-vector            Yang et al. 2024
    hgrn2           (aᵀ1) ⊙ S + (1 − a)ᵀv                 a = σ(k), a d-vector                   Qin et al. 2024
    rwkv6           (aᵀ1) ⊙ S + kᵀv, read before the write with a bonus (u ⊙ k)ᵀv for the token itself;
                                                          a = exp(−exp(g)), a d-vector           Peng et al. 2024
    deltanet        S + β kᵀ(v − k S)                     β = σ(g), q, k of norm 1               Schlag et al. 2021
    gated_deltanet  α S + β kᵀ(v − k α S)                 β = σ(g₁), α = e^(−A softplus(g₂ + b)) Yang et al. 2024

and q is divided by √d in all of them. Each head has its own A, b, γ and u, which all memories share.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from framework.functional.precision import full_precision
from framework.settings import one_of
from modules.sequence.mom.recurrence import recurrent, scan


class Writes(NamedTuple):
    """Arguments of the recurrence: q, k (R, H, T, d), v (R, H, T, e), log_decay (R, H, T[, d]), beta (R, H, T)."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor
    beta: Tensor | None = None


class UpdateRule(nn.Module):
    """One way to write to a memory; ``S + kᵀv`` if not overridden.

    Args:
        d_model: Width of the input of the gates.
        n_heads: H.
        key_dim: d of a head.
    """

    unit_keys: ClassVar[bool] = False
    """Whether queries and keys get norm 1."""
    activate_keys: ClassVar[bool] = True
    """Whether SiLU follows the convolution on the keys."""

    def __init__(self, d_model: int, n_heads: int, key_dim: int) -> None:
        super().__init__()
        self.d_model, self.n_heads, self.key_dim = d_model, n_heads, key_dim

    def gate_projection(self) -> nn.Module | None:
        """Returns a new projection (…, d_model) to the gates of one memory; ``None`` if there are no gates."""
        return None

    def writes(self, q: Tensor, k: Tensor, v: Tensor, gates: Tensor | None) -> Writes:
        """Arguments of the recurrence; q, k, v as (R, H, T, ·), gates (R, T, G)."""
        return Writes(q, k, v, k.new_zeros(k.shape[:3]))

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        gates: Tensor | None = None,
        valid: Tensor | None = None,
        state: Tensor | None = None,
        reference: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Reads and writes memories in float32 or wider, also under autocast.

        Args:
            q: (R, T, H d).
            k: (R, T, H d).
            v: (R, T, H e).
            gates: (R, T, G), the projections.
            valid: (R, T), false at padding, which does not change the memory and whose output is arbitrary.
            state: (R, H, d, e); by default zeros.
            reference: Whether to compute token by token.

        Returns:
            The outputs (R, T, H, e), and the state (R, H, d, e).
        """
        kind, length = torch.promote_types(q.dtype, torch.float32), q.shape[1]
        if length == 0:  # a token of padding, because the recurrences need one
            q, k, v = (F.pad(x, (0, 0, 0, 1)) for x in (q, k, v))
            gates = None if gates is None else F.pad(gates, (0, 0, 0, 1))
            valid = q.new_zeros(q.shape[:2], dtype=torch.bool)
        with full_precision(q.device):
            q, k, v = (x.to(kind).unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for x in (q, k, v))
            if self.unit_keys:
                q, k = unit(q), unit(k)
            q = q * self.key_dim**-0.5
            what = self.writes(q, k, v, None if gates is None else gates.to(kind))
            if valid is not None:
                there = valid[:, None, :, None]
                decay = what.log_decay
                decay = torch.where(there if decay.ndim == 4 else there[..., 0], decay, 0)
                what = what._replace(k=torch.where(there, what.k, 0), log_decay=decay)
            o, state = self.run(what, state, reference)
        return o.transpose(1, 2)[:, :length], state

    def run(self, what: Writes, state: Tensor | None, reference: bool) -> tuple[Tensor, Tensor]:
        """Returns the recurrence itself."""
        return (recurrent if reference else scan)(*what, state)


def unit(x: Tensor) -> Tensor:
    """Normalises x to norm 1 along its last dimension, with a finite gradient at 0."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


class Linear(UpdateRule):
    """S + kᵀv with q and k of norm 1."""

    unit_keys = True


class RetNet(UpdateRule):
    """A fixed decay for each head.

    Args:
        d_model: Width of the input of gates; there are no gates here.
        n_heads: H.
        key_dim: d of a head.
    """

    log_gamma: Tensor

    def __init__(self, d_model: int, n_heads: int, key_dim: int) -> None:
        super().__init__(d_model, n_heads, key_dim)
        gamma = torch.log1p(-torch.exp2(-5.0 - torch.arange(n_heads, dtype=torch.float64)))
        self.register_buffer("log_gamma", gamma.float(), persistent=False)

    def writes(self, q: Tensor, k: Tensor, v: Tensor, gates: Tensor | None) -> Writes:
        """See the module."""
        return Writes(q, k, v, self.log_gamma.to(k)[:, None].expand(k.shape[:3]))


class _Timed(UpdateRule):
    """Rules with a step size dt = softplus(g + dt_bias) and a decay exp(−e^A_log dt) for each head."""

    def __init__(self, d_model: int, n_heads: int, key_dim: int) -> None:
        super().__init__(d_model, n_heads, key_dim)
        self.A_log = nn.Parameter(torch.empty(n_heads).uniform_(0, 16).log())
        low, high = math.log(1e-3), math.log(1e-1)
        dt = torch.exp(torch.rand(n_heads) * (high - low) + low).clamp(min=1e-4)
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # softplus of it is dt

    def parameter_options(self) -> dict[str, dict[str, float]]:
        """No weight decay for decays."""
        return {"A_log": {"weight_decay": 0.0}, "dt_bias": {"weight_decay": 0.0}}

    def step_and_decay(self, gate: Tensor) -> tuple[Tensor, Tensor]:
        """dt and log α, each (R, H, T), of gates (R, T, H)."""
        dt = F.softplus(gate + self.dt_bias.to(gate)).transpose(1, 2)
        return dt, -self.A_log.to(gate).exp()[:, None] * dt


class Mamba2(_Timed):
    """One decay for each head, from the step size that also scales the write."""

    def gate_projection(self) -> nn.Module:
        """Returns one number a head."""
        return nn.Linear(self.d_model, self.n_heads, bias=False)

    def writes(self, q: Tensor, k: Tensor, v: Tensor, gates: Tensor | None) -> Writes:
        """See the module."""
        assert gates is not None
        dt, log_decay = self.step_and_decay(gates)
        return Writes(q, k, v * dt[..., None], log_decay)


class GLA(UpdateRule):
    """A decay for each key dimension, of low rank in the token."""

    rank, temperature = 16, 16.0

    def gate_projection(self) -> nn.Module:
        """Returns a projection of rank 16 to one number for each key dimension."""
        wide = self.n_heads * self.key_dim
        return nn.Sequential(nn.Linear(self.d_model, self.rank, bias=False), nn.Linear(self.rank, wide))

    def writes(self, q: Tensor, k: Tensor, v: Tensor, gates: Tensor | None) -> Writes:
        """See the module."""
        assert gates is not None
        logits = gates.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        return Writes(q, k, v, F.logsigmoid(logits) / self.temperature)


class HGRN2(UpdateRule):
    """The keys are 1 − a, the share that decays."""

    activate_keys = False

    def writes(self, q: Tensor, k: Tensor, v: Tensor, gates: Tensor | None) -> Writes:
        """See the module."""
        return Writes(q, torch.sigmoid(-k), v, F.logsigmoid(k))


class RWKV6(GLA):
    """A decay for each key dimension; a token reads before its own write, and adds itself with a learnt bonus.

    Args:
        d_model: Width of the input of the gates.
        n_heads: H.
        key_dim: d of a head.
    """

    def __init__(self, d_model: int, n_heads: int, key_dim: int) -> None:
        super().__init__(d_model, n_heads, key_dim)
        self.bonus = nn.Parameter(torch.full((n_heads, key_dim), 0.5))

    def parameter_options(self) -> dict[str, dict[str, float]]:
        """No weight decay for the bonus."""
        return {"bonus": {"weight_decay": 0.0}}

    def gate_projection(self) -> nn.Module:
        """Like GLA's, with initial decays from slow to fast across the key dimensions."""
        gate = super().gate_projection()
        assert isinstance(gate, nn.Sequential)
        with torch.no_grad():
            gate[1].get_parameter("bias").copy_(torch.linspace(-6, -1, self.key_dim).repeat(self.n_heads))
        return gate

    def writes(self, q: Tensor, k: Tensor, v: Tensor, gates: Tensor | None) -> Writes:
        """See the module."""
        assert gates is not None
        logits = gates.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        return Writes(q, k, v, -logits.exp())

    def run(self, what: Writes, state: Tensor | None, reference: bool) -> tuple[Tensor, Tensor]:
        """Runs the recurrence one token later, so that each token reads the memory before it is written."""
        q, k, v, log_decay, _ = what
        # The decay and the write of the token before: this is the state that a token reads.
        late_k, late_v, late_decay = (F.pad(x[:, :, :-1], (0, 0, 1, 0)) for x in (k, v, log_decay))
        o, before = (recurrent if reference else scan)(q, late_k, late_v, late_decay, None, state)
        own = (q * self.bonus.to(q)[:, None] * k).sum(-1, keepdim=True) * v
        after = log_decay[:, :, -1, :, None].exp() * before + k[:, :, -1, :, None] * v[:, :, -1, None]
        return o + own, after


class DeltaNet(UpdateRule):
    """A write replaces the value stored under its key."""

    unit_keys = True

    def gate_projection(self) -> nn.Module:
        """Returns one number a head."""
        return nn.Linear(self.d_model, self.n_heads, bias=False)

    def writes(self, q: Tensor, k: Tensor, v: Tensor, gates: Tensor | None) -> Writes:
        """See the module."""
        assert gates is not None
        return Writes(q, k, v, k.new_zeros(k.shape[:3]), gates.sigmoid().transpose(1, 2))


class GatedDeltaNet(_Timed):
    """The delta rule with a decay; the paper's headline."""

    unit_keys = True

    def gate_projection(self) -> nn.Module:
        """Returns a projection to two numbers for each head: for the strength and the decay."""
        return nn.Linear(self.d_model, 2 * self.n_heads, bias=False)

    def writes(self, q: Tensor, k: Tensor, v: Tensor, gates: Tensor | None) -> Writes:
        """See the module."""
        assert gates is not None
        strength, step = gates.chunk(2, -1)
        _, log_decay = self.step_and_decay(step)
        return Writes(q, k, v, log_decay, strength.sigmoid().transpose(1, 2))


Rule = Literal["linear", "retnet", "mamba2", "gla", "hgrn2", "rwkv6", "deltanet", "gated_deltanet"]

RULES: dict[Rule, type[UpdateRule]] = {
    "linear": Linear,
    "retnet": RetNet,
    "mamba2": Mamba2,
    "gla": GLA,
    "hgrn2": HGRN2,
    "rwkv6": RWKV6,
    "deltanet": DeltaNet,
    "gated_deltanet": GatedDeltaNet,
}


def build_rule(name: Rule, d_model: int, n_heads: int, key_dim: int) -> UpdateRule:
    """Returns the rule of this name.

    Args:
        name: As in this module's table.
        d_model: Width of the input of the gates.
        n_heads: H.
        key_dim: d of a head.

    Raises:
        UserError: there is no such rule.
    """
    one_of(get_args(Rule), rule=name)
    return RULES[name](d_model, n_heads, key_dim)
