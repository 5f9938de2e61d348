"""The metrics over updates and processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from resume_harness import in_two_ranks

from framework.errors import UserError
from framework.functional.neural_code import purity
from framework.functional.neural_code.metrics import Purity, RedundancyRatio

BITS = torch.rand(40, 12, generator=torch.Generator().manual_seed(0)) < 0.3
CODES = torch.cat([BITS, BITS[:15], BITS[:5]])


def test_updates_are_one_set():
    metric = RedundancyRatio()
    for part in CODES.split(7):
        metric.update(part)
    distinct = len(torch.unique(CODES, dim=0))
    assert float(metric.compute()) == pytest.approx((60 - distinct) / 60)
    metric.reset()
    metric.update(np.packbits(CODES.numpy(), axis=1))
    metric.update(torch.from_numpy(np.packbits(BITS.numpy(), axis=1)))
    assert float(metric.compute()) == pytest.approx((100 - distinct) / 100)
    metric.update(BITS.numpy())  # an array of bits is packed too
    assert float(metric.compute()) == pytest.approx((140 - distinct) / 140)
    with pytest.raises(UserError, match=r"codes: torch\.float32 is not accepted"):
        metric.update(BITS.float())
    other = RedundancyRatio()
    other.update(~BITS)
    other.merge_state(metric)
    whole = len(torch.unique(torch.cat([CODES, ~BITS]), dim=0))
    assert float(other.compute()) == pytest.approx((180 - whole) / 180)


def test_purity():
    clusters, labels = torch.randint(4, (50,)), torch.randint(3, (50,))
    metric = Purity(4, 3)
    for part in torch.arange(50).split(8):
        metric.update(clusters[part], labels[part])
    assert float(metric.compute()) == pytest.approx(purity(clusters.numpy(), labels.numpy()))
    with pytest.raises(UserError, match="clusters: 0"):
        Purity(0, 3)
    for pair, message in (((0, 3), "classes: 3 to 3 is not accepted; 0 to 2"), ((-1, 0), "clusters: -1 to -1")):
        with pytest.raises(UserError, match=message):
            metric.update(*(torch.tensor([value]) for value in pair))


def _rank():
    import os

    rank = int(os.environ["LOCAL_RANK"])
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    metric, pure = RedundancyRatio(), Purity(4, 3)
    labels = torch.arange(60) % 3
    for part in torch.arange(60)[: 60 if rank else 33][rank * 33 :].split(10):  # the shares differ in size
        metric.update(CODES[part])
        pure.update(part % 4, labels[part])
    distinct = len(torch.unique(CODES, dim=0))
    assert float(metric.compute()) == pytest.approx((60 - distinct) / 60)
    assert float(pure.compute()) == pytest.approx(purity(np.arange(60) % 4, labels.numpy()))
    torch.distributed.destroy_process_group()


def test_two_processes_are_one():
    assert in_two_ranks(_rank) == [0, 0]
