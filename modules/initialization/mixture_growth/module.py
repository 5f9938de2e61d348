"""A classifier for the technique ``mixture_growth``, with the accuracy of its members."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from framework.errors import UserError
from framework.module import OptimizerConfig, ScheduleConfig
from framework.protocols import HasMembers
from framework.settings import at_least, not_empty
from modules.classifier import Classifier
from modules.vision.wide_resnet import WideResNet

NETS = ("mlp", "conv1d", "wrn-D-k")


class Flat(nn.Module):
    """Flattens inputs to vectors.

    Args:
        features: Numbers in each input.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, …)`` to ``(B, features)``.

        Raises:
            UserError: an input has another number of values.
        """
        x = x.flatten(1)
        if x.shape[1] != self.features:
            raise UserError(f"in_features: {self.features}, but an input of the data has {x.shape[1]} numbers")
        return x


def mlp(in_features: int, widths: list[int], num_classes: int) -> nn.Sequential:
    """Linear, batch norm and ReLU for each width, then a linear layer, without biases; for inputs ``(B, in_features)``.

    Args:
        in_features: Inputs.
        widths: Widths of the hidden layers.
        num_classes: Outputs.
    """
    layers: list[nn.Module] = [Flat(in_features)]
    before = in_features
    for width in widths:
        layers += [nn.Linear(before, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, num_classes, bias=False))


class SignalNet(nn.Module):
    """Convolutions over one-dimensional signals, each with stride 2, batch norm and ReLU; mean over time; linear.

    Args:
        widths: Channels of each convolution.
        num_classes: Outputs.
        kernel: Samples of each filter.
    """

    def __init__(self, widths: list[int], num_classes: int, kernel: int = 5) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for width in widths:
            layers += [nn.Conv1d(before, width, kernel, 2, kernel // 2, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
            before = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(before, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps signals ``(B, L)`` or ``(B, L, 1)`` to logits ``(B, num_classes)``."""
        return self.head(self.features(x.flatten(1)[:, None]).mean(-1))


def build_net(
    name: str, num_classes: int, in_features: int = 40, in_chans: int = 3, widths: list[int] | None = None
) -> nn.Module:
    """Returns a network by name.

    Args:
        name: ``mlp``, ``conv1d``, ``wrn-28-10`` and the like, or a model of timm.
        num_classes: Outputs.
        in_features: Inputs of ``mlp``.
        in_chans: Channels of images.
        widths: Widths of the hidden layers of ``mlp``, or of the convolutions of ``conv1d``; three of them by default.

    Raises:
        UserError: there is no such network; the nearest names are given.
    """
    if name == "mlp":
        return mlp(in_features, widths or [128, 128, 128], num_classes)
    if name == "conv1d":
        return SignalNet(widths or [32, 64, 128], num_classes)
    if wide := re.fullmatch(r"wrn-(\d+)-(\d+)", name):
        return WideResNet(int(wide[1]), int(wide[2]), num_classes, in_chans, second_norm=False)
    import timm  # here, because importing it costs seconds

    if ":" in name or not timm.is_model(name):
        from difflib import get_close_matches

        near = get_close_matches(name, [*NETS, *timm.list_models()], n=4, cutoff=0.0)
        raise UserError(f"net: {name!r} is not accepted; {', '.join(NETS)} or a model of timm, nearest: {near}")
    return timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=in_chans)


def cutout(x: Tensor, size: int) -> Tensor:
    """Zeroes a square around a random pixel of each image of ``(B, C, H, W)`` (DeVries & Taylor 2017).

    The square has sides ``size`` and may extend beyond the border; random numbers come from the global generator.

    Raises:
        UserError: the inputs are not images.
    """
    if x.ndim != 4:
        raise UserError(f"cutout: {size} is not accepted, the data are no images but of shape {tuple(x.shape[1:])}; 0")
    b, _, h, w = x.shape
    row, column = (torch.randint(side, (b, 1)).to(x.device) for side in (h, w))
    start = size // 2
    rows, columns = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
    hit_row = (rows >= row - start) & (rows < row - start + size)
    hit_column = (columns >= column - start) & (columns < column - start + size)
    return x.masked_fill((hit_row[:, :, None] & hit_column[:, None, :])[:, None], 0.0)


@contextlib.contextmanager
def computing(model: nn.Module, phase: int) -> Iterator[None]:
    """A context manager in which layers with members compute member ``phase`` (0 or 1), or the whole network (2)."""
    layers = [module for module in model.modules() if isinstance(module, HasMembers)]
    before = [layer.phase for layer in layers]
    for layer in layers:
        layer.phase = phase
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer.phase = was


class GrowingClassifier(Classifier):
    """A classifier of signals or images, to be grown by the technique ``mixture_growth``.

    Batches are ``(x, y)``: ``x`` float ``(B, in_features)`` or ``(B, in_chans, H, W)``, ``y`` int64 ``(B,)``. Logs
    ``train/loss``, ``train/accuracy``, and ``val/`` and ``test/`` with ``loss`` and ``accuracy``; before growth these
    are those of the active member. If its layers have two trained members, a test also logs ``test/member_0``,
    ``test/member_1`` and ``test/ensemble``, the accuracy of each and of the sum of their logits.

    Args:
        net: ``mlp``, ``conv1d``, a wide ResNet such as ``wrn-28-10``, or a model of timm.
        num_classes: Classes.
        in_features: Numbers in an input of ``mlp``.
        in_chans: Channels of the images.
        widths: Hidden layers of ``mlp`` and ``conv1d``.
        cutout: Side of the square that is cut out of training images, in pixels; 0 for none.
        optimizer: The optimiser; the paper's is SGD with Nesterov momentum.
        schedule: The learning-rate schedule; with the technique, that of each stage.

    Raises:
        UserError: a setting is not accepted (in the constructor); the datamodule has another number of classes or
            channels (in ``setup``), or inputs that do not fit the network (in the first step).
    """

    def __init__(
        self,
        net: str = "mlp",
        num_classes: int = 10,
        in_features: int = 40,
        in_chans: int = 3,
        widths: list[int] | None = None,
        cutout: int = 0,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        default = OptimizerConfig(name="sgd", lr=0.05, weight_decay=5e-4, args={"momentum": 0.9, "nesterov": True})
        super().__init__(num_classes, optimizer or default, schedule)
        self.save_hyperparameters()
        at_least(1, in_features=in_features, in_chans=in_chans)
        not_empty(widths=widths)
        at_least(1, widths=widths)
        at_least(0, cutout=cutout)
        self.cutout = cutout
        self._of_images = None if net in ("mlp", "conv1d") else net
        self.net = build_net(net, num_classes, in_features, in_chans, widths)
        self.parts = nn.ModuleDict(
            {name: MulticlassAccuracy(num_classes, average="micro") for name in ("member_0", "member_1", "ensemble")}
        )

    def setup(self, stage: str) -> None:
        """Compares the datamodule's classes and channels with the model's.

        Raises:
            UserError: they differ.
        """
        super().setup(stage)
        channels = getattr(getattr(self.trainer, "datamodule", None), "channels", None)
        if self._of_images is not None and isinstance(channels, int) and channels != self.hparams["in_chans"]:
            raise UserError(f"model.init_args.in_chans: {self.hparams['in_chans']}, but the data has {channels}")

    def forward(self, x: Tensor) -> Tensor:
        """Maps inputs to logits ``(B, num_classes)``.

        Raises:
            UserError: the network is for images, and the inputs are not images.
        """
        if self._of_images is not None and x.ndim != 4:
            raise UserError(
                f"net: {self._of_images!r} is not accepted, it is for images and the data are of shape "
                f"{tuple(x.shape[1:])}; mlp or conv1d"
            )
        return self.net(x)

    def augmented(self, x: Tensor) -> Tensor:
        """Returns inputs, with a square cut out if ``cutout`` is above 0."""
        return cutout(x, self.cutout) if self.cutout else x

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss and accuracy of a batch, and of the members."""
        self.evaluate(batch, "test")
        phases = {module.phase for module in self.modules() if isinstance(module, HasMembers)}
        if not phases or 0 in phases:  # there are no members, or the second was not trained yet
            return
        x, y = batch
        logits = {}
        for number in (0, 1):
            with computing(self, number):
                logits[f"member_{number}"] = self(x)
        logits["ensemble"] = logits["member_0"] + logits["member_1"]
        for name, values in logits.items():
            metric = self.parts[name]
            metric.update(values, y)  # type: ignore[operator]
            self.log(f"test/{name}", metric, batch_size=len(y))  # type: ignore[arg-type]
