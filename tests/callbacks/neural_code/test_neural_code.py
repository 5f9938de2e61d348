"""neural_code: what it logs against plain computations, its file, any way of loading, what it refuses."""

from __future__ import annotations

import json

import lightning.pytorch as pl
import numpy as np
import pytest
import timm
import torch
from resume_harness import in_two_ranks
from small_classifier import Net, leaves_training_alone, trained
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from callbacks.neural_code import NeuralCode, read_codes
from callbacks.neural_code.codes_file import write_codes
from callbacks.neural_code.reading import own_batches
from framework import OptimizerConfig
from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.editing import Context
from framework.errors import UserError
from framework.functional.neural_code import kmeans_purity, knn_classes, logistic_classes, neural_codes
from framework.module import Module


class Coded(Module):
    """ReLU, batch norm, dropout."""

    def __init__(self, net=None, inputs=6):
        super().__init__(OptimizerConfig("sgd", lr=0.1, weight_decay=0.0))
        self.net = net or nn.Sequential(
            nn.Linear(inputs, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.3), nn.Linear(9, 3)
        )

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    test_step = validation_step


class Points(DataModule):
    def __init__(self, shape=(6,), **sizes):
        super().__init__(**{"batch_size": 16, **sizes})
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(157, *shape, generator=generator)
        y = (x.flatten(1)[:, :2] > 0).sum(1)
        self.train_set, self.val_set = ArrayDataset(x[:100], y[:100]), ArrayDataset(x[100:], y[100:])
        self.test_set = self.val_set


def trainer_of(root, *callbacks, **settings):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    settings = {"max_epochs": 2, "enable_model_summary": False, **quiet, **settings}
    return pl.Trainer(default_root_dir=root, callbacks=list(callbacks), **settings)


def fitted(root, technique, model=None, data=None, **settings):
    torch.manual_seed(0)
    model, data = model or Coded(), data or Points()
    trainer = trainer_of(root, technique, **settings)
    trainer.fit(model, datamodule=data)
    return model, data, trainer


def test_it_leaves_training_alone(tmp_path):
    leaves_training_alone(tmp_path, NeuralCode(), "neural_code")


def test_it_logs_the_codes_of_the_network(tmp_path):
    technique = NeuralCode(batch_size=32)
    model, data, trainer = fitted(tmp_path, technique)
    assert [(row["epoch"], row["step"]) for row in technique.rows] == [(0, 0), (1, 7), (2, 14)]
    codes = {p: neural_codes(model, s.tensors[0]) for p, s in (("train", data.train_set), ("val", data.val_set))}
    logged = trainer.callback_metrics
    for part, own in codes.items():
        bits, n = own.unpacked(), len(own)
        expected = 1 - len(np.unique(bits, axis=0)) / n
        assert float(logged[f"neural_code/{part}/redundancy_ratio"]) == pytest.approx(expected)
        assert float(logged[f"neural_code/{part}/examples"]) == n
        assert technique.rows[-1][f"{part}/distinct"] == len(np.unique(bits, axis=0))
        assert 0.05 < expected < 0.95
        assert logged[f"neural_code/{part}/regime"] == (0 if expected >= 0.5 else 1)
        assert f"{part}/regime" not in technique.rows[1]
    train, val = codes["train"].unpacked(), codes["val"].unpacked()
    both = np.concatenate([train, val])
    varying = both.min(0) != both.max(0)
    assert (logged["neural_code/bits"], logged["neural_code/varying_bits"]) == (9, varying.sum())
    y, targets = data.train_set.tensors[1].numpy(), data.val_set.tensors[1].numpy()
    train, val = train[:, varying], val[:, varying]
    knn = knn_classes(np.packbits(train, axis=1), y, np.packbits(val, axis=1), train.shape[1])
    row = technique.rows[-1]
    assert row["val/knn"] == (knn == targets).mean() > 0.5
    assert row["val/logistic"] == (logistic_classes(train, y, val) == targets).mean() > 0.5
    assert row["val/kmeans"] == kmeans_purity(val, targets, 3)
    assert row["train/kmeans"] == kmeans_purity(train, y, 3)
    assert "val/knn" not in technique.rows[0]
    written = json.loads((tmp_path / "neural_code.json").read_text())
    assert written == {"kind": "neural_code", "rows": technique.rows}
    assert model.training


def test_chosen_epochs_and_parts(tmp_path):
    technique = NeuralCode(epochs=(0, 2), parts=("test",), classifiers=("kmeans",), classify="always", save=False)
    fitted(tmp_path, technique, max_epochs=4)
    assert [row["epoch"] for row in technique.rows] == [0, 2, 4]
    assert all(0 < row["test/kmeans"] <= 1 for row in technique.rows)
    assert not (tmp_path / "codes.npz").exists()


def test_a_training_that_ends_within_an_epoch(tmp_path):
    technique = NeuralCode(epochs=(2,), classifiers=("knn",))
    model, data, _ = fitted(tmp_path, technique, max_epochs=5, max_steps=17)
    assert technique.rows[-1]["step"] == 17
    assert "val/knn" in technique.rows[-1]
    assert np.array_equal(read_codes(tmp_path).parts["val"].packed, neural_codes(model, data.val_set.tensors[0]).packed)


def test_the_file_of_a_residual_network(tmp_path):
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=3, in_chans=1)
    model, data = Coded(net), Points((1, 16, 16))
    fitted(tmp_path, NeuralCode(classifiers=("kmeans", "knn"), examples=40), model, data, max_epochs=1)
    file = read_codes(tmp_path)
    codes = neural_codes(model, data.train_set.tensors[0])
    assert file.kind == "neural_code"
    assert file.layers == codes.layers
    assert len(file.layers) > 8
    assert file.offsets[-1] == codes.bits == len(file.varying)
    part = file.parts["train"]
    assert part.packed.dtype == np.uint8
    assert part.packed.shape == (40, -(-codes.bits // 8))
    assert sorted({*part.ids}) == [*part.ids]
    assert np.array_equal(file.unpacked("train"), codes.unpacked()[part.ids])
    assert np.array_equal(part.labels, data.train_set.tensors[1][part.ids])


def test_other_activations_are_logged_under_another_name(tmp_path):
    net = nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 3))
    _, _, trainer = fitted(tmp_path, NeuralCode(), Coded(net))
    names = {name.partition("/")[0] for name in trainer.callback_metrics if "/" in name}
    assert names == {"sign_code", "val"}
    assert read_codes(tmp_path).kind == "sign_code"


def test_layers_by_name(tmp_path):
    net = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 3))
    technique = NeuralCode(layers=["net.3"], classifiers=())
    model, data, _ = fitted(tmp_path, technique, Coded(net))
    file = read_codes(tmp_path)
    assert [layer.name for layer in file.layers] == ["net.3"]
    assert np.array_equal(file.unpacked("val"), neural_codes(model, data.val_set.tensors[0], ["3"]).unpacked())


def results(root, trainer=None, settings=None, **sizes):
    """Measurements and codes of one fixed network, read in a test."""
    torch.manual_seed(0)
    technique = NeuralCode(batch_size=16, **(settings or {}))
    trainer = trainer_of(root, technique, **(trainer or {}))
    trainer.test(Coded(), datamodule=Points(**sizes), verbose=False)
    if not technique.save:
        return {name: float(value) for name, value in trainer.callback_metrics.items() if "_code/" in name}, {}
    file = read_codes(root / "codes_test.npz")
    found = {name: float(value) for name, value in trainer.callback_metrics.items() if "_code/" in name}
    return found, {name: part.packed for name, part in file.parts.items()}


def test_the_same_codes_with_any_loader_and_number_of_processes(tmp_path):
    first, codes = results(tmp_path / "one")
    assert first["neural_code/test/knn"] > 0.4
    assert {*codes} == {"train", "test"}
    ways = {
        "batch": {"batch_size": 7},
        "large": {"batch_size": 100, "eval_batch_size": 33},
        "workers": {"num_workers": 2},
    }
    for name, sizes in ways.items():
        other, found = results(tmp_path / name, **sizes)
        assert other == first
        assert all(np.array_equal(found[part], codes[part]) for part in codes)

    few = {"save": False, "fit_examples": 30, "examples": 90}
    fewer, _ = results(tmp_path / "few", settings=few)
    assert fewer["neural_code/test/redundancy_ratio"] == first["neural_code/test/redundancy_ratio"]
    assert fewer["neural_code/test/knn"] != first["neural_code/test/knn"]

    def rank():
        two = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
        found = [results(tmp_path / "ranks", two)[0], results(tmp_path / "ranks_few", two, few)[0]]
        if torch.distributed.get_rank() == 0:
            torch.save(found, tmp_path / "rank.pt")

    assert in_two_ranks(rank) == [0, 0]
    file = read_codes(tmp_path / "ranks" / "codes_test.npz")
    assert all(np.array_equal(file.parts[part].packed, codes[part]) for part in codes)
    assert torch.load(tmp_path / "rank.pt", weights_only=True) == [first, fewer]


def test_two_processes_train_as_without_it_and_agree(tmp_path):
    def rank():
        ends = []
        for name, callbacks in (("with", [NeuralCode(classifiers=("knn",))]), ("without", [])):
            torch.manual_seed(0)
            model = Coded()
            trainer = trainer_of(tmp_path / name, *callbacks, devices=2, strategy="ddp")
            trainer.fit(model, datamodule=Points())
            ends.append({key: value.clone() for key, value in model.state_dict().items()})
            rows = trainer.strategy.broadcast(callbacks[0].rows if callbacks else None)
            assert not callbacks or rows == callbacks[0].rows, "ranks differ"
        assert all(torch.equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))

    assert in_two_ranks(rank) == [0, 0]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_example_is_read_in_its_own_batch(world):
    for count in (1, 5, 8, 23):
        shares = own_batches(count, 4, world).reshape(-1, world).T.reshape(world, -1, 4)
        batches = [shares[number % world, number // world] for number in range(shares.shape[1] * world)]
        flat = torch.cat(batches)
        assert torch.equal(flat[:count], torch.arange(count))
        assert (flat[count:] == count - 1).all()


def test_plain_loaders_and_a_resumed_run(tmp_path):
    x = torch.randn(40, 6)
    loader = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=8)
    technique = NeuralCode(classifiers=("knn",))
    trainer_of(tmp_path, technique).fit(Coded(), loader, loader)
    assert technique.rows[-1]["val/examples"] == 40
    trainer = trainer_of(tmp_path, technique, num_sanity_val_steps=0, check_val_every_n_epoch=2)
    trainer.fit(
        Coded(), loader, loader
    )  # validation data that is not loaded yet, and measurements that are not its own
    assert [row["epoch"] for row in technique.rows] == [0, 1, 2]
    whole, part, rest = (NeuralCode() for _ in range(3))
    trained(tmp_path / "whole", whole, epochs=3)
    _, trainer, _ = trained(tmp_path / "part", part, epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    trained(tmp_path / "rest", rest, epochs=3, ckpt=tmp_path / "one.ckpt")
    assert rest.rows[0] == whole.rows[0]
    assert [row["epoch"] for row in rest.rows] == [0, 1, 2, 3]


class Stream(IterableDataset):
    def __iter__(self):
        yield from [(torch.randn(6), 0)] * 4


def test_what_it_refuses(tmp_path):
    for settings, message in (
        ({"epochs": (-1,)}, r"^epochs: \(-1,\) is not accepted"),
        ({"parts": ("trian",)}, "did you mean 'train'"),
        ({"parts": ("val",)}, "knn and logistic are fitted to train"),
        ({"parts": ("train", "train")}, "each part once"),
        ({"parts": ()}, "parts"),
        ({"classifiers": ("svm",)}, "is not one of kmeans, knn, logistic"),
        ({"fit_examples": 5}, "fit_examples: 5 is not accepted; at least 9"),
        ({"under": 1.5}, "under: 1.5"),
        ({"sufficient": 0.6}, r"sufficient: 0.6 is not accepted; at most 0.5 \(under\)"),
    ):
        with pytest.raises(UserError, match=message):
            NeuralCode(**settings)
    with pytest.raises(UserError, match=r"neural_code.layers: 'bodi' names nothing in the model; nearest: body"):
        trained(tmp_path, NeuralCode(layers=["bodi"]))
    with pytest.raises(UserError, match=r"neural_code.layers: Coded calls no activation"):
        fitted(tmp_path, NeuralCode(), Coded(nn.Linear(6, 3)))
    with pytest.raises(UserError, match="has no length"):
        trainer_of(tmp_path, NeuralCode()).fit(Coded(), DataLoader(Stream(), batch_size=2))
    numbers = DataLoader(TensorDataset(torch.randn(8, 6), torch.randn(8, 3).softmax(1)), batch_size=2)
    with pytest.raises(UserError, match=r"neural_code.classifiers: the train data has no classes; give \[\]"):
        trainer_of(tmp_path, NeuralCode(), max_epochs=1).fit(Coded(), numbers, numbers)
    with pytest.raises(UserError, match="LightningModule has no forward"):
        NeuralCode().check(pl.LightningModule(), Context())
    trainer_of(tmp_path, NeuralCode(classifiers=()), max_epochs=1).fit(Coded(), numbers, numbers)


class Watched(Coded):
    """Fails if it is trained."""

    def training_step(self, batch, batch_idx):
        raise AssertionError("a step was taken")


def test_what_cannot_work_is_refused_before_training(tmp_path, monkeypatch):
    """Also where nothing is measured before the end."""
    numbers = DataLoader(TensorDataset(torch.randn(8, 6), torch.randn(8, 3).softmax(1)), batch_size=2)
    with pytest.raises(UserError, match="the train data has no classes"):
        trainer_of(tmp_path, NeuralCode(epochs=(2,))).fit(Watched(), numbers, numbers)
    with pytest.raises(UserError, match="'bodi' names nothing"):
        fitted(tmp_path, NeuralCode(epochs=(2,), layers=["bodi"]), Watched())
    monkeypatch.setattr("callbacks.neural_code.callback.MOST_FLOATS", 8 * 100 * 9 - 1)
    with pytest.raises(UserError, match="kmeans and logistic would convert 100 codes of 9 bits to float64"):
        fitted(tmp_path, NeuralCode(epochs=(2,)), Watched())
    monkeypatch.setattr("callbacks.neural_code.callback.LARGE_FILE", 157 * 2 - 1)
    with pytest.warns(UserWarning, match="neural_code: the codes to save take"):
        fitted(tmp_path, NeuralCode(epochs=(2,), classifiers=("knn",)))
    fitted(tmp_path, NeuralCode(epochs=(2,), fit_examples=99))


def test_two_processes_refuse_data_without_classes_alike(tmp_path):
    """Not the first alone, for which the other would wait."""

    def rank():
        numbers = DataLoader(TensorDataset(torch.randn(8, 6), torch.randn(8, 3).softmax(1)), batch_size=2)
        trainer = trainer_of(tmp_path, NeuralCode(), devices=2, strategy="ddp", use_distributed_sampler=False)
        with pytest.raises(UserError, match="the train data has no classes"):
            trainer.fit(Watched(), numbers, numbers)

    assert in_two_ranks(rank) == [0, 0]


def test_double_precision_and_a_training_that_diverged(tmp_path):
    fitted(tmp_path, NeuralCode(), precision="64-true", max_epochs=1)
    model = Coded()
    model.net[0].weight.data.fill_(float("nan"))
    technique = NeuralCode()
    with pytest.warns(UserWarning, match=r"neural_code.layers: net.2 has NaN for some inputs; these bits are 0"):
        trainer_of(tmp_path, technique, max_epochs=1).fit(model, datamodule=Points())
    assert technique.rows[-1]["val/distinct"] == 1


def test_broken_files(tmp_path):
    trained(tmp_path, NeuralCode(classifiers=()), epochs=1)
    whole = read_codes(tmp_path)
    assert whole.kind == "sign_code"
    assert neural_codes(Net(), torch.randn(3, 4)).kind == "sign_code"
    with np.load(tmp_path / "codes.npz") as arrays:
        found = dict(arrays)
    for change, message in (
        ({"offsets": None}, "lacks offsets"),
        ({"train_ids": found["train_ids"][:-1]}, "train_ids"),
        ({"varying": found["varying"][:-1]}, "do not fit together"),
        ({"train_codes": np.zeros((48, 9), np.uint8)}, "do not fit|val_codes"),
    ):
        np.savez(tmp_path / "broken.npz", **{k: v for k, v in {**found, **change}.items() if v is not None})
        with pytest.raises(UserError, match=message):
            read_codes(tmp_path / "broken.npz")
    write_codes(tmp_path / "again.npz", whole)
    assert np.array_equal(read_codes(tmp_path / "again.npz").unpacked("val"), whole.unpacked("val"))
    with pytest.raises(UserError, match=r"nothing\.npz"):
        read_codes(tmp_path / "nothing.npz")
