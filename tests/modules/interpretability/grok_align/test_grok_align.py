"""The networks, losses and theorems of GrokAlign, and its configs at their size."""

import math

import pytest
import torch
import yaml
from checkout import ROOT
from torch import nn

import framework
from framework.errors import UserError
from framework.functional.jacobian import alignment, centroid, rank_one_share
from framework.functional.ntk import tangent_kernel
from modules.interpretability.grok_align import (
    BiasFreeConvNet,
    BiasFreeMLP,
    GrokConvNet,
    GrokMLP,
    LastTokenTransformer,
    ModAddTransformer,
    XORNet,
    claims,
)
from modules.interpretability.grok_align.module import correct, task_loss
from modules.interpretability.grok_align.theory import across, train_linear

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--wandb.mode=disabled"]


def test_one_sample_only_the_penalty_aligns_a_linear_net():
    """Check 4."""
    generator = torch.Generator().manual_seed(1)
    weight, x, y = (torch.randn(*shape, generator=generator).double() for shape in ((2, 4), (4,), (2,)))
    start = across(weight, x)
    plain = train_linear(weight, x, y, 0.0, 0.2, 125)
    torch.testing.assert_close(across(plain, x), start, atol=1e-10, rtol=0)
    torch.testing.assert_close(plain @ x, y, atol=1e-6, rtol=0)
    aligned = train_linear(weight, x, y, 0.3, 0.2, 375)
    assert across(aligned, x).norm() < 1e-3 * start.norm()
    cosines = nn.functional.cosine_similarity(aligned, x[None], dim=1).abs()
    torch.testing.assert_close(cosines, torch.ones(2, dtype=torch.float64), atol=1e-6, rtol=0)
    assert float(rank_one_share(aligned[None])) == pytest.approx(1)


def test_the_tangent_kernel_moves_the_inner_product():
    """Check 7: under a small step of gradient descent on the logistic loss, d⟨μ, x⟩/dt = mean Θ(x, x_p)(y_p - σ(f_p))."""
    torch.manual_seed(0)
    net = BiasFreeMLP(8, [12, 12], 1).double()
    x, y = torch.randn(6, 8, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 0])
    rate = 1e-5

    def inner():
        opened = x.clone().requires_grad_()
        return (centroid(net(opened), opened) * x).sum(1)

    before, outputs = inner(), net(x)[:, 0].detach()
    torch.testing.assert_close(before, outputs)
    kernel = tangent_kernel(net, x, x, apart=False)
    expected = rate * kernel.view(6, 6) @ (y - outputs.sigmoid()) / 6
    task_loss(net(x), y, "bce").backward()
    with torch.no_grad():
        for p in net.parameters():
            p -= rate * p.grad
    torch.testing.assert_close(inner() - before, expected, rtol=0.01, atol=1e-12)


def test_networks_without_biases_are_homogeneous_and_start_as_asked():
    torch.manual_seed(3)
    net = BiasFreeMLP(64, [10], 4, 8.0)
    torch.manual_seed(3)
    plain = BiasFreeMLP(64, [10], 4)
    for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, 8 * theirs)
    assert net.layers[0].weight.abs().max() <= 8 / math.sqrt(64)
    x = torch.randn(3, 8, 8)
    torch.testing.assert_close(net(2 * x), 2 * net(x))
    conv, images = BiasFreeConvNet(width=4, hidden=6), torch.randn(2, 3, 32, 32)
    assert conv(images).shape == (2, 10)
    torch.testing.assert_close(conv(2 * images), 2 * conv(images))
    opened = images.clone().requires_grad_()
    assert (alignment(centroid(conv(opened), opened), opened).abs() <= 1).all()
    strides = [layer.stride[0] for layer in conv.convolutions]
    assert strides == [1, 2] * 3


def test_the_transformer_by_loops():
    torch.manual_seed(0)
    net = LastTokenTransformer(6, 3, 5, 8, 2, 10).double()
    tokens = torch.tensor([[1, 2, 5], [3, 3, 5]])
    found = net(tokens)
    for row, sample in zip(found, tokens, strict=True):
        x = net.embed.weight[sample] + net.positions
        q, k, v = (net.qkv.weight.view(3, 8, 8)[i] @ x.T for i in range(3))
        mixed = []
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            scores = torch.stack([q[part, 2] @ k[part, i] / 2 for i in range(3)]).softmax(0)
            mixed.append(sum(scores[i] * v[part, i] for i in range(3)))
        last = x[2] + net.out.weight @ torch.cat(mixed)
        last = last + net.down.weight @ torch.relu(net.up.weight @ last + net.up.bias) + net.down.bias
        torch.testing.assert_close(row, net.head.weight @ last)


def test_losses_and_accuracies():
    outputs, y = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    assert float(task_loss(outputs, y, "mse")) == pytest.approx((1 + 0 + 1 + 1) / 4)
    assert correct(outputs, y).tolist() == [True, False]
    one = torch.tensor([[0.5], [-2.0], [1.0]])
    signs, classes = torch.tensor([1.0, -1.0, -1.0]), torch.tensor([1, 0, 0])
    assert float(task_loss(one, signs, "mse")) == pytest.approx((0.25 + 1 + 4) / 3)
    for loss in ("mse", "bce"):  # however the two classes are written
        assert torch.equal(task_loss(one, signs, loss), task_loss(one, classes, loss))
    expected = nn.BCEWithLogitsLoss()(one[:, 0], classes.float())
    assert torch.equal(task_loss(one, classes, "bce"), expected)
    assert correct(one, signs).tolist() == correct(one, classes).tolist() == [True, True, False]


def test_the_papers_networks_build_at_their_size():
    with torch.device("meta"):
        mnist, xor, cifar, modular = GrokMLP(), XORNet(40_000, 2048, "float64"), GrokConvNet(), ModAddTransformer()
    assert mnist(torch.empty(2, 784, device="meta", dtype=torch.float64)).shape == (2, 10)
    assert xor(torch.empty(2, 40_000, device="meta", dtype=torch.float64)).shape == (2, 1)
    assert sum(p.numel() for p in xor.parameters()) == 2048 * 40_001
    assert cifar(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)
    assert modular(torch.zeros(2, 3, dtype=torch.long, device="meta")).shape == (2, 113)
    assert not [name for net in (mnist, xor, cifar) for name, _ in net.named_parameters() if name.endswith("bias")]


def test_the_quick_config_grokks_on_less_and_frozen_embeddings_stay(tmp_path):
    small = ["--data.train=40", "--data.test=40", "--data.batch_size=20", "--trainer.max_epochs=2", "--data.passes=3"]
    experiment = framework.build("interpretability/grok_align", [*QUIET, *small, f"--run.root={tmp_path}"])
    experiment.fit()
    metrics = experiment.trainer.callback_metrics
    assert {"train/accuracy", "val/accuracy", "val/loss", "grokking_delay/waited"} <= set(metrics)
    assert float(metrics["grokking_delay/waited"]) == 12 / 4
    model = framework.open_model(experiment.folder)
    x, y = next(iter(experiment.datamodule.val_dataloader()[0]))
    assert torch.equal(model(x.float()), model(x.float().double())), "an observer may call it on what the data gives"
    assert float(correct(model(x), y).double().mean()) == pytest.approx(float(metrics["val/accuracy"]))
    frozen = ["--model.freeze_embedding=true", "--data.modulus=7", "--trainer.max_epochs=1", "--data.passes=2"]
    experiment = framework.build("interpretability/grok_align_modular", [*QUIET, *frozen, f"--run.root={tmp_path}"])
    before = {name: p.clone() for name, p in experiment.model.named_parameters()}
    experiment.fit()
    same = {name for name, p in experiment.model.named_parameters() if torch.equal(p, before[name])}
    assert same == {"net.embed.weight"}


def test_both_arms_of_the_claim_are_tuned_by_sweeps_of_equal_budget():
    sweeps = {}
    for name in ("weight_decay", "strength"):
        sweeps[name] = yaml.safe_load((ROOT / "configs" / "sweeps" / f"grok_align_{name}.yaml").read_text())
        assert set(claims.TUNING) <= set(sweeps[name]["command"])
        assert sweeps[name]["metric"] == {"name": "grokking_delay/waited", "goal": "minimize"}
        assert sweeps[name]["method"] == "grid"
    decays, strengths = (sweep["parameters"] for sweep in sweeps.values())
    assert decays == {"model.optimizer.weight_decay": {"values": list(claims.DECAYS)}}
    assert strengths == {"techniques.grok_align.weight": {"values": list(claims.STRENGTHS)}}
    assert len(claims.DECAYS) == len(claims.STRENGTHS)
    assert claims.WITHOUT in sweeps["weight_decay"]["command"]
    seeds = {f"--seed_everything={seed}" for seed in claims.SEEDS}
    assert not seeds & set(claims.TUNING), "tuned on another seed than it is measured on"


def test_what_is_refused(tmp_path):
    for make, message in (
        (lambda: GrokMLP(scale=0), "scale: 0 is not accepted; above 0"),
        (lambda: GrokMLP(outputs=1), "outputs: 1 is not accepted with the loss 'ce'; 2 or more"),
        (lambda: GrokMLP(loss="bce"), "outputs: 10 is not accepted with the loss 'bce'; 1"),
        (lambda: GrokMLP(loss="mae"), "loss: 'mae' is not one of ce, mse, bce"),
        (lambda: GrokConvNet(image_size=40), "image_size: 40 is not accepted; a multiple of 32"),
        (lambda: ModAddTransformer(heads=3), r"heads: 3 is not accepted; a divisor of 128 \(d_model\)"),
    ):
        with pytest.raises(UserError, match=message):
            make()
    for override, message in (
        ("--model.inputs=65", "model.init_args.inputs: 65, but the data has 64"),
        ("--model.outputs=9", "model.init_args.outputs: 9, but the data has 10 classes"),
    ):
        experiment = framework.build("interpretability/grok_align", [*QUIET, override, f"--run.root={tmp_path}"])
        with pytest.raises(UserError, match=message):
            experiment.fit()
