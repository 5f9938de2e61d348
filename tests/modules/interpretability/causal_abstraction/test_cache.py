"""Rows are computed once, and only those that are missing; nothing is kept that does not fit."""

from __future__ import annotations

import torch

from modules.interpretability.causal_abstraction.cache import HiddenCache


def test_rows_are_computed_once():
    table = torch.arange(12.0).view(6, 2)
    asked = []
    cache = HiddenCache({"a": 6}, 1e6)

    def rows(index):
        def compute(new):
            asked.append(index[new].tolist())
            return table[index[new]]

        return cache.get("a", index, compute)

    for index in ([0, 1, 2], [1, 2, 5], [3, 4], [5, 0, 3]):
        torch.testing.assert_close(rows(torch.tensor(index)), table[index])
    assert asked == [[0, 1, 2], [5], [3, 4]]
    assert cache.complete == {"a"}
    assert cache.size == table.numel() * 4


def test_what_does_not_fit_is_computed_each_time():
    cache, calls = HiddenCache({"a": 1000, "b": 2}, 100), []
    for _ in range(2):
        found = cache.get("a", torch.tensor([0]), lambda new: calls.append(1) or torch.ones(1, 9))
    assert (len(calls), cache.fits("a"), cache.fits("b"), cache.size) == (2, False, True, 0)
    torch.testing.assert_close(found, torch.ones(1, 9))
    cache.get("b", torch.tensor([1]), lambda new: torch.ones(1, 9))
    assert cache.fits("b")
    cache.refuse("b")
    assert not cache.fits("b")
