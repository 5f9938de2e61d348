"""Linear heads against scikit-learn, slow references and closed forms."""

import math

import numpy as np
import pytest
import torch
from sklearn import datasets
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import MinMaxScaler

from framework.errors import UserError
from framework.functional.linear_heads import (
    ClassStatistics,
    LinearRule,
    RangeScaler,
    crossover,
    draw_subset,
    fit_logistic,
    gaussian_head,
    learning_curve,
    logistic_loss,
)
from framework.functional.linear_heads.curve import NAIVE_BAYES, LearningCurve, as_metrics
from framework.functional.linear_heads.gaussian import FLOOR
from framework.functional.linear_heads.logistic import as_rule, gradients, logits_of
from framework.functional.linear_heads.mixture import MixtureLaw


def real(name, rows=None):
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))[:rows]
    return torch.from_numpy(x[order].astype(float)), torch.from_numpy(y[order].astype(np.int64))


def slow_scores(x, y, classes, at):
    """log p_k + log N(x; μ_k, v) of one point and class at a time."""
    m, found = len(x), torch.zeros(len(at), classes, dtype=torch.float64)
    variance = sum((y == k).sum() / m * (x[y == k].var(0, correction=0) + FLOOR) for k in range(classes))
    for row, point in enumerate(at):
        for k in range(classes):
            distance = (point - x[y == k].mean(0)).square() / variance
            found[row, k] = math.log(float((y == k).sum()) / m) - 0.5 * float(distance.sum())
    return found


@pytest.mark.parametrize("name", ["digits", "breast_cancer", "wine"])
def test_naive_bayes_is_sklearns_with_the_pooled_variance(name):
    x, y = real(name)
    classes = int(y.max()) + 1
    statistics = ClassStatistics.of(x, y, classes)
    rule = gaussian_head(statistics)
    peer = GaussianNB(var_smoothing=0).fit(x.numpy(), y.numpy())
    peer.var_ = np.tile(statistics.variances.numpy(), (classes, 1))
    assert (rule.scores(x).argmax(1).numpy() == peer.predict(x.numpy())).all()
    scores = slow_scores(x, y, classes, x[:20])
    mine = rule.scores(x[:20])
    assert torch.equal(mine.argmax(1), scores.argmax(1))
    centred = [s - s.mean(1, keepdim=True) for s in (mine, scores)]
    torch.testing.assert_close(*centred, rtol=1e-8, atol=1e-8 * float(centred[1].abs().max()))
    # the layer is the same rule, though digits have features that never vary
    layer = rule.linear()
    assert layer.weight.dtype == torch.float32
    assert (layer(x.float()).argmax(1) == rule.scores(x).argmax(1)).double().mean() > 0.998


def test_with_class_variances_the_rule_is_another_one():
    x, y = real("digits")
    mine = gaussian_head(ClassStatistics.of(x, y, 10)).scores(x).argmax(1).numpy()
    agree = (mine == GaussianNB().fit(x.numpy(), y.numpy()).predict(x.numpy())).mean()
    assert 0.8 < agree < 0.9


def test_balanced_naive_bayes_is_the_nearest_centroid_of_scaled_features():
    x, y = real("digits")
    rows = torch.cat([(y == k).nonzero().flatten()[:150] for k in range(10)])
    x, y = x[rows], y[rows]
    statistics = ClassStatistics.of(x, y, 10)
    scaled = (x / statistics.variances.sqrt()).numpy()
    varying = x.std(0).numpy() > 0
    peer = NearestCentroid().fit(scaled[:, varying], y.numpy()).predict(scaled[:, varying])
    assert (gaussian_head(statistics).scores(x).argmax(1).numpy() == peer).all()


@pytest.mark.parametrize("chunk", [1, 7, 100, 1000])
def test_statistics_of_any_chunks_are_those_of_the_whole(chunk):
    x, y = real("digits", 400)
    order = y.argsort()  # whole batches lack most classes
    x, y = x[order] + 1e4, y[order]  # sums of squares would lose their digits
    whole, parts = ClassStatistics.of(x, y, 10), ClassStatistics.zeros(10, 64)
    for a, b in zip(x.split(chunk), y.split(chunk), strict=True):
        parts = parts.merged(ClassStatistics.of(a, b, 10))
    for one, other in zip(vars(parts).values(), vars(whole).values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-8)
    torch.testing.assert_close(parts.variances, whole.variances, rtol=1e-9, atol=1e-9)


def test_corners_of_naive_bayes():
    x = torch.tensor([[0.0, 5.0], [1.0, 5.0], [4.0, 5.0]])
    y = torch.tensor([0, 0, 1])  # a class with one sample, a constant feature
    statistics = ClassStatistics.of(x, y, 2)
    torch.testing.assert_close(statistics.variances, torch.tensor([0.5 / 3 + FLOOR, FLOOR], dtype=torch.float64))
    rule = gaussian_head(statistics)
    assert rule.weight[:, 1].abs().max() == 0
    assert rule.scores(torch.tensor([[0.4, 7.0], [3.9, -7.0]]).double()).argmax(1).tolist() == [0, 1]
    with pytest.raises(UserError, match="no samples of class 2"):
        gaussian_head(ClassStatistics.of(x, y, 3))


@pytest.mark.parametrize(
    ("name", "rows", "c"), [("wine", 120, 1.0), ("wine", 120, 0.1), ("digits", 300, 10.0), ("breast_cancer", 200, 1.0)]
)
def test_logistic_regression_is_sklearns(name, rows, c):
    x, y = real(name, rows)
    x = RangeScaler.of(x)(x)
    classes = int(y.max()) + 1
    weight, bias = fit_logistic(x, y, classes, c, tolerance=1e-8)
    peer = LogisticRegression(C=c, tol=1e-9, max_iter=10_000).fit(x.numpy(), y.numpy())
    theirs = torch.from_numpy(peer.coef_), torch.from_numpy(peer.intercept_)
    assert weight.shape == theirs[0].shape
    assert float(logistic_loss(weight, bias, x, y, c)) == pytest.approx(
        float(logistic_loss(*theirs, x, y, c)), rel=1e-6
    )
    torch.testing.assert_close(weight, theirs[0], rtol=0, atol=1e-3)
    probabilities = torch.from_numpy(peer.predict_proba(x.numpy()))
    torch.testing.assert_close(logits_of(weight, bias, x).softmax(1), probabilities, rtol=0, atol=1e-4)
    torch.testing.assert_close(as_rule(weight, bias).scores(x).softmax(1), probabilities, rtol=0, atol=1e-4)
    _, by_weight, by_bias = gradients(weight, bias, x, y, c)
    slope = torch.cat([by_weight.flatten(), by_bias]) * c * rows  # of ½ ‖W‖² + C Σ
    assert slope.norm() < 1e-4 * rows
    warm = fit_logistic(x, y, classes, c, tolerance=1e-8, start=(weight + 0.1, bias))
    torch.testing.assert_close(warm[0], weight, rtol=0, atol=1e-3)


@pytest.mark.parametrize("classes", [2, 4])
def test_gradients_by_hand_are_autograds(classes):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 5, dtype=torch.float64, generator=generator)
    y = torch.arange(9) % classes
    rows = 1 if classes == 2 else classes
    weight = torch.randn(rows, 5, dtype=torch.float64, generator=generator).requires_grad_()
    bias = torch.randn(rows, dtype=torch.float64, generator=generator).requires_grad_()
    loss = logistic_loss(weight, bias, x, y, 0.7)
    expected = torch.autograd.grad(loss, (weight, bias))
    with torch.no_grad():
        found = gradients(weight, bias, x, y, 0.7)
    torch.testing.assert_close(found[0], loss.detach())
    torch.testing.assert_close(found[1:], expected)


def test_it_says_what_c_may_be():
    with pytest.raises(UserError, match="c: 0 is not accepted"):
        fit_logistic(torch.zeros(2, 1), torch.tensor([0, 1]), 2, 0)


def test_the_scale_is_sklearns():
    x, _ = real("digits", 30)
    peer = MinMaxScaler().fit(x[:20].numpy())
    np.testing.assert_allclose(RangeScaler.of(x[:20])(x).numpy(), peer.transform(x.numpy()), atol=1e-12)


def test_a_subset_holds_every_class():
    y = torch.arange(60) % 6
    generator = torch.Generator().manual_seed(0)
    for size in (6, 8, 60):
        rows = draw_subset(y, size, 6, generator)
        assert len(rows.unique()) == size
        assert len(y[rows].unique()) == 6
    with pytest.raises(UserError, match="samples: 5 is not accepted; from 6"):
        draw_subset(y, 5, 6, generator)
    with pytest.raises(UserError, match="samples: 61 is not accepted; from 6 to 60"):
        draw_subset(y, 61, 6, generator)
    with pytest.raises(UserError, match="holds all 2 classes"):
        draw_subset(torch.zeros(3, dtype=torch.long), 3, 2, generator)


def test_the_crossover_is_where_the_curves_meet():
    sizes = np.array([10, 100, 1000])
    assert crossover(sizes, np.array([0.2, 0.2, 0.2]), np.array([0.3, 0.1, 0.1])) == pytest.approx(10**1.5)
    assert math.isnan(crossover(sizes, np.array([0.2, 0.2, 0.2]), np.array([0.1, 0.1, 0.1])))
    assert math.isnan(crossover(sizes, np.array([0.1, 0.1, 0.1]), np.array([0.2, 0.2, 0.2])))
    # one that leads at first, falls behind and wins in the end: the last time counts
    assert 100 < crossover(sizes, np.array([0.2, 0.2, 0.2]), np.array([0.1, 0.3, 0.1])) < 1000


def test_a_learning_curve_is_what_sklearn_gives_on_the_same_draws():
    x, y = real("digits", 700)
    train, test = (x[:400], y[:400]), (x[400:], y[400:])
    curve = learning_curve(train, test, [40, 200, 5000], repeats=2, c=(1.0,), seed=3)
    assert curve.sizes.tolist() == [40, 200]
    generator = torch.Generator().manual_seed(3)
    for row, size in enumerate((40, 200)):
        for repeat in range(2):
            rows = draw_subset(train[1], size, 10, generator)
            scaler = MinMaxScaler().fit(train[0][rows].numpy())
            inputs, outside = (scaler.transform(part.numpy()) for part in (train[0][rows], test[0]))
            peer = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(inputs, train[1][rows].numpy())
            wrong = 1 - peer.score(outside, test[1].numpy())
            assert curve.errors["logistic, C = 1"][row, repeat] == pytest.approx(wrong, abs=1.01 / 300)
            statistics = ClassStatistics.of(torch.from_numpy(inputs), train[1][rows], 10)
            bayes = GaussianNB(var_smoothing=0).fit(inputs, train[1][rows].numpy())
            bayes.var_ = np.tile(statistics.variances.numpy(), (10, 1))
            wrong = (bayes.predict(outside) != test[1].numpy()).mean()
            assert curve.errors[NAIVE_BAYES][row, repeat] == pytest.approx(wrong)
    plain = learning_curve(train, test, [40], repeats=2, c=(1.0,), seed=3, scale=False)
    assert (plain.errors[NAIVE_BAYES] == curve.errors[NAIVE_BAYES][:1]).all()  # which scales by itself
    assert (plain.errors["logistic, C = 1"] != curve.errors["logistic, C = 1"][:1]).any()
    with pytest.raises(UserError, match=r"sizes: \[5000\] are not accepted; there are 400"):
        learning_curve(train, test, [5000])


def test_metrics_of_a_curve_take_the_best_c():
    errors = {NAIVE_BAYES: np.array([[0.2], [0.2]]), "a": np.array([[0.4], [0.1]]), "b": np.array([[0.3], [0.15]])}
    found = as_metrics(LearningCurve(np.array([10, 100]), errors))
    assert found["logistic/10"] == 0.3
    assert found["logistic/100"] == 0.1
    assert found["naive_bayes/100"] == 0.2
    assert found["crossover"] == pytest.approx(10**1.5)


@pytest.mark.parametrize("kind", ["easy", "hard"])
def test_the_exact_error_is_that_of_many_points(kind):
    law = MixtureLaw(2, 10, kind)
    generator = torch.Generator().manual_seed(0)
    rule = LinearRule(
        torch.randn(2, 10, dtype=torch.float64, generator=generator),
        torch.randn(2, dtype=torch.float64, generator=generator),
    )
    labels = torch.arange(2).repeat(200_000)
    drawn = rule.error(law.sample(labels, generator), labels)
    assert law.two_class_error(rule) == pytest.approx(drawn, abs=0.0015)
    assert 0.05 < drawn < 0.95


def test_the_mixture_has_the_moments_that_it_says():
    for law in (MixtureLaw(2, 6), MixtureLaw(5, 6), MixtureLaw(3, 6, "hard")):
        generator = torch.Generator().manual_seed(1)
        for label in range(law.classes):
            x = law.sample(torch.full((100_000,), label), generator)
            deviation = law.variances.sqrt()
            assert ((x.mean(0) - law.means[label]).abs() < 5 * deviation / math.sqrt(100_000)).all()
            torch.testing.assert_close(x.var(0), law.variances, rtol=0.03, atol=0)
    assert MixtureLaw(5, 6).levels.tolist() == [-1.25, -0.75, -0.5, 0.0, 1.0]  # (c − 4)/4 of −1, 1, 2, 4, 8
    assert MixtureLaw(2, 6).variances.tolist() == [6.0] * 3 + [1.0] * 3


@pytest.mark.parametrize(("classes", "n"), [(2, 4), (3, 4), (7, 10)])
def test_the_bayes_error_is_that_of_the_best_rule_on_many_points(classes, n):
    law = MixtureLaw(classes, n)
    weight = law.means / law.variances
    rule = LinearRule(weight, -0.5 * (weight * law.means).sum(1))
    labels = torch.arange(classes).repeat_interleave(400_000 // classes)
    drawn = rule.error(law.sample(labels, torch.Generator().manual_seed(0)), labels)
    assert law.bayes_error() == pytest.approx(drawn, abs=0.0015)
    if classes == 2:
        assert law.bayes_error() == pytest.approx(0.5 * math.erfc(math.sqrt(2 * n + 2) / 2 / math.sqrt(2)))
        assert law.two_class_error(rule) == pytest.approx(law.bayes_error())


def test_settings_of_the_mixture():
    for arguments, said in (((1, 4), "classes: 1"), ((2, 5), "dimension: 5"), ((2, 4, "odd"), "kind: 'odd'")):
        with pytest.raises(UserError, match=said):
            MixtureLaw(*arguments)
    with pytest.raises(UserError, match="Bayes"):
        MixtureLaw(2, 4, "hard").bayes_error()
    with pytest.raises(UserError, match="exact error"):
        MixtureLaw(3, 4).two_class_error(LinearRule(torch.zeros(3, 4), torch.zeros(3)))
