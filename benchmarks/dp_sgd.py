"""DP-SGD in a Trainer beside a plain Opacus loop and a loop over samples, and its memory over the physical batch.

Run: ``python benchmarks/dp_sgd.py [--repeats 3]``, one thread. A step is everything between two batches: Poisson
sampling, gradients, clipping, noise and AdamW's step; ours includes the Trainer and the module's own step for what it
logs. Opacus' loop (1.6, its hooks and Poisson loader) logs nothing. The convolutional network is that of DP-RGMI's
stand-in (36,000 parameters), on digits of 28x28. For ConvNeXt Opacus' gradients are wrong, which its time does not
show. The quietest of rounds in which the sides take turns. Memory is the peak of torch's tensors above the start.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from _memory import peak_bytes
from _rows import Row, duration, report
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks.dp_sgd import DPSGD, clipped_sums, trainable
from framework.claims import at_most

STEPS = 20


def cnn() -> nn.Module:
    """DP-RGMI's stand-in."""
    blocks: list[nn.Module] = []
    for inputs, outputs, side in ((1, 16, 5), (16, 32, 3), (32, 64, 3)):
        blocks += [nn.Conv2d(inputs, outputs, side, 2, side // 2), nn.GroupNorm(4, outputs), nn.ReLU()]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def vit() -> nn.Module:
    """A small vision transformer on patches of 4x4."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=28, patch_size=7, in_chans=1, num_classes=10, embed_dim=64, depth=4, num_heads=4, pos_embed="learn"
    )


def convnext() -> nn.Module:
    """A ConvNeXt of one block a stage."""
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(in_chans=1, num_classes=10, depths=(1, 1, 1, 1), dims=(8, 16, 32, 64))


class Net(pl.LightningModule):
    """A classifier that records when its steps begin."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.times: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Returns the cross-entropy, and logs it."""
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Records the time."""
        self.times.append(time.process_time())

    def configure_optimizers(self) -> Any:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), 1e-3)


def digits(side: int) -> TensorDataset:
    """4,000 random pictures, which cost what real ones do."""
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(
        torch.randn(4000, 1, side, side, generator=generator), torch.randint(0, 10, (4000,), generator=generator)
    )


def ours(
    make: Callable[[], nn.Module], side: int, batch: int, private: bool = True, **settings: Any
) -> Callable[[], float]:
    """Returns a measurement of a step in a Trainer, in processor seconds."""

    def run() -> float:
        module = Net(make())
        trainer = pl.Trainer(
            max_steps=STEPS, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, barebones=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir="/tmp",
            callbacks=[DPSGD(noise_multiplier=1.0, delta=1e-5, seed=0, **settings)] if private else [],
        )  # fmt: skip
        trainer.fit(module, DataLoader(digits(side), batch_size=batch, shuffle=True))
        first = 3  # what is examined in the first step is done once in a training
        return (module.times[-1] - module.times[first]) / (len(module.times) - 1 - first)

    return run


def opacus(make: Callable[[], nn.Module], side: int, batch: int) -> Callable[[], float]:
    """Returns a measurement of a step of Opacus' own loop, in processor seconds."""

    def run() -> float:
        from opacus import PrivacyEngine

        net = make()
        model, optimizer, loader = PrivacyEngine().make_private(
            module=net,
            optimizer=torch.optim.AdamW(net.parameters(), 1e-3),
            data_loader=DataLoader(digits(side), batch_size=batch),
            noise_multiplier=1.0,
            max_grad_norm=1.0,
        )
        times = []
        while len(times) < STEPS:
            for x, y in loader:
                times.append(time.process_time())
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
        return (times[STEPS - 1] - times[3]) / (STEPS - 4)

    return run


def loss_of(net: nn.Module) -> Callable[[Any], Tensor]:
    """Returns the loss of a batch."""
    return lambda batch: F.cross_entropy(net(batch[0]), batch[1])


def quietest(calls: list[Callable[[], float]], repeats: int) -> list[float]:
    """Returns the least of what each call measured, in rounds."""
    rounds = [[call() for call in calls] for _ in range(repeats)]
    return [min(found) for found in zip(*rounds, strict=True)]


def rows(options: argparse.Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cases = {
        "the CNN, 128 samples": (cnn, 28, 128),
        "a small ViT, 64 samples": (vit, 28, 64),
        "a small ConvNeXt, 16 samples": (convnext, 32, 16),
    }
    for name, (make, side, batch) in cases.items():
        main = make is cnn
        calls = [
            ours(make, side, batch),
            opacus(make, side, batch),
            ours(make, side, batch, gradients="loop"),
            ours(make, side, batch, private=False),
        ]
        mine, theirs, looped, plain = quietest(calls, options.repeats)
        yield Row(f"a step of {name}", "Opacus' loop", mine / theirs, duration(theirs), at_most(1.4) if main else None)
        bound = at_most(0.5) if main else None
        yield Row(f"a step of {name}", "a loop over samples", mine / looped, duration(looped), bound)
        yield Row(f"a step of {name}", "a step without privacy", mine / plain, duration(plain))
    net, samples = vit(), tuple(part[:256] for part in digits(28).tensors)
    held = {
        physical: peak_bytes(
            lambda size=physical: clipped_sums(net, loss_of(net), trainable(net), samples, 1.0, "vmap", size)
        )  # type: ignore[misc]
        for physical in (256, 64, 16)
    }
    for physical in (64, 16):
        yield Row(
            f"the gradients of 256 samples of the ViT in physical batches of {physical}",
            "in one batch",
            held[physical] / held[256],
            f"{held[256] / 2**20:.0f} MB",
            unit="memory",
        )


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=3)


if __name__ == "__main__":
    report(__file__, __doc__, rows, arguments)
