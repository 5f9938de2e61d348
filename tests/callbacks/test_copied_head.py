"""The copied head: what is copied, what is trained when, the optimiser of the stage, what is refused."""

import pytest
import torch
from editing_toys import trainer_of

from callbacks.copied_head import CopiedHead, copy_head
from callbacks.lora import LoRA, add_lora
from datamodules.representation.two_views import TwoViews
from framework import OptimizerConfig
from framework.editing import Observer
from framework.editing.ledger import ledger_of, trainable_names
from framework.errors import UserError
from modules.representation.manifold_clustering import ManifoldClustering
from modules.representation.manifold_clustering.encoder import TwoHeadConfig

HEAD = ["encoder.cluster_head.bias", "encoder.cluster_head.weight"]


class Watch(Observer):
    """What is so before the first step of each epoch."""

    def __init__(self):
        self.rows = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx:
            return
        encoder = pl_module.encoder
        self.rows.append(
            {
                "equal": torch.equal(encoder.cluster_head.weight, encoder.feature_head.weight)
                and torch.equal(encoder.cluster_head.bias, encoder.feature_head.bias),
                "trained": trainable_names(pl_module),
                "second": bool(pl_module.clustering),
                "lr": trainer.optimizers[0].param_groups[0]["lr"],
                "state": len(trainer.optimizers[0].state),
                "cluster": encoder.cluster_head.weight.detach().clone(),
            }
        )


def model():
    torch.manual_seed(0)
    settings = {"encoder": TwoHeadConfig("identity", hidden=[16]), "features": 4, "num_clusters": 4}
    return ManifoldClustering(image_size=None, in_chans=20, optimizer=OptimizerConfig("adam", 1e-3, 0.0), **settings)


def train(folder, *techniques, epochs=3):
    net, watch = model(), Watch()
    trainer = trainer_of(folder, *techniques, watch, max_epochs=epochs)
    trainer.fit(net, TwoViews("curve_union", samples=80, batch_size=24))
    return net, watch.rows


@pytest.mark.parametrize("start", ["copy", "random"])
def test_the_head_is_copied_before_its_epoch_and_trained_from_then_on(tmp_path, start):
    drawn = model().encoder.cluster_head.weight
    technique = CopiedHead(1, start, cluster_optimizer={"lr": 0.01}, cluster_schedule={"name": "linear"})
    net, rows = train(tmp_path, technique)
    assert [row["second"] for row in rows] == [False, True, True]
    assert [row["equal"] for row in rows] == [False, start == "copy", False]
    assert torch.equal(rows[0]["cluster"], drawn)
    assert torch.equal(rows[1]["cluster"], drawn) == (start == "random")
    assert not set(HEAD) & set(rows[0]["trained"])
    assert set(HEAD) < set(rows[1]["trained"])
    assert set(rows[1]["trained"]) == {name for name, _ in net.named_parameters()}
    assert [row["lr"] for row in rows] == [1e-3, 0.01, pytest.approx(0.005)]
    assert rows[1]["state"] == 0  # a fresh optimiser
    (plan,) = ledger_of(net).plans
    assert (plan.technique, plan.epoch) == ("copied_head", 1)


def test_an_optimizer_that_is_kept_keeps_its_state(tmp_path):
    _, rows = train(tmp_path, CopiedHead(1, optimizer="keep"))
    assert rows[1]["state"] > 0
    assert rows[1]["equal"]


def test_at_the_start_by_default(tmp_path):
    _, rows = train(tmp_path, CopiedHead(), epochs=1)
    assert rows[0]["second"]
    assert rows[0]["equal"]


def test_with_adapters_on_both_heads(tmp_path):
    net, rows = train(tmp_path, LoRA(rank=2, target_modules=["*_head"]), CopiedHead(1), epochs=2)
    assert rows[1]["second"]
    trained = trainable_names(net)
    assert {name for name in trained if "cluster_head" in name} == {
        name.replace("feature_head", "cluster_head") for name in trained if "feature_head" in name
    }
    assert all("lora_" in name for name in trained if "head" in name)


@pytest.mark.parametrize("only", ["feature_head", "cluster_head"])
def test_with_adapters_on_one_head(tmp_path, only):
    seen = []

    class Look(Observer):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.current_epoch == 1 and batch_idx == 0:
                with torch.no_grad():
                    seen.append(pl_module.encoder.eval()(batch[0][:, 0]))
                pl_module.train()

    net, _ = train(tmp_path, LoRA(rank=2, target_modules=[f"*{only}", "*shared*"]), CopiedHead(1), Look(), epochs=2)
    torch.testing.assert_close(*seen[0])
    trained = [name for name in trainable_names(net) if "cluster_head" in name]
    assert any("lora_B" in name for name in trained) == (only == "cluster_head")
    assert trained


def test_a_module_of_lightning_under_its_trainer(tmp_path):
    import lightning.pytorch as pl

    class Foreign(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.second, self.seen = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3), False, []

        def head_names(self):
            return "one", "two"

        def begin_clustering(self):
            self.second = True

        def training_step(self, batch, batch_idx):
            self.seen.append((self.second, torch.equal(self.one.weight, self.two.weight)))
            (x,) = batch
            return self.one(x).square().sum() + (self.two(x).sum() if self.second else 0)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    net = Foreign()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(8, 4)), batch_size=4)
    trainer_of(tmp_path, CopiedHead(1)).fit(net, loader)
    assert net.seen == [(False, False), (False, False), (True, True), (True, False)]


@pytest.mark.parametrize("layers", [["two"], ["one"], ["one", "two"]])
def test_trained_adapters_are_copied_too(layers):
    net = torch.nn.ModuleDict({"one": torch.nn.Linear(5, 3), "two": torch.nn.Linear(5, 3)})
    add_lora(net, layers, rank=2, init="gaussian")
    for name, value in net.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value)
    copy_head(net, "one", "two")
    x = torch.randn(4, 5)
    torch.testing.assert_close(net["two"](x), net["one"](x))


def test_heads_of_two_shapes_are_refused():
    net = torch.nn.ModuleDict({"one": torch.nn.Linear(3, 2), "two": torch.nn.Linear(3, 4)})
    with pytest.raises(UserError, match=r"copied_head: one has .* heads of one shape are needed"):
        copy_head(net, "one", "two")


def test_bad_settings_and_runs(tmp_path):
    for arguments, message in (
        ({"epoch": -1}, r"^epoch: -1 is not accepted; at least 0"),
        ({"start": "zero"}, r"^start: 'zero' is not one of copy, random"),
        ({"optimizer": "sgd"}, r"^optimizer: 'sgd' is not one of keep, reset"),
        ({"cluster_optimizer": {"rate": 1}}, r"^cluster_optimizer.rate: there is no such setting"),
        ({"optimizer": "keep", "cluster_optimizer": {"lr": 1.0}}, "not accepted with optimizer keep"),
    ):
        with pytest.raises(UserError, match=message):
            CopiedHead(**arguments)
    with pytest.raises(UserError, match=r"copied_head.epoch: 3 is not reached, trainer.max_epochs is 3"):
        train(tmp_path, CopiedHead(3))
    from small_classifier import Data, Net

    with pytest.raises(UserError, match=r"copied_head: Net has no feature head and cluster head"):
        trainer_of(tmp_path, CopiedHead()).fit(Net(), Data())
