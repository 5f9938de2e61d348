"""Students with one hidden layer of ReLUs as a LightningModule: several widths and draws of the data together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from framework import OptimizerConfig
from framework.errors import UserError
from framework.settings import above, at_least, finite, not_empty, one_of
from modules.dynamics.generalization_dynamics.plots import widths_figure
from modules.dynamics.generalization_dynamics.students import StudentFlow, flow, random_features
from modules.ensemble import Batch, Ensemble

Trained = Literal["readout", "all"]


class HiddenLayerStudent(Ensemble):
    """Trains ŷ = a · ReLU(W x) / √N_h on ½ Σ (y − ŷ)² by full-batch gradient descent: only a, or a and W.

    With ``train: readout`` W is not trained and the theory of linear students holds for its random features; such
    students can also follow the exact gradient flow. There is a member for each pair of a width and a draw of the data.
    It records ``time`` (steps times rate), ``test_error`` and ``train_error`` (mean squares) and, where the test's
    labels are ±1, ``test_mistakes`` (share of wrong signs).

    Args:
        inputs: N.
        widths: N_h, one or more.
        draws: E, of the data and of the first weights.
        train: ``readout`` or ``all``.
        std: Standard deviation of the first W.
        readout_std: Standard deviation of the first a.
        exact: Whether to solve the gradient flow of the read-out instead of taking steps.
        inner_steps: Number of optimiser steps in one training step.
        points: Approximate number of measurements.
        optimizer: Plain SGD; its rate is the time of a step.

    Raises:
        UserError: a setting is not accepted; the data have other inputs or draws.
    """

    def __init__(
        self,
        inputs: int = 15,
        widths: list[int] | None = None,
        draws: int = 5,
        train: Trained = "readout",
        std: float = 1.0,
        readout_std: float = 0.0,
        exact: bool = False,
        inner_steps: int = 100,
        points: int = 100,
        optimizer: OptimizerConfig | None = None,
    ) -> None:
        super().__init__(inner_steps, points, optimizer)
        finite(std=std, readout_std=readout_std)
        self.save_hyperparameters()
        at_least(1, inputs=inputs, draws=draws)
        self.widths = [100] if widths is None else list(widths)
        not_empty(widths=self.widths)
        at_least(1, widths=self.widths)
        one_of(get_args(Trained), train=train)
        if exact and train == "all":
            raise UserError("exact: the flow has a solution for train 'readout' only")
        above(0, std=std)
        at_least(0, readout_std=readout_std)
        self.inputs, self.draws, self.exact, self.all = inputs, draws, exact, train == "all"
        drawn = [std * torch.randn(draws, width, inputs, dtype=torch.float64) for width in self.widths]
        self.readout = nn.ParameterList(
            readout_std * torch.randn(draws, width, dtype=torch.float64) for width in self.widths
        )
        if self.all:
            self.trained = nn.ParameterList(drawn)
        else:
            for index, weight in enumerate(drawn):
                self.register_buffer(f"frozen_{index}", weight)
        self.kept = []
        self._forget()

    def _forget(self) -> None:
        """Removes values that can be computed from the weights and the data."""
        self.solutions: list[StudentFlow] = []
        self.cached: dict[str, list[Tensor]] = {}

    @property
    def hidden(self) -> list[Tensor]:
        """W of each width (E, N_h, N)."""
        return list(self.trained) if self.all else [getattr(self, f"frozen_{i}") for i in range(len(self.widths))]

    def begin(self, batch: Batch) -> None:
        """Stores the initial read-outs.

        Raises:
            UserError: the data have other sizes.
        """
        x = batch["x"]
        if x.shape[:2] != (self.draws, self.inputs):
            raise UserError(f"draws, inputs: {self.draws}, {self.inputs}, but the data have {x.shape[0]}, {x.shape[1]}")
        self.kept = [a.detach().clone() for a in self.readout]
        self._forget()

    def settings(self) -> dict[str, Sequence[Any]]:
        """Returns ``width`` and ``draw`` of each member."""
        pairs = [(width, draw) for width in self.widths for draw in range(self.draws)]
        return {"width": [width for width, _ in pairs], "draw": [draw for _, draw in pairs]}

    def features(self, batch: Batch, name: str) -> list[Tensor]:
        """ReLU(W X) / √N_h of ``x`` or ``x_test`` for each width, (E, N_h, P); computed once if W is not trained."""
        if self.all:
            return [random_features(batch[name], weight) for weight in self.hidden]
        if name not in self.cached:
            self.cached[name] = [random_features(batch[name], weight) for weight in self.hidden]
        return self.cached[name]

    def trained_features(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Hidden activations (E, N_h, P) and read-outs (E, N_h) of each width."""
        pairs = zip(self.widths, self.features(batch, "x"), self.readout, strict=True)
        return {f"width_{width}": (h.detach(), a.detach()) for width, h, a in pairs}

    def outputs(self, batch: Batch, name: str) -> list[Tensor]:
        """Returns ŷ on ``x`` or ``x_test`` for each width, (E, P)."""
        pairs = zip(self.readout, self.features(batch, name), strict=True)
        return [(a[:, None] @ h)[:, 0] for a, h in pairs]

    def losses(self, batch: Batch) -> Tensor:
        """Returns ½ Σ (y − ŷ)² of each member."""
        return torch.cat([0.5 * (y - batch["y"]).square().sum(-1) for y in self.outputs(batch, "x")])

    def gradients(self, batch: Batch) -> list[Tensor]:
        """Gradients of :meth:`losses`: by each width's a, then by each W."""
        of_readout, of_hidden = [], []
        for a, h in zip(self.readout, self.features(batch, "x"), strict=True):
            error = (a[:, None] @ h) - batch["y"][:, None]
            of_readout.append((h @ error.mT)[..., 0])
            if self.all:
                back = (h > 0) * (a[..., None] * error) / h.shape[1] ** 0.5
                of_hidden.append(back @ batch["x"].mT)
        return of_readout + of_hidden

    def advance(self, batch: Batch, steps: int, optimizer: torch.optim.Optimizer) -> None:
        """Takes the base class's steps, or follows the gradient flow for the same time."""
        if not self.exact:
            super().advance(batch, steps, optimizer)
            return
        if not self.solutions:
            pairs = zip(self.features(batch, "x"), self.kept, strict=True)
            self.solutions = [flow(h, batch["y"], a.to(h)) for h, a in pairs]
        self.steps_taken += steps
        for a, solution in zip(self.readout, self.solutions, strict=True):
            a.copy_(solution.at(self.steps_taken * self.optimizer_config.lr))

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the measurements named in the class's docstring."""
        train, test = (self.outputs(batch, name) for name in ("x", "x_test"))
        labels = batch["y_test"]
        time = torch.tensor(self.steps_taken * self.optimizer_config.lr, dtype=torch.float64)
        found = {
            "time": time.expand(len(self.widths) * self.draws),
            "test_error": torch.cat([(y - labels).square().mean(-1) for y in test]),
            "train_error": torch.cat([(y - batch["y"]).square().mean(-1) for y in train]),
        }
        if bool((labels.abs() == 1).all()):
            found["test_mistakes"] = torch.cat([(y * labels <= 0).double().mean(-1) for y in test])
        return found

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the initial read-outs."""
        super().on_load_checkpoint(checkpoint)
        self._forget()

    def draw(self) -> None:
        """Test errors over time, and their smallest and last values over widths."""
        self.log_figure("widths", widths_figure(self.trajectory()))
