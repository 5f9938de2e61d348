"""What prompts are drawn from."""

from __future__ import annotations

import pytest
import torch

from framework.functional.regression_prompts import FUNCTIONS, SPECTRA, PromptLaw


def ar(dim, r=0.5):
    place = torch.arange(dim, dtype=torch.float64)
    return r ** (place[:, None] - place).abs()


def law(dim=3, **changes):
    eye = torch.eye(dim, dtype=torch.float64)
    return PromptLaw(ar(dim), torch.zeros(1, dim, dtype=torch.float64), eye).with_changes(**changes)


def draw(law, prompts=40_000, length=4, seed=0):
    return law.sample(prompts, length, torch.Generator().manual_seed(seed), torch.float64)


def test_covariates_have_their_covariance_and_labels_are_exact():
    found = draw(law())
    x = found["x"].flatten(0, 1)
    assert torch.allclose(x.T @ x / len(x), ar(3), atol=0.02)
    assert torch.equal(found["y"], found["x"] @ found["w"].mT)
    assert found["x"].shape == (40_000, 5, 3)
    assert found["y"].shape == (40_000, 5, 1)


def test_tasks_have_their_mean_and_covariance():
    mean, cov = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64), 0.25 * ar(3, 0.3)
    w = draw(law(task_mean=mean, task_cov=cov))["w"][:, 0]
    assert torch.allclose(w.mean(0), mean[0], atol=0.01)
    assert torch.allclose(torch.cov(w.T), cov, atol=0.01)


def test_noise_is_a_variance_and_spares_the_query_unless_asked():
    found = draw(law(noise=0.3))
    rest = (found["y"] - found["x"] @ found["w"].mT)[..., 0]
    assert rest[:, :-1].var().item() == pytest.approx(0.3, rel=0.02)
    assert rest[:, -1].abs().max() == 0
    found = draw(law(noise=0.3, noisy_query=True))
    assert (found["y"] - found["x"] @ found["w"].mT)[:, -1].var().item() == pytest.approx(0.3, rel=0.03)


def test_the_query_may_have_a_covariance_of_its_own():
    x = draw(law(query_cov=4 * torch.eye(3, dtype=torch.float64)))["x"]
    assert torch.allclose(torch.cov(x[:, -1].T), 4 * torch.eye(3, dtype=torch.float64), atol=0.1)
    assert torch.allclose(torch.cov(x[:, 0].T), ar(3), atol=0.03)


def test_a_scale_changes_covariates_and_labels_together():
    plain, scaled = draw(law()), draw(law(scale=3.0))
    assert torch.allclose(scaled["x"], 3 * plain["x"])
    assert torch.allclose(scaled["y"], 3 * plain["y"])


@pytest.mark.parametrize("name", sorted(SPECTRA))
def test_spectra_have_the_moments_that_they_state(name):
    u = torch.rand(2_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = SPECTRA[name].draw(u)
    for power, moment in enumerate(SPECTRA[name].moments, 1):
        assert values.pow(power).mean().item() == pytest.approx(moment, rel=0.01)


def test_each_prompt_draws_a_spectrum_of_its_own():
    eye = torch.eye(3, dtype=torch.float64)
    x = draw(law(spectrum="exponential", x_cov=eye), prompts=500, length=2000)["x"]
    variances = x.var(1).flatten()
    assert variances.mean().item() == pytest.approx(1.0, rel=0.1)
    assert variances.var().item() == pytest.approx(1.0, rel=0.3)


def test_each_task_looks_at_its_own_block():
    mask = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    found = draw(law(mask=mask, task_mean=torch.zeros(2, 3, dtype=torch.float64)))
    assert (found["w"][:, 0, 2] == 0).all()
    assert (found["w"][:, 1, 0] == 0).all()
    assert found["y"].shape[-1] == 2


def test_rows_are_what_x_is_drawn_from_and_inactive_coordinates_are_zero():
    rows = torch.arange(12, dtype=torch.float64).reshape(4, 3)
    x = draw(law(rows=rows), prompts=200)["x"]
    assert {tuple(row.tolist()) for row in x.flatten(0, 1)} == {tuple(row.tolist()) for row in rows}
    x = draw(law(active=2), prompts=10)["x"]
    assert (x[..., 2] == 0).all()
    assert (x[..., :2] != 0).all()


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_labels_are_the_function_of_the_product(name):
    found = draw(law(function=name), prompts=10)
    assert torch.equal(found["y"], FUNCTIONS[name](found["x"] @ found["w"].mT))


def test_the_same_state_gives_the_same_prompts():
    first, second, other = draw(law(), 10), draw(law(), 10), draw(law(), 10, seed=1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["x"], other["x"])
