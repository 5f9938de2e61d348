"""Two DDP ranks of Lightning's own launcher; rank 0 sends itself a signal at the batch named by the arguments."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from resume_harness import Kill, fit

torch.set_num_threads(1)

if __name__ == "__main__":
    folder, count, signum = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

    class KillRankZero(Kill):
        def _strike(self, trainer, *args, **kwargs):
            if trainer.is_global_zero:
                super()._strike(trainer, *args, **kwargs)

    fit(
        folder,
        strategy="ddp",
        devices=2,
        arrays=False,
        point={"every_n_seconds": None, "every_n_steps": 4},
        callbacks=[KillRankZero("on_train_batch_start", count, signum)],
    )
