"""The network and its recipe, and the checks of its codes: bounds, regions, invariances."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checkout import CONFIGS
from torch import nn

import framework
from framework.config import yaml12
from framework.errors import UserError
from framework.functional.neural_code import DistinctCodes, neural_codes
from modules.interpretability.hash_encoder import BNReLUMLP, HashEncoder
from modules.interpretability.hash_encoder.regions import region_count_bound


def ratio_of(model, x):
    counter = DistinctCodes()
    counter.update(neural_codes(model, x).packed)
    return counter


def test_it_is_kerass_network():
    torch.manual_seed(0)
    net = BNReLUMLP(inputs=20, num_classes=4, width=31, depth=3)
    assert [tuple(layer.weight.shape) for layer in net.kernels()] == [(10, 20), (10, 10), (10, 10)]
    for layer in [*net.kernels(), net.head]:
        bound = math.sqrt(6 / sum(layer.weight.shape))
        assert 0.8 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert not layer.bias.any()
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm1d)]
    assert [(norm.momentum, norm.eps) for norm in norms] == [(0.01, 1e-3)] * 3
    x = torch.randn(6, 2, 10)
    h = x.flatten(1)
    for layer, norm in zip(net.kernels(), norms, strict=True):
        h = norm(layer(h)).relu()
    torch.testing.assert_close(net(x), net.head(h))
    assert not any(isinstance(m, nn.BatchNorm1d) for m in BNReLUMLP(batch_norm=False).modules())


def test_loss_and_optimiser():
    torch.manual_seed(0)
    model = HashEncoder(inputs=6, num_classes=3, width=8, depth=2, l2=0.5)
    x, y = torch.randn(7, 6), torch.arange(7) % 3
    loss = model.training_step((x, y), 0).detach()
    expected = F.cross_entropy(model.net(x), y) + 0.5 * sum(k.weight.square().sum() for k in model.net.kernels())
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)
    model.training_step((x[:3], y[:3]), 1)
    found, accuracy = model.epoch.compute()
    second = F.cross_entropy(model.net(x[:3]), y[:3]) + 0.5 * model.penalty()
    right = (model.net(x).argmax(1) == y).sum() + (model.net(x[:3]).argmax(1) == y[:3]).sum()
    assert float(found) == pytest.approx((7 * float(loss) + 3 * float(second.detach())) / 10, rel=1e-5)
    assert float(accuracy) == pytest.approx(float(right) / 10)
    settings, schedule = model.optimizer_config, model.schedule_config
    assert (settings.name, settings.lr, settings.args, settings.weight_decay) == ("adam", 0.01, {"eps": 1e-7}, 0.0)
    assert (schedule.name, schedule.every, schedule.gamma) == ("step", 20, 0.1)


def test_the_counting_bounds():
    """Check 1."""
    torch.manual_seed(0)
    x = torch.randn(4000, 784)
    found = ratio_of(BNReLUMLP(width=3), x)
    assert found.distinct <= 2**3
    assert found.ratio >= 1 - 2**3 / 4000
    assert region_count_bound(3, 784) == 2**3
    for width, inputs in ((6, 2), (9, 1), (8, 3)):
        net = nn.Sequential(nn.Linear(inputs, width), nn.ReLU())
        bound = sum(math.comb(width, i) for i in range(inputs + 1))
        assert region_count_bound(width, inputs) == bound
        assert bound / 3 < ratio_of(net, 3 * torch.randn(20_000, inputs)).distinct <= bound


def test_codes_of_one_dimension_are_the_intervals_between_kinks():
    """Check 2."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 30), nn.ReLU())
    x = torch.randn(500, 1, dtype=torch.float64)
    net.double()
    kinks = np.sort((-net[0].bias / net[0].weight[:, 0]).detach().numpy())
    intervals = np.unique(np.searchsorted(kinks, x[:, 0].numpy()))
    found = ratio_of(net, x)
    assert found.distinct == len(intervals)
    assert found.ratio == (500 - len(intervals)) / 500


def test_random_sign_codes_are_balls_in_boxes():
    """Check 3."""
    d, n = 10, 2000
    net = nn.Sequential(nn.Linear(d, d), nn.ReLU())
    nn.init.eye_(net[0].weight)
    nn.init.zeros_(net[0].bias)
    expected = 1 - 2**d * (1 - (1 - 2.0**-d) ** n) / n
    assert expected == pytest.approx(0.5606, abs=1e-4)
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    assert ratio_of(net, x).ratio == pytest.approx(expected, abs=0.02)


def trained_net():
    """A network of two layers whose batch norms have seen data."""
    torch.manual_seed(0)
    net = BNReLUMLP(inputs=2, num_classes=3, width=12, depth=2).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = 0.5
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    for _ in range(5):
        net(torch.randn(500, 2, dtype=torch.float64))
    return net.eval()


def test_the_network_is_affine_where_codes_are_equal_and_regions_are_convex():
    """Check 6: 100 pairs."""
    net = trained_net()
    x = 2 * torch.randn(3000, 2, dtype=torch.float64)
    packed = neural_codes(net, x).packed
    _, owner = np.unique(packed, axis=0, return_inverse=True)
    order = np.argsort(owner, kind="stable")
    pairs = [(a, b) for a, b in pairwise(order) if owner[a] == owner[b]]
    pairs = pairs[:: len(pairs) // 100][:100]
    assert len(pairs) == 100
    assert len({owner[a] for a, _ in pairs}) > 10
    first, second = (x[[pair[i] for pair in pairs]] for i in (0, 1))
    jacobians = torch.stack([torch.autograd.functional.jacobian(lambda p: net(p[None])[0], point) for point in first])
    with torch.no_grad():
        change = (jacobians @ (second - first)[:, :, None])[..., 0]
        torch.testing.assert_close(net(second) - net(first), change, atol=1e-6, rtol=0)
    t = torch.rand(100, 1, dtype=torch.float64)
    assert np.array_equal(neural_codes(net, t * first + (1 - t) * second).packed, packed[[a for a, _ in pairs]])
    away = neural_codes(net, first + 4 * (second - first)).packed
    assert not np.array_equal(away, packed[[a for a, _ in pairs]])


def test_a_scaled_batch_norm_has_the_same_codes():
    """Check 8."""
    net = trained_net()
    x = torch.randn(500, 2, dtype=torch.float64)
    before = neural_codes(net, x).packed
    norm = net.blocks[0][1]
    with torch.no_grad():
        norm.weight *= 4
        norm.bias *= 4
        # the next layer sees 4 h; its own codes stay if its batch norm does what it did
        net.blocks[1][0].weight /= 4
    assert np.array_equal(neural_codes(net, x).packed, before)
    one = BNReLUMLP(inputs=2, width=12).double().eval()
    nn.init.normal_(one.blocks[0][1].bias)
    before = neural_codes(one, x).packed
    with torch.no_grad():
        one.blocks[0][1].weight *= 0.37
        one.blocks[0][1].bias *= 0.37
    assert np.array_equal(neural_codes(one, x).packed, before)
    with torch.no_grad():
        one.blocks[0][1].bias *= -1
    assert not np.array_equal(neural_codes(one, x).packed, before)


def test_the_papers_network_on_meta():
    config = yaml12.load((CONFIGS / "interpretability" / "hash_encoder_paper.yaml").read_text())
    given = {**config["model"]["init_args"], "num_classes": config["data"]["init_args"]["num_classes"]}
    with torch.device("meta"):
        model = HashEncoder(**given)
    width = given["width"]
    assert sum(p.numel() for p in model.parameters()) == 785 * width + 2 * width + (width + 1) * 10


QUIET = ["--wandb.mode=disabled", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def test_a_run_and_its_files(tmp_path):
    options = [
        "--data.source=digits",
        "--model.inputs=64",
        "--trainer.max_epochs=2",
        "--techniques.neural_code.epochs=[0, 1]",
        "--data.samples=500",
    ]
    experiment = framework.build("interpretability/hash_encoder", [*QUIET, f"--run.root={tmp_path}", *options])
    experiment.fit()
    rows = experiment.trainer.callback_metrics
    assert 0 < float(rows["neural_code/train/redundancy_ratio"]) < 1
    assert float(rows["neural_code/train/examples"]) == 500  # not the tiled 1,000
    assert float(rows["neural_code/val/knn"]) > 0.5
    assert (experiment.folder / "codes.npz").is_file()
    opened = HashEncoder.load_from_checkpoint(experiment.folder / "checkpoints" / "last.ckpt")
    x = experiment.datamodule.test_set.tensors[0]
    assert np.array_equal(neural_codes(opened, x).packed, neural_codes(experiment.model, x).packed)
    tested = framework.build(
        str(experiment.folder / "config.yaml"), [*QUIET, f"--ckpt_path={experiment.folder}"], "test"
    )
    tested.run()
    value = tested.trainer.callback_metrics["neural_code/test/redundancy_ratio"]
    assert float(value) == pytest.approx(float(rows["neural_code/val/redundancy_ratio"]))


def test_what_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"width: 2 is not accepted; at least 3 \(depth\)|depth: 3 is not accepted"):
        BNReLUMLP(width=2, depth=3)
    with pytest.raises(UserError, match="l2: -1"):
        HashEncoder(l2=-1)
    wrong = [*QUIET, f"--run.root={tmp_path}", "--model.inputs=64"]
    with pytest.raises(UserError, match="inputs: 64, but an example of the data has 784 numbers"):
        framework.build("interpretability/hash_encoder", wrong).fit()
