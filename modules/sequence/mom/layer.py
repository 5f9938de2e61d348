"""The MoM layer: several matrix memories; each token writes to and reads from a few of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from framework.errors import UserError
from framework.settings import above, at_least, at_most, divides, one_of
from modules.sequence.mom.buckets import Buckets
from modules.sequence.mom.convolution import short_convolution
from modules.sequence.mom.routing import Router, balance_loss
from modules.sequence.mom.rules import Rule, build_rule

Backend = Literal["varlen", "masked", "loop"]


class MoMState(NamedTuple):
    """The state of a layer, the shared memory last.

    Attributes:
        memories: (B, M, H, d, e) float32.
        recent: (B, M, conv_size − 1, 2 H d + H e) what went into the convolution last, in each memory's own order.
    """

    memories: Tensor
    recent: Tensor


class Memory(nn.Module):
    """The projections of one memory: key, value and gates.

    Args:
        d_model: Width of the token.
        key_width: Width of the keys of all heads.
        value_width: Width of the values of all heads.
        gate_proj: Gate projection of the update rule; ``None`` without gates.
    """

    def __init__(self, d_model: int, key_width: int, value_width: int, gate_proj: nn.Module | None) -> None:
        super().__init__()
        self.k_proj = nn.Linear(d_model, key_width, bias=False)
        self.v_proj = nn.Linear(d_model, value_width, bias=False)
        self.gate_proj = gate_proj

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Maps (…, d_model) to key (…, H d), value (…, H e) and gates (…, G)."""
        return self.k_proj(x), self.v_proj(x), None if self.gate_proj is None else self.gate_proj(x)


class ShortConvolution(nn.Module):
    """A causal convolution of each channel by itself, without bias.

    Args:
        channels: C.
        width: W, tokens it sees.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, width).uniform_(-(width**-0.5), width**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (R, W − 1 + L, C), of which the first W − 1 came before, to (R, L, C)."""
        return short_convolution(x, self.weight)

    def at(self, taps: Tensor) -> Tensor:
        """Returns the same of tokens whose neighbours were gathered: (…, W, C) to (…, C)."""
        return (taps * self.weight.T).sum(-2)


class ReadNorm(nn.RMSNorm):
    """RMSNorm of what is read, in its type: float32 also where the weight is bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, e) to the same shape and type."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


@dataclass(frozen=True)
class Memories:
    """How many memories there are, how they are written and read.

    Attributes:
        expand_v: Dimension of a value over d.
        num_memories: M, without the shared one.
        topk: k, memories that a token writes to and reads from.
        shared: Whether there is a memory that takes every token.
        rule: How memories are written, see :mod:`modules.sequence.mom.rules`.
        single_kv_proj: Whether all memories share one projection to keys, values and gates.
        capacity: In training, each memory and row keeps only its newest ``⌈capacity · T / k⌉`` tokens: that bounds the
            longest bucket, but what is dropped depends on later tokens. By default all are kept.
        conv_size: Width of the short convolution; 0 for none, and no SiLU on q, k, v then.
        renormalize: Whether the weights of a token's memories sum to 1.
        backend: ``varlen``, ``masked`` or ``loop``: forms of the same function, see :class:`MoMLayer`.

    Raises:
        UserError: a setting is not accepted.
    """

    expand_v: float = 1.0
    num_memories: int = 4
    topk: int = 2
    shared: bool = True
    rule: Rule = "gated_deltanet"
    single_kv_proj: bool = False
    capacity: float | None = None
    conv_size: int = 4
    renormalize: bool = True
    backend: Backend = "varlen"

    def __post_init__(self) -> None:
        def named(*names: str) -> dict[str, Any]:
            return {f"memory.{name}": getattr(self, name) for name in names}

        above(0, **named("expand_v", "capacity"))
        at_least(1, **named("num_memories", "topk"))
        at_most({"memory.num_memories": self.num_memories}, **named("topk"))
        at_least(0, **named("conv_size"))
        one_of(get_args(Rule), **named("rule"))
        one_of(get_args(Backend), **named("backend"))


class MoMLayer(nn.Module):
    """Mixture-of-Memories as a token mixer: ``forward(x, mask)`` and ``extend(x, state)``.

    ``S̃_t = Σ_m g_t(m) S_t^m`` over the k memories that the router chose, and the shared one with weight 1;
    ``o_t = q_t S̃_t`` (Section 3.2). Memories that a token does not choose neither change nor decay, and the short
    convolution runs over each memory's own tokens. Three forms of the same:

    - ``varlen``: tokens sorted by memory and row and laid end to end, each projected by its own memories only; the
      buckets, padded to the longest, are the rows of one batch for the recurrence. Cost: that of k + 1 memories.
    - ``masked``: every memory runs over the whole sequence, with no write and no decay where it was not chosen. Cost:
      M + 1 memories, no sorting.
    - ``loop``: a Python loop over memories and rows; slow and obvious. A memory that gets no token gets no gradient,
      which DDP waits for: use another form there.

    On the meta device, where sizes cannot depend on values, every form is ``masked``.

    Args:
        d_model: D.
        n_heads: H.
        head_dim: d of a query and a key; ``d_model / n_heads`` by default.
        memory: The memories.
        output_gate: Whether what is read is multiplied by SiLU of a projection of the token.

    Attributes:
        balance: The balance loss of the last batch seen in training mode; ``None`` before.

    Raises:
        UserError: an argument is not accepted.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        head_dim: int | None = None,
        memory: Memories = Memories(),
        output_gate: bool = True,
    ) -> None:
        super().__init__()
        if head_dim is None:
            divides({"d_model": d_model}, n_heads=n_heads)
        at_least(1, n_heads=n_heads)
        self.head_dim = d_model // n_heads if head_dim is None else head_dim
        self.value_dim = round(self.head_dim * memory.expand_v)
        if self.head_dim < 1 or self.value_dim < 1 or abs(self.value_dim - self.head_dim * memory.expand_v) > 1e-6:
            raise UserError(
                f"memory.expand_v: {memory.expand_v} times head_dim = {self.head_dim} is not a whole number above 0"
            )
        self.d_model, self.n_heads, self.num_memories, self.topk = d_model, n_heads, memory.num_memories, memory.topk
        self.shared, self.capacity, self.backend = memory.shared, memory.capacity, memory.backend
        key_width, value_width = n_heads * self.head_dim, n_heads * self.value_dim
        self.widths = [key_width, key_width, value_width]
        self.router = Router(d_model, memory.num_memories, memory.topk, memory.renormalize)
        self.q_proj = nn.Linear(d_model, key_width, bias=False)
        self.rule = build_rule(memory.rule, d_model, n_heads, self.head_dim)
        self.memories = nn.ModuleList(
            Memory(d_model, key_width, value_width, self.rule.gate_projection())
            for _ in range(1 if memory.single_kv_proj else memory.num_memories + memory.shared)
        )
        self.conv = ShortConvolution(sum(self.widths), memory.conv_size) if memory.conv_size else None
        self.past = max(memory.conv_size - 1, 0)
        self.gate_proj = nn.Linear(d_model, value_width, bias=False) if output_gate else None
        self.norm = ReadNorm(self.value_dim, eps=1e-5)
        self.o_proj = nn.Linear(value_width, d_model, bias=False)
        self.reset_projections()
        self.balance: Tensor | None = None

    def reset_projections(self) -> None:
        """Draws all weight matrices again: Xavier's uniform with gain 2^(−2.5), as the authors'."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, gain=2**-2.5)

    def memory(self, index: int) -> nn.Module:
        """Returns the projections of one memory; the shared one has number ``num_memories``."""
        return self.memories[min(index, len(self.memories) - 1)]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Maps (B, T, d_model) to the same; tokens where ``mask`` (B, T) is false go to no memory and get 0."""
        return self._run(x, mask, None)[0]

    def extend(self, x: Tensor, state: MoMState | None = None) -> tuple[Tensor, MoMState]:
        """Returns the output for the next tokens (B, T, d_model); a step updates k memories and the shared one."""
        if state is None:
            heads = (self.n_heads, self.head_dim, self.value_dim)
            memories = self.num_memories + self.shared
            kind = torch.promote_types(x.dtype, torch.float32)
            state = MoMState(
                x.new_zeros(len(x), memories, *heads, dtype=kind),
                x.new_zeros(len(x), memories, self.past, sum(self.widths)),
            )
        y, after = self._run(x, None, state)
        assert after is not None
        return y, after

    def _run(self, x: Tensor, mask: Tensor | None, state: MoMState | None) -> tuple[Tensor, MoMState | None]:
        routing = self.router(x, mask)
        self.balance = balance_loss(routing, mask) if self.training and state is None else None
        routed, weights = routing.selected, routing.weights
        if self.capacity is not None and self.training:
            kept = math.ceil(self.capacity * x.shape[1] / self.topk)
            routed = routed & (routed.flip(1).cumsum(1).flip(1) <= kept)
        if self.shared:
            everyone = torch.ones_like(routed[..., :1]) if mask is None else mask[..., None]
            routed = torch.cat([routed, everyone], -1)
            weights = torch.cat([weights, everyone.to(weights)], -1)
        q = self.q_proj(x)
        backend = "masked" if x.is_meta else self.backend  # the others sort by values, which it has none of
        if backend == "varlen":
            o, after = self._varlen(x, q, routed, weights, state)
        else:
            form = self._masked if backend == "masked" else self._loop
            o, after = form(x, q, routed, weights, state)
        o = self.norm(o).flatten(2).to(q.dtype)
        if self.gate_proj is not None:
            o = o * F.silu(self.gate_proj(x))
        return self.o_proj(o), after

    def _activate(self, mixed: Tensor) -> list[Tensor]:
        """Splits the convolved (…, C) into q, k, v and applies SiLU where the rule has it."""
        q, k, v = mixed.split(self.widths, -1)
        if self.conv is None:
            return [q, k, v]
        return [F.silu(q), F.silu(k) if self.rule.activate_keys else k, F.silu(v)]

    def _varlen(
        self, x: Tensor, q: Tensor, routed: Tensor, weights: Tensor, state: MoMState | None
    ) -> tuple[Tensor, MoMState | None]:
        m = self.num_memories
        out = x.new_zeros(x.shape[0] * x.shape[1], self.n_heads, self.value_dim, dtype=weights.dtype)
        after = []
        # The shared memory's buckets are as long as the sequence, so they are a batch of their own.
        for first, last in ((0, m), (m, m + self.shared))[: 1 + self.shared]:
            part = None if state is None else MoMState(*(x[:, first:last] for x in state))
            buckets = Buckets(routed[..., first:last])
            tokens = x.flatten(0, 1)[buckets.token]
            rows = [self.memory(first + i)(own) for i, own in enumerate(tokens.split(buckets.sizes))]
            k, v = (torch.cat(parts) for parts in list(zip(*rows, strict=True))[:2])
            gates = None if rows[0][2] is None else buckets.pack(torch.cat([row[2] for row in rows]))
            qkv = torch.cat([q.flatten(0, 1)[buckets.token], k, v], -1)
            before = None if part is None else buckets.take(part.recent)
            packed = buckets.pack(qkv, self.past, before)
            mixed = packed if self.conv is None else self.conv(packed)
            start = None if part is None else buckets.take(part.memories)
            o, final = self.rule(*self._activate(mixed), gates, buckets.valid, start)
            weight = weights[..., first:last].flatten(0, 1)[buckets.token, buckets.memory]
            out = out.index_add(0, buckets.token, buckets.unpack(o) * weight[:, None, None])
            if part is not None:
                recent = buckets.last(packed, self.past)
                after.append(MoMState(buckets.put(part.memories, final), buckets.put(part.recent, recent)))
        joined = MoMState(*(torch.cat(parts, 1) for parts in zip(*after, strict=True))) if after else None
        return out.unflatten(0, x.shape[:2]), joined

    def _masked(
        self, x: Tensor, q: Tensor, routed: Tensor, weights: Tensor, state: MoMState | None
    ) -> tuple[Tensor, MoMState | None]:
        out: Tensor = torch.zeros((), device=x.device)
        after = []
        for m in range(routed.shape[-1]):
            k, v, gates = self.memory(m)(x)
            qkv, there = torch.cat([q, k, v], -1), routed[..., m]
            recent = qkv.new_zeros(len(x), self.past, qkv.shape[-1]) if state is None else state.recent[:, m]
            joined = torch.cat([recent.to(qkv), qkv], 1)
            # Index in ``joined`` of the n-th token of this memory, past tokens first.
            order = torch.cat([there.new_ones(len(x), self.past), there], 1)
            places = (~order).int().argsort(dim=1, stable=True)
            if self.conv is None:
                mixed = qkv
            else:
                rank = there.cumsum(1) + self.past - 1
                taps = (rank[..., None] + torch.arange(-self.past, 1, device=x.device)).clamp(min=0)
                rows = torch.arange(len(x), device=x.device)[:, None, None]
                mixed = self.conv.at(joined[rows, places[rows, taps]])
            start = None if state is None else state.memories[:, m]
            o, final = self.rule(*self._activate(mixed), gates, there, start)
            out = out + torch.where(there[..., None, None], o * weights[..., m, None, None], 0)
            if state is not None:
                newest = there.sum(1, keepdim=True) + torch.arange(self.past, device=x.device)
                rows = torch.arange(len(x), device=x.device)[:, None]
                after.append((final, joined[rows, places[rows, newest]].to(state.recent)))
        return out, _stacked(after)

    def _loop(
        self, x: Tensor, q: Tensor, routed: Tensor, weights: Tensor, state: MoMState | None
    ) -> tuple[Tensor, MoMState | None]:
        out = torch.zeros(*x.shape[:2], self.n_heads, self.value_dim, dtype=weights.dtype, device=x.device)
        after = []
        for m in range(routed.shape[-1]):
            finals, recents = [], []
            for b in range(len(x)):
                at = routed[b, :, m].nonzero()[:, 0]
                k, v, gates = self.memory(m)(x[b : b + 1, at])
                qkv = torch.cat([q[b : b + 1, at], k, v], -1)
                recent = qkv.new_zeros(1, self.past, qkv.shape[-1]) if state is None else state.recent[b : b + 1, m]
                qkv = torch.cat([recent.to(qkv), qkv], 1)
                final = None if state is None else state.memories[b : b + 1, m]
                if len(at):
                    mixed = qkv if self.conv is None else self.conv(qkv)
                    o, final = self.rule(*self._activate(mixed), gates, None, final)
                    out = out.index_put((torch.tensor(b), at), o[0] * weights[b, at, m, None, None], accumulate=True)
                finals.append(final)
                recents.append(qkv[:, qkv.shape[1] - self.past :])
            if state is not None:
                after.append((torch.cat(finals), torch.cat(recents).to(state.recent)))  # type: ignore[arg-type]
        return out, _stacked(after)


def _stacked(after: list[tuple[Tensor, Tensor]]) -> MoMState | None:
    """Returns one state of the states of each memory."""
    return MoMState(*(torch.stack(parts, 1) for parts in zip(*after, strict=True))) if after else None
