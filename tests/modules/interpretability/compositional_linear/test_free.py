"""Free embeddings: gradients in closed form against autograd, members side by side against single ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from datamodules.interpretability.concept_grid import ConceptGrid
from framework.errors import UserError
from framework.functional.linear_factors import measure_geometry
from modules.interpretability.compositional_linear import FreeEmbeddings
from modules.interpretability.compositional_linear.free import draw_member, least_dimension

KINDS = list(itertools.product(("euclidean", "spherical"), ("ce", "bce")))


def batch_of(concepts, values):
    data = ConceptGrid(concepts, values)
    data.setup("fit")
    return data.train_set.batch


@pytest.mark.parametrize(("space", "loss"), KINDS)
def test_gradients_are_autograds(space, loss):
    model = FreeEmbeddings(3, 2, dims=[2, 5], seeds=[0], space=space, loss=loss).double()
    batch = batch_of(3, 2)
    expected = torch.autograd.grad(model.losses(batch).sum(), list(model.parameters()))
    found = model.gradients(batch)
    assert len(found) == (4 if space == "spherical" else 3)
    torch.testing.assert_close(found, list(expected), atol=1e-12, rtol=1e-9)


def test_the_losses_by_loops():
    batch = batch_of(2, 3)
    for loss in ("ce", "bce"):
        model = FreeEmbeddings(2, 3, dims=[4], seeds=[1], loss=loss).double()
        total = 0.0
        for z, labels in zip(model.z[0], batch["labels"], strict=True):
            for i, value in enumerate(labels):
                rows = slice(3 * i, 3 * i + 3)
                logits = model.w[0, rows] @ z + model.b[0, rows]
                if loss == "ce":
                    total += torch.logsumexp(logits, 0) - logits[value]
                else:
                    signs = torch.full((3,), -1.0, dtype=torch.float64)
                    signs[value] = 1
                    total += torch.nn.functional.softplus(-signs * logits).mean()
        torch.testing.assert_close(model.losses(batch)[0], total / 9)


@pytest.mark.parametrize(("space", "loss"), KINDS)
def test_a_member_is_what_it_is_alone(space, loss):
    batch = batch_of(2, 2)
    together = FreeEmbeddings(2, 2, dims=[3, 6], seeds=[0, 1], space=space, loss=loss).double()
    together.simulate(batch, 40, at=[40])
    for number, (d, seed) in enumerate(together.members):
        alone = FreeEmbeddings(2, 2, dims=[d], seeds=[seed], space=space, loss=loss).double()
        alone.simulate(batch, 40, at=[40])
        torch.testing.assert_close(together.z[number, :, :d], alone.z[0], atol=1e-10, rtol=0)
        assert not together.z[number, :, d:].any()
        assert not together.w[number, :, d:].any()


def test_it_starts_as_the_paper_and_torch_draw():
    z, w, b = draw_member(4000, 50, 16, 0)
    assert z.std() == pytest.approx(1, abs=0.01)
    assert w.abs().max() <= 0.25
    assert w.std() == pytest.approx(0.25 / 3**0.5, rel=0.05)
    assert b.shape == (50,)
    assert not torch.equal(z, draw_member(4000, 50, 16, 1)[0])


def test_measurements_and_the_least_dimension():
    batch = batch_of(2, 2)
    model = FreeEmbeddings(2, 2, dims=[1, 2, 4], seeds=[0, 1], space="spherical", loss="bce")
    found = model.simulate(batch, 300, at=[0, 300])
    assert found["dim"].tolist() == [1, 1, 2, 2, 4, 4]
    assert found["r2"].shape == (2, 6)
    z = torch.nn.functional.normalize(model.z[5, :, :4], dim=-1).detach().numpy()
    geometry = measure_geometry(z, batch["labels"].numpy())
    assert found["r2"][-1, 5] == pytest.approx(geometry.r2, abs=1e-6)
    assert found["cross"][-1, 5] == pytest.approx(geometry.cross, abs=1e-6)
    assert found["r2"][-1, 5] > 0.9 > 0.5 > found["cross"][-1, 5]
    assert least_dimension({"dim": np.array([4, 2, 2]), "worst": np.array([[1.0, 1, 1], [1.0, 0.98, 0.99]])}) == 2
    assert least_dimension({"dim": np.array([4]), "worst": np.array([[0.9]])}) is None


def test_more_combinations_than_are_wanted():
    data = ConceptGrid(8, 6, max_combinations=500)
    data.setup("fit")
    labels = data.train_set.batch["labels"]
    assert len(np.unique(labels.numpy(), axis=0)) == len(labels) == 500
    assert labels.amax() == 5
    model = FreeEmbeddings(8, 6, dims=[9], seeds=[0], max_combinations=500)
    model.begin(data.train_set.batch)
    few = ConceptGrid(2, 96, max_combinations=5)  # of which none has the last value
    few.setup("fit")
    assert few.train_set.batch["labels"].amax() < 95
    FreeEmbeddings(2, 96, max_combinations=5).begin(few.train_set.batch)
    assert model.z.shape == (1, 500, 9)


def test_a_member_that_diverges_leaves_the_others_as_they_are():
    model = FreeEmbeddings(2, 2, dims=[3], seeds=[0, 1])
    with torch.no_grad():
        model.z[0, 0, 0] = torch.inf
    found = model.simulate(batch_of(2, 2), 3, at=[3])
    assert np.isnan(found["r2"][-1]).tolist() == [True, False]


def test_other_combinations_are_refused():
    model = FreeEmbeddings(2, 3)
    with pytest.raises(UserError, match=r"concepts, values: 2 concepts of 3 values, 9 combinations, but the data has"):
        model.begin(batch_of(2, 2))
    for wrong, name in (({"values": 1}, "values"), ({"dims": []}, "dims"), ({"scale": 0}, "scale")):
        with pytest.raises(UserError, match=name):
            FreeEmbeddings(**wrong)
    with pytest.raises(UserError, match="'sphere' is not one of euclidean, spherical; did you mean"):
        FreeEmbeddings(space="sphere")
