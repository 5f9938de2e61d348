"""AUROC with half ties, in resamples, and the best operating point."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score, roc_curve

from framework.errors import UserError
from framework.functional.ranking import MacroAUROC, auroc, macro, rank_scores, two_classes
from framework.functional.resampling import resample_indices, sample_counts

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, (80, 3))
SCORES = np.round(LABELS + RNG.normal(size=(80, 3)), 1)  # with ties


def counted(scores, labels):
    pairs = [(p > n) + (p == n) / 2 for p in scores[labels == 1] for n in scores[labels == 0]]
    return float(np.mean(pairs))


def test_auroc_is_the_count_of_pairs_with_half_ties_and_scikit_learns():
    found = auroc(SCORES, LABELS)
    assert found == pytest.approx([counted(SCORES[:, k], LABELS[:, k]) for k in range(3)], abs=1e-12)
    assert found == pytest.approx(roc_auc_score(LABELS, SCORES, average=None), abs=1e-12)


def test_auroc_of_resamples_is_that_of_each_alone(monkeypatch):
    indices = resample_indices(80, 30, 1)
    monkeypatch.setattr("framework.functional.ranking._ENTRIES", 500)  # several pieces
    found = rank_scores(SCORES, LABELS, sample_counts(indices))["auroc"]
    for row, values in zip(indices, found, strict=True):
        assert values == pytest.approx(roc_auc_score(LABELS[row], SCORES[row], average=None), abs=1e-12)


def test_a_label_of_one_class_is_not_defined_and_others_are():
    labels = LABELS.copy()
    labels[:, 1] = 1
    found = rank_scores(SCORES, labels, operating=True)
    assert np.isnan(found["auroc"][0]).tolist() == [False, True, False]
    assert math.isnan(found["sensitivity"][0, 1])
    broken = SCORES.copy()
    broken[3, 0] = np.nan
    assert np.isnan(auroc(broken, LABELS)).tolist() == [True, False, False]


def test_operating_point_is_that_of_the_curve():
    found = rank_scores(SCORES, LABELS, operating=True)
    for k in range(3):
        fpr, tpr, thresholds = roc_curve(LABELS[:, k], SCORES[:, k], drop_intermediate=False)
        best = np.argmax(tpr - fpr)
        predicted = SCORES[:, k] >= thresholds[best]
        expected = {
            "accuracy": accuracy_score(LABELS[:, k], predicted),
            "sensitivity": tpr[best],
            "specificity": 1 - fpr[best],
            "f1": f1_score(LABELS[:, k], predicted),
        }
        assert {name: found[name][0, k] for name in expected} == pytest.approx(expected)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"scores \(80, 3\) and labels \(80, 2\): both \(N, K\) are expected"):
        auroc(SCORES, LABELS[:, :2])
    with pytest.raises(UserError, match="a value that is neither 0 nor 1"):
        auroc(SCORES, LABELS + 1)
    with pytest.raises(UserError, match=r"counts: \(2, 9\) is not accepted; \(R, 80\)"):
        rank_scores(SCORES, LABELS, np.ones((2, 9)))


def test_macro_auroc_over_batches_ranks_large_logits():
    metric = MacroAUROC()
    logits = torch.tensor(SCORES) * 100  # whose sigmoid is 0 or 1 in float32
    for first in range(0, 80, 13):
        metric.update(logits[first : first + 13], torch.tensor(LABELS[first : first + 13]))
    assert float(metric.compute()) == pytest.approx(auroc(SCORES, LABELS).mean(), abs=1e-6)
    metric.reset()
    assert math.isnan(float(metric.compute()))


def test_macro_auroc_is_nan_where_a_score_of_a_varied_label_is():
    """A label that has diverged must not drop out of the mean as one of one class does."""
    labels = LABELS.copy()
    labels[:, 1] = 1
    assert two_classes(labels).tolist() == [True, False, True]
    assert macro(auroc(SCORES, labels), labels) == pytest.approx(auroc(SCORES, labels)[[0, 2]].mean())
    assert math.isnan(macro(np.array([0.5]), np.ones((4, 1))))
    metric = MacroAUROC()
    broken = SCORES.copy()
    broken[3, 0] = np.inf
    metric.update(torch.tensor(broken), torch.tensor(labels))
    assert math.isnan(float(metric.compute()))
    metric.reset()
    broken[3] = [0.0, np.nan, 0.0]  # of the label that has one class
    metric.update(torch.tensor(broken), torch.tensor(labels))
    assert math.isfinite(float(metric.compute()))


def test_macro_auroc_keeps_double_precision():
    metric = MacroAUROC()
    metric.update(torch.tensor([[1.0], [1.0 + 1e-12]], dtype=torch.float64), torch.tensor([[0], [1]]))
    assert float(metric.compute()) == 1


def test_macro_auroc_of_two_processes_is_that_of_one(monkeypatch):
    """What torchmetrics gathers is one tensor, no list of them."""
    metric = MacroAUROC()
    metric.update(torch.tensor(SCORES[:50]), torch.tensor(LABELS[:50]))
    metric.scores, metric.labels = torch.tensor(SCORES), torch.tensor(LABELS)
    assert float(metric.compute()) == pytest.approx(auroc(SCORES, LABELS).mean(), abs=1e-6)
