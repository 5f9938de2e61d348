"""The training of a ReLU classifier whose activation patterns are its codes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from framework import OptimizerConfig, ScheduleConfig
from framework.errors import UserError
from framework.settings import at_least
from modules.classifier import Classifier
from modules.interpretability.hash_encoder.network import BNReLUMLP

ADAM = OptimizerConfig("adam", lr=0.01, weight_decay=0.0, args={"eps": 1e-7})
STEPS = ScheduleConfig("step", every=20, gamma=0.1)


class EpochMeans(Metric):
    """Means of loss and accuracy over the examples of an epoch and all processes."""

    full_state_update = False
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", default=torch.zeros(3), dist_reduce_fx="sum")

    def add(self, loss: Tensor, right: Tensor) -> None:
        """Adds the mean loss of a batch, and which of its examples (B,) are classified rightly.

        ``update`` would do the same; torchmetrics' bookkeeping around it takes longer than a step of these networks.
        """
        count = right.numel()
        self.sums += torch.stack([loss * count, right.sum(), loss.new_tensor(count)])
        self._update_count += 1

    def update(self, loss: Tensor, right: Tensor) -> None:
        """Does the same as :meth:`add`."""
        self.add(loss, right)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Returns mean loss and accuracy."""
        loss, right, count = self.sums
        return loss / count, right / count


class HashEncoder(Classifier):
    """A perceptron with batch normalisation and ReLU, trained by cross-entropy + ``l2`` Σ ‖W‖² over hidden weights.

    Batches are ``(x, y)``, ``x`` (B, …) with ``inputs`` numbers in each example. Its codes are read by the technique
    ``neural_code``, or by ``framework.functional.neural_code.neural_codes(model, x)``.

    Args:
        inputs: Numbers in an example.
        num_classes: Number of classes.
        width: Number of hidden units of all layers together; each layer has ⌊width/depth⌋.
        depth: Number of hidden layers.
        batch_norm: Whether there is batch normalisation.
        l2: Weight of the squared norm of the hidden weight matrices in the loss.
        optimizer: The optimiser; by default Adam, rate 0.01, ε 1e-7.
        schedule: The schedule; by default the rate is multiplied by 0.1 every 20 epochs.

    Raises:
        UserError: a setting is not accepted; the datamodule's inputs or classes differ (in ``setup``).
    """

    net: BNReLUMLP

    def __init__(
        self,
        inputs: int = 784,
        num_classes: int = 10,
        width: int = 40,
        depth: int = 1,
        batch_norm: bool = True,
        l2: float = 1e-6,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(num_classes, ADAM if optimizer is None else optimizer, STEPS if schedule is None else schedule)
        at_least(0, l2=l2)
        self.save_hyperparameters()
        self.inputs, self.l2 = inputs, l2
        self.epoch = EpochMeans()
        self.net = BNReLUMLP(inputs, num_classes, width, depth, batch_norm)

    def setup(self, stage: str) -> None:
        """Compares the datamodule's inputs and classes with the model's.

        Raises:
            UserError: they differ.
        """
        super().setup(stage)
        found = getattr(getattr(self.trainer, "datamodule", None), "inputs", None)
        if found is not None and found != self.inputs:
            raise UserError(f"model.init_args.inputs: {self.inputs}, but an example of the data has {found} numbers")

    def penalty(self) -> Tensor:
        """Returns Σ ‖W‖² over the hidden weight matrices."""
        return torch.stack([layer.weight.square().sum() for layer in self.net.kernels()]).sum()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the cross-entropy of a batch plus the penalty; ``train/loss`` is the mean of both over an epoch."""
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits, y)
        if self.l2:
            loss = loss + self.l2 * self.penalty()
        self.epoch.add(loss.detach(), logits.detach().argmax(1) == y)
        return loss

    def on_train_epoch_end(self) -> None:
        """Logs the means of the epoch: logging a step takes longer than the step."""
        loss, accuracy = self.epoch.compute()
        self.epoch.reset()
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/accuracy", accuracy, prog_bar=True)
