"""Seven small models that between them have what an edit can get wrong, and data for them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from framework import Module, OptimizerConfig, ScheduleConfig
from framework.data import DataModule
from framework.data.arrays import ArrayDataset

CLASSES = 4


class Sine(nn.Module):
    def __init__(self, width: int, out: int, omega: float) -> None:
        super().__init__()
        self.linear, self.omega = nn.Linear(width, out), omega

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega * self.linear(x))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(16, 24),
        nn.BatchNorm1d(24),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(24, 20),
        nn.ReLU(),
        nn.Linear(20, 4),
    )


def sine() -> nn.Module:
    return nn.Sequential(Sine(16, 24, 5.0), Sine(24, 20, 5.0), nn.Linear(20, 4))


def vit(depth: int = 2) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, num_classes=4, embed_dim=16, depth=depth, num_heads=2, proj_drop_rate=0.1
    )


def resnet() -> nn.Module:
    from timm.models.resnet import BasicBlock, ResNet

    # with zero_init_last every branch starts dead, and stays so where a technique freezes its last norm
    sizes = {"stem_width": 8, "channels": (8, 8, 12, 12), "zero_init_last": False}
    net = ResNet(BasicBlock, [1, 1, 1, 1], in_chans=1, num_classes=4, **sizes)
    # On one pixel a stride changes nothing, but the weights' gradient in bf16 is uninitialised memory off the centre
    # (PyTorch 2.15 on CPUs with AMX).
    for layer in (*net.layer3.modules(), *net.layer4.modules()):
        if isinstance(layer, nn.Conv2d):
            layer.stride = (1, 1)
    return net


class GPT2(nn.Module):
    """A transformer of transformers whose output layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(vocab_size=12, n_positions=16, n_embd=16, n_layer=2, n_head=2)
        self.lm = GPT2LMHeadModel(config)
        assert self.lm.lm_head.weight is self.lm.transformer.wte.weight

    def forward(self, x: Tensor) -> Tensor:
        tokens = (x.flatten(1).abs() * 4).long().clamp(max=11)
        return self.lm(tokens).logits[:, -1, :CLASSES]


class S4D(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        from modules.sequence.s4d.layer import SSM
        from modules.sequence.s4d.model import S4DBackbone

        self.backbone = S4DBackbone(d_input=1, d_model=8, n_layers=2, dropout=0.1, ssm=SSM(4))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x.flatten(1).unsqueeze(-1)).mean(1))


class Transformer(nn.Module):
    """Our own decoder with softmax attention, which can be linearised."""

    def __init__(self) -> None:
        super().__init__()
        from modules.sequence.transformer import TransformerLM

        self.decoder = TransformerLM(12, 16, 2, 2, 1, init_std=0.3).decoder

    def forward(self, x: Tensor) -> Tensor:
        tokens = (x.flatten(1).abs() * 4).long().clamp(max=11)
        return self.decoder(tokens)[:, -1, :CLASSES]


class Factored(nn.Module):
    """Two layers and a head whose weight is a product of factors wider than its rank."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU())
        self.f, self.g = (nn.Parameter(0.5 * torch.randn(n, 3)) for n in (CLASSES, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) @ self.g @ self.f.T


ARCHITECTURES = {
    "mlp": mlp,
    "sine": sine,
    "vit": vit,
    "resnet": resnet,
    "gpt2": GPT2,
    "s4d": S4D,
    "transformer": Transformer,
}
SPECIAL = {"factored": Factored}  # made for one technique, which meets the others on it
SHAPES = {"vit": (1, 8, 8), "resnet": (1, 8, 8)}


class Probe(Module):
    """A classifier around one of the architectures."""

    rank = 2

    def __init__(
        self,
        architecture: str = "mlp",
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(optimizer or OptimizerConfig(lr=0.01, decay_1d=False), schedule or ScheduleConfig("cosine"))
        self.save_hyperparameters(ignore=["optimizer", "schedule"])
        self.net = (ARCHITECTURES | SPECIAL)[architecture]()
        self.accuracy = MulticlassAccuracy(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def factors(self) -> tuple[Tensor, Tensor] | None:
        return (self.net.f, self.net.g) if isinstance(self.net, Factored) else None

    def relative_loss(self) -> float:
        return 0.0

    def posterior(self, batch: Any) -> tuple[Tensor, Tensor]:
        logits = self(batch[0])
        return logits, torch.zeros_like(logits)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x + 0.01 * random.gauss(0, 1))
        loss = nn.functional.cross_entropy(logits, y)
        self.accuracy(logits, y)
        self.log("train/accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0])


def augment(x: Tensor) -> Tensor:
    return x + 0.05 * torch.randn_like(x) * np.random.rand()  # noqa: NPY002 - draws from each generator


class ProbeData(DataModule):
    """Random inputs with learnable labels."""

    def __init__(self, architecture: str = "mlp", **kwargs: Any) -> None:
        super().__init__(batch_size=8, **kwargs)
        self.shape = SHAPES.get(architecture, (16,))

    def true_latents(self, batch: Any) -> Tensor:
        return batch[0].flatten(1)[:, :CLASSES]

    def true_support(self) -> np.ndarray:
        return np.eye(CLASSES) + np.roll(np.eye(CLASSES), 1, axis=1)

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(11)
        x = torch.randn(44, *self.shape, generator=generator)
        y = (x.flatten(1)[:, :2] > 0).long() @ torch.tensor([1, 2])
        self.train_set = ArrayDataset(x[:36], y[:36], transform=augment)
        self.val_set = self.test_set = ArrayDataset(x[36:], y[36:])
