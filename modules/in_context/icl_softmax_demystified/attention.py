"""One layer of softmax attention on a prompt, computed by its circuits.

The query attends to the N examples and not to itself; no positions, no residual, no bias (He et al. 2025):

    ŷ = Σ_h O_h V_h Z softmax(Zᵀ K_hᵀ Q_h z_q / √D),    z_i = (x_i; y_i), z_q = (x_q; 0), D = d + T

The output depends on a head only through ``KQ_h = K_hᵀ Q_h/√D`` and ``OV_h = O_h V_h``; computing with these needs no
projection of the prompt.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from framework.settings import multiple_of, one_of

Init = Literal["random", "small_identity", "small_identity_qk", "opposite"]


class Circuits(NamedTuple):
    """``kq`` (E, H, D, D), rows on the side of the keys, and ``ov`` (E, H, T, D)."""

    kq: Tensor
    ov: Tensor


def attend(x: Tensor, y: Tensor, circuits: Circuits) -> tuple[Tensor, Tensor]:
    """Returns the answers and the attention of heads given by their circuits.

    Args:
        x: (B, N + 1, d), the query last.
        y: (B, N + 1, T); the last is not used.
        circuits: Circuits of E members with H heads.

    Returns:
        (E, B, T), and the attention (B, E, H, N).
    """
    kq, ov = circuits
    members, heads = ov.shape[:2]
    z = torch.cat([x[:, :-1], y[:, :-1]], 2)
    dim = x.shape[2]
    asked = x[:, -1] @ kq[..., :dim].flatten(0, 2).mT  # (B, E H D)
    attention = torch.bmm(asked.unflatten(1, (members * heads, -1)), z.mT).softmax(2)  # (B, E H, N)
    read = torch.bmm(attention, z).unflatten(1, (members, heads))  # (B, E, H, D)
    found = torch.einsum("behi,ehti->ebt", read, ov)
    return found, attention.unflatten(1, (members, heads))


class PromptSoftmaxAttention(nn.Module):
    """E members of a layer with H heads of width D each.

    Attributes:
        query: Q (E, H, D, D); ``key`` and ``value`` likewise.
        output: O (E, H, T, D).

    Args:
        dim: d.
        heads: H.
        labels: T, number of predicted labels.
        init: ``random`` (as ``nn.Linear`` starts), ``small_identity`` (all 1e-6 I, O its last rows),
            ``small_identity_qk`` (Q and K 1e-4 I, the rest random), ``opposite`` (K = 1e-6 I, half of the heads
            Q = 1e-6 I, half −1e-6 I, the rest random).
        generators: One for each member's start.

    Raises:
        UserError: a setting is not accepted.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        labels: int = 1,
        init: Init = "random",
        generators: list[torch.Generator] | None = None,
    ) -> None:
        super().__init__()
        one_of(get_args(Init), init=init)
        if init == "opposite":
            multiple_of({"init: opposite": 2}, heads=heads)
        generators = [torch.Generator().manual_seed(0)] if generators is None else generators
        size, members = dim + labels, len(generators)
        for name in ("query", "key", "value"):
            setattr(self, name, nn.Parameter(torch.empty(members, heads, size, size)))
        self.output = nn.Parameter(torch.empty(members, heads, labels, size))
        eye = torch.eye(size)
        with torch.no_grad():
            for member, generator in enumerate(generators):
                for weight, fan_in in self._weights(size, heads):
                    weight[member].uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
                if init == "small_identity":
                    for weight, _ in self._weights(size, heads)[:3]:
                        weight[member] = 1e-6 * eye
                    self.output[member] = 1e-6 * eye[-labels:]
                elif init == "small_identity_qk":
                    self.query[member], self.key[member] = 1e-4 * eye, 1e-4 * eye
                elif init == "opposite":
                    self.query[member], self.key[member] = 1e-6 * eye, 1e-6 * eye
                    self.query[member, heads // 2 :] *= -1

    query: nn.Parameter
    key: nn.Parameter
    value: nn.Parameter

    def _weights(self, size: int, heads: int) -> list[tuple[nn.Parameter, int]]:
        """Returns each weight with its fan-in; that of the output is over all heads."""
        return [(self.query, size), (self.key, size), (self.value, size), (self.output, size * heads)]

    def circuits(self) -> Circuits:
        """KQ and OV of each head."""
        return Circuits(self.key.mT @ self.query / self.query.shape[-1] ** 0.5, self.output @ self.value)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns (E, B, T) of ``x`` (B, N + 1, d) and ``y`` (B, N + 1, T)."""
        return attend(x, y, self.circuits())[0]


def circuit_measures(circuits: Circuits, dim: int) -> dict[str, Tensor]:
    """Measures the patterns of the heads' circuits: names to (E, H).

    KQ's columns of the query's labels are left out: these labels are 0, so the columns are never trained. ``omega`` is
    the mean of the first d diagonal entries of KQ, ``mu`` the last entry of OV (with several labels the largest one in
    the labels' columns), ``diagonal`` d ω²/‖KQ‖² and ``last`` μ²/‖OV‖², the shares of their energy, ``off`` the largest
    entry of KQ off its first d diagonal entries.
    """
    kq, ov = circuits
    kq = kq[..., :dim]
    diagonal = kq.diagonal(dim1=-2, dim2=-1)[..., :dim]
    omega = diagonal.mean(-1)
    labels = ov[..., dim:].flatten(2)
    mu = labels.gather(2, labels.abs().argmax(2, keepdim=True))[..., 0]
    rest = kq.clone()
    rest.diagonal(dim1=-2, dim2=-1)[..., :dim] = 0
    return {
        "omega": omega,
        "mu": mu,
        "diagonal": dim * omega.square() / kq.square().sum((-2, -1)),
        "last": mu.square() / ov.square().sum((-2, -1)),
        "off": rest.abs().amax((-2, -1)),
    }


def head_types(omega: Tensor, mu: Tensor) -> Tensor:
    """1 for positive heads, −1 for negative, 0 for dummies (|μ ω| below a tenth of the largest), (E, H)."""
    size = (omega * mu).abs()
    return torch.where(size > 0.1 * size.amax(-1, keepdim=True), omega.sign(), torch.zeros_like(omega)).int()
