"""The shipped configs: the quick ones train, the paper's builds at its size and reads its kind of files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from checkout import CONFIGS

import framework
from modules.sequence.mom import MoMLM

SHRUNK = ["--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--wandb.mode=disabled"]
SMALL = {
    "mom": [
        "--model.d_model=16",
        "--data.length=16",
        "--trainer.limit_train_batches=2",
        "--techniques.length_extrapolation.lengths=[16,32]",
    ],
    "mom_recall": ["--data.train_samples=16", "--data.batch_size=8", "--data.eval_samples=8"],
    "mom_mqar": ["--data.train_samples=16", "--data.batch_size=8", "--data.eval_samples=8", "--model.hidden=16"],
}


@pytest.mark.parametrize("name", SMALL)
def test_the_quick_config_trains(name, tmp_path):
    experiment = framework.build(f"sequence/{name}", overrides=[*SHRUNK, *SMALL[name], f"--run.root={tmp_path}"])
    experiment.fit()
    assert experiment.trainer.global_step == 2
    assert float(experiment.trainer.callback_metrics["val/loss"]) > 0


def test_the_papers_config_builds_at_its_size_on_meta():
    config = yaml.safe_load((CONFIGS / "sequence" / "mom_paper.yaml").read_text())
    given = {**config["model"]["init_args"], "vocab_size": config["data"]["init_args"]["vocab_size"]}
    with torch.device("meta"):
        model = MoMLM(**given)
    d, heads = 1024, 4
    memory = 2 * d * d + 2 * heads * d  # keys, values, two gates a head
    mixer = (
        3 * d * d + 5 * memory + 4 * d + 3 * d * 4 + 256 + 2 * heads
    )  # q, gate, out; router; convolution; norm; rates
    mlp, norms = 3 * d * 2048, 2 * d
    expected = 24 * (mixer + mlp + norms) + d + 32000 * d
    assert sum(p.numel() for p in model.parameters()) == expected
    assert expected == pytest.approx(512e6, rel=0.01)
    idle = 24 * 2 * memory
    assert expected - idle - 32000 * d == pytest.approx(
        379e6, rel=0.01
    )  # active, without embeddings: the paper's "380M"


@pytest.mark.parametrize("kind", ["arrow", "bin"])
def test_a_narrowed_copy_of_it_reads_files_of_its_format(kind, tmp_path):
    rng = np.random.default_rng(0)
    for split, rows in {"train": 40, "val": 8}.items():
        tokens = rng.integers(0, 32000, (rows, 33))
        if kind == "bin":
            tokens.astype(np.uint16).tofile(tmp_path / f"{split}.bin")
            continue
        import pyarrow as pa

        table = pa.table({"input_ids": tokens.tolist()})
        with pa.OSFile(str(tmp_path / f"{split}.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    narrow = [
        "--model.d_model=16",
        "--model.n_layers=2",
        "--model.n_heads=2",
        "--model.head_dim=8",
        "--model.hidden=16",
    ]
    narrow += ["--data.length=32", "--data.num_workers=0", f"--data.path={tmp_path}", f"--run.root={tmp_path / 'runs'}"]
    machine = [
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        "--trainer.strategy=auto",
        "--techniques.memory_load=null",
    ]
    steps = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--wandb.mode=disabled"]
    experiment = framework.build("sequence/mom_paper", overrides=[*narrow, *machine, *steps])
    experiment.fit()
    assert experiment.trainer.global_step == 1
    assert 10 < float(experiment.trainer.callback_metrics["val/loss"]) < 11  # ln 32000 = 10.37


def test_the_card_names_the_paper():
    import modules.sequence.mom as method

    assert (method.__doc__ or "").count("\nPaper: ") == 1
