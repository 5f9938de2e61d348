"""The experiments of GrokAlign (Walker et al. 2025, arXiv 2506.12284) as LightningModules."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework import Module, OptimizerConfig, ScheduleConfig
from framework.errors import UserError
from framework.settings import at_least, one_of
from modules.interpretability.grok_align.networks import BiasFreeConvNet, BiasFreeMLP, LastTokenTransformer

Loss = Literal["ce", "mse", "bce"]
Dtype = Literal["float32", "float64"]
DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}


def task_loss(outputs: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """Returns the loss of a batch, a scalar.

    Args:
        outputs: (B, C).
        y: Classes (B,); with one output, the second class is what is above 0.
        loss: ``ce``; ``mse``, to one-hot vectors, or of one output to -1 and 1; or ``bce``, of one logit.
    """
    if loss == "ce":
        return F.cross_entropy(outputs, y)
    if loss == "bce":
        return F.binary_cross_entropy_with_logits(outputs[:, 0], (y > 0).to(outputs.dtype))
    if outputs.shape[1] == 1:
        return (outputs[:, 0] - (y > 0).to(outputs.dtype).mul(2).sub(1)).square().mean()
    return F.mse_loss(outputs, F.one_hot(y, outputs.shape[1]).to(outputs.dtype))


def correct(outputs: Tensor, y: Tensor) -> Tensor:
    """Returns which samples are classified correctly, (B,); one output classifies by its sign.

    Args:
        outputs: (B, C).
        y: Classes (B,); with one output, the second class is what is above 0.
    """
    return outputs.argmax(1) == y if outputs.shape[1] > 1 else (outputs[:, 0] > 0) == (y > 0)


class GrokExperiment(Module):
    """Trains ``self.net`` on few samples; a subclass makes it.

    Batches are ``(x, y)``. Logs ``train/loss``, ``val/loss``, and an accuracy for each validation loader: under the
    names of the datamodule's ``val_metrics`` where it has them (``val/accuracy``, ``train/accuracy``, …), so that the
    training accuracy is that of one moment on all of the training set.

    Args:
        outputs: C.
        loss: ``ce``, ``mse`` or ``bce``.
        optimizer: The optimiser.
        schedule: The learning-rate schedule.

    Raises:
        UserError: a setting is not accepted; the datamodule has other inputs or classes (in ``setup``).
    """

    net: nn.Module
    inputs: int | None = None

    def __init__(
        self,
        outputs: int,
        loss: Loss = "ce",
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        one_of(get_args(Loss), loss=loss)
        at_least(1, outputs=outputs)
        if (loss == "ce" and outputs == 1) or (loss == "bce" and outputs != 1):
            accepted = "2 or more" if loss == "ce" else "1"
            raise UserError(f"outputs: {outputs} is not accepted with the loss {loss!r}; {accepted}")
        self.outputs, self.loss = outputs, loss

    def setup(self, stage: str) -> None:
        """Compares the datamodule with the network.

        Raises:
            UserError: it has another number of inputs or classes.
        """
        data: Any = getattr(self.trainer, "datamodule", None)
        classes, inputs = getattr(data, "num_classes", None), getattr(data, "inputs", None)
        if classes is not None and self.outputs > 1 and classes != self.outputs:
            raise UserError(f"model.init_args.outputs: {self.outputs}, but the data has {classes} classes")
        if classes is not None and self.outputs == 1 and classes != 2:
            raise UserError(f"model.init_args.outputs: 1 is for two classes, but the data has {classes}")
        if None not in (inputs, self.inputs) and inputs != self.inputs:
            raise UserError(f"model.init_args.inputs: {self.inputs}, but the data has {inputs}")

    def forward(self, x: Tensor) -> Tensor:
        """Maps inputs to outputs (B, C)."""
        return self.net(self._ready(x))

    def _ready(self, x: Tensor) -> Tensor:
        """In the network's type, before the network is called: derivatives by the input are in it too."""
        return x.to(next(self.net.parameters()).dtype) if x.is_floating_point() else x

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the loss of a batch."""
        x, y = batch
        loss = task_loss(self(self._ready(x)), y, self.loss)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _evaluate(self, batch: tuple[Tensor, Tensor], part: str, number: int) -> None:
        x, y = batch
        outputs = self(self._ready(x))
        names = getattr(getattr(self.trainer, "datamodule", None), f"{part}_metrics", ())
        name = names[number] if number < len(names) else f"{part}/accuracy" + (f"_{number}" if number else "")
        shown: dict[str, Any] = {"batch_size": len(y), "add_dataloader_idx": False, "sync_dist": True}
        self.log(name, correct(outputs, y).double().mean(), prog_bar=True, **shown)
        if number == 0:
            self.log(f"{part}/loss", task_loss(outputs, y, self.loss), **shown)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Accuracy of a batch, and the loss for the first loader."""
        self._evaluate(batch, "val", dataloader_idx)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Accuracy of a batch, and the loss for the first loader."""
        self._evaluate(batch, "test", dataloader_idx)

    def predict_step(
        self, batch: tuple[Tensor, Tensor] | Tensor, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Outputs (B, C) and, if the batch has them, targets (B,)."""
        x, y = batch if isinstance(batch, tuple | list) else (batch, None)
        found = {"outputs": self(self._ready(x))}
        return found if y is None else {**found, "target": y}


class GrokMLP(GrokExperiment):
    """A ReLU perceptron without biases that starts with large weights.

    Args:
        inputs: d, numbers per sample.
        hidden: Widths of the hidden layers.
        outputs: C; 1 for two classes by one logit.
        scale: Factor on PyTorch's initial weights; the authors' 8.
        loss: ``ce``, ``mse`` (one-hot) or ``bce``.
        dtype: ``float64``, or ``float32``, in which the cross-entropy of large initial outputs saturates.
        optimizer: The optimiser.
        schedule: The learning-rate schedule.

    Raises:
        UserError: a setting is not accepted; the datamodule has other inputs or classes (in ``setup``).
    """

    def __init__(
        self,
        inputs: int = 784,
        hidden: list[int] | None = None,
        outputs: int = 10,
        scale: float = 8.0,
        loss: Loss = "ce",
        dtype: Dtype = "float64",
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(outputs, loss, optimizer, schedule)
        self.save_hyperparameters()
        one_of(get_args(Dtype), dtype=dtype)
        self.inputs = inputs
        widths = [196, 196, 196] if hidden is None else hidden
        self.net = BiasFreeMLP(inputs, widths, outputs, scale).to(DTYPES[dtype])


class XORNet(GrokExperiment):
    """p-width-1 without biases, on targets -1 and 1 by least squares.

    Args:
        inputs: p.
        width: Hidden units.
        dtype: ``float32`` or ``float64``.
        optimizer: The optimiser; by default SGD at 0.1 with weight decay 0.1, as the authors'.
        schedule: The learning-rate schedule.

    Raises:
        UserError: a setting is not accepted; the datamodule has other inputs (in ``setup``).
    """

    def __init__(
        self,
        inputs: int = 4000,
        width: int = 128,
        dtype: Dtype = "float32",
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        default = OptimizerConfig("sgd", lr=0.1, weight_decay=0.1)
        super().__init__(1, "mse", default if optimizer is None else optimizer, schedule)
        self.save_hyperparameters()
        one_of(get_args(Dtype), dtype=dtype)
        self.inputs = inputs
        self.net = BiasFreeMLP(inputs, [width], 1).to(DTYPES[dtype])


class GrokConvNet(GrokExperiment):
    """A convolutional network without biases on images, for delayed robustness.

    Args:
        image_size: Side of the images in pixels, a multiple of 32.
        channels: Of the images.
        width: Channels of the first convolution.
        hidden: Units of the hidden linear layer.
        outputs: C.
        optimizer: The optimiser.
        schedule: The learning-rate schedule.

    Raises:
        UserError: a setting is not accepted; the datamodule has other classes (in ``setup``).
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        width: int = 32,
        hidden: int = 128,
        outputs: int = 10,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(outputs, "ce", optimizer, schedule)
        self.save_hyperparameters()
        self.inputs = channels * image_size**2
        self.net = BiasFreeConvNet(image_size, channels, width, hidden, outputs)


class ModAddTransformer(GrokExperiment):
    """A transformer of one layer without layer norm that adds two numbers modulo p.

    Args:
        modulus: p; tokens are 0 … p - 1, and p for ``=``.
        d_model: Width of the residual stream.
        heads: Attention heads, a divisor of ``d_model``.
        hidden: Width of the perceptron.
        freeze_embedding: Whether the token embedding is not trained.
        optimizer: The optimiser; by default AdamW with weight decay 1 and betas .9 and .98, as the authors'.
        schedule: The learning-rate schedule.

    Raises:
        UserError: a setting is not accepted; the datamodule has other classes (in ``setup``).
    """

    def __init__(
        self,
        modulus: int = 113,
        d_model: int = 128,
        heads: int = 4,
        hidden: int = 512,
        freeze_embedding: bool = False,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        default = OptimizerConfig("adamw", lr=1e-3, weight_decay=1.0, args={"betas": [0.9, 0.98]})
        super().__init__(modulus, "ce", default if optimizer is None else optimizer, schedule)
        self.save_hyperparameters()
        self.inputs = 3
        self.net = LastTokenTransformer(modulus + 1, 3, modulus, d_model, heads, hidden)
        self.net.embed.weight.requires_grad_(not freeze_embedding)
