"""KappaTune's experiment: the network, its pre-training, the batched runs, and the identities."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import framework
from framework.claims import Reproduction
from framework.errors import UserError
from modules.finetuning.kappa_tune import ExpertLayer, ExpertNetwork, TwoTaskClassifier, accuracy, claims
from modules.pretrained import pretrain

SMALL = {"d_input": 6, "num_classes": 3, "width": 8, "blocks": 2, "experts": 3, "hidden": 5}


def task(seed, n=120):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator)
    y = x[:, :3].argmax(-1)
    return {"x": x[:80], "y": y[:80], "x_test": x[80:], "y_test": y[80:]}


def numpy_task(seed):
    return {name: value.numpy() for name, value in task(seed).items()}


def test_a_sample_is_seen_by_its_two_best_experts_alone():
    torch.manual_seed(0)
    layer = ExpertLayer(6, 9, experts=5, top_k=2).double()
    h = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    expected = []
    for sample in h:
        logits, best = layer.router(sample).topk(2)
        out = sample
        for gate, index in zip(logits.softmax(-1), best.tolist(), strict=True):
            expert = layer.experts[index]
            out = out + gate * expert["down"](F.relu(expert["up"](sample)))
        expected.append(out)
    expected = torch.stack(expected)
    found = layer(h)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weight = torch.randn(7, 6, dtype=torch.float64)
    inputs = [h, *layer.parameters()]
    for ours, plain in zip(
        torch.autograd.grad((found * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if plain is None else plain, rtol=0, atol=1e-12)


def test_the_network_of_the_experiment():
    network = ExpertNetwork()
    experts = {n: p for n, p in network.named_parameters() if ".experts." in n and p.ndim == 2}
    assert len(experts) == 48
    assert {tuple(p.shape) for p in experts.values()} == {(96, 48), (48, 96)}
    dense = ExpertNetwork(**claims.DENSE)
    assert sum(p.ndim == 2 for p in dense.parameters()) == 14
    assert dense(torch.randn(3, 40)).shape == network(torch.randn(3, 40)).shape == (3, 10)
    with pytest.raises(UserError, match="top_k: 4 is not accepted; at most 3"):
        ExpertNetwork(experts=3, top_k=4)
    with pytest.raises(UserError, match=r"^width: 0"):
        ExpertNetwork(width=0)


def test_pretraining_learns_and_is_fixed_by_its_seed():
    data = task(0)
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        network = ExpertNetwork(**SMALL)
        pretrain(network, data["x"], data["y"], epochs=30, lr=0.01, batch_size=16, seed=3)
        weights.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    assert torch.equal(*weights)
    assert accuracy(network, data["x_test"], data["y_test"]) > 0.8


def run(folder, *overrides, order="lowest"):
    config = {
        "seed_everything": 5,
        "model": {
            "class_path": "modules.finetuning.kappa_tune.TwoTaskClassifier",
            "init_args": {**SMALL, "pretrain_epochs": 3, "pretrain_batch_size": 16, "optimizer": {"weight_decay": 0.01}},
        },
        "data": {"class_path": "datamodules.finetuning.two_task.TwoTask", "init_args": {"batch_size": 16}},
        "techniques": {
            "kappa_tune": {
                "class_path": "callbacks.kappa_tune.KappaTune",
                "init_args": {"num_tensors": 4, "include": ["experts.*"], "order": order},
            }
        },
        "trainer": {
            "max_epochs": 3, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False,
        },
        "run": {"root": str(folder), "name": "a"},
        "wandb": {"mode": "disabled"},
    }  # fmt: skip
    experiment = framework.build(config, overrides=list(overrides))
    data = experiment.datamodule
    data._sources = (numpy_task(0), None)
    return experiment


def test_the_batched_run_is_fit(tmp_path):
    """Same weights after pre-training, same choice, same order of samples, same AdamW: equal up to rounding."""
    experiment = run(tmp_path)
    experiment.fit()
    metrics = {name: float(value) for name, value in experiment.trainer.callback_metrics.items()}
    data = experiment.datamodule
    found = claims.run_all(
        [5, 6],
        data,
        SMALL,
        ".experts.",
        4,
        ("lowest", "highest"),
        3,
        3,
        target=0.0,
        pretrain_options={"batch_size": 16},
    )
    lowest = found["lowest"]
    assert lowest.forgetting[0] == pytest.approx(metrics["val/forgetting"], abs=1e-6)
    assert lowest.learnt[0] == pytest.approx(metrics["val/accuracy"], abs=1e-6)
    assert lowest.loss[0] == pytest.approx(metrics["val/loss_train"], abs=1e-4)
    assert metrics["model/trainable_fraction"] == pytest.approx(
        4 * 40 / sum(p.numel() for p in experiment.model.network.parameters())
    )
    assert lowest.trained == found["highest"].trained == [160, 160]
    assert lowest.loss[0] != found["highest"].loss[0]
    assert lowest.epochs == [3, 3]
    assert len(lowest.path[0]) == 4


def test_a_batched_run_stops_at_its_target_and_leaves_frozen_tensors_alone():
    data = {"a": task(0), "b": task(1)}
    networks = []
    for seed in range(3):
        torch.manual_seed(seed)
        networks.append(ExpertNetwork(**SMALL))
    before = [{name: p.detach().clone() for name, p in network.named_parameters()} for network in networks]
    trained = [["output.weight"], ["output.weight", "input.weight"], ["input.weight"]]
    found = claims.learn_b(
        networks,
        trained,
        lambda epoch: [torch.arange(80).expand(3, 80)],
        data,
        lr=0.1,
        weight_decay=0.1,
        epochs=40,
        target=0.6,
    )
    for network, old, names, (took, loss, path) in zip(networks, before, trained, found, strict=True):
        changed = {name for name, p in network.named_parameters() if not torch.equal(p, old[name])}
        assert changed == set(names)
        assert loss <= 0.6
        assert len(path) == took + 1
        with torch.no_grad():
            again = float(F.cross_entropy(network(data["b"]["x"]), data["b"]["y"]))
        assert loss == pytest.approx(again, abs=1e-5)
    assert len({took for took, _, _ in found}) > 1


def test_a_checkpoint_opens_alone_and_remembers_what_could_be_done_before(tmp_path):
    experiment = run(tmp_path)
    experiment.fit()
    before = experiment.model.accuracy_before
    assert 0 < float(before) <= 1
    model = TwoTaskClassifier.load_from_checkpoint(
        tmp_path / "run" / "a" / "checkpoints" / "last.ckpt", weights_only=True
    )
    assert model.accuracy_before == before
    for name, value in experiment.model.state_dict().items():
        assert torch.equal(model.state_dict()[name].cpu(), value.cpu())


def test_weights_from_a_file(tmp_path):
    network = ExpertNetwork(**SMALL)
    torch.save(network.state_dict(), tmp_path / "a.pt")
    model = TwoTaskClassifier(**SMALL, pretrained=str(tmp_path / "a.pt"))
    assert torch.equal(model.network.input.weight, network.input.weight)
    with pytest.raises(UserError, match="does not fit"):
        TwoTaskClassifier(**{**SMALL, "width": 9}, pretrained=str(tmp_path / "a.pt"))
    with pytest.raises(UserError, match=r"nowhere.pt not found"):
        TwoTaskClassifier(**SMALL, pretrained="nowhere.pt")
    with pytest.raises(UserError, match="pretrain_epochs"):
        TwoTaskClassifier(**SMALL, pretrain_epochs=-1)


def test_the_claims_that_need_no_training_hold():
    measured = list(claims.identities())
    assert len(measured) == 9
    assert [claim.text for claim in measured if not claim.holds] == []


def test_selection_of_the_batched_run_orders_by_condition_number():
    torch.manual_seed(0)
    network = nn.ModuleDict({name: nn.Linear(4, 4) for name in "abc"})
    for scale, layer in zip((3.0, 1.0, 2.0), network.values(), strict=True):
        layer.weight.data.copy_(torch.diag(torch.tensor([scale, 1.0, 1.0, 1.0])))
    assert claims.chosen_tensors(network, "lowest", 0, "weight", 2) == ["b.weight", "c.weight"]
    assert claims.chosen_tensors(network, "highest", 0, "weight", 1) == ["a.weight"]
    assert len(claims.chosen_tensors(network, "full", 0, "weight", 1)) == 3


def test_the_figure_is_drawn(tmp_path):
    outcome = claims._Outcome([0.6], [0.5], [0.4], [0.9], [2], [10], [[(0.0, 0.1), (0.1, 0.4)]])
    figure = claims.forgetting_figure({"lowest": outcome, "highest": outcome}, {"lowest": outcome})
    path = Reproduction(tmp_path).figure("forgetting", figure)
    assert path.stat().st_size > 10_000
    assert [text.get_text() for text in figure.axes[1].get_xticklabels()] == [
        "lowest κ",
        "highest κ",
        "lowest κ\ndense",
    ]
