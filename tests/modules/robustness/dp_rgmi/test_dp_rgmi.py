"""The classifier of several labels: its loss, its start, and a run of the quick config."""

import json
import warnings

import pytest
import torch
import torch.nn.functional as F
from checkout import CONFIGS
from torch import nn

import framework
from callbacks.representation_geometry import RepresentationGeometry
from callbacks.utilization_gap import UtilizationGap
from datamodules.robustness.digit_attributes import DigitAttributes
from framework.config.yaml12 import load
from framework.errors import UserError
from modules.robustness.dp_rgmi import MultiLabelClassifier
from modules.vision.group_norm_cnn import GroupNormCNN

QUIET = {
    "trainer.enable_progress_bar": False,
    "trainer.enable_model_summary": False,
    "wandb.mode": "disabled",
}
SMALL = {
    **QUIET,
    "trainer.max_epochs": 1,
    "trainer.limit_train_batches": 3,
    "data.init_args.public_images": 160,
    "model.init_args.pretrain_epochs": 1,
    "techniques.utilization_gap.init_args.train_examples": 300,
    "techniques.utilization_gap.init_args.examples": 200,
    "techniques.utilization_gap.init_args.resamples": 20,
    "techniques.representation_geometry.init_args.examples": 200,
    "techniques.representation_geometry.init_args.resamples": 20,
}


def test_loss_weights_positives():
    model = MultiLabelClassifier(2, pos_weight=[3.0, 0.5])
    x, y = torch.randn(4, 1, 28, 28), torch.tensor([[1, 0], [0, 0], [1, 1], [0, 1]])
    logits = model(x)
    p = logits.sigmoid()
    expected = -(y * torch.tensor([3.0, 0.5]) * p.log() + (1 - y) * (1 - p).log()).mean()
    torch.testing.assert_close(model.training_step((x, y), 0), expected)


def test_head_is_linear_with_torchs_start_and_the_same_for_every_start(tmp_path):
    torch.manual_seed(0)
    random = MultiLabelClassifier()
    weights = tmp_path / "weights.pt"
    other = GroupNormCNN()
    torch.save(other.state_dict(), weights)
    torch.manual_seed(0)
    loaded = MultiLabelClassifier(weights=weights)
    assert torch.equal(random.backbone.head.weight, loaded.backbone.head.weight)
    assert torch.equal(loaded.backbone.features[0].weight, other.features[0].weight)
    assert float(random.backbone.head.weight.detach().abs().max()) <= 1 / 8  # uniform up to 1/sqrt(64)
    torch.manual_seed(0)
    pretrained = MultiLabelClassifier()
    head, body = pretrained.backbone.head, pretrained.backbone.features[0].weight.clone()
    kept = head.weight.clone()
    pretrained.pretrain(torch.rand(20, 1, 28, 28), torch.arange(20) % 3, 1)
    assert pretrained.backbone.head is head
    assert torch.equal(head.weight, kept)
    assert not torch.equal(pretrained.backbone.features[0].weight, body)


@pytest.mark.parametrize("backbone", ["group_norm_cnn", "resnet18"])
def test_a_classifier_of_one_label_starts_as_others_do(backbone):
    model = MultiLabelClassifier(1, backbone, image_size=32)
    head = model.backbone.get_classifier()
    assert 0 < float(head.weight.detach().abs().max()) <= head.in_features**-0.5
    assert bool(head.bias.any())  # timm's start is zero
    model.pretrain(torch.rand(20, 1, 32, 32), torch.arange(20) % 3, 1)
    assert model.backbone.get_classifier() is head
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 1)


def test_balanced_weights_of_labels_that_are_rare_or_not_there():
    model = MultiLabelClassifier(3, pos_weight="balanced")
    data = torch.utils.data.TensorDataset(torch.rand(4, 1))
    data.targets = torch.tensor([[0, 1, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    with pytest.warns(UserWarning, match="computed on the training labels"):
        model._balance(data)
    assert model.pos_weight.tolist() == [3, 3, 0]  # as many as negatives for one positive at least
    data.targets = torch.tensor([0, 1, 0, 1])
    with pytest.raises(UserError, match=r"pos_weight: balanced is not accepted: .* has no targets \(N, 3\) to count"):
        model._balance(data)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_loss_and_gradients_in_other_precisions_and_channels_last(dtype):
    model = MultiLabelClassifier(pos_weight=[1.0, 2.0, 3.0, 4.0, 5.0]).to(dtype).to(memory_format=torch.channels_last)
    x, y = torch.rand(6, 1, 28, 28), torch.randint(0, 2, (6, 5))
    loss = model.training_step((x.to(dtype).contiguous(memory_format=torch.channels_last), y), 0)
    loss.backward()
    assert loss.dtype == dtype
    expected = model.float().training_step((x, y), 0)
    assert float(loss) == pytest.approx(float(expected), rel=0.03 if dtype == torch.bfloat16 else 1e-5)


def test_both_observers_of_the_configs_measure_the_same_examples():
    """Otherwise their numbers are of other resamples, and the study refuses the run."""
    for name in ("dp_rgmi", "dp_rgmi_fashion", "dp_rgmi_paper", "dp_rgmi_phantom"):
        config = load((CONFIGS / "robustness" / f"{name}.yaml").read_text(encoding="utf-8"))
        gap, geometry = (
            cls(**config["techniques"][key]["init_args"])
            for key, cls in (("utilization_gap", UtilizationGap), ("representation_geometry", RepresentationGeometry))
        )
        test_examples = {"dp_rgmi_paper": 30_000}.get(name, 1000)
        sizes = {min(test_examples, own.examples or test_examples) for own in (gap, geometry)}
        assert len(sizes) == 1
        assert (gap.part, gap.resamples, gap.seed) == (geometry.part, geometry.resamples, geometry.seed)


def test_pretraining_does_not_touch_the_global_generators():
    model, x = MultiLabelClassifier(), torch.rand(20, 1, 28, 28)
    state = torch.get_rng_state()
    model.pretrain(x, torch.arange(20) % 3, 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_layer_couples_samples():
    net = GroupNormCNN(width=4).eval()
    x = torch.randn(5, 1, 28, 28)
    torch.testing.assert_close(net(x)[2:3], net(x[2:3]))
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in net.modules())
    assert sum(p.numel() for p in GroupNormCNN(num_classes=5).parameters()) == 24_101


def test_quick_config_trains_reports_and_resumes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = framework.build("robustness/dp_rgmi", SMALL)
    experiment.fit()
    metrics = experiment.trainer.callback_metrics
    for name in ("val/auroc", "utilization_gap/gap", "representation_geometry/displacement"):
        assert name in metrics
    gap = json.loads((experiment.folder / "utilization_gap.json").read_text(encoding="utf-8"))
    geometry = json.loads((experiment.folder / "representation_geometry.json").read_text(encoding="utf-8"))
    assert gap["rows"][-1]["bootstrap"]["sha256"] == geometry["rows"][-1]["bootstrap"]["sha256"]
    assert "not part of a differentially private release" in gap["note"]
    opened = framework.open_model(experiment.folder)
    x = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(opened.eval()(x), experiment.model.eval()(x))


def test_balanced_weights_are_counted_and_warned_about(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = {**SMALL, "techniques": {"utilization_gap": None, "representation_geometry": None}}
    plain = {key: value for key, value in plain.items() if not key.startswith("techniques.")}
    experiment = framework.build(
        "robustness/dp_rgmi", {**plain, "model.init_args.pos_weight": "balanced", "data.init_args.public": "none"}
    )
    with pytest.warns(UserWarning, match="computed on the training labels; no guarantee of private training covers it"):
        experiment.fit()
    targets = experiment.datamodule.train_set.targets
    expected = (len(targets) - targets.sum(0)) / targets.sum(0)
    torch.testing.assert_close(experiment.model.pos_weight, expected)
    opened = framework.open_model(experiment.folder)
    torch.testing.assert_close(opened.pos_weight, expected)


def test_given_weights_are_not_warned_about():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = MultiLabelClassifier(5, pos_weight=[1.0, 2.0, 3.0, 4.0, 5.0])
    assert model.pos_weight.tolist() == [1, 2, 3, 4, 5]


def test_predictions_are_probabilities():
    model = MultiLabelClassifier().eval()
    x, y = torch.rand(2, 1, 28, 28), torch.zeros(2, 5).long()
    found = model.predict_step((x, y), 0)
    torch.testing.assert_close(found["probabilities"], F.sigmoid(model(x)))
    assert torch.equal(found["target"], y)
    assert set(model.predict_step(x, 0)) == {"probabilities"}


def test_what_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="pos_weight: 2 numbers for 5 labels"):
        MultiLabelClassifier(pos_weight=[1.0, 2.0])
    with pytest.raises(UserError, match=r"pos_weight: \[0\.0\] is not accepted; each above 0"):
        MultiLabelClassifier(1, pos_weight=[0.0])
    with pytest.raises(UserError, match="pos_weight: 'even' is not accepted; a number for each label, or balanced"):
        MultiLabelClassifier(pos_weight="even")
    experiment = framework.build("robustness/dp_rgmi", {**SMALL, "model.init_args.num_labels": 4})
    with pytest.raises(UserError, match="num_labels: 4, but num_labels of DigitAttributes is 5"):
        experiment.fit()
    assert DigitAttributes.num_labels == 5
