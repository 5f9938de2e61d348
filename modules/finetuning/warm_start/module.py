"""A classifier that is trained in rounds on more and more data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.module import OptimizerConfig, ScheduleConfig, as_dataclass
from framework.settings import at_least, one_of
from modules.classifier import Classifier

Net = Literal["mlp", "logistic", "resnet18_narrow"]


def mlp(sizes: Sequence[int], bias: bool = True) -> nn.Sequential:
    """Linear layers with ReLU between them, for flattened inputs ``(B, …)`` of ``sizes[0]`` numbers each."""
    layers: list[nn.Module] = [nn.Flatten()]
    for index, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        layers += [nn.ReLU()] if index else []
        layers.append(nn.Linear(fan_in, fan_out, bias=bias))
    return nn.Sequential(*layers)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut (He et al. 2016, post-activation).

    Args:
        channels_in: Channels of the input.
        channels: Channels of the output.
        stride: Stride of the first convolution and the shortcut.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)`` to ``(B, channels, H / stride, W / stride)``."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class NarrowResNet18(nn.Module):
    """ResNet-18 for small images with a quarter of the usual channels: stem 16, stages 16, 32, 64, 128.

    Args:
        in_chans: Channels of the images.
        num_classes: Outputs.
        width: Channels of the stem and of the first stage.
    """

    def __init__(self, in_chans: int = 3, num_classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        blocks: list[nn.Module] = []
        before = width
        for stage in range(4):
            for block in range(2):
                channels = width * 2**stage
                blocks.append(BasicBlock(before, channels, stride=2 if stage and not block else 1))
                before = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images ``(B, in_chans, H, W)`` to logits ``(B, num_classes)``; the mean is taken over all positions."""
        return self.head(self.blocks(F.relu(self.norm(self.stem(x)))).mean((2, 3)))


def prediction_entropy(logits: Tensor) -> Tensor:
    """Mean entropy in nats of the softmax of ``(…, B, C)`` logits, over the batch."""
    logs = logits.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1).mean(-1)


def gradient_norm(module: nn.Module, x: Tensor, y: Tensor, batch_size: int = 128) -> float:
    """Mean over consecutive batches of the norm of the gradient of the cross-entropy.

    The module's gradients are not changed. Frozen parameters are ignored.

    Args:
        module: Maps ``(B, …)`` to logits ``(B, C)``.
        x: Inputs ``(N, …)``; an incomplete last batch is ignored.
        y: Classes ``(N,)``.
        batch_size: Number of samples in a batch.

    Raises:
        ValueError: there are fewer samples than in one batch.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if len(x) < batch_size:
        raise ValueError(f"{len(x)} samples do not fill a batch of {batch_size}")
    norms = []
    for start in range(0, len(x) - batch_size + 1, batch_size):
        rows = slice(start, start + batch_size)
        loss = F.cross_entropy(module(x[rows]), y[rows])
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        norms.append(math.sqrt(sum(float(g.square().sum()) for g in gradients if g is not None)))
    return sum(norms) / len(norms)


def gradient_ratio(
    module: nn.Module, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], batch_size: int = 128
) -> float:
    """Norm of the gradient on new data divided by that on old data (the paper's figure on gradient magnitudes).

    Args:
        module: Maps ``(B, …)`` to logits ``(B, C)``.
        old: Inputs ``(N, …)`` and classes ``(N,)`` that the module was trained on.
        new: Inputs and classes that it was not trained on.
        batch_size: Number of samples in a batch.
    """
    return gradient_norm(module, *new, batch_size) / gradient_norm(module, *old, batch_size)


class OnlineLearner(Classifier):
    """A classifier trained on data that arrives in rounds.

    Batches are ``(x, y)``: ``x`` float ``(B, in_features)`` or ``(B, in_chans, H, W)``, ``y`` int64 ``(B,)``. Logs
    ``train/loss``, ``train/accuracy`` (mean over the epoch's batches while it trains), and ``val/`` and ``test/``
    with ``loss``, ``accuracy`` and ``entropy`` (of the predictions, in nats).

    Args:
        net: ``mlp`` (ReLU), ``logistic`` (one linear layer) or ``resnet18_narrow``.
        num_classes: Classes.
        in_features: Numbers in an input of ``mlp`` and ``logistic``.
        in_chans: Channels of the images of ``resnet18_narrow``.
        widths: Hidden layers of ``mlp``.
        width: Channels of the first stage of ``resnet18_narrow``.
        optimizer: The optimiser; the paper's is Adam or SGD without weight decay.
        later_optimizer: The optimiser of the rounds after the first; by default the same. It is used when a new
            optimiser is created, as the technique ``warm_start`` does in every round.
        schedule: The learning-rate schedule; the paper's is constant.

    Raises:
        UserError: a setting is not accepted (in the constructor); the datamodule has another number of classes (in
            ``setup``).
    """

    def __init__(
        self,
        net: Net = "mlp",
        num_classes: int = 10,
        in_features: int = 40,
        in_chans: int = 3,
        widths: list[int] | None = None,
        width: int = 16,
        optimizer: OptimizerConfig | None = None,
        later_optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(num_classes, optimizer or OptimizerConfig(name="adam", lr=1e-3, weight_decay=0.0), schedule)
        self.save_hyperparameters()
        one_of(get_args(Net), net=net)
        hidden = [100, 100] if widths is None else list(widths)
        numbers = {"in_features": in_features, "in_chans": in_chans, "width": width}
        at_least(1, **numbers, widths=min(hidden, default=1))
        self.later_config = as_dataclass(OptimizerConfig, later_optimizer) if later_optimizer else None
        if net == "resnet18_narrow":
            self.net: nn.Module = NarrowResNet18(in_chans, num_classes, width)
        else:
            self.net = mlp([in_features, *(hidden if net == "mlp" else []), num_classes])

    def configure_optimizers(self) -> Any:
        """Builds the optimiser for the current round."""
        if self.later_config is None or not getattr(getattr(self.trainer, "datamodule", None), "round", 0):
            return super().configure_optimizers()
        first, self.optimizer_config = self.optimizer_config, self.later_config
        try:
            return super().configure_optimizers()
        finally:
            self.optimizer_config = first

    def measures(self, logits: Tensor) -> dict[str, Tensor]:
        """Returns the entropy of the predictions, in nats."""
        return {"entropy": prediction_entropy(logits)}
