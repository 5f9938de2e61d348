"""The classifier that measures its weights: the measures, the pruning, and the parts of its claims."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from framework.errors import UserError
from framework.functional import generalized_gaussian as gg
from framework.functional.compression.rate import bits_per_weight
from modules.initialization.gg_prior import GGPrior, pruned, threshold_of, weight_report
from modules.initialization.gg_prior.claims import pull


def small(**settings):
    torch.manual_seed(0)
    return GGPrior(num_classes=4, image_size=4, backbone_args={"width": 12, "depth": 1}, **settings)


def test_the_report_is_of_all_weights_as_one_sample():
    model = small()
    weights = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    report = weight_report(model.parameters())
    assert report["shape"] == gg.fit(weights).shape
    assert report["bits"] == bits_per_weight(weights).eg
    assert report["entropy_10"] == bits_per_weight(weights, 2**-10).entropy
    assert report["sparsity"] == float(((weights * 2**13).round() == 0).double().mean())


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8])
def test_pruning_zeroes_the_smallest_and_puts_them_back(share):
    model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 5))
    before = {name: p.clone() for name, p in model.state_dict().items()}
    everything = torch.cat([p.reshape(-1) for p in before.values()]).abs().sort().values
    with pruned(model, share):
        now = torch.cat([p.reshape(-1) for p in model.state_dict().values()])
        assert int((now == 0).sum()) == int(share * len(now))
        assert float(now[now != 0].abs().min()) == float(everything[int(share * len(now))])
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())
    assert threshold_of([torch.tensor([3.0, -1.0, 2.0, 4.0])], 0.5) == 3.0


def test_validation_and_test_log_the_measures(tmp_path):
    model = small()
    data = TensorDataset(torch.randn(12, 1, 4, 4), torch.arange(12) % 4)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
        enable_checkpointing=False,
    )
    logged = trainer.validate(model, DataLoader(data, batch_size=5), verbose=False)[0]
    assert logged["weights/bits"] == pytest.approx(weight_report(model.parameters())["bits"])
    logged = trainer.test(model, DataLoader(data, batch_size=5), verbose=False)[0]
    with pruned(model, 0.8), torch.no_grad():
        x, y = data.tensors
        expected = float((model(x).argmax(-1) == y).float().mean())
    assert logged["test/accuracy_pruned"] == pytest.approx(expected)
    assert {"weights/shape", "weights/entropy", "weights/bits_10", "weights/sparsity"} <= logged.keys()


def test_settings():
    assert small(prune=0.5).hparams["prune"] == 0.5
    assert small(prune=0.5).hparams["num_classes"] == 4
    with pytest.raises(UserError, match=r"prune: 1\.0 is not accepted"):
        small(prune=1.0)


def test_the_claims_own_pull_is_the_gradient_of_the_rate():
    weights = [nn.Parameter(gg.sample((300, 40), 0.8, 0.1).double()), nn.Parameter(torch.randn(7).double())]
    shape, total = gg.fit(weights).shape, 12_007
    rate = sum(((w.abs() + 0.1) ** shape).sum() for w in weights) / total
    expected = [w - 5.0 * g for w, g in zip(weights, torch.autograd.grad(rate, weights), strict=True)]
    pull(weights, 5.0 / total, 0.1)
    for w, e in zip(weights, expected, strict=True):
        torch.testing.assert_close(w, e, rtol=0, atol=1e-12)
