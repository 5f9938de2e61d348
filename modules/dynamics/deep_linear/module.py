"""Deep linear and tanh networks as a LightningModule: several learning rates and seeds trained together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from framework import OptimizerConfig
from framework.errors import UserError
from framework.settings import above, at_least, finite, not_empty, one_of
from modules.dynamics.deep_linear import theory
from modules.dynamics.deep_linear.initialisation import Init, draw
from modules.dynamics.deep_linear.network import balance, gradients, losses, modes, product
from modules.dynamics.deep_linear.nonlinear import correlation, tanh_gradients, tanh_losses
from modules.dynamics.deep_linear.plots import modes_figure
from modules.ensemble import Batch, Ensemble

Activation = Literal["linear", "tanh"]


class DeepLinear(Ensemble):
    """Trains W = W^L ⋯ W^1 by full-batch gradient descent on Σ11 = X Xᵀ and Σ31 = Y Xᵀ (eq. 13).

    There is a member for each pair of a rate and a seed. It records ``loss`` (½ Σ |y − W x|²), the strength of chosen
    modes of Σ31 in W (``mode/1`` is the strongest), ``crosstalk`` (the largest entry of Uᵀ W V off the diagonal) and
    ``drift`` (the largest change of W^(l+1)ᵀ W^(l+1) − W^l W^lᵀ, relative to |W^l W^lᵀ|). ``mode/…/theory`` is eq. 15,
    available if the start is decoupled and Σ11 has the task's axes.

    With ``activation`` tanh the network is W^L tanh(W^(L−1) ⋯ tanh(W^1 x)) and is trained on the examples themselves
    (batches also have ``x``, ``y`` and ``count``). Its modes are computed from its own correlation Σ ŷ xᵀ in place of W
    and compared with the linear network's theory. There is no ``drift``, because nothing is conserved.

    Args:
        inputs: N_1.
        outputs: N_(L+1).
        layers: L, weight matrices; the paper's N_l is L + 1.
        hidden: Units of each hidden layer.
        init: ``decoupled``, ``orthogonal``, ``gaussian``, ``glorot_uniform``, ``small`` or ``pretrained``.
        u0: For ``decoupled``: strength of the modes in W at the start.
        std: For ``small``: standard deviation of each weight.
        gain: For ``orthogonal``, ``gaussian`` and ``glorot_uniform``: factor of each matrix.
        activation: ``linear`` or ``tanh``.
        rates: Learning rates, as multiples of the optimiser's.
        seeds: Number of seeds for each rate.
        track: Numbers of the modes whose strength is recorded, from 1; numbers above that of the last mode are ignored.
        inner_steps: Number of optimiser steps in one training step.
        points: Approximate number of measurements.
        optimizer: Plain SGD.

    Raises:
        UserError: a setting is not accepted; the data have other inputs or outputs.
    """

    def __init__(
        self,
        inputs: int = 32,
        outputs: int = 1000,
        layers: int = 2,
        hidden: int = 32,
        init: Init = "decoupled",
        u0: float = 1e-3,
        std: float = 0.01,
        gain: float = 1.0,
        activation: Activation = "linear",
        rates: list[float] | None = None,
        seeds: int = 1,
        track: list[int] | None = None,
        inner_steps: int = 100,
        points: int = 200,
        optimizer: OptimizerConfig | None = None,
    ) -> None:
        super().__init__(inner_steps, points, optimizer)
        finite(u0=u0, std=std, gain=gain, rates=rates)
        self.save_hyperparameters()
        at_least(1, inputs=inputs, outputs=outputs, layers=layers, hidden=hidden, seeds=seeds)
        self.multiples = [1.0] if rates is None else list(rates)
        self.track = [1, 2, 3, 5] if track is None else list(track)
        not_empty(rates=self.multiples)
        above(0, rates=self.multiples)
        at_least(1, track=self.track)
        one_of(get_args(Init), init=init)
        one_of(get_args(Activation), activation=activation)
        above(0, u0=u0, std=std, gain=gain)
        self.init, self.u0, self.std, self.gain, self.seeds = init, u0, std, gain, seeds
        self.linear = activation == "linear"
        self.widths = [inputs, *[hidden] * (layers - 1), outputs]
        self.base_seed = int(torch.randint(2**31, (1,)))
        members = len(self.multiples) * seeds
        pairs = zip(self.widths[:-1], self.widths[1:], strict=True)
        self.weights = nn.ParameterList(torch.zeros(members, n, m, dtype=torch.float64) for m, n in pairs)
        multiples = torch.tensor([m for m in self.multiples for _ in range(seeds)], dtype=torch.float64)
        self.register_buffer("multiple", multiples.view(-1, 1, 1))

    multiple: Tensor
    u: Tensor
    s: Tensor
    v: Tensor

    @torch.no_grad()
    def begin(self, batch: Batch) -> None:
        """Draws the weights; a seed gives the same weights for every rate.

        Raises:
            UserError: the data have other sizes, or a tanh network gets no examples.
        """
        s31, s11 = batch["s31"], batch["s11"]
        if s31.shape != (self.widths[-1], self.widths[0]):
            mine = f"outputs, inputs: {self.widths[-1]}, {self.widths[0]}"
            raise UserError(f"{mine}, but the data have {s31.shape[0]}, {s31.shape[1]}")
        if not (self.linear or {"x", "y", "count"} <= set(batch)):
            raise UserError("activation: 'tanh' needs the examples; data.examples must be true")
        for seed in range(self.seeds):
            generator = torch.Generator().manual_seed(self.base_seed + seed)
            drawn = draw(self.init, self.widths, generator, s31, s11, self.u0, self.std, self.gain)
            for weight, value in zip(self.weights, drawn, strict=True):
                weight[seed :: self.seeds] = value
        for name, value in zip("usv", modes(s31), strict=True):
            self.register_buffer(name, value, persistent=False)
        self.kept = balance(list(self.weights))

    def settings(self) -> dict[str, Sequence[Any]]:
        """Returns ``rate`` and ``seed`` of each member."""
        pairs = [(m * self.optimizer_config.lr, seed) for m in self.multiples for seed in range(self.seeds)]
        return {"rate": [rate for rate, _ in pairs], "seed": [seed for _, seed in pairs]}

    def losses(self, batch: Batch) -> Tensor:
        """Returns ½ Σ |y − ŷ|² of each member."""
        if not self.linear:
            return tanh_losses(list(self.weights), batch["x"], batch["y"], batch["count"])
        return losses(list(self.weights), batch["s31"], batch["s11"], batch["syy"])

    def gradients(self, batch: Batch) -> list[Tensor]:
        """Minus the right side of eq. 13 (or, with tanh, the gradient on the examples), times the member's rate."""
        weights = self.stacks()
        if self.linear:
            found = gradients(weights, batch["s31"], batch["s11"])
        else:
            found = tanh_gradients(weights, batch["x"], batch["y"], batch["count"])
        return [self.multiple * g for g in found] if len(self.multiples) > 1 else found

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the measurements named in the class's docstring."""
        weights = list(self.weights)
        w = product(weights) if self.linear else correlation(weights, batch["x"], batch["count"])
        found = {"loss": self.losses(batch)}
        crossed = self.u.mT @ w @ self.v
        strength = crossed.diagonal(dim1=-2, dim2=-1)
        found |= {f"mode/{mode}": strength[:, mode - 1] for mode in self.tracked}
        found["crosstalk"] = (crossed - torch.diag_embed(strength)).abs().amax((-2, -1))
        drift = [
            (now - then.to(now)).norm(dim=(-2, -1)) / (weight @ weight.mT).norm(dim=(-2, -1)).clamp(min=1e-300)
            for now, then, weight in zip(balance(weights), self.kept, weights, strict=False)
        ]
        if drift and self.linear:
            found["drift"] = torch.stack(drift).amax(0)
        return found

    @property
    def tracked(self) -> list[int]:
        """Modes that are recorded."""
        return [mode for mode in self.track if mode <= len(self.s)]

    def theory(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Returns the predictions named in the class's docstring."""
        if self.init != "decoupled":
            return {}
        inside = self.v.mT @ batch["s11"] @ self.v
        variance = inside.diagonal()
        if float((inside - torch.diag(variance)).norm()) > 1e-8 * float(inside.norm()):
            return {}
        rates = self.settings()["rate"]
        found = {}
        for mode in self.tracked:
            s, d = float(self.s[mode - 1]), float(variance[mode - 1])
            found[f"mode/{mode}"] = torch.tensor([self._curve(s, d, rate * step) for rate in rates])
        return found

    def _curve(self, s: float, d: float, t: float) -> float:
        """Returns u(t) of u' = L u^(2 − 2/L) (s − d u): in closed form for two layers, else by integration in log u."""
        count = len(self.weights)
        if count == 2:
            return float(theory.strength(t, s, self.u0, d=d))
        power = 1 - 2 / count

        def slope(_: float, x: np.ndarray) -> np.ndarray:
            u = np.exp(x)
            return count * u**power * (s - d * u)

        solved = solve_ivp(slope, (0, t), [np.log(self.u0)], rtol=1e-9, atol=1e-12, method="LSODA")
        return float(np.exp(solved.y[0, -1]))

    def draw(self) -> None:
        """Strengths of the modes over steps, with the theory's lines."""
        if self.tracked:
            self.log_figure("modes", modes_figure(self.trajectory(), self.tracked))
