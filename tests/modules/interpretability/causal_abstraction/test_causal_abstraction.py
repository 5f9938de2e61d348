"""Runs: only the map is trained, the cache changes nothing, the best map is kept, the identity grows."""

from __future__ import annotations

import json
from itertools import permutations
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from resume_harness import in_two_ranks
from tiny_files import write_name_sentences

import framework
from datamodules.interpretability.hierarchical_equality import HierarchicalEquality
from framework.errors import UserError
from framework.module import OptimizerConfig
from modules.interpretability.causal_abstraction import (
    BlockMLP,
    CausalAbstraction,
    EqualityMLP,
    HostConfig,
    MapConfig,
    load_alignment,
    module,
    network_hash,
)
from modules.interpretability.causal_abstraction.module import is_right, majority_rate

CONFIG = "interpretability/causal_abstraction"
QUIET = ["--wandb.mode=disabled", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SMALL = [
    "--data.train_samples=600",
    "--data.val_samples=300",
    "--data.test_samples=200",
    "--data.batch_size=200",
    "--model.host.epochs=0",
    "--model.alignment.depth=2",
    "--trainer.max_epochs=3",
]


def build(tmp_path, *options, config=CONFIG, small=SMALL):
    return framework.build(config, [*QUIET, f"--run.root={tmp_path}", *small, *options])


def test_only_the_map_is_trained_and_is_saved_with_its_scores(tmp_path, monkeypatch):
    """Check 3, and a reloaded map gives the same accuracy exactly."""
    experiment = build(tmp_path, "--run.name=a", "--model.host.epochs=1", "--data.host_samples=2000")
    seen = {}
    model = experiment.model

    def start():
        seen["host"] = network_hash(model.model.network)
        seen["map"] = network_hash(model.model.alignment)

    model.on_train_start = start
    experiment.fit()
    assert network_hash(model.model.network) == seen["host"]
    assert network_hash(model.model.alignment) != seen["map"]
    row = json.loads((experiment.folder / "iia.json").read_text())
    assert (row["map"], row["layer"], row["size"], row["algorithm"]) == ("revnet 2x16", "blocks.2", 8, "both")
    assert (row["host"], row["pairs"], row["seed"]) == ("trained", 200.0, 0)
    host = BlockMLP(16)
    host.load_state_dict(model.model.network.state_dict())
    batch = experiment.datamodule.test_set.__getitems__(list(range(200)))
    found = load_alignment(experiment.folder / "alignment", host)
    logits = found(batch["base"], batch["sources"], batch["nodes"])
    assert float(is_right(logits, batch["y"]).double().mean()) == row["iia"]
    assert row["majority"] == majority_rate(batch["y"])
    metrics = experiment.trainer.callback_metrics
    assert {"train/loss", "train/iia", *(f"val/{n}" for n in ("loss", "iia", "majority", "pairs", "task"))} <= {
        *metrics
    }
    assert float(metrics["val/inversion"]) < 1e-5
    opened = framework.open_model(experiment.folder)
    assert isinstance(opened, CausalAbstraction)
    assert network_hash(opened.model.network) == seen["host"]
    resumed = build(tmp_path, f"--ckpt_path={experiment.folder}", "--trainer.max_epochs=4", "--data.host_samples=2000")
    monkeypatch.setattr(module, "train_host", None)  # the host of a checkpoint is not trained again
    resumed.fit()
    assert network_hash(resumed.model.model.network) == seen["host"]
    tested = framework.build(str(experiment.folder / "config.yaml"), [*QUIET, "--ckpt_path=best"], "test")
    tested.run()
    assert float(tested.trainer.callback_metrics["test/iia"]) == pytest.approx(row["iia"], abs=1e-6)


def test_the_cache_changes_no_number():
    data = HierarchicalEquality("both", 600, 20, 20)
    data.setup()
    found = {}
    for gib in (0, 2, 1e-5):
        torch.manual_seed(0)
        model = CausalAbstraction(16, "blocks.2", host=HostConfig(epochs=0), alignment=MapConfig(), cache_gib=gib)
        model._trainer = SimpleNamespace(datamodule=data)
        batches = [data.train_set.__getitems__(rows.tolist()) for rows in torch.arange(600).split(200)]
        found[gib] = torch.cat([model.logits(batch, "train") for _ in range(2) for batch in batches])
        assert bool(model._caches) == (gib > 0)
        if gib == 2:
            assert model._caches["train"].complete == {"base"}
            used = data.train_set.nodes.flatten()
            assert torch.equal(model._caches["train"].filled["sources"], used)  # no source is run that is not used
    torch.testing.assert_close(found[2], found[0])
    torch.testing.assert_close(found[1e-5], found[0])


def test_nothing_is_kept_of_another_host_or_of_other_data(tmp_path):
    """Evaluated, then trained, then evaluated on other data, with one model."""
    experiment = build(tmp_path, "--model.host.epochs=1", "--data.host_samples=2000", "--trainer.max_epochs=1")
    trainer, model, data = experiment
    trainer.validate(model, data)
    untrained = model._caches["val"]
    experiment.fit()
    assert model._caches["val"] is not untrained
    other = HierarchicalEquality("both", 20, 20, 300, seed=5)
    found = trainer.test(model, other)[0]["test/iia"]
    batch = other.test_set.__getitems__(list(range(300)))
    right = is_right(model(batch["base"], batch["sources"], batch["nodes"]), batch["y"])
    assert found == pytest.approx(float(right.double().mean()), abs=1e-6)


def _rank(tmp_path):
    options = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_epochs=1", "--run.name=ranks"]
    odd = ["--data.test_samples=101", "--data.val_samples=51", "--model.host.epochs=1", "--data.host_samples=1000"]
    experiment = build(tmp_path, *options, *odd)
    experiment.fit()
    mine = [network_hash(experiment.model), float(experiment.trainer.callback_metrics["val/pairs"])]
    (tmp_path / f"{experiment.trainer.global_rank}.json").write_text(json.dumps(mine))


@pytest.mark.slow
def test_two_processes_have_one_host_and_score_each_intervention_once(tmp_path):
    assert in_two_ranks(lambda: _rank(tmp_path)) == [0, 0]
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1]
    assert found[0][1] == 51
    row = json.loads((tmp_path / "causal_abstraction" / "ranks" / "iia.json").read_text())
    assert row["pairs"] == 101


def test_logits_that_are_not_numbers_are_not_right():
    logits = torch.tensor([[float("nan"), 1.0], [1.0, float("nan")], [2.0, 1.0]])
    assert is_right(logits, torch.zeros(3).long()).tolist() == [False, False, True]
    assert is_right(logits, torch.zeros(3).long(), torch.ones(3).long()).tolist() == [False, False, True]


def test_the_identity_keeps_a_given_partition(tmp_path):
    options = ["--model.alignment.name=identity", "--model.partition=[[0], [1, 2, 3]]", "--trainer.max_epochs=2"]
    experiment = build(tmp_path, *options)
    experiment.fit()
    assert experiment.model.model.partition == ((0,), (1, 2, 3))


def test_double_precision(tmp_path):
    experiment = build(tmp_path, "--trainer.precision=64-true", "--model.alignment.name=orthogonal")
    experiment.fit()
    assert {p.dtype for p in experiment.model.parameters()} == {torch.float64}
    assert float(experiment.trainer.callback_metrics["val/inversion"]) < 1e-12


def test_a_host_from_a_checkpoint(tmp_path):
    options = ["--run.name=host", "--trainer.max_epochs=1", "--trainer.val_check_interval=2"]
    few = ["--data.train_samples=600", "--data.val_samples=100", "--data.batch_size=100"]
    host = build(tmp_path, *options, config=f"{CONFIG}_host", small=few)
    host.fit()
    assert isinstance(host.model, EqualityMLP)
    best = framework.open_model(host.folder / "checkpoints" / "best.ckpt")
    experiment = build(tmp_path, f"--model.host.checkpoint={host.folder}", "--run.name=from", "--trainer.max_epochs=1")
    experiment.fit()
    assert network_hash(experiment.model.model.network) == network_hash(best.net)
    other = CausalAbstraction(host=HostConfig(epochs=0))
    with pytest.raises(UserError, match="belongs to a host"):
        load_alignment(experiment.folder / "alignment", other.model.network)


def test_the_identity_grows_by_the_tuple_of_the_lowest_loss(tmp_path):
    options = ["--model.alignment.name=identity", "--model.size=2", "--trainer.max_epochs=3", "--model.candidates=7"]
    experiment = build(tmp_path, *options, "--run.monitor=null", "--techniques.early_stopping=null")
    experiment.fit()
    net = experiment.model.model
    data = experiment.datamodule.train_set
    batch = data.__getitems__(list(range(len(data))))
    blocks = [[], []]
    for _ in range(2):  # by hand: all pairs of units that are free
        losses = {}
        for pair in permutations(range(16), 2):
            if not {*pair} & {*blocks[0], *blocks[1]}:
                net.set_partition(tuple((*block, unit) for block, unit in zip(blocks, pair, strict=True)))
                logits = net(batch["base"], batch["sources"], batch["nodes"])
                losses[pair] = float(F.cross_entropy(logits, batch["y"]))
        best = min(losses, key=losses.__getitem__)
        blocks = [[*block, unit] for block, unit in zip(blocks, best, strict=True)]
    facts = json.loads((experiment.folder / "alignment" / "alignment.json").read_text())
    assert facts["interchange"]["partition"] == [sorted(block) for block in blocks]
    assert experiment.trainer.global_step == 9


def test_a_small_gpt_neox_from_its_folder(tmp_path):
    """Half of the residual stream at the last token, the paper's table, names of one's own for each part."""
    write_name_sentences(tmp_path)
    options = [
        f"--model.host.path={tmp_path / 'model'}",
        "--model.host.config=null",
        "--model.features=16",
        "--model.size=8",
        "--model.layer=lm.gpt_neox.layers.0",
        f"--data.path={tmp_path / 'sentences.parquet'}",
        f"--data.tokenizer={tmp_path / 'model'}",
        "--data.train_samples=60",
        "--data.val_samples=20",
        "--data.test_samples=20",
        "--data.batch_size=20",
        "--trainer.max_epochs=2",
    ]
    experiment = build(tmp_path / "runs", *options, config=f"{CONFIG}_ioi", small=[])
    experiment.fit()
    model = experiment.model
    assert model._caches["train"].fits("base")
    assert model.model._short  # the blocks before the layer are passed over
    batch = experiment.datamodule.test_set.__getitems__(list(range(20)))
    logits = model(batch["base"], batch["sources"], batch["nodes"])
    assert logits.shape == (20, 260)
    right = logits.gather(1, batch["y"][:, None]) > logits.gather(1, batch["other"][:, None])
    row = json.loads((experiment.folder / "iia.json").read_text())
    assert row["iia"] == pytest.approx(float(right.double().mean()))
    assert row["majority"] == majority_rate(batch["y"] == batch["base_y"])
    # the whole stream swapped is the network on the source
    swapped = model.model
    swapped.set_partition((tuple(range(16)),))
    at_end = swapped(batch["base"], batch["sources"], batch["nodes"])
    assert at_end.shape == logits.shape


def test_what_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"nodes: 1, but the data's algorithm has 2"):
        build(tmp_path, "--model.nodes=1").fit()
    with pytest.raises(UserError, match="has no interventions; set its algorithm"):
        build(tmp_path, "--data.algorithm=null").fit()
    with pytest.raises(UserError, match=r"host\.inputs: 24, but an input of the data has 16 numbers"):
        build(tmp_path, "--model.host.inputs=24", "--model.features=24").fit()
    with pytest.raises(UserError, match=r"features: 14, but blocks\.2 has 16 numbers"):
        build(tmp_path, "--model.features=14", "--model.size=7").fit()
    with pytest.raises(UserError, match=r"algorithm: a host is trained on the task itself"):
        build(tmp_path, "--data.algorithm=left", config=f"{CONFIG}_host", small=[]).fit()
    with pytest.raises(UserError, match=r"size: 3 nodes \(nodes\) of 8 latents, but there are 16"):
        CausalAbstraction(nodes=3)
    with pytest.raises(UserError, match=r"partition: 1 blocks, but there are 2 nodes"):
        CausalAbstraction(partition=[[0]])
    with pytest.raises(UserError, match="more than 1,000,000; give units"):
        CausalAbstraction(
            features=200, nodes=3, size=1, alignment=MapConfig("identity"), host=HostConfig(inputs=200, epochs=0)
        )
    with pytest.raises(UserError, match="which imports nothing"):
        CausalAbstraction(alignment={"name": "antigravity.Map"}, optimizer=OptimizerConfig())
