"""Batches are a function of (seed, epoch, position): workers, resumes, ranks and surrounding draws change nothing."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from framework.data import DataModule, seeding
from framework.data.arrays import ArrayDataset
from framework.data.loader import ExactLoader, draws_random_numbers
from framework.errors import UserError

N = 22


def noise(x: torch.Tensor) -> torch.Tensor:
    return x + torch.randn_like(x) + np.random.randn() + random.random()  # noqa: NPY002


class Slow(Dataset):
    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int):
        return {"x": noise(torch.tensor([float(index)])), "y": index}


def whole_batches() -> ArrayDataset:
    return ArrayDataset(torch.arange(float(N))[:, None], torch.arange(N), transform=noise)


def collate(samples: list) -> torch.Tensor:
    return torch.stack([s["x"] for s in samples]) * random.random()


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return all(same(a[k], b[k]) for k in a)
    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


CASES = {
    "samples": {"dataset": Slow()},
    "whole batches": {"dataset": whole_batches()},
    "collate": {"dataset": Slow(), "collate_fn": collate},
    "subset": {"dataset": Subset(Slow(), range(3, 17))},
    "drop_last": {"dataset": Slow(), "drop_last": True},
}


def make(case: str, **kwargs) -> ExactLoader:
    return ExactLoader(**{"batch_size": 4, "shuffle": True, "seed": 5} | CASES[case] | kwargs)


@pytest.mark.parametrize("case", CASES)
def test_workers_give_the_same_batches(case):
    here, there = make(case), make(case, num_workers=2)
    for epoch in (0, 1):
        here.set_epoch(epoch)
        there.set_epoch(epoch)
        a = list(here)
        torch.rand(3)
        assert same(a, list(there))
    assert len(a) == len(here)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("workers", [0, 2])
def test_going_on_in_the_middle(case, workers):
    if workers and case in ("subset", "drop_last"):
        pytest.skip("covered without workers")
    loader = make(case)
    loader.set_epoch(3)
    everything = list(loader)
    loader.set_epoch(4)
    next_epoch = list(loader)

    first = make(case, num_workers=workers)
    first.set_epoch(3)
    batches = iter(first)
    started = [next(batches), next(batches)]
    state = first.state_dict()
    batches.close()

    torch.manual_seed(99)
    second = make(case, num_workers=workers, seed=77)
    iter(second)  # Lightning makes an iterator before it sets the epoch
    second.load_state_dict(state)
    lazily = iter(second)
    second.set_epoch(3)
    assert same(started + list(lazily), everything)
    second.set_epoch(4)
    assert same(list(second), next_epoch)


def test_the_state_at_the_end_leads_to_the_next_epoch():
    loader = make("samples")
    batches = iter(loader)
    for _ in range(len(loader)):
        next(batches)  # as Lightning does: not beyond the last
    state = loader.state_dict()
    assert state["position"] == 0
    other = make("samples")
    other.load_state_dict(state)
    other.set_epoch(1)
    loader.set_epoch(1)
    assert same(list(loader), list(other))


def test_nothing_is_drawn_from_outside_and_nothing_left_behind():
    for case in CASES:
        torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002
        np.random.randn()  # noqa: NPY002 - its twin is held back
        list(make(case))
        found = [torch.rand(1).item(), np.random.randn(), np.random.randn(), random.random()]  # noqa: NPY002
        torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002
        np.random.randn()  # noqa: NPY002
        assert found == [torch.rand(1).item(), np.random.randn(), np.random.randn(), random.random()]  # noqa: NPY002


def test_outer_draws_do_not_change_a_batch():
    a = list(make("samples"))
    b = []
    for batch in make("samples"):
        torch.rand(2), np.random.randn(), random.random()  # noqa: NPY002
        b.append(batch)
    assert same(a, b)


def test_the_slow_way_for_numpy_gives_the_same(monkeypatch):
    fast = list(make("samples"))
    monkeypatch.setattr(seeding, "_numpy", seeding._WholeState())
    assert same(fast, list(make("samples")))


def test_an_error_gives_the_generators_back():
    class Broken(Slow):
        def __getitem__(self, index: int):
            raise ValueError("broken")

    torch.manual_seed(4)
    with pytest.raises(ValueError, match="broken"):
        list(ExactLoader(Broken(), 2))
    after = torch.rand(1)
    torch.manual_seed(4)
    assert torch.equal(after, torch.rand(1))


def test_epochs_differ_and_evaluation_does_not():
    train, evaluation = make("whole batches"), make("whole batches", shuffle=False)
    first, second = list(train), list(train)
    assert not same(first, second)  # without set_epoch too
    assert same(list(evaluation), list(evaluation))
    evaluation.set_epoch(7)
    assert same(list(evaluation), list(make("whole batches", shuffle=False)))
    assert torch.cat([y for _, y in first]).sort().values.tolist() == list(range(N))


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("samples", [1, 5, 12, 22, 23])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_share_the_data(world, samples, shuffle, drop_last):
    data = ArrayDataset(torch.arange(samples))
    loaders = [
        ExactLoader(data, 2, shuffle, drop_last=drop_last, seed=1, ranks=lambda rank=rank: (world, rank))
        for rank in range(world)
    ]
    shares = [list(loader) for loader in loaders]
    assert {len(share) for share in shares} == {len(loaders[0])}
    read = [i for share in shares for (batch,) in share for i in batch.tolist()]
    if drop_last:
        assert len(set(read)) == len(read)
    else:
        assert set(read) == set(range(samples))
        if shuffle:
            assert len(read) == -(-samples // world) * world
        else:
            assert len(read) - samples < world
            if samples % (2 * world) in (0, *range(world, 2 * world)):
                assert len(read) == samples  # no sample counts twice if no batch would be missing


def test_seed_is_torchs_by_default():
    torch.manual_seed(31)
    assert ExactLoader(whole_batches(), 4).seed == 31


def test_batch_sampler_lists_the_indices():
    loader = make("samples")
    listed = [i for batch in loader.batch_sampler for i in batch]
    assert listed == loader.share(1, 0).tolist()
    assert len(loader.batch_sampler) == len(loader)


def test_a_state_of_other_data_is_refused_within_an_epoch():
    loader = make("samples")
    next(iter(loader))
    state = loader.state_dict()
    with pytest.raises(UserError, match="samples = 22, now it is 14"):
        make("subset").load_state_dict(state)
    with pytest.raises(UserError, match="global_batch_size = 4, now it is 8"):
        make("samples", batch_size=8).load_state_dict(state)
    make("subset").load_state_dict(state | {"position": 0})


def test_what_is_known_not_to_draw():
    assert not draws_random_numbers(ArrayDataset(torch.zeros(2)))
    assert not draws_random_numbers(Subset(TensorDataset(torch.zeros(2)), [0]))
    assert draws_random_numbers(whole_batches())
    assert draws_random_numbers(Slow())
    slow = Slow()
    slow.draws_random_numbers = False
    assert not draws_random_numbers(slow)


def test_batch_size_must_be_positive():
    with pytest.raises(ValueError, match="batch_size"):
        ExactLoader(Slow(), 0)


class Module(DataModule):
    def setup(self, stage: str) -> None:
        self.train_set = self.test_set = whole_batches()


def test_datamodule():
    data = Module(batch_size=4, eval_batch_size=6, drop_last=True)
    data.setup("fit")
    train, test = data.train_dataloader(), data.test_dataloader()
    assert (train.shuffle, train.drop_last, train.batch_size) == (True, True, 4)
    assert (test.shuffle, test.drop_last, test.batch_size) == (False, False, 6)
    assert data.val_dataloader() == []
    assert data.predict_dataloader().dataset is data.test_set


def test_datamodule_without_training_data():
    with pytest.raises(UserError, match="train_set"):
        Module().train_dataloader()


class Stream(IterableDataset):
    def __iter__(self):
        yield from range(5)


def test_an_iterable_data_set_passes_through():
    data = Module(batch_size=2)
    data.train_set = Stream()
    assert [batch.tolist() for batch in data.train_dataloader()] == [[0, 1], [2, 3], [4]]
