"""One layer of linear self-attention on a prompt, reduced to the part that the answer depends on.

With z_i = (x_i; y_i), z_q = (x_q; y_q) and G = (1/N) Σ_i z_i z_iᵀ, the layer
``f(E) = E + Σ_h W^PV_h E M Eᵀ W^KQ_h E / N`` answers in its last row and column

    ŷ = y_q + Σ_h p_hᵀ G W^KQ_h z_q,    p_h the last row of W^PV_h

so that a prompt costs O(N d²) rather than O(N² d). M masks the query out of keys and values; without M, z_q z_qᵀ/N is
part of G (Zhang, Frei, Bartlett 2024, eq. 3.6; Xie et al. 2025).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def moments(x: Tensor, y: Tensor, guess: Tensor | None = None, masked: bool = True, averaged: bool = True) -> Tensor:
    """Returns G (…, d + 1, d + 1) of ``x`` (…, N + 1, d), ``y`` (…, N + 1, 1).

    Args:
        x: Examples, the query last.
        y: Labels; the last is not used.
        guess: y_q (…,), if the query is not masked; by default 0.
        masked: Whether the query is left out.
        averaged: Whether the sum is divided by N.
    """
    z = torch.cat([x[..., :-1, :], y[..., :-1, :]], -1)
    found = z.mT @ z
    if not masked:
        last = torch.zeros_like(x[..., -1, :1]) if guess is None else guess[..., None]
        q = torch.cat([x[..., -1, :], last], -1)
        found = found + q[..., :, None] * q[..., None, :]
    return found / z.shape[-2] if averaged else found


class LinearAttention(nn.Module):
    """E members of a layer with H heads.

    Attributes:
        value: p (E, H, d + 1).
        key_query: W^KQ (E, H, d + 1, d + 1).
        guess: v (E, d) of y_q = ⟨v, x_q⟩, if it is learnt.

    Args:
        dim: d.
        heads: H.
        members: E.
        learnt_guess: Whether y_q = ⟨v, x_q⟩ with a learnt v that starts at 0; otherwise y_q is 0, or is passed to
            ``forward``.
        masked: Whether the query is left out of keys and values.
        averaged: Whether attention is divided by N.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 1,
        members: int = 1,
        learnt_guess: bool = False,
        masked: bool = True,
        averaged: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.masked, self.averaged = masked, averaged
        self.value = nn.Parameter(torch.zeros(members, heads, dim + 1, dtype=dtype))
        self.key_query = nn.Parameter(torch.zeros(members, heads, dim + 1, dim + 1, dtype=dtype))
        self.guess = nn.Parameter(torch.zeros(members, dim, dtype=dtype)) if learnt_guess else None

    def forward(self, x: Tensor, y: Tensor, guess: Tensor | None = None) -> Tensor:
        """Returns (E, B) of ``x`` (B, N + 1, d) and ``y`` (B, N + 1, 1), whose last label is not used.

        Args:
            x: Examples, the query last.
            y: Labels.
            guess: y_q, (B,), if it is not learnt; by default 0.
        """
        x, y = x.to(self.value.dtype), y.to(self.value.dtype)
        query = x[:, -1]
        if self.guess is not None:
            last = self.guess @ query.T  # (E, B)
        elif guess is not None:
            last = guess.to(query).expand(len(self.value), -1)
        else:
            last = None
        # W z_q, in two parts so that members share x_q
        read = torch.einsum("ehij,bj->ehbi", self.key_query[..., :-1], query)
        if last is not None:
            read = read + last[:, None, :, None] * self.key_query[:, :, None, :, -1]
        gram = moments(x, y, masked=self.masked or last is not None, averaged=self.averaged)
        asked = torch.einsum("ehi,bij->ehbj", self.value, gram)
        found = (asked * read).sum((1, 3))
        if not self.masked and last is not None:  # members guess differently: the query's part is not shared
            q = torch.cat([query.expand(len(self.value), *query.shape), last[..., None]], -1)
            own = torch.einsum("ehi,ebi->ehb", self.value, q) * torch.einsum("ehbi,ebi->ehb", read, q)
            found = found + own.sum(1) / (x.shape[1] - 1 if self.averaged else 1)
        return found if last is None else found + last

    def parts(self) -> dict[str, Tensor]:
        """Returns the readout, and the blocks of the weights that should vanish, each (E, H, …).

        Returns:
            ``readout`` p_(d+1) W^KQ_11 (E, d, d), summed over heads; ``w21_pv`` (E, H, d); ``w21_kq`` (E, H, d).
        """
        value, key_query = self.value, self.key_query
        readout = (value[..., -1, None, None] * key_query[..., :-1, :-1]).sum(1)
        return {"readout": readout, "w21_pv": value[..., :-1], "w21_kq": key_query[..., -1, :-1]}


def whole_layer(
    embedding: Tensor, value: Tensor, key_query: Tensor, masked: bool = True, averaged: bool = True
) -> Tensor:
    """Returns E + Σ_h W^PV_h E M Eᵀ W^KQ_h E / N by the formula as written, at a cost of N².

    Args:
        embedding: E (…, d + 1, N + 1), the query last.
        value: W^PV (H, d + 1, d + 1).
        key_query: W^KQ (H, d + 1, d + 1).
        masked: Whether M is diag(I_N, 0); else it is I.
        averaged: Whether to divide by N.
    """
    count = embedding.shape[-1] - 1
    mask = torch.ones(count + 1, dtype=embedding.dtype)
    mask[-1] = 0.0 if masked else 1.0
    found = embedding
    for wv, wk in zip(value, key_query, strict=True):
        scores = embedding.mT @ wk @ embedding
        found = found + wv @ (embedding * mask) @ scores / (count if averaged else 1)
    return found
