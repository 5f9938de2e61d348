"""Run folders of hypernetworks that were never trained, for tests of what is done with their predictions."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl

from framework.config import yaml12
from framework.data.seeding import seeded
from modules.initialization.logah import GraphHyperNetwork, Space


def hypernetwork_folder(folder: Path, space: Space, **task) -> Path:
    """Writes a checkpoint and a config; the hypernetwork counts every operation as met.

    Args:
        folder: To write to.
        space: Its architectures.
        **task: Classes, channels, sizes.
    """
    settings = {"dim": 8, "rank": 2, "layers": 1, "heads": 2, "size": 256, **task}
    with seeded(7):
        model = GraphHyperNetwork(architectures=space, **settings)
    model.operations[:] = True
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=folder)
    trainer.strategy.connect(model)
    (folder / "checkpoints").mkdir(parents=True)
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt", weights_only=True)
    config = {
        "model": {"class_path": "modules.initialization.logah.GraphHyperNetwork", "init_args": dict(model.hparams)}
    }
    (folder / "config.yaml").write_text(yaml12.dump(config), encoding="utf-8")
    return folder
