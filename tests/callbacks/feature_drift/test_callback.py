"""feature_drift: what it logs against plain computations, resume, refusals."""

from __future__ import annotations

import pytest
import torch
from small_classifier import Net, leaves_training_alone, trained

from callbacks.feature_drift import FeatureDrift
from callbacks.feature_drift.callback import drift_of
from framework.errors import UserError
from framework.observing.linear_probe import see


def test_it_leaves_training_alone(tmp_path):
    leaves_training_alone(tmp_path, FeatureDrift(), "feature_drift")


def test_drift(tmp_path):
    drift = FeatureDrift(part="test", points=15)
    model, trainer, data = trained(tmp_path, drift)
    torch.manual_seed(0)
    start = Net()
    batches = [tuple(t[:15] for t in data.test_set.tensors)]
    before, after = (see(m, "head", batches) for m in (start, model))
    expected = drift_of(after.features, before.features, after.labels, model.head)
    assert [row["epoch"] for row in drift.rows] == [0, 1, 2]
    assert drift.rows[0]["diff"] == 0
    for name, value in expected.items():
        assert drift.rows[-1][name] == pytest.approx(value, rel=1e-5)
        assert float(trainer.callback_metrics[f"feature_drift/{name}"]) == pytest.approx(value, rel=1e-5)
    assert expected["diff"] > 0.01
    assert expected["norm"] == pytest.approx(float(model.head.weight.norm()))


def test_drift_goes_on_from_the_first_start(tmp_path):
    whole, part, rest = (FeatureDrift() for _ in range(3))
    trained(tmp_path, whole, epochs=3)
    _, trainer, _ = trained(tmp_path, part, epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    trained(tmp_path, rest, epochs=3, ckpt=tmp_path / "one.ckpt")
    assert torch.equal(rest.start, whole.start)
    assert rest.rows[:2] == whole.rows[:2]
    assert len(rest.rows) == 4


def test_what_it_refuses(tmp_path):
    for make, message in (
        (lambda: FeatureDrift(part="train"), r"^part: 'train' is not one of val, test"),
        (lambda: FeatureDrift(points=1), r"^points: 1 is not accepted"),
    ):
        with pytest.raises(UserError, match=message):
            make()
    with pytest.raises(UserError, match=r"head: 'haed' names nothing in the model; nearest: head"):
        trained(tmp_path, FeatureDrift(head="haed"))
