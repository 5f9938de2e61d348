"""The progress bar, the predictions and the provenance of a run."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pyarrow.parquet
import pytest
import torch
from resume_harness import fit, in_two_ranks
from torch.utils.data import DataLoader

from framework.data.arrays import ArrayDataset
from framework.data.loader import ExactLoader
from framework.errors import UserError
from framework.tracking.predictions import PredictionWriter
from framework.tracking.progress import Progress
from framework.tracking.provenance import git_state, provenance, write


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_without_a_terminal(tmp_path):
    out = io.StringIO()
    bar = Progress(line_seconds=0.0, stream=out)
    fit(tmp_path, max_epochs=2, val_check_interval=0.5, enable_progress_bar=True, callbacks=[bar])
    lines = out.getvalue().splitlines()
    assert len(lines) == 4  # a validation within and an end of each epoch
    assert lines[-1].startswith("epoch 2/2  step 20  ")
    assert "train/loss_epoch" in lines[-1]
    assert "it/s" in lines[-1]
    assert "v_num" not in out.getvalue()
    assert "\r" not in out.getvalue()


def test_few_lines_for_fast_epochs_but_always_the_last(tmp_path):
    out = io.StringIO()
    fit(tmp_path, max_epochs=4, callbacks=[Progress(line_seconds=60, stream=out)], enable_progress_bar=True)
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[-1].startswith("epoch 4/4  step 40")


def test_a_terminal_is_redrawn(tmp_path):
    out = Terminal()
    fit(tmp_path, max_epochs=1, callbacks=[Progress(refresh_seconds=0, stream=out)], enable_progress_bar=True)
    assert "train/loss" in out.getvalue()
    assert "10/10" in out.getvalue().rsplit("\r", 1)[-1]
    assert out.getvalue().endswith("\n")


def test_redrawing_goes_by_the_clock(tmp_path):
    out = Terminal()
    fit(tmp_path, max_epochs=3, callbacks=[Progress(refresh_seconds=60, stream=out)], enable_progress_bar=True)
    assert out.getvalue().count("\r") <= 2


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


def test_provenance(tmp_path):
    def git(*words: str) -> None:
        options = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *options, *words], check=True, capture_output=True)

    assert provenance(["x"], 1)["git"] is None
    git("init", "-q", ".")
    Path("a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "first")
    state = git_state(Path.cwd())
    assert state is not None
    assert state["dirty"] is False
    assert len(state["commit"]) == 40
    Path("a").write_text("2")
    facts = provenance(["framework", "fit"], 7)
    assert facts["git"]["dirty"] is True
    assert facts["git"]["changed"] == ["a"]
    assert facts["packages"]["torch"] == torch.__version__.partition("+")[0] or facts["packages"]["torch"]
    assert facts["hardware"]["cores"] >= 1
    assert (facts["command"], facts["seed"]) == (["framework", "fit"], 7)
    path = write(tmp_path / "run", facts)
    assert json.loads(path.read_text()) == facts
    write(tmp_path / "run", provenance(["again"], 7))
    record = json.loads(path.read_text())
    assert record["command"] == ["framework", "fit"]
    assert [later["command"] for later in record["resumed"]] == [["again"]]
