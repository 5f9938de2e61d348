"""Compressed weights at the edges: one value only, nothing at all, numbers at the lower end of float64, wide gaps."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from framework.checkpoints import container
from framework.checkpoints.export import export
from framework.checkpoints.reading import open_checkpoint
from framework.functional.compression import rf8
from framework.functional.compression.entropy_code import decode_ranks, decode_rans, encode_ranks, encode_rans


@pytest.mark.parametrize("coder", ["rans", "exp_golomb"])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(4, 4),
        torch.full((2, 600), -0.75),
        torch.tensor(0.25),
        torch.zeros(0, 3),
        torch.arange(12.0).view(3, 4).t(),
        torch.arange(12.0).view(3, 4).bfloat16(),
    ],
)
def test_any_form_of_tensor_comes_back(tensor, coder):
    packed = container.pack_entropy({"w": tensor}, 2.0**-6, coder) | {"schema": container.SCHEMA}
    packed["crc"] = container.checksum(packed)
    found = container.unpack(packed)["w"]
    assert found.dtype == tensor.dtype
    assert found.shape == tensor.shape
    assert torch.equal(found, tensor)


@pytest.mark.parametrize("format", ["rf8", "entropy", "exp_golomb"])
def test_weights_that_are_all_zero_are_exported(tmp_path, format):
    model = nn.Linear(6, 4)
    nn.init.zeros_(model.weight)
    report = export(model, tmp_path / "model.ckpt", format)
    assert report.weights == 24
    state = open_checkpoint(tmp_path / "model.ckpt")["state_dict"]
    assert torch.equal(state["weight"], model.weight)
    assert torch.equal(state["bias"], model.bias)


@pytest.mark.parametrize(("encode", "decode"), [(encode_rans, decode_rans), (encode_ranks, decode_ranks)])
@pytest.mark.parametrize(
    "symbols",
    [
        [5],
        [0] * 5000,
        [-(2**31 - 129), *[0] * 2000, 2**31 - 129],
        list(range(-20_000, 20_000)),
        [0] * 2047 + [7],
    ],
)
def test_any_range_of_symbols_comes_back(symbols, encode, decode):
    symbols = np.asarray(symbols, np.int32)
    levels, counts = np.unique(symbols, return_counts=True)
    assert np.array_equal(decode(encode(symbols, levels.astype(np.int64), counts)), symbols)


@pytest.mark.parametrize("exponent", [-1073, -1060, -1024, -1021, -1010, -1004, -1003, -1002, -900])
def test_numbers_that_float64_holds_with_fewer_bits(exponent):
    """Within 18 binades the values are those of the same numbers times a power of two, as far as they can be held."""
    factors = torch.tensor([1.0, 1.3, -1.9, 1.0625, 2.0**10, -1.4 * 2.0**14], dtype=torch.float64)
    numbers = torch.tensor([math.ldexp(float(f), exponent) for f in factors], dtype=torch.float64)
    mantissas = [math.frexp(float(n)) for n in numbers]  # what of the numbers is held
    scaled = torch.tensor([math.ldexp(m, e + 900) for m, e in mantissas], dtype=torch.float64)
    expected = [math.ldexp(float(v), -900) for v in rf8.round_to_rf8(scaled)]
    assert rf8.decode(rf8.encode(numbers)).tolist() == expected
