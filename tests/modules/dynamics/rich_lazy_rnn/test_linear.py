"""Two linear layers: the predicted alignment against training and against averages over tasks."""

import pytest
import torch

from modules.dynamics.rich_lazy_rnn import linear

TASKS, SIGMA = 200, 1e-3


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def readout(hidden, generator):
    drawn = torch.randn(TASKS, 1, hidden, generator=generator, dtype=torch.float64)
    return SIGMA * drawn / drawn.norm(dim=2, keepdim=True)


@pytest.mark.parametrize(("rank", "expected"), [(1, 0.88889), (2, 0.92841), (3, 0.94281)])
def test_the_mean_over_tasks_is_the_closed_form(rank, expected, generator):
    assert linear.expected_alignment_of_rank(3, rank) == pytest.approx(expected, abs=5e-6)
    values = torch.tensor([1.0 / rank] * rank + [0.0] * (3 - rank), dtype=torch.float64)
    assert linear.expected_alignment(values, 1.0) == pytest.approx(linear.expected_alignment_of_rank(3, rank))
    beta = linear.sphere(TASKS, 3, generator)
    start = linear.evenly_ranked(TASKS, 5, 3, rank, SIGMA, generator), readout(5, generator)
    torch.testing.assert_close(torch.linalg.matrix_rank(start[0]), torch.full((TASKS,), rank))
    torch.testing.assert_close(start[0].flatten(1).norm(dim=1), torch.full((TASKS,), SIGMA, dtype=torch.float64))
    found = linear.alignment(start, linear.train(*start, beta, steps=800))
    torch.testing.assert_close(found, linear.predicted_alignment(*start, beta), atol=2e-4, rtol=0)
    assert abs(float(found.mean()) - expected) < 3 * float(found.std()) / TASKS**0.5 + 0.003
    if rank == 3:
        assert float(found.std()) < 1e-4


def test_a_start_along_the_task_is_lazy_however_low_its_rank(generator):
    beta = linear.sphere(TASKS, 8, generator)
    start = linear.aligned(beta[..., None], 5, SIGMA, generator), readout(5, generator)
    assert float(linear.alignment(start, linear.train(*start, beta, steps=800)).min()) > 0.9999


def test_the_step_is_the_gradient_of_the_loss(generator):
    w1 = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    w2 = torch.randn(2, 1, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    beta = linear.sphere(2, 3, generator)
    loss = ((w2 @ w1)[:, 0] - beta).square().sum() / 2
    expected = torch.autograd.grad(loss, [w1, w2])
    moved = linear.train(w1.detach(), w2.detach(), beta, rate=0.1, steps=1)
    for new, old, gradient in zip(moved, (w1, w2), expected, strict=True):
        torch.testing.assert_close(new, old.detach() - 0.1 * gradient)


def test_the_kernel_is_that_of_the_jacobian(generator):
    w1 = torch.randn(1, 4, 3, generator=generator, dtype=torch.float64)
    w2 = torch.randn(1, 1, 4, generator=generator, dtype=torch.float64)
    by_weights = torch.func.jacrev(lambda a, b: (b @ a)[0, 0], argnums=(0, 1))(w1, w2)
    jacobian = torch.cat([part.flatten(1) for part in by_weights], 1)
    torch.testing.assert_close(linear.tangent_kernel(w1, w2)[0], jacobian @ jacobian.T)


def test_anisotropic_inputs(generator):
    values = torch.linalg.svdvals(linear.anisotropic(6, 4.0, generator))
    torch.testing.assert_close(values, torch.tensor([4.0] * 3 + [1.0] * 3, dtype=torch.float64))
