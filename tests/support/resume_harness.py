"""A small training with everything that a resume must restore, run in forked children that can be killed."""

from __future__ import annotations

import gc
import os
import random
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import Dataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from framework.checkpoints.writing import AtomicCheckpointIO
from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.resume import ResumePoint
from framework.tracking.metrics_log import MetricsLog

SAMPLES, BATCH = 76, 8  # ten batches an epoch, the last one incomplete


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(5, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 3))
        self.accuracy = MulticlassAccuracy(3)
        self.spread = MeanMetric()
        self.by_epoch = ""

    def on_train_start(self) -> None:
        torch.rand(3), np.random.rand(2), random.random()  # noqa: NPY002
        self.log("start", torch.tensor(1.0))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        x = x + 0.01 * np.random.randn() + 0.01 * random.gauss(0, 1)  # noqa: NPY002
        logits = self.net(x)
        loss = nn.functional.cross_entropy(logits, y)
        self.accuracy(logits, y)
        self.log("train/accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("train/max", logits.max(), on_step=False, on_epoch=True, reduce_fx="max")
        self.log("train/step", loss, on_step=True, on_epoch=False)
        self.spread.update(logits.std())
        if batch_idx % 3 == 0:
            self.log("train/sometimes", loss * 2, on_step=True, on_epoch=True)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("train/spread", self.spread.compute())
        self.spread.reset()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("val/loss", loss)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.02)
        if self.by_epoch == "step":
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]
        if self.by_epoch == "plateau":  # no loss is smaller by so much, so each validation counts
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss"}}
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class WithoutBatchNorm(Net):
    """Whose samples are independent."""

    def __init__(self) -> None:
        super().__init__()
        self.net[1] = nn.LayerNorm(12)


def augment(x: torch.Tensor) -> torch.Tensor:
    return x + 0.1 * torch.randn_like(x) * random.random()


class Samples(Dataset):
    """Read one at a time, with augmentation from three generators."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        noise = 0.1 * torch.randn(5) + 0.1 * np.random.randn() + 0.1 * random.random()  # noqa: NPY002
        return self.x[index] + noise, self.y[index]


class Data(DataModule):
    def __init__(self, arrays: bool = True, **kwargs: Any) -> None:
        super().__init__(batch_size=BATCH, **kwargs)
        self.arrays = arrays

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(7)
        x = torch.randn(SAMPLES, 5, generator=generator)
        y = torch.randint(0, 3, (SAMPLES,), generator=generator)
        self.train_set = ArrayDataset(x, y, transform=augment) if self.arrays else Samples(x, y)
        self.val_set = ArrayDataset(x[:24], y[:24])


class Kill(pl.Callback):
    """Ends the process (or sends it a signal) in a given hook, the n-th time that hook runs in training."""

    def __init__(self, hook: str, count: int, signum: int = signal.SIGKILL) -> None:
        self.left, self.signum = count, signum
        setattr(self, hook, self._strike)

    def _strike(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.sanity_checking:
            return
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.signum)


class KillWhileSaving(AtomicCheckpointIO):
    """Ends the process within the n-th save, when half of the file is written."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.left = count

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        self.left -= 1
        if self.left == 0:
            torch.save = lambda obj, file: (file.write(b"PK half"), file.flush(), os.kill(os.getpid(), signal.SIGKILL))
        super().save_checkpoint(checkpoint, path, storage_options)


def fit(
    folder: Path,
    *,
    kill: tuple[str, int] | None = None,
    resume: bool = False,
    stopping: int = 0,  # patience of an early stopping
    arrays: bool = True,
    workers: int = 0,
    point: dict[str, Any] | None = None,
    callbacks: list[pl.Callback] | None = None,
    loggers: list[Any] | None = None,
    seed: int = 3,
    by_epoch: str = "",  # a schedule by epochs, step or plateau, instead of one by steps
    **trainer_kwargs: Any,
) -> pl.Trainer:
    pl.seed_everything(seed, verbose=False)
    plugin = AtomicCheckpointIO()
    extra = list(callbacks or [])
    if kill is not None and kill[0] == "save":
        plugin = KillWhileSaving(kill[1])
    elif kill is not None:
        extra.append(Kill(*kill))
    if stopping:
        # no epoch improves so much, so that it stops early whatever the machine rounds to
        extra.append(EarlyStopping("val/loss", patience=stopping, min_delta=1.0))
        extra.append(
            ModelCheckpoint(folder, filename="{step}", monitor="val/loss", save_top_k=2, enable_version_counter=False)
        )
    trainer = pl.Trainer(
        **{
            "max_epochs": 3,
            "accelerator": "cpu",
            "devices": 1,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": bool(stopping),
            "use_distributed_sampler": False,
            "default_root_dir": folder,
            "logger": [MetricsLog(folder), *(loggers or [])],
            **trainer_kwargs,
        },
        callbacks=[ResumePoint(folder, **{"every_n_seconds": 0.0, "run_id": "r", **(point or {})}), *extra],
        plugins=[plugin],
    )
    path = folder / "last.ckpt"
    if not path.exists():  # as the command does: what a process logged that was killed before its first point
        (folder / "metrics.jsonl").unlink(missing_ok=True)
    model, data = Net(), Data(arrays=arrays, num_workers=workers)
    model.by_epoch = by_epoch
    trainer.fit(model, datamodule=data, ckpt_path=str(path) if resume and path.exists() else None)
    save_end(trainer, folder)
    return trainer


def save_end(trainer: pl.Trainer, folder: Path) -> None:
    if trainer.global_rank:
        torch.save(trainer.lightning_module.state_dict(), folder / "rank1.pt")
        return
    best = trainer.checkpoint_callback
    torch.save(
        {
            "weights": trainer.lightning_module.state_dict(),
            "optimizer": trainer.optimizers[0].state_dict(),
            "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "stopping": [c.state_dict() for c in trainer.callbacks if isinstance(c, EarlyStopping)],
            "best": sorted((Path(p).name, float(s)) for p, s in best.best_k_models.items()) if best else [],
        },
        folder / "end.pt",
    )


def in_child(function: Callable[[], Any]) -> int:
    """Runs ``function`` in a fork of this process, where everything is imported already; returns its exit status.

    As a shell counts it: a process killed by signal n gives 128 + n.
    """
    return wait_for(start_child(function))


def in_two_ranks(function: Callable[[], Any]) -> list[int]:
    """Runs ``function`` in two forks that are the ranks of one gloo group; returns both exit statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def rank(number: int) -> None:
        os.environ.update(
            LOCAL_RANK=str(number), NODE_RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
        )
        function()

    return [wait_for(pid) for pid in [start_child(lambda n=n: rank(n)) for n in (0, 1)]]


def wait_for(pid: int) -> int:
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def fork() -> int:
    """Calls ``os.fork()`` so that garbage collection in the child skips the parent's objects.

    Else one that is due soon would be made in every child, and copy all pages of the parent's objects: 0.4 s each.
    """
    gc.freeze()
    pid = os.fork()
    if pid:
        gc.unfreeze()
    return pid


def start_child(function: Callable[[], Any]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = fork()
    if pid == 0:
        code = 70
        try:
            warnings.simplefilter("ignore")
            torch.set_num_threads(1)
            function()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            try:
                sys.stderr.flush()
            finally:  # or the child would go on as a second test run
                os._exit(code)
    return pid


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def assert_same_end(a: Path, b: Path) -> None:
    left, right = torch.load(a / "end.pt"), torch.load(b / "end.pt")
    for key in left:
        assert same(left[key], right[key]), f"{key} differs: {left[key]} and {right[key]}"
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
