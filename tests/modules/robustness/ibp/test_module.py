"""Training on bounds: losses by hand, units, the growth of eps, what is refused; what is known of each sample."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from editing_toys import trainer_of
from resume_harness import same

from datamodules.vision.small_images import SmallImages
from framework.errors import UserError
from framework.functional.interval import IntervalNetwork, pixel_box, smooth_eps
from framework.functional.interval.network import separate_margins
from modules.robustness.ibp import VERDICTS, IBPClassifier, certified_network, verdicts
from modules.robustness.ibp import module as ibp_module

TINY = {"network": "mlp", "width": 12, "hidden": [6], "image_size": 8}


def batch(count: int = 6):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 1, 8, 8, generator=generator), torch.arange(count) % 10


def model_of(**settings):
    torch.manual_seed(0)
    return IBPClassifier(**{**TINY, "ramp_epochs": None, **settings})


def step(model, x, y):
    model.log = lambda *args, **kwargs: None
    return model.training_step((x, y), 0)


def test_with_eps_0_the_loss_is_the_plain_cross_entropy():
    x, y = batch()
    for strategy in ("standard", "pgd", "ibp", "sabr"):
        model = model_of(eps=0.0, strategy=strategy)
        torch.testing.assert_close(step(model, x, y), F.cross_entropy(model(x), y), rtol=1e-6, atol=1e-6)


def test_the_loss_grows_with_eps():
    x, y = batch()
    losses = [float(step(model_of(eps=eps), x, y)) for eps in (0.0, 0.001, 0.01, 0.1, 0.5)]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


def test_the_shares_of_the_loss():
    x, y = batch()
    bound, clean = float(step(model_of(), x, y)), float(step(model_of(eps=0.0), x, y))
    assert float(step(model_of(certified_weight=0.25), x, y)) == pytest.approx(0.25 * bound + 0.75 * clean, rel=1e-5)


def test_sabr_boxes_are_small_and_within_the_large_one():
    x, y = batch()
    model = model_of(strategy="sabr", eps=0.1, sabr_fraction=0.4)
    box, whole = model.training_box(x, y, 0.1), pixel_box(x, 0.1)
    torch.testing.assert_close(box.radius, 0.4 * whole.radius)
    assert (box.lower >= whole.lower - 1e-6).all()
    assert (box.upper <= whole.upper + 1e-6).all()
    assert not torch.allclose(box.centre, whole.centre)


def test_attacks_stay_in_the_box_and_raise_the_loss():
    x, y = batch()
    model = model_of(strategy="pgd", eps=0.1, attack_steps=20)
    moved = model.attacked(x, y, 0.1)
    assert float((moved - x).abs().max()) <= 0.1 + 1e-6
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    assert F.cross_entropy(model(moved), y) > F.cross_entropy(model(x), y)


def test_batch_norm_is_updated_once_a_step_and_evaluated_with_running_statistics():
    x, y = batch(16)
    for weight in (1.0, 0.5):
        model = model_of(batch_norm=True, certified_weight=weight).train()
        step(model, x, y)
        norms = [layer for layer in model.net if isinstance(layer, torch.nn.BatchNorm1d)]
        assert [int(layer.num_batches_tracked) for layer in norms] == [1, 1]
    plain = model_of(batch_norm=True).train()
    plain.net(x)
    assert same(plain.net.state_dict(), model.net.state_dict())


def fit(folder, model, epochs=2, data=None, **options):
    torch.manual_seed(1)
    data = data or SmallImages("digits", num_classes=10, normalize=False, batch_size=256, eval_batch_size=512)
    trainer = trainer_of(folder, max_epochs=epochs, **options)
    trainer.fit(model, datamodule=data)
    return trainer, data


def test_eps_grows_by_steps_and_bounds_are_forgotten(tmp_path):
    seen = []

    class Watching(IBPClassifier):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            assert self.bounded_step is not None
            seen.append((self.bounded_step.eps, self.bounded_step.growing))
            return loss

    torch.manual_seed(0)
    model = Watching(**TINY, eps=0.2, ramp_epochs=(0.5, 1.5))
    trainer, _ = fit(tmp_path, model)
    batches = int(trainer.num_training_batches)
    expected = [smooth_eps(step, 0.5 * batches, 1.5 * batches, 0.2) for step in range(2 * batches)]
    assert [eps for eps, _ in seen] == pytest.approx(expected)
    assert [growing for _, growing in seen] == [eps < 0.2 for eps in expected]
    assert model.bounded_step is None


def test_the_test_reports_four_counts_and_three_shares(tmp_path):
    model = model_of(eps=0.05, test_attack_steps=5)
    trainer, data = fit(tmp_path, model)
    (found,) = trainer.test(model, datamodule=data, verbose=False)
    total = sum(found[f"test/{name}_count"] for name in VERDICTS)
    assert total == len(data.test_set)
    assert found["test/certified"] == pytest.approx(found["test/certified_count"] / total)
    left = found["test/certified_count"] + found["test/unknown_count"]
    assert found["test/adversarial"] == pytest.approx(left / total)
    assert found["test/certified"] <= found["test/adversarial"] <= found["test/accuracy"]


def test_the_test_writes_its_first_samples_for_verifiers(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(ibp_module, "write_verifier_files", lambda *args: written.append(args))
    model = model_of(eps=0.05, test_attack_steps=1, verifier_samples=300)
    data = SmallImages("digits", num_classes=10, normalize=False, batch_size=256, eval_batch_size=256)
    trainer, _ = fit(tmp_path, model, data=data, epochs=1)
    assert not written
    trainer.test(model, datamodule=data, verbose=False)
    ((folder, net, x, y, eps),) = written
    assert (folder, net, eps) == (tmp_path / "verifier", model.net, 0.05)
    first = [data.test_set[number] for number in range(300)]
    assert torch.equal(x, torch.stack([image for image, _ in first]))
    assert y.tolist() == [int(label) for _, label in first]


def test_verdicts_agree_with_corners():
    """In four dimensions all corners can be tried; a certified sample has none of another class."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    x = torch.rand(200, 4)
    with torch.no_grad():
        y = net(x).argmax(1)
        y[:5] = (y[:5] + 1) % 3  # wrong at x itself
        found = verdicts(IntervalNetwork(net), x, y, 0.05, steps=10, restarts=2)
        box = pixel_box(x, 0.05)
        corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)
        classes = net(box.centre[:, None] + corners * box.radius[:, None]).argmax(2)
    broken = (classes != y[:, None]).any(1)
    names = [VERDICTS[int(code)] for code in found]
    assert names[:5] == ["attacked"] * 5
    assert not any(hit and name == "certified" for hit, name in zip(broken.tolist(), names, strict=True))
    assert {"certified", "attacked"} <= set(names)
    assert "failed" not in names


def test_what_is_not_finite_is_a_failure_and_not_unknown():
    net = torch.nn.Sequential(torch.nn.Linear(4, 3))
    net[0].weight.data[0, 0] = float("nan")
    found = verdicts(IntervalNetwork(net), torch.rand(3, 4), torch.tensor([0, 1, 2]), 0.1)
    assert [VERDICTS[int(code)] for code in found] == ["failed"] * 3
    assert len(verdicts(IntervalNetwork(net), torch.rand(0, 4), torch.zeros(0, dtype=torch.long), 0.1)) == 0


def test_margins_of_the_module_are_those_of_its_logits_or_tighter():
    x, y = batch()
    model = model_of(mean=(0.3,), std=(0.25,)).eval()
    with torch.no_grad():
        bounds = model.network.bounds(x, 0.05, y)
    assert (bounds.margins <= separate_margins(bounds.output, y) + 1e-5).all()
    torch.testing.assert_close(bounds.inputs.radius, pixel_box(x, 0.05).radius.flatten(1) / 0.25)


@pytest.mark.parametrize("network", ["mlp", "cnn_2", "cnn_3", "cnn_5", "cnn_7", "cnn_9", "cnn_11", "cnn_13"])
def test_the_networks_have_their_depth(network):
    net = certified_network(network, 3, 32, 10, width=4, hidden=[5] if network != "mlp" else None, batch_norm=True)
    layers = [layer for layer in net if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)]
    depth = 3 if network == "mlp" else int(network[4:]) + (network in ("cnn_2", "cnn_3"))
    assert len(layers) == depth
    assert net.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_cnn_7_has_the_papers_sizes():
    net = certified_network("cnn_7", 1, 28, 10)
    shapes = [tuple(layer.weight.shape) for layer in net if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)]
    assert shapes == [
        (64, 1, 3, 3),
        (64, 64, 3, 3),
        (128, 64, 3, 3),
        (128, 128, 3, 3),
        (128, 128, 3, 3),
        (512, 128 * 14 * 14),
        (10, 512),
    ]


def test_what_is_refused(tmp_path):
    for settings, message in (
        ({"eps": 8}, "eps: 8 is not accepted"),
        ({"strategy": "trades"}, "strategy: 'trades' is not one of standard, pgd, ibp, sabr"),
        ({"network": "resnet"}, "network: 'resnet' is not one of mlp, cnn_2"),
        ({"ramp_epochs": (5, 2)}, r"ramp_epochs: \[5, 2\] ends before it starts"),
        ({"std": (0.0,)}, "std"),
        ({"mean": (0.1, 0.2)}, "mean: 2 values are not accepted; 1, or 1 for the channels"),
        ({"network": "cnn_7", "image_size": 0}, "image_size: 0"),
    ):
        with pytest.raises(UserError, match=message):
            model_of(**settings)
    with pytest.raises(UserError, match=r"data\.init_args\.normalize: true is not accepted"):
        fit(tmp_path, model_of(), data=SmallImages("digits", num_classes=10, batch_size=256))
    with pytest.raises(UserError, match=r"image_size: 8, but the data has 16"):
        fit(tmp_path, model_of(), data=SmallImages("digits", image_size=16, normalize=False))
