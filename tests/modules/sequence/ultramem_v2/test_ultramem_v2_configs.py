"""The shipped configs: the quick ones train, the paper's builds at its size and reads its kind of files."""

import numpy as np
import pytest
import torch
import yaml
from checkout import CONFIGS

import framework
from modules.sequence.ultramem_v2 import UltraMemLM
from modules.sequence.ultramem_v2.layers import MemoryConfig
from modules.sequence.ultramem_v2.sizes import sizes

TWO_STEPS = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.limit_val_batches=1"]
QUIET = ["--wandb.mode=disabled", "--trainer.enable_progress_bar=false"]
BARE = [f"--techniques.{name}=null" for name in ("memory_table", "core_spectrum", "generate_sample")]
NARROW = ["--model.d_model=16", "--model.n_layers=2", "--model.n_heads=2", "--model.hidden=24"]
NARROW += ["--model.memory.n_keys=6", "--model.memory.d_key=4", "--model.memory.top=3"]
NARROW += ["--model.memory.d_value=4", "--model.memory.d_pre=4"]


def fit(name, *overrides):
    experiment = framework.build(f"sequence/{name}", overrides=[*QUIET, *overrides])
    experiment.fit()
    return experiment


@pytest.mark.parametrize("kind", ["ultramem_v2", "none"])
def test_the_quick_config_trains(tmp_path, kind):
    options = [*BARE, f"--run.root={tmp_path}", "--data.length=16", "--model.d_model=16", f"--model.memory.kind={kind}"]
    experiment = fit("ultramem_v2", *TWO_STEPS, *options)
    assert experiment.trainer.global_step == 2
    assert 4 < float(experiment.trainer.callback_metrics["val/loss"]) < 7


def test_the_facts_config_trains(tmp_path):
    experiment = fit("ultramem_v2_facts", "--trainer.max_steps=2", f"--run.root={tmp_path}")
    assert experiment.trainer.global_step == 2
    small = ["--data.subjects=8", "--data.relations=2", "--data.objects=4", "--trainer.max_epochs=1"]
    experiment = fit(
        "ultramem_v2_facts", *small, "--trainer.check_val_every_n_epoch=1", *BARE[:2], f"--run.root={tmp_path}"
    )
    assert float(experiment.trainer.callback_metrics["val/bits_per_fact"]) < 2


def test_the_papers_config_builds_at_its_size_on_meta():
    config = yaml.safe_load((CONFIGS / "sequence" / "ultramem_v2_paper.yaml").read_text())
    given = {**config["model"]["init_args"], "vocab_size": config["data"]["init_args"]["vocab_size"]}
    with torch.device("meta"):
        model = UltraMemLM(**given)
    found = sizes(50304, 768, 20, 2496, MemoryConfig(**given["memory"]))
    assert found.total == 1_180_753_920
    norms, gains, cores = 41 * 768, 20 * 2 * 192, 20 * 2 * 4
    assert sum(p.numel() for p in model.parameters()) == found.total + 2 * 50304 * 768 + norms + gains + cores
    assert model.table.values.weight.shape == (20 * 360**2, 192)


def test_a_narrowed_copy_of_it_reads_files_of_its_format(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "olmoe"
    for split, size in {"train": 400, "val": 100}.items():
        (folder / split).mkdir(parents=True)
        for part in range(2):  # what `dolma tokens` writes: numbers one after the other, no header
            rng.integers(0, 50280, size).astype(np.uint16).tofile(folder / split / f"part-{part}-00000.npy")
    options = [f"--data.path={folder}", f"--run.root={tmp_path / 'runs'}", "--data.length=32", "--data.batch_size=2"]
    options += ["--trainer.accelerator=cpu", "--trainer.accumulate_grad_batches=2"]
    steps = ["--trainer.max_steps=1", "--trainer.val_check_interval=2", "--trainer.limit_val_batches=1"]
    experiment = fit("ultramem_v2_paper", *options, *steps, *NARROW)
    assert experiment.trainer.global_step == 1
    assert experiment.datamodule.train_set.streams[0].dtype == np.uint16
    assert 10 < float(experiment.trainer.callback_metrics["val/loss"]) < 12  # ln 50304 = 10.8


def test_the_card_names_the_paper():
    import modules.sequence.ultramem_v2 as method

    assert "Paper: UltraMemV2: Memory Networks Scaling to 120B Parameters" in (method.__doc__ or "")
