"""Wide networks under full-batch gradient descent as a LightningModule; members differ in their initial weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from framework import OptimizerConfig
from framework.errors import UserError
from framework.functional.ntk import ActivationName, KernelPredictor, drift, infinite_kernels, inflation
from framework.settings import at_least, finite, one_of
from modules.dynamics.ntk.mlp import NTKMLP
from modules.dynamics.ntk.plots import fan_figure
from modules.ensemble import Batch, Ensemble

Dtype = Literal["float32", "float64"]
DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}


class NTKRegression(Ensemble):
    """Trains networks in NTK parametrisation on (1/2N) Σ (f(x_i) − y_i)² and compares them with the limit of infinite
    width.

    Batches have ``x`` (N, n_0) and ``y`` (N,), or ``x`` and ``component`` c (N,): then each member's targets are f_0 +
    ``amplitude`` c. It records for each member ``loss`` and

    - with a ``probe`` (P, n_0) in the batch, ``drift`` and ``inflation`` of its kernel on the probe since the start;
    - with a ``component``, ``along`` |g| and ``across`` ‖h‖: f_t − f* = g c + h, and their predictions.

    ``loss/theory`` is (I − η K/N)^k (f_0 − f*), with K the limit kernel and f_0 the member's initial outputs.

    Args:
        inputs: n_0.
        width: n.
        depth: L, the number of weight matrices.
        beta: β.
        activation: One of ``framework.functional.ntk.ACTIVATIONS``.
        amplitude: Amplitude of a component.
        seeds: Number of members.
        dtype: ``float32`` or ``float64``, of the parameters; kernels are summed in float64.
        inner_steps: Number of gradient descent steps in one training step.
        points: Approximate number of measurements.
        optimizer: Plain SGD, its rate η; by default 1.

    Raises:
        UserError: a setting is not accepted; the data have another shape.
    """

    def __init__(
        self,
        inputs: int = 2,
        width: int = 500,
        depth: int = 4,
        beta: float = 0.1,
        activation: ActivationName = "relu",
        amplitude: float = 0.5,
        seeds: int = 10,
        dtype: Dtype = "float32",
        inner_steps: int = 20,
        points: int = 20,
        optimizer: OptimizerConfig | None = None,
    ) -> None:
        plain = OptimizerConfig("sgd", lr=1.0, weight_decay=0.0)
        super().__init__(inner_steps, points, plain if optimizer is None else optimizer)
        finite(beta=beta, amplitude=amplitude)
        self.save_hyperparameters()
        at_least(1, seeds=seeds)
        one_of(get_args(Dtype), dtype=dtype)
        self.inputs, self.depth, self.beta, self.activation = inputs, depth, beta, activation
        self.amplitude, self.seeds = amplitude, seeds
        self.net = NTKMLP(inputs, width, depth, 1, beta, activation, seeds, DTYPES[dtype])

    def settings(self) -> dict[str, Sequence[Any]]:
        """Returns ``seed`` of each member."""
        return {"seed": list(range(self.seeds))}

    def begin(self, batch: Batch) -> None:
        """Stores the outputs and the kernels at the start, and the targets.

        Raises:
            UserError: the batch lacks inputs or targets, or has other inputs.
        """
        if "x" not in batch or not ("y" in batch or "component" in batch):
            raise UserError(f"the batch has {', '.join(batch)}; x and y, or x and component, are needed")
        if batch["x"].shape[1] != self.inputs:
            raise UserError(f"inputs: {self.inputs}, but the data have {batch['x'].shape[1]}")
        outputs = self.outputs(batch["x"])
        if "component" in batch:
            targets = outputs + self.amplitude * batch["component"].double()
        else:
            targets = batch["y"].double().expand_as(outputs)
        self.kept = {"outputs": outputs, "targets": targets}
        if "probe" in batch:
            self.kept["kernel"] = self.net.kernel(batch["probe"])
        kernel = infinite_kernels(batch["x"].cpu(), None, self.depth, self.beta, self.activation)[1]
        self.predictor = KernelPredictor(kernel, float(self.optimizer_config.lr))

    @torch.no_grad()
    def outputs(self, x: Tensor) -> Tensor:
        """Returns f (E, N), float64."""
        return self.net(x)[..., 0].double()

    def losses(self, batch: Batch) -> Tensor:
        """Returns (1/2N) Σ (f(x_i) − y_i)², (E,)."""
        found = self.net(batch["x"])[..., 0]
        return (found - self.kept["targets"].to(found)).square().mean(1) / 2

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the measurements named in the class's docstring."""
        error = self.outputs(batch["x"]) - self.kept["targets"].to(batch["x"].device)
        found = {"loss": error.square().mean(1) / 2}
        if "probe" in batch:
            kernel, start = self.net.kernel(batch["probe"]), self.kept["kernel"].to(batch["x"].device)
            found |= {"drift": drift(kernel, start), "inflation": inflation(kernel, start)}
        if "component" in batch:
            component = batch["component"].double()
            along = (error * component).mean(1)
            found["along"] = along.abs()
            found["across"] = (error - along[:, None] * component).square().mean(1).sqrt()
        return found

    def theory(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Returns the predictions named in the class's docstring."""
        start, targets = self.kept["outputs"].cpu(), self.kept["targets"].cpu()
        error = self.predictor.on_data(start, targets, step) - targets
        found = {"loss": error.square().mean(1) / 2}
        if "component" in batch:
            component = batch["component"].double().cpu()
            along = (error * component).mean(1)
            found["along"] = along.abs()
            found["across"] = (error - along[:, None] * component).square().mean(1).sqrt()
        return found

    def draw(self) -> None:
        """Losses (or components) over steps, with the prediction."""
        found = self.trajectory()
        name = "along" if "along" in found else "loss"
        self.log_figure("training", fan_figure(found, name))
