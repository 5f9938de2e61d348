"""The observer of the utilisation gap: both scores by other means, invariance, intervals, labels of one class."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.multiclass import OneVsRestClassifier
from small_classifier import Data, Net, trained
from torch import nn

from callbacks.representation_geometry import RepresentationGeometry
from callbacks.utilization_gap import UtilizationGap, compare_scores, gap_figure
from framework.data.arrays import ArrayDataset
from framework.errors import UserError
from framework.functional.embedding_geometry import unit_rows
from framework.functional.resampling import indices_hash, resample_indices, sample_counts
from framework.observing.diagnostics import NOTE

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, (60, 4))
WEAK, STRONG = LABELS + 2 * RNG.normal(size=(60, 4)), LABELS + RNG.normal(size=(60, 4))


def test_both_scores_are_scikit_learns(tmp_path):
    technique = UtilizationGap(resamples=40)
    model, trainer, data = trained(tmp_path, technique, epochs=3)
    model.eval()
    with torch.no_grad():
        embed = {name: unit_rows(model.body(part.tensors[0]).numpy()) for name, part in parts(data).items()}
        outputs = softmax(model(data.val_set.tensors[0]).double().numpy(), axis=1)
    train, held = (part.tensors[1].numpy() for part in (data.train_set, data.val_set))
    probe = OneVsRestClassifier(LogisticRegression(C=1.0, solver="liblinear", max_iter=2000, random_state=0))
    scores = probe.fit(embed["train"], train).decision_function(embed["val"])
    one_hot = np.eye(3)[held]
    expected = {"end_to_end": roc_auc_score(one_hot, outputs), "probe": roc_auc_score(one_hot, scores)}
    report = json.loads((tmp_path / "utilization_gap.json").read_text(encoding="utf-8"))
    start, end = report["rows"]
    assert {name: end[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert end["gap"] == pytest.approx(expected["probe"] - expected["end_to_end"], abs=1e-6)
    assert float(trainer.callback_metrics["utilization_gap/gap"]) == pytest.approx(end["gap"], abs=1e-6)
    assert (start["epoch"], end["epoch"]) == (0, 3)
    assert end["labels"]["probe"] == pytest.approx(roc_auc_score(one_hot, scores, average=None).tolist(), abs=1e-6)
    assert end["bootstrap"]["sha256"] == indices_hash(resample_indices(22, 40, 0))
    assert report["note"] == NOTE
    assert (tmp_path / "figures" / "utilization_gap.png").is_file()


def parts(data):
    return {"train": data.train_set, "val": data.val_set}


class ManyLabels(Data):
    """Labels (B, 3) of 0 and 1; the last one has one class where that is asked for."""

    def __init__(self, constant=False):
        super().__init__()
        self.constant = constant

    def setup(self, stage):
        super().setup(stage)
        for part in (self.train_set, self.val_set, self.test_set):
            x = part.tensors[0]
            y = (x[:, :3] > 0).long()
            if self.constant:
                y[:, 2] = 1
            part.tensors = (x, y)


class Labels(Net):
    def training_step(self, batch, batch_idx):
        return nn.functional.binary_cross_entropy_with_logits(self(batch[0]), batch[1].float())

    def validation_step(self, batch, batch_idx):
        pass


def test_a_label_of_one_class_is_named_and_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("small_classifier.Net", Labels)
    monkeypatch.setattr("small_classifier.Data", lambda: ManyLabels(constant=True))
    technique = UtilizationGap(resamples=30)
    with pytest.warns(UserWarning, match=r"labels \[2\] have one class in the val data"):
        trained(tmp_path, technique)
    end = technique.rows[-1]
    assert end["left_out"] == [2]
    assert end["probe"] == pytest.approx(np.mean(end["labels"]["probe"][:2]))
    assert math.isnan(end["labels"]["probe"][2])
    written = json.loads((tmp_path / "utilization_gap.json").read_text(encoding="utf-8"))["rows"][-1]
    assert written["labels"]["probe"][2] is None
    assert end["intervals"]["gap"]["skipped"] < 30


def test_gap_does_not_change_under_affine_maps_of_logits():
    counts = sample_counts(resample_indices(60, 20))
    plain = compare_scores({"end_to_end": WEAK, "probe": STRONG}, LABELS, counts)
    scale, shift = RNG.uniform(0.1, 9, 4), RNG.normal(size=4)
    mapped = compare_scores({"end_to_end": WEAK * scale + shift, "probe": STRONG}, LABELS, counts)
    assert mapped == plain


def test_intervals_are_those_of_pairs():
    indices = resample_indices(60, 25, 4)
    numbers, details = compare_scores({"end_to_end": WEAK, "probe": STRONG}, LABELS, sample_counts(indices))
    gaps = [roc_auc_score(LABELS[r], STRONG[r]) - roc_auc_score(LABELS[r], WEAK[r]) for r in indices]
    assert numbers["gap"] == pytest.approx(roc_auc_score(LABELS, STRONG) - roc_auc_score(LABELS, WEAK), abs=1e-12)
    assert details["intervals"]["gap"]["mean"] == pytest.approx(np.mean(gaps), abs=1e-12)
    assert details["intervals"]["gap"]["sd"] == pytest.approx(np.std(gaps), abs=1e-12)
    assert details["p"] == pytest.approx(1 - np.mean(np.array(gaps) > 0))
    same = compare_scores({"end_to_end": WEAK, "probe": WEAK}, LABELS, sample_counts(indices))[1]
    assert same["intervals"]["probe"] == same["intervals"]["end_to_end"]
    assert same["p"] == 1


def test_resamples_in_which_a_label_has_one_class_are_skipped_and_counted():
    labels = np.zeros((12, 1), int)
    labels[0] = 1
    scores = np.arange(12.0)[:, None]
    indices = resample_indices(12, 200)
    _, details = compare_scores({"end_to_end": scores, "probe": -scores}, labels, sample_counts(indices))
    absent = int((~(indices == 0).any(1)).sum())
    assert 0 < absent < 200
    assert details["intervals"]["gap"]["skipped"] == absent


def test_a_label_whose_scores_are_not_finite_makes_the_gap_nan():
    """It must not drop out of one mean and stay in the other."""
    broken = WEAK.copy()
    broken[3, 1] = np.nan
    numbers, details = compare_scores({"end_to_end": broken, "probe": STRONG}, LABELS, np.ones((3, 60)))
    assert math.isnan(numbers["end_to_end"])
    assert math.isnan(numbers["gap"])
    assert numbers["probe"] == pytest.approx(roc_auc_score(LABELS, STRONG))
    assert details["intervals"]["gap"]["skipped"] == 3
    assert details["intervals"]["probe"]["skipped"] == 0


def test_a_label_of_one_class_in_the_training_data_is_named(tmp_path, monkeypatch):
    class Untaught(ManyLabels):
        def setup(self, stage):
            super().setup(stage)
            self.train_set.tensors[1][:, 1] = 0

    monkeypatch.setattr("small_classifier.Net", Labels)
    monkeypatch.setattr("small_classifier.Data", Untaught)
    technique = UtilizationGap(resamples=30)
    with pytest.warns(UserWarning, match=r"labels \[1\] have one class in the training data, so that their probe"):
        trained(tmp_path, technique)
    end = technique.rows[-1]
    assert (end["not_fitted"], end["left_out"]) == ([1], [])
    assert end["labels"]["probe"][1] == 0.5


def test_one_example_of_a_part(tmp_path, monkeypatch):
    class One(ManyLabels):
        def setup(self, stage):
            super().setup(stage)
            self.val_set = ArrayDataset(*(part[:1] for part in self.val_set.tensors))

    monkeypatch.setattr("small_classifier.Net", Labels)
    monkeypatch.setattr("small_classifier.Data", One)
    gap, geometry = UtilizationGap(resamples=5), RepresentationGeometry(resamples=5)
    with pytest.warns(UserWarning, match="have one class in the val data"):
        trained(tmp_path, gap, geometry)
    assert math.isnan(gap.rows[-1]["gap"])
    assert geometry.rows[-1]["effective_dimension"] == 0
    assert json.loads((tmp_path / "utilization_gap.json").read_text(encoding="utf-8"))["layer"] == "head"


@pytest.mark.parametrize("fn", ["validate", "test"])
def test_alone_on_a_trained_model(tmp_path, fn):
    """The same numbers as at the end of training, without training."""
    technique = UtilizationGap(resamples=6, part="val" if fn == "validate" else "test")
    _, trainer, data = trained(tmp_path, technique)
    getattr(trainer, fn)(trainer.lightning_module, datamodule=data, verbose=False)
    part = "val" if fn == "validate" else "test"
    alone = json.loads((tmp_path / f"utilization_gap_{part}.json").read_text(encoding="utf-8"))
    end = json.loads((tmp_path / "utilization_gap.json").read_text(encoding="utf-8"))["rows"][-1]
    assert {key: alone[key] for key in ("gap", "probe", "intervals", "bootstrap")} == {
        key: end[key] for key in ("gap", "probe", "intervals", "bootstrap")
    }


def test_a_run_is_the_same_with_and_without_it(tmp_path):
    plain, *_ = trained(tmp_path / "a")
    observed, *_ = trained(tmp_path / "b", UtilizationGap(epochs=(0, 1, 2), resamples=5))
    for one, other in zip(plain.parameters(), observed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_both_observers_use_the_same_resamples(tmp_path):
    gap, geometry = UtilizationGap(resamples=7), RepresentationGeometry(resamples=7)
    trained(tmp_path, gap, geometry)
    assert gap.rows[-1]["bootstrap"] == geometry.rows[-1]["bootstrap"]


def test_figure_of_one_row():
    assert gap_figure(
        [{"epoch": 0, "end_to_end": 0.5, "probe": 0.6, "gap": 0.1, "labels": {"end_to_end": [0.5], "probe": [0.6]}}]
    )


def test_what_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"part: 'train' is not one of val, test"):
        UtilizationGap(part="train")
    with pytest.raises(UserError, match=r"strength: 0\.0 is not accepted; above 0"):
        UtilizationGap(strength=0.0)

    class Wrong(Data):
        def setup(self, stage):
            super().setup(stage)
            self.val_set = ArrayDataset(self.val_set.tensors[0], torch.zeros(22, 2).long())

    monkeypatch.setattr("small_classifier.Data", Wrong)
    monkeypatch.setattr("small_classifier.Net", Labels)
    with pytest.raises(UserError, match=r"utilization_gap: targets \(2,\) for 3 outputs"):
        trained(tmp_path, UtilizationGap())

    class Uncertain(ManyLabels):
        def setup(self, stage):
            super().setup(stage)
            self.val_set.tensors[1][9, 1] = -1

    monkeypatch.setattr("small_classifier.Data", Uncertain)
    with pytest.raises(UserError, match="utilization_gap: 1 targets are neither 0 nor 1, the first is -1; labels of 0"):
        trained(tmp_path, UtilizationGap())
