"""Several MLPs in the NTK parametrisation in one module, and their tangent kernel layer by layer."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import torch
from torch import Tensor, nn

from framework.functional.ntk import ACTIVATIONS, ActivationName
from framework.settings import at_least, one_of


class NTKMLP(nn.Module):
    """pre^{l+1} = W^l a^l / √n_l + β b^l, a^l = σ(pre^l), f = pre^L; all W and b start as N(0, 1).

    Args:
        inputs: n_0.
        width: n, width of each hidden layer.
        depth: L, the number of weight matrices.
        outputs: n_L.
        beta: β.
        activation: One of ``framework.functional.ntk.ACTIVATIONS``.
        members: E, the number of networks, each with its own draw.
        dtype: Type of the parameters.

    Raises:
        UserError: a setting is not accepted.
    """

    def __init__(
        self,
        inputs: int,
        width: int = 500,
        depth: int = 4,
        outputs: int = 1,
        beta: float = 0.1,
        activation: ActivationName = "relu",
        members: int = 1,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        at_least(1, inputs=inputs, width=width, depth=depth, outputs=outputs, members=members)
        at_least(0, beta=beta)
        one_of(get_args(ActivationName), activation=activation)
        self.beta, self.activation, self.members = beta, ACTIVATIONS[activation], members
        ends = [inputs, *[width] * (depth - 1), outputs]
        pairs = list(pairwise(ends))
        self.weights = nn.ParameterList(torch.randn(members, n, m, dtype=dtype) for n, m in pairs)
        self.biases = nn.ParameterList(torch.randn(members, 1, m, dtype=dtype) for _, m in pairs)

    def layers(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Returns a^0 … a^{L−1} and pre^1 … pre^L, (E, N, n_l) each, of (N, n_0)."""
        a = x.to(self.weights[0].dtype).expand(self.members, *x.shape)
        activations, before = [a], []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            z = (a @ weight) / weight.shape[1] ** 0.5
            before.append(z + self.beta * bias)
            a = self.activation.value(before[-1])
            activations.append(a)
        return activations[:-1], before

    def forward(self, x: Tensor) -> Tensor:
        """Returns (E, N, n_L) of (N, n_0)."""
        return self.layers(x)[1][-1]

    @torch.no_grad()
    def _factors(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Returns a^l (E, N, n_l) and δ^{l+1} = ∂f/∂pre^{l+1} (E, N n_L, n_{l+1}), for l = 0 … L − 1."""
        activations, before = self.layers(x)
        outputs = before[-1].shape[-1]
        delta = torch.eye(outputs, dtype=before[-1].dtype, device=x.device)
        deltas = [delta.repeat(self.members, len(x), 1)]
        for weight, z in zip(reversed(self.weights), reversed(before[:-1]), strict=False):
            back = deltas[0] @ weight.mT / weight.shape[1] ** 0.5
            deltas.insert(0, back * self.activation.derivative(z).repeat_interleave(outputs, dim=1))
        return activations, deltas

    @torch.no_grad()
    def kernel(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Returns Θ = Σ_l [⟨a^l(x), a^l(y)⟩ / n_l + β²] ⟨δ^{l+1}(x), δ^{l+1}(y)⟩: no Jacobian, O(N n² + N² n).

        Args:
            x: (N, n_0).
            y: (N', n_0); by default ``x``.

        Returns:
            (E, N n_L, N' n_L), float64; the outputs of one point are adjacent.
        """
        left = self._factors(x)
        right = left if y is None else self._factors(y)
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        for a, delta, other, other_delta in zip(*left, *right, strict=True):
            outer = (a @ other.mT).double() / a.shape[-1] + self.beta**2
            outputs = delta.shape[1] // a.shape[1]
            outer = outer.repeat_interleave(outputs, 1).repeat_interleave(outputs, 2)
            total = total + outer * (delta @ other_delta.mT).double()
        return total
