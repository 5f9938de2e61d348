"""The fast regulariser: its value by hand, its end with the growth of eps, other modules, what is refused."""

import pytest
import torch
from editing_toys import trainer_of
from small_classifier import Data, Net
from torch import nn

from callbacks.fast_regularizer import FastRegularizer, fast_regularizer
from datamodules.vision.small_images import SmallImages
from framework.editing import Captured
from framework.errors import UserError
from framework.functional.interval import Box, IntervalNetwork, pixel_box
from framework.protocols.bounds import BoundedStep
from modules.robustness.ibp import IBPClassifier


def by_hand(box, inputs, t):
    c, r = (box.lower + box.upper) / 2, (box.upper - box.lower) / 2
    a = max(t - float(inputs.radius.mean() / r.mean()), 0) / t
    on, off = (box.lower > 0).double(), (box.upper < 0).double()
    q_mean = float((c * on).mean() / -(c * off).mean())
    d = (c - c.mean()) ** 2
    q_var = float((d * on).sum() / (d * off).sum())
    return a + (max(t - min(q_mean, 1 / q_mean), 0) + max(t - min(q_var, 1 / q_var), 0)) / t


def test_the_value_by_hand():
    generator = torch.Generator().manual_seed(0)
    boxes = {
        str(i): Box(
            torch.randn(5, 7, generator=generator, dtype=torch.float64) + 0.4 * i,
            torch.rand(5, 7, generator=generator, dtype=torch.float64) * (i + 1),
        )
        for i in range(2)
    }
    inputs = Box(torch.zeros(5, 3), torch.full((5, 3), 0.2, dtype=torch.float64))
    expected = sum(by_hand(box, inputs, 0.5) for box in boxes.values()) / 2
    assert float(fast_regularizer(boxes, inputs)) == pytest.approx(expected)
    assert expected > 0.5
    tight = {"a": Box(boxes["0"].centre, torch.full_like(boxes["0"].radius, 1e-9))}
    assert float(fast_regularizer(tight, inputs, 1e-6)) == 0


def test_layers_without_an_active_unit_count_by_their_width_alone():
    wide = Box(torch.full((2, 3), -5.0, requires_grad=True), torch.full((2, 3), 1.0, requires_grad=True))
    inputs = Box(torch.zeros(2, 3), torch.full((2, 3), 0.1))
    value = fast_regularizer({"a": wide}, inputs)
    assert float(value) == pytest.approx((0.5 - 0.1) / 0.5)
    value.backward()
    assert wide.radius.grad.isfinite().all()
    with pytest.raises(UserError, match="has no ReLU"):
        fast_regularizer({}, inputs)
    with pytest.raises(UserError, match="tolerance: 0 is not accepted"):
        fast_regularizer({"a": wide}, inputs, 0)


def fit(folder, technique, model=None, epochs=2, data=None):
    torch.manual_seed(0)
    model = model() if model else IBPClassifier("mlp", image_size=8, width=12, hidden=[6], eps=0.2, ramp_epochs=(0, 1))
    data = data or SmallImages("digits", num_classes=10, normalize=False, batch_size=256, eval_batch_size=512)
    logged = []
    original = model.log
    model.log = lambda name, value, *a, **k: (logged.append((name, float(value))), original(name, value, *a, **k))
    trainer_of(folder, technique, max_epochs=epochs, limit_val_batches=0).fit(model, datamodule=data)
    return model, [value for name, value in logged if name == "train/fast_regularizer"]


def test_it_ends_with_the_growth_of_eps(tmp_path):
    model, terms = fit(tmp_path, FastRegularizer())
    half = len(terms) // 2
    assert all(term > 0 for term in terms[:half])
    assert terms[half:] == [0.0] * half
    plain, _ = fit(tmp_path, FastRegularizer(weight=0.0))
    assert not torch.equal(model.net[1].weight, plain.net[1].weight)


def test_the_first_term_by_hand(tmp_path):
    """At eps 0 the bounds are those of eps 1e-6."""
    torch.manual_seed(0)
    model = IBPClassifier("mlp", image_size=8, width=12, hidden=[6], eps=0.2, ramp_epochs=(0, 1))
    data = SmallImages("digits", num_classes=10, normalize=False, batch_size=256, eval_batch_size=512)
    seen = {}

    class First(FastRegularizer):
        def penalty(self, module, batch, outputs, captured):
            if not seen:
                found = IntervalNetwork(module.net).propagate(pixel_box(batch[0], 1e-6))
                seen["expected"] = float(fast_regularizer(found.relus, found.inputs))
                seen["found"] = float(super().penalty(module, batch, outputs, captured))
            return super().penalty(module, batch, outputs, captured)

    trainer_of(tmp_path, First(), max_epochs=1, limit_val_batches=0, limit_train_batches=1).fit(model, datamodule=data)
    assert seen["found"] == pytest.approx(seen["expected"])


def test_it_fades_as_eps_grows():
    torch.manual_seed(0)
    model = IBPClassifier("mlp", image_size=8, width=12, hidden=[6], eps=0.2)
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    for eps, share in ((0.05, 0.75), (0.15, 0.25), (0.2, 0.0)):
        bounds = model.network.propagate(pixel_box(x, eps), y)
        model.bounded_step = BoundedStep(bounds, eps, 0.2, eps < 0.2)
        found = FastRegularizer().penalty(model, (x, y), None, Captured())
        assert float(found) == pytest.approx(share * float(fast_regularizer(bounds.relus, bounds.inputs)))


class Rectified(Net):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))


class Unit(Data):
    def setup(self, stage):
        super().setup(stage)
        for part in (self.train_set, self.val_set, self.test_set):
            x = part.tensors[0]
            x.sub_(x.min()).div_(x.max())


def test_on_a_module_of_another_kind(tmp_path):
    model, terms = fit(tmp_path, FastRegularizer(eps=0.1, ramp_epochs=(0, 2)), Rectified, data=Unit())
    assert all(term > 0 for term in terms)
    assert int(model.body[1].num_batches_tracked) == len(terms)  # the second pass updates no statistics
    with pytest.raises(UserError, match=r"techniques\.fast_regularizer: the inputs are from"):
        fit(tmp_path, FastRegularizer(eps=0.1, ramp_epochs=(0, 2)), Rectified, data=Data())
    with pytest.raises(UserError, match=r"techniques\.fast_regularizer: .*Tanh has no interval bounds"):
        fit(tmp_path, FastRegularizer(eps=0.1, ramp_epochs=(0, 2)), Net, data=Unit())


def test_what_is_refused(tmp_path):
    with pytest.raises(UserError, match="eps and ramp_epochs are not accepted, IBPClassifier has its own"):
        fit(tmp_path, FastRegularizer(eps=0.1))
    with pytest.raises(UserError, match="Rectified has no eps; give eps and ramp_epochs"):
        fit(tmp_path, FastRegularizer(), Rectified, data=Unit())
    with pytest.raises(UserError, match="eps: 8 is not accepted"):
        FastRegularizer(eps=8)
    with pytest.raises(UserError, match="ends before it starts"):
        FastRegularizer(eps=0.1, ramp_epochs=(2, 2))
