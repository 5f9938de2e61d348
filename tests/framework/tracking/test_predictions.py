"""The predictions of a run, as a table or arrays."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pyarrow.parquet
import pytest
import torch
from resume_harness import in_two_ranks
from torch.utils.data import DataLoader

from framework.data.arrays import ArrayDataset
from framework.data.loader import ExactLoader
from framework.errors import UserError
from framework.tracking.predictions import PredictionWriter


class Predict(pl.LightningModule):
    def __init__(self, kind: str = "table") -> None:
        super().__init__()
        self.kind = kind

    def predict_step(self, batch):
        (x,) = batch
        if self.kind == "table":
            return {"value": x[:, 0], "pair": x.bfloat16() * 2, "label": x[:, 0].long()}
        if self.kind == "wide":
            return {"image": x.view(-1, 1, 1, 2)}
        if self.kind == "tensor":
            return x[:, 0]
        return {"a": 3}


def predict(folder: Path, kind: str = "table", loader=None, **kwargs) -> PredictionWriter:
    writer = PredictionWriter(folder)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        callbacks=[writer],
        default_root_dir=folder,
        **{"devices": 1} | kwargs,
    )
    x = torch.stack([torch.arange(11.0), -torch.arange(11.0)], dim=1)
    result = trainer.predict(Predict(kind), ExactLoader(ArrayDataset(x), 2) if loader is None else loader(x))
    assert not result
    return writer


def test_predictions_as_a_table(tmp_path):
    path = predict(tmp_path).path
    table = pyarrow.parquet.read_table(path)
    assert table.column_names == ["index", "value", "pair_0", "pair_1", "label"]
    assert table["index"].to_pylist() == table["label"].to_pylist() == list(range(11))
    assert table["pair_1"].to_pylist() == [-2.0 * i for i in range(11)]


def test_predictions_of_more_dimensions(tmp_path):
    predict(tmp_path)
    path = predict(tmp_path, "wide").path
    assert path is not None
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["predictions.npz"]
    with np.load(path) as arrays:
        assert arrays["image"].shape == (11, 1, 1, 2)
        assert arrays["index"].tolist() == list(range(11))


def test_predictions_of_a_lone_tensor_and_a_plain_loader(tmp_path):
    path = predict(tmp_path, "tensor", lambda x: DataLoader(torch.utils.data.TensorDataset(x), 3)).path
    assert pyarrow.parquet.read_table(path)["prediction"].to_pylist() == list(range(11))


def test_predictions_of_two_loaders(tmp_path):
    class Two(Predict):
        def predict_step(self, batch, batch_idx, dataloader_idx=0):
            return super().predict_step(batch)

    writer = PredictionWriter(tmp_path)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        callbacks=[writer],
    )  # fmt: skip
    data = ArrayDataset(torch.ones(3, 2))
    trainer.predict(Two("tensor"), [ExactLoader(data, 2), ExactLoader(data, 2)])
    table = pyarrow.parquet.read_table(writer.path)
    assert table["dataloader"].to_pylist() == [0, 0, 0, 1, 1, 1]
    assert table["index"].to_pylist() == [0, 1, 2, 0, 1, 2]


def test_predictions_of_two_ranks(tmp_path):
    assert in_two_ranks(lambda: predict(tmp_path, strategy="ddp", devices=2)) == [0, 0]
    table = pyarrow.parquet.read_table(tmp_path / "predictions.parquet")
    assert table["label"].to_pylist() == table["index"].to_pylist() == list(range(11))


def test_predictions_that_cannot_be_rows(tmp_path):
    with pytest.raises(UserError, match="predict_step must return"):
        predict(tmp_path, "bad")
