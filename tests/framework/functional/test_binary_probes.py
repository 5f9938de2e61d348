"""Linear probes: scikit-learn's, and the same minimum by Newton's method."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from framework.errors import UserError
from framework.functional.binary_probes import fit_binary_probes
from framework.functional.embedding_geometry import unit_rows
from framework.functional.ranking import auroc

RNG = np.random.default_rng(0)
Z = unit_rows(RNG.normal(size=(300, 8)) + 0.3)
LABELS = (Z @ RNG.normal(size=(8, 3)) + 0.3 * RNG.normal(size=(300, 3)) > 0.1).astype(int)
X, Y, HELD, HELD_LABELS = Z[:200], LABELS[:200], Z[200:], LABELS[200:]


def by_scikit_learn(tol=1e-4):
    probe = LogisticRegression(C=1.0, solver="liblinear", max_iter=2000, random_state=0, tol=tol)
    return OneVsRestClassifier(probe).fit(X, Y)


def test_liblinear_is_scikit_learns_one_against_the_rest():
    weight, bias = fit_binary_probes(X, Y, solver="liblinear")
    expected = by_scikit_learn().decision_function(HELD)
    scores = HELD @ weight.T + bias
    assert scores == pytest.approx(expected, abs=1e-12)
    assert auroc(scores, HELD_LABELS) == pytest.approx(auroc(expected, HELD_LABELS), abs=1e-6)


@pytest.mark.parametrize("strength", [0.01, 1.0, 1e4])
def test_newton_finds_the_same_minimum(strength):
    """That of the penalty on weights and intercept, to which liblinear converges with a small tolerance."""
    weight, bias = fit_binary_probes(X, Y, strength, solver="newton")
    probe = LogisticRegression(C=strength, solver="liblinear", max_iter=100_000, tol=1e-10, random_state=0)
    expected = OneVsRestClassifier(probe).fit(X, Y)
    scores = expected.decision_function(HELD)
    assert HELD @ weight.T + bias == pytest.approx(scores, rel=1e-4, abs=1e-4)
    assert auroc(HELD @ weight.T + bias, HELD_LABELS) == pytest.approx(auroc(scores, HELD_LABELS), abs=1e-6)


def test_newtons_gradient_is_zero():
    weight, bias = fit_binary_probes(X, Y, 3.0, solver="newton")
    residual = 1 / (1 + np.exp(-(X @ weight.T + bias))) - Y
    assert weight + 3.0 * residual.T @ X == pytest.approx(np.zeros((3, 8)), abs=1e-5)
    assert bias + 3.0 * residual.sum(0) == pytest.approx(np.zeros(3), abs=1e-5)


def test_large_data_takes_newton(monkeypatch):
    monkeypatch.setattr("framework.functional.binary_probes._LARGE", X.size)
    assert np.array_equal(fit_binary_probes(X, Y)[0], fit_binary_probes(X, Y, solver="newton")[0])


def test_a_label_of_one_class_has_zeros():
    labels = np.stack([Y[:, 0], np.ones(200, int)], 1)
    weight, bias = fit_binary_probes(X, labels)
    assert weight[0].any()
    assert not weight[1].any()
    assert bias[1] == 0


def test_what_is_refused():
    with pytest.raises(UserError, match=r"strength: 0\.0 is not accepted; above 0"):
        fit_binary_probes(X, Y, 0.0)
    with pytest.raises(UserError, match=r"solver: 'saga' is not one of auto, liblinear, newton"):
        fit_binary_probes(X, Y, solver="saga")
    with pytest.raises(UserError, match="labels: 9 samples for 200 embeddings"):
        fit_binary_probes(X, Y[:9])
    with pytest.raises(UserError, match="the features are not finite"):
        fit_binary_probes(np.full((200, 8), np.nan), Y)
