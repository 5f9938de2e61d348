"""Two DDP ranks on CPU; with a second argument > 0, rank 0 kills the whole process group at that batch."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch

sys.path.insert(0, str(Path(__file__).parent))
from resume_harness import fit

torch.set_num_threads(1)


class KillGroup(pl.Callback):
    def __init__(self, count: int) -> None:
        self.left = count

    def on_train_batch_start(self, trainer: pl.Trainer, *args: object) -> None:
        self.left -= 1
        if self.left == 0 and trainer.global_rank == 0:
            os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    folder, kill = Path(sys.argv[1]), int(sys.argv[2])
    trainer = fit(
        folder,
        resume=True,
        arrays=False,
        strategy="ddp",
        devices=2,
        callbacks=[KillGroup(kill)] if kill else [],
        point={"every_n_seconds": None, "every_n_steps": 3},
    )
    if trainer.global_rank == 1:
        torch.save(trainer.lightning_module.state_dict(), folder / "rank1.pt")
    trainer.strategy.barrier()
