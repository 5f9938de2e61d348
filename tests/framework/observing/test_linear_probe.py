"""Linear probes: the head, what it is fed, the fit against scikit-learn, what is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import timm
import torch
from torch import nn

from framework.errors import UserError
from framework.observing.linear_probe import batches_of, find_head, fit_probe, scale_head, see, write_head


class Net(nn.Module):
    def __init__(self, classes=3, bias=True):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Tanh())
        self.head = nn.Linear(6, classes, bias=bias)

    def forward(self, x):
        return self.head(self.body(x))


def data(classes=3, rows=60):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 4, generator=generator)
    return x, (x[:, 0] + 0.5 * torch.randn(rows, generator=generator)).argsort().argsort() * classes // rows


def test_the_head_is_found_or_named():
    assert find_head(Net()) == "head"
    assert find_head(timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, num_classes=5)) == "head"
    assert find_head(timm.create_model("resnet10t", num_classes=5)) == "fc"
    plain = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    assert find_head(plain, "2") == "2"
    with pytest.raises(UserError, match=r"lp_ft.head: no linear head, name one: 'head or .*nearest: 2, 0"):
        find_head(plain, key="lp_ft.head")
    with pytest.raises(UserError, match=r"head: body.1 is a BatchNorm1d; expected a torch.nn.Linear"):
        find_head(Net(), "body.1")
    with pytest.raises(UserError, match="head: 0 is a Linear of 1 output"):
        find_head(nn.Sequential(nn.Linear(3, 1)), "0")
    with pytest.raises(UserError, match=r"it names one.head, two.head: give one of them"):
        find_head(nn.ModuleDict({"one": Net(), "two": Net()}))


def test_features_are_those_of_evaluation():
    torch.manual_seed(0)
    net, (x, y) = Net(), data()
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    seen = see(net, "head", [(x[:40], y[:40]), {"x": x[40:], "y": y[40:]}], most=50)
    assert net.training
    assert net.body[2].training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(seen.features, net.body(x[:50]))
        torch.testing.assert_close(seen.logits, net(x[:50]))
    assert torch.equal(seen.labels, y[:50])

    class Sliced(Net):
        def forward(self, x):
            return super().forward(x)[:, :2]

    with pytest.raises(UserError, match="the output of Sliced is not that of head"):
        see(Sliced(), "head", [(x, y)])
    with pytest.raises(UserError, match="no data"):
        see(net, "head", [])
    with pytest.raises(UserError, match="needs a datamodule"):
        batches_of(None, "train")


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_the_fit_is_scikit_learns(classes, bias):
    """Check 6: the same probabilities, of two rows too; the rows of several classes sum to 0."""
    from sklearn.linear_model import LogisticRegressionCV

    x, y = data(classes)
    fit = fit_probe(x, y, classes, Cs=4, bias=bias)
    options = {"Cs": 4, "cv": 5, "max_iter": 5000, "tol": 1e-4, "fit_intercept": bias, "scoring": "accuracy"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of defaults that change
        theirs = LogisticRegressionCV(**options, random_state=0).fit(x.double().numpy(), y.numpy())
    logits = x.double() @ fit.weight.T + fit.bias
    expected = theirs.predict_proba(x.double().numpy())
    torch.testing.assert_close(logits.softmax(-1), torch.as_tensor(expected), atol=1e-6, rtol=0)
    assert float(fit.weight.sum(0).norm()) <= 1e-3 * float(fit.weight.norm())
    assert fit.strength == pytest.approx(float(np.ravel(theirs.C_)[0]))
    assert fit.accuracy == pytest.approx(theirs.score(x.double().numpy(), y.numpy()))
    if classes == 2:
        norm = float(np.linalg.norm(theirs.coef_))
        assert float(fit.weight.norm()) == pytest.approx(norm / 2**0.5)
    head = nn.Linear(4, classes, bias=bias).double()
    write_head(head, fit)
    with torch.no_grad():
        torch.testing.assert_close(head(x.double()), logits)
        scale_head(head, 3.0)
    torch.testing.assert_close(head.weight.detach(), 3 * fit.weight)
    with pytest.raises(UserError, match="the head"):
        write_head(nn.Linear(5, classes), fit)


def test_what_a_fit_refuses():
    x, y = data()
    with pytest.raises(UserError, match="labels from 0 to 2, the head has 2 outputs"):
        fit_probe(x, y, 2)
    with pytest.raises(UserError, match=r"cv: 5 is not accepted: class 3 has 0 examples"):
        fit_probe(x, y, 4)
    x[3, 1] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        fit_probe(x, y, 3)
