"""Poisson batches: their statistics, the same after a resume, by workers and over ranks; and the noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from callbacks.dp_sgd.sampling import PoissonLoader, gaussian, new_secret
from framework.data.arrays import ArrayDataset

N = 60
SECRET = 1 << 100 | 12345


def loader(
    batch_size: int = 6, secret: int = SECRET, ranks: tuple[int, int] = (1, 0), **kwargs: object
) -> PoissonLoader:
    data = ArrayDataset(torch.arange(N), transform=lambda x: x + 0.1 * torch.rand(len(x)))
    return PoissonLoader(data, batch_size, secret, ranks=lambda: ranks, **kwargs)


def batches(source: PoissonLoader, epochs: int = 1) -> list[torch.Tensor]:
    found = []
    for epoch in range(epochs):
        source.set_epoch(epoch)
        found += [batch[0] for batch in source]
    return found


def test_each_sample_is_drawn_independently():
    source = loader()
    drawn = np.zeros((2000, N))
    for row in range(200):
        source.set_epoch(row)
        for position in range(10):
            drawn[row * 10 + position, source.drawn(position)] = 1
    sizes = drawn.sum(1)
    expected = stats.binom.pmf(np.arange(N + 1), N, 0.1) * len(drawn)
    kept = expected > 5
    observed = np.bincount(sizes.astype(int), minlength=N + 1)
    shares = np.append(observed[kept], observed[~kept].sum()), np.append(expected[kept], expected[~kept].sum())
    assert stats.chisquare(*shares).pvalue > 1e-3
    assert abs(drawn.mean(0) - 0.1).max() < 4 * np.sqrt(0.09 / len(drawn))  # each sample alike
    correlation = np.corrcoef(drawn[:, :8].T) - np.eye(8)
    assert abs(correlation).max() < 4.5 / np.sqrt(len(drawn))
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 4.5 / np.sqrt(len(drawn))


def test_an_epoch_has_as_many_batches_as_hold_all_samples():
    assert [len(loader(size)) for size in (1, 7, 25, 59, 60, 200)] == [60, 9, 2, 1, 1, 1]
    assert loader(200).rate == 1
    assert len(batches(loader(200))[0]) == N


def test_the_rate_is_that_of_the_accountant_for_sizes_that_do_not_divide_the_data():
    """Not 1 divided by the number of batches, which is 1/2 here."""
    source = loader(25)
    sizes = []
    for epoch in range(200):
        source.set_epoch(epoch)
        sizes += [len(source.drawn(position)) for position in range(2)]
    assert source.rate == 25 / N
    assert abs(np.mean(sizes) - 25) < 4 * np.sqrt(25 * 35 / 60 / len(sizes))


def test_empty_batches_are_there():
    source = loader(1)
    sizes = [len(batch) for batch in batches(source, 3)]
    assert len(sizes) == 180
    assert 40 < sizes.count(0) < 95  # 180 / e
    assert source.stand_in[0].shape == (1,)


@pytest.mark.parametrize("size", [1, 6])
def test_resumed_anywhere_and_read_by_workers(size):
    expected = batches(loader(size), 2)
    source = loader(size, num_workers=2)
    for one, other in zip(batches(source, 2), expected, strict=True):
        assert torch.equal(one, other)
    length = len(expected) // 2
    for at in (0, 3, length - 1, length):
        first = loader(size)
        first.set_epoch(0)
        iterator = iter(first)
        begun = [next(iterator)[0] for _ in range(at)]
        second = loader(size, secret=1)
        second.load_state_dict(first.state_dict())
        if at < length:
            second.set_epoch(0)
            begun += [batch[0] for batch in second]
        second.set_epoch(1)
        begun += [batch[0] for batch in second]
        assert len(begun) == len(expected)
        assert all(map(torch.equal, begun, expected))


def test_ranks_share_one_draw():
    whole = loader(6)
    for epoch in range(3):
        parts = [loader(2, ranks=(3, rank)) for rank in range(3)]
        for source in (whole, *parts):
            source.set_epoch(epoch)
        assert len({len(source) for source in (whole, *parts)}) == 1
        for batch, *shares in zip(whole, *parts, strict=True):
            found = torch.cat([share[0].long() for share in shares]).sort().values
            assert torch.equal(found, batch[0].long().sort().values)


def test_the_secret_decides():
    assert any(
        len(a) != len(b) for a, b in zip(batches(loader()), batches(loader(secret=SECRET + (1 << 90))), strict=True)
    )
    assert len({new_secret() for _ in range(20)}) == 20
    assert max(new_secret() for _ in range(20)) > 1 << 100


def test_noise_is_normal_and_its_own_at_each_step():
    one, other = gaussian(SECRET, 0, 40_000), gaussian(SECRET, 1, 40_000)
    assert one.dtype == torch.float32
    assert stats.kstest(one.numpy(), "norm").pvalue > 1e-3
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.02
    assert torch.equal(one, gaussian(SECRET, 0, 40_000))
    assert not torch.equal(one[:10], gaussian(SECRET + (1 << 90), 0, 10))
