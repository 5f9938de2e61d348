"""The two stages in training: losses, the copied memberships, scores and files, unseen examples, alarms, resuming."""

import csv
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from editing_toys import trainer_of
from PIL import Image
from resume_harness import Kill, in_child, in_two_ranks, same

import framework
from callbacks.copied_head import CopiedHead
from datamodules.representation.two_views import TwoViews
from framework import OptimizerConfig
from framework.errors import UserError
from modules.representation.manifold_clustering import ManifoldClustering, SinkhornConfig, memberships, mlc_terms
from modules.representation.manifold_clustering.encoder import TwoHeadConfig, TwoHeadEncoder
from modules.representation.manifold_clustering.module import mean_view, view_cosine
from modules.representation.manifold_clustering.rates import coding_rate, membership_rate
from modules.representation.manifold_clustering.scores import cluster_scores

ADAM = OptimizerConfig("adam", 3e-3, 0.0)


def model(**settings):
    torch.manual_seed(0)
    layers = TwoHeadConfig("identity", hidden=[24])
    common = {"encoder": layers, "features": 16, "num_clusters": 4, "anchors": 60, "eta": 0.4}
    return ManifoldClustering(**{"image_size": None, "in_chans": 20, "optimizer": ADAM, **common, **settings})


def curves(folder, **settings):
    """Four short arcs in 20 dimensions."""
    draw, y = np.random.default_rng(0), np.arange(160) % 4
    centres, along = draw.normal(size=(2, 4, 20))
    t = draw.uniform(-1, 1, size=160)
    folder.mkdir(exist_ok=True)
    np.savez(folder / "arcs.npz", x=centres[y] + 0.4 * t[:, None] * along[y], y=y)
    return TwoViews("vectors", folder / "arcs.npz", **{"batch_size": 48, **settings})


def fit(folder, net=None, data=None, *callbacks, epochs=12):
    net, data = net or model(), data or curves(folder)
    trainer = trainer_of(folder, *(callbacks or (CopiedHead(4),)), max_epochs=epochs, num_sanity_val_steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(net, data)
    return net, data, trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return (*fit(folder), folder)


def test_the_losses_are_the_papers(monkeypatch):
    x = torch.randn(10, 2, 20, generator=torch.Generator().manual_seed(0))
    net = model(cosine_weight=7.0, eta=0.2)
    monkeypatch.setattr(net, "log", lambda *args, **kwargs: None)
    flat = torch.cat([x[:, 0], x[:, 1]])
    z, c = (part.view(2, 10, 16) for part in net.encoder(flat))
    mean = torch.nn.functional.normalize(z[0] + z[1], dim=1)
    cosine = (z[0] * z[1]).sum(1).abs().mean()
    expected = -coding_rate(mean, 0.2) - 7.0 * cosine
    torch.testing.assert_close(net.training_step((x, None), 0), expected)
    net.begin_clustering()
    gamma = (memberships(c[0], 0.2) + memberships(c[1], 0.2)) / 2
    expected = membership_rate(mean, gamma, 0.2) - coding_rate(mean, 0.2)
    torch.testing.assert_close(net.training_step((x, None), 0), expected)
    assert float(expected.detach()) < 0
    torch.testing.assert_close(mlc_terms(z, c, 0.2, 0.2)[2].sum(0), torch.ones(10), atol=1e-4, rtol=0)


def test_before_the_second_stage_clusters_are_those_of_the_features_and_a_trainable_head_has_no_gradient(monkeypatch):
    x = torch.randn(10, 2, 20, generator=torch.Generator().manual_seed(0))
    net = model().eval()
    monkeypatch.setattr(net, "log", lambda *args, **kwargs: None)
    z, c = net.cluster_features(x[:, 0])
    assert torch.equal(z, c)
    frozen = net.training_step((x, None), 0)
    net.encoder.cluster_head.requires_grad_(True)
    loss = net.training_step((x, None), 0)
    assert torch.equal(loss, frozen)
    loss.backward()
    assert not net.encoder.cluster_head.weight.grad.any()
    net.begin_clustering()
    z, c = net.cluster_features(x[:, 0])
    assert not torch.equal(z, c)


def test_absolute_scores_join_opposite_features_and_anchors_are_spread_over_all_examples():
    groups = torch.arange(120) // 40
    c = torch.eye(16)[groups] * torch.where(torch.arange(120) % 2 == 0, 1.0, -1.0)[:, None]
    for absolute in (True, False):
        net = model(num_clusters=3, eta=0.1, anchors=30, sinkhorn=SinkhornConfig(absolute=absolute))
        accuracy = net.measure(c, c, groups.numpy())["accuracy"]
        assert (accuracy == 1) == absolute
    net = model(num_clusters=3, eta=0.1, anchors=30, sinkhorn=SinkhornConfig(absolute=True))
    net.measure(c, c)
    assert torch.bincount(net.anchor_clusters).tolist() == [10, 10, 10]
    assert len({int(net.assign(-c[[40 * group]])[0]) for group in range(3)}) == 3
    assert torch.equal(net.assign(c)[0], net.assign(-c)[0])


def test_more_views_and_their_cosines():
    z = torch.nn.functional.normalize(torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)), dim=2)
    pairs = [(z[a] * z[b]).sum(1).abs().mean() for a, b in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(view_cosine(z), torch.stack(pairs).mean())
    torch.testing.assert_close(mean_view(z).norm(dim=1), torch.ones(5))


def test_right_after_the_copy_memberships_are_those_of_the_features_to_the_last_bit(tmp_path):
    seen = []

    class Look(framework.editing.Observer):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.current_epoch == 2 and batch_idx == 0:
                z, c = pl_module.encoder(batch[0][:, 0])
                seen.append((memberships(z, 0.2), memberships(c, 0.2)))

    fit(tmp_path, None, None, CopiedHead(2), Look(), epochs=3)
    assert torch.equal(*seen[0])


def test_training_lowers_the_rate_of_the_clusters_and_finds_the_curves(trained):
    net, _, _, _ = trained
    assert [row["epoch"] for row in net.curve] == list(range(1, 13))  # not at the sanity check
    before, after = net.curve[3], net.curve[-1]
    assert after["R"] - after["R_c"] > before["R"] - before["R_c"]
    assert after["accuracy"] > 0.95
    assert after["best_k"] == 4
    assert after["live_clusters"] == 4
    assert all(row["R"] > row["R_c"] > 0 and row["R_c_clusters"] > 0 for row in net.curve)
    assert 1 < after["perplexity"] < len(net.anchor_features) * 3


def test_files_and_figures(trained):
    _, data, _, folder = trained
    with (folder / "clusters.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(data.val_set)
    assert [int(row["label"]) for row in rows] == data.val_set.tensors[1].tolist()
    assert {row["cluster"] for row in rows} == {"0", "1", "2", "3"}
    with torch.no_grad():  # as in evaluation
        x = data.val_set.tensors[0]
        cluster, share = trained[0].eval().assign(trained[0].cluster_features(x)[1])
    assert [int(row["cluster"]) for row in rows] == cluster.tolist()
    assert [float(row["confidence"]) for row in rows] == pytest.approx(share.tolist(), abs=1e-4)
    assert {path.name for path in (folder / "figures").iterdir()} == {"curves.png", "geometry.png"}


def test_unseen_examples_get_the_row_that_they_would_have(trained):
    net, data, trainer, _ = trained
    (found,) = trainer.test(net, data, verbose=False)
    assert found["test/accuracy"] > 0.9
    c = net.cluster_features(data.test_set.tensors[0])[1].detach()
    kept = net.anchor_clusters >= 0
    shares = torch.zeros(len(c), 4)
    for i, own in enumerate(c):
        for j in torch.nonzero(kept)[:, 0]:
            weight = math.exp(float(own @ net.anchor_features[j]) / net.eta + float(net.anchor_potentials[j]))
            shares[i, net.anchor_clusters[j]] += weight
    cluster, share = net.assign(c)
    assert torch.equal(cluster, shares.argmax(1))
    torch.testing.assert_close(share, (shares / shares.sum(1, keepdim=True)).amax(1), atol=1e-4, rtol=1e-4)
    # examples that were clustered come back to their cluster
    assert torch.equal(net.assign(net.anchor_features[kept])[0], net.anchor_clusters[kept])
    prediction = net.predict_step(list(data.test_set.tensors), 0)
    assert set(prediction) == {"cluster", "confidence", "target"}
    assert set(net.predict_step(data.test_set.tensors[0], 0)) == {"cluster", "confidence"}


def test_a_folder_of_pictures_without_labels(tmp_path):
    """Pictures in, a table of their clusters with the files and a montage out; new pictures are assigned."""
    draw, folder = np.random.default_rng(0), tmp_path / "pictures"
    folder.mkdir()
    for i in range(40):
        pixels = draw.integers(0, 60, (8, 8, 3), dtype=np.uint8) + (150 if i % 2 else 0)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02}.png")
    data = TwoViews("folder", folder, image_size=8, augment="noise", batch_size=12, predict_path=folder)
    net = model(image_size=8, in_chans=3, num_clusters=2, encoder=TwoHeadConfig(args={"width": 4}, hidden=[8]))
    _, _, trainer = fit(tmp_path / "run", net, data, CopiedHead(2), epochs=4)
    with (tmp_path / "run" / "clusters.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert "label" not in rows[0]
    assert {Path(row["file"]).parent for row in rows} == {folder}
    groups = [{row["cluster"] for row in rows if int(Path(row["file"]).stem) % 2 == odd} for odd in (0, 1)]
    assert len(groups[0]) == len(groups[1]) == 1
    assert groups[0] != groups[1]
    assert "accuracy" not in net.curve[-1]
    assert (tmp_path / "run" / "figures" / "clusters.png").is_file()
    predicted = torch.cat([batch["cluster"] for batch in trainer.predict(net, data)])
    assert predicted.tolist() == [int(next(iter(groups[i % 2]))) for i in range(40)]


def test_an_unknown_number_of_clusters_is_the_one_with_the_largest_gap(tmp_path):
    net, _, _ = fit(tmp_path, model(num_clusters=None))
    assert net.curve[-1]["best_k"] == 4
    assert int(net.anchor_clusters.max()) == 3


def test_more_clusters_than_are_scored_have_their_gap(tmp_path):
    net = model(num_clusters=6, largest_k=3)
    c = torch.nn.functional.normalize(torch.eye(16)[torch.arange(96) % 6] + 0.01 * torch.randn(96, 16), dim=1)
    found = net.measure(c, c)
    assert found["best_k"] == 6
    assert found["gap"] > 0.5
    assert net.measure(c[:5], c[:5])["gap"] == 0  # fewer examples than clusters
    assert net.anchor_clusters.max() < 5


def test_the_table_has_the_examples_that_were_not_validated_too(tmp_path):
    _, data, _ = fit(tmp_path, model(points=50), curves(tmp_path, val_samples=100))
    with (tmp_path / "clusters.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(data.train_set) > len(data.val_set)
    labels, clusters = (np.array([int(row[name]) for row in rows]) for name in ("label", "cluster"))
    assert cluster_scores(labels, clusters)["accuracy"] > 0.95
    assert [int(row["label"]) for row in rows] == data.train_set.tensors[1].tolist()


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions(tmp_path, precision):
    net, data = model(), curves(tmp_path)
    trainer = trainer_of(tmp_path, CopiedHead(4), max_epochs=8, precision=precision)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(net, data)
    assert net.curve[-1]["accuracy"] > 0.95
    assert (tmp_path / "clusters.csv").is_file()
    assert trainer.test(net, data, verbose=False)[0]["test/accuracy"] > 0.9


def test_a_diverged_training_says_so_once_and_keeps_the_clusters(tmp_path):
    class Diverge(framework.editing.Observer):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.current_epoch == 2:
                pl_module.encoder.feature_head.weight.data.fill_(math.nan)

    trainer = trainer_of(tmp_path, CopiedHead(1), Diverge(), max_epochs=5)
    net = model()
    with pytest.warns(UserWarning, match="training has diverged, and nothing is clustered") as caught:
        trainer.fit(net, curves(tmp_path))
    assert sum("diverged" in str(each.message) for each in caught) == 1
    assert [row["epoch"] for row in net.curve] == [1, 2]
    assert bool((net.anchor_clusters >= 0).any())


def test_dead_clusters_and_a_wrong_eta_are_reported_once(tmp_path):
    net = model(num_clusters=3, eta=0.2)
    told = []
    for _ in range(4):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            net._alarm(2, 3, [30, 20, 1])
        told.append([str(w.message) for w in caught])
    assert [len(each) for each in told] == [0, 1, 0, 0]
    assert told[1][0].startswith("1 of 3 clusters have died")
    net = model(num_clusters=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net._alarm(2, 3, [30, 20, 1])
        net._alarm(3, 3, [20, 20, 11])
        net._alarm(2, 3, [30, 20, 1])
    assert not caught  # never at two validations in a row
    for eta, word in ((0.001, "break up"), (5.0, "merge")):
        trainer = trainer_of(tmp_path, CopiedHead(), max_epochs=1)
        with pytest.warns(UserWarning, match=f"clusters may {word}"):
            trainer.fit(model(eta=eta, num_clusters=8), curves(tmp_path))


def test_with_other_techniques(tmp_path):
    """Averages of weights, adapters, a penalty and a start are compatible with both stages."""
    from callbacks.ema import EMA
    from callbacks.gg_init import GGInit
    from callbacks.lora import LoRA
    from callbacks.weight_penalty import WeightPenalty

    techniques = [GGInit(1.0), LoRA(rank=2, target_modules=["*shared*", "*_head"]), CopiedHead(2), EMA(decay=0.5)]
    net, data, trainer = fit(tmp_path, None, None, *techniques, WeightPenalty(1e-3), epochs=4)
    assert len(net.curve) == 4
    assert bool(net.clustering)
    assert bool((net.anchor_clusters >= 0).any())
    trainer.test(net, data, verbose=False)


def config(root, epochs=4):
    encoder = {"name": "identity", "hidden": [8]}
    sizes = {"image_size": None, "in_chans": 20, "features": 4, "num_clusters": 4, "anchors": 30}
    return {
        "seed_everything": 1,
        "model": {
            "class_path": "modules.representation.manifold_clustering.ManifoldClustering",
            "init_args": {**sizes, "encoder": encoder},
        },
        "data": {
            "class_path": "datamodules.representation.two_views.TwoViews",
            "init_args": {"source": "curve_union", "samples": 60, "batch_size": 16},
        },
        "techniques": {
            "copied_head": {
                "class_path": "callbacks.copied_head.CopiedHead",
                "init_args": {"epoch": 2, "cluster_optimizer": {"lr": 0.01}},
            }
        },
        "trainer": {
            "max_epochs": epochs,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
        },
        "run": {"root": str(root), "method": "m", "name": "run", "resume_every_n_seconds": 0.0, "monitor": None},
        "wandb": {"mode": "disabled"},
    }


@pytest.mark.parametrize("kill", [4, 8])  # in either stage, of three steps an epoch
def test_resumed_equals_uninterrupted(kill, tmp_path):
    def go(root, resume=False, die=False):
        overrides = [f"--ckpt_path={root / 'm' / 'run'}"] if resume else []
        experiment = framework.build(config(root), overrides)
        if die:
            experiment.trainer.callbacks.append(Kill("on_train_batch_end", kill))
        experiment.run()
        module = experiment.trainer.lightning_module
        torch.save((module.state_dict(), experiment.trainer.optimizers[0].state_dict(), module.curve), root / "end.pt")

    ends = []
    for name in ("straight", "stopped"):
        root = tmp_path / name
        root.mkdir()
        if name == "stopped":
            assert in_child(lambda: go(root, die=True)) == 137  # noqa: B023
        assert in_child(lambda: go(root, resume=name == "stopped")) == 0  # noqa: B023
        ends.append(torch.load(root / "end.pt"))
    assert same(*ends)
    assert len(ends[0][2]) == 4
    opened = framework.open_model(tmp_path / "stopped" / "m" / "run" / "checkpoints" / "last.ckpt")
    assert same(dict(opened.state_dict()), dict(ends[0][0]))
    assert opened.encoder.cluster_head.weight.requires_grad


@pytest.mark.parametrize("adapted", [None, "*_head"])
def test_two_processes_train_both_stages_alike_and_the_table_has_all_examples(tmp_path, adapted):
    """With adapters on the cluster head too, which are trainable before the head is called."""

    def rank():
        settings = config(tmp_path, epochs=3)
        if adapted:
            lora = {"class_path": "callbacks.lora.LoRA", "init_args": {"rank": 2, "target_modules": [adapted]}}
            settings["techniques"] = {"lora": lora, **settings["techniques"]}
        settings["trainer"] |= {"devices": 2, "strategy": "ddp"}
        settings["data"]["init_args"]["batch_size"] = 8
        experiment = framework.build(settings)
        experiment.run()
        torch.save(dict(experiment.model.encoder.named_parameters()), tmp_path / f"{experiment.trainer.global_rank}.pt")

    assert in_two_ranks(rank) == [0, 0]
    assert same(*(torch.load(tmp_path / f"{number}.pt") for number in (0, 1)))
    with (tmp_path / "m" / "run" / "clusters.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 54


def test_a_checkpoint_does_not_need_the_backbones_file(tmp_path):
    file, settings = tmp_path / "w.pt", config(tmp_path, epochs=3)
    torch.save(TwoHeadEncoder(8, 1, 4, TwoHeadConfig("cnn", {"width": 4})).backbone.state_dict(), file)
    encoder = {"name": "cnn", "args": {"width": 4}, "hidden": [8], "weights": str(file)}
    settings["model"]["init_args"] |= {"image_size": 8, "in_chans": 1, "encoder": encoder}
    settings["data"]["init_args"] = {"source": "digits", "batch_size": 500}
    experiment = framework.build(settings)
    experiment.run()
    file.unlink()
    opened = framework.open_model(tmp_path / "m" / "run" / "checkpoints" / "last.ckpt")
    assert same(dict(opened.state_dict()), dict(experiment.model.state_dict()))


def test_what_is_refused(tmp_path):
    for settings, message in (
        ({"num_clusters": 1}, "num_clusters: 1 is not accepted; at least 2"),
        ({"eta": 0.0}, "eta: 0.0 is not accepted; above 0"),
        ({"eps_squared": -1.0}, "eps_squared: -1.0 is not accepted"),
        ({"cosine_weight": -1.0}, "cosine_weight: -1.0 is not accepted"),
        ({"sinkhorn": SinkhornConfig(tolerance=0)}, "sinkhorn.tolerance: 0 is not accepted"),
        ({"sinkhorn": {"max_iterations": 0}}, "sinkhorn.max_iterations: 0 is not accepted"),
    ):
        with pytest.raises(UserError, match=message):
            model(**settings)
    net = model()
    with pytest.raises(UserError, match="no clusters are known yet"):
        net.predict_step(torch.zeros(2, 20), 0)
    with pytest.raises(UserError, match=r"data.views: training batches of shape \(48, 1, 20\)"):
        fit(tmp_path, None, curves(tmp_path, views=1))
    with pytest.raises(UserError, match=r"model.init_args.in_chans: 21, but the data has channels 20"):
        fit(tmp_path, model(in_chans=21))
