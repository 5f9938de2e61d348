"""Full precision within autocast, and on devices that have no autocast."""

from __future__ import annotations

import torch

from framework.functional.precision import full_precision


def test_autocast_is_disabled_within_it_and_enabled_after():
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with full_precision(x.device):
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16
    with full_precision(x.device):
        assert (x @ x).dtype == torch.float32


def test_the_meta_device_has_no_autocast_to_disable():
    x = torch.ones(2, 2, device="meta")
    with torch.autocast("cpu", torch.bfloat16), full_precision(x.device):
        assert (x @ x).dtype == torch.float32
