"""MQAR: what every sequence must be, the law of the distances, reproducibility."""

from __future__ import annotations

import pytest
import torch

from datamodules.sequence.mqar import Mqar, mqar_batch
from framework.errors import UserError


def test_every_sequence_is_one_of_mqar():
    inputs, targets = mqar_batch(torch.Generator().manual_seed(0), 200, 40, 64, 6)
    for row, wanted in zip(inputs.tolist(), targets.tolist(), strict=True):
        keys, values = row[0:12:2], row[1:12:2]
        assert len(set(keys)) == len(set(values)) == 6
        assert all(1 <= key < 32 for key in keys)
        assert all(32 <= value < 64 for value in values)
        asked = [place for place, target in enumerate(wanted) if target != -100]
        assert len(asked) == 6
        assert all(place >= 12 and place % 2 == 0 for place in asked)
        pairs = dict(zip(keys, values, strict=True))
        assert sorted(row[place] for place in asked) == sorted(keys)  # each key once
        assert all(pairs[row[place]] == wanted[place] for place in asked)


def test_short_distances_prevail_by_the_power_law():
    _, targets = mqar_batch(torch.Generator().manual_seed(0), 40000, 44, 64, 2)
    # the first of two slots drawn has exactly p_j ∝ j^(a−1); which query is the first is not seen, so take the share
    # of both: P(j chosen) = p_j + Σ_{i≠j} p_i p_j / (1 − p_i)
    p = torch.arange(1, 21, dtype=torch.float64) ** (0.01 - 1)
    p = p / p.sum()
    expected = p + p * ((p / (1 - p)).sum() - p / (1 - p))
    found = (targets[:, 4::2] != -100).double().mean(0)
    assert (found - expected).abs().max() < 4 * (0.25 / 40000) ** 0.5
    assert (found[0] / found[-1]).item() == pytest.approx((expected[0] / expected[-1]).item(), rel=0.1)


def test_the_same_seed_gives_the_same_data_and_splits_differ():
    sets = []
    for seed in (0, 0, 1):
        data = Mqar(vocab_size=64, length=40, pairs=6, train_samples=50, eval_samples=50, data_seed=seed)
        data.setup("fit")
        sets.append(
            [split.__getitems__(range(50))["input_ids"] for split in (data.train_set, data.val_set, data.test_set)]
        )
    assert all(torch.equal(one, other) for one, other in zip(sets[0], sets[1], strict=True))
    assert not torch.equal(sets[0][0], sets[2][0])
    assert not torch.equal(sets[0][0], sets[0][1])
    assert not torch.equal(sets[0][1], sets[0][2])


def test_sizes_that_do_not_fit_are_named():
    for changed, message in [
        ({"length": 41}, "length: 41 is not accepted; a multiple of 2"),
        ({"pairs": 11}, "pairs: 11 is not accepted; at most 10"),
        ({"vocab_size": 12}, "vocab_size: 12 is not accepted"),
        ({"alpha": 0.0}, "alpha: 0.0 is not accepted"),
    ]:
        with pytest.raises(UserError, match=message):
            Mqar(**{"vocab_size": 64, "length": 40, "pairs": 6} | changed)
