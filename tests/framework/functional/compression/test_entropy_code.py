"""Entropy codes: exact there and back, as short as they should be, and damage is noticed."""

import copy

import bitstring
import numpy as np
import pytest
import torch

from framework.functional import generalized_gaussian as gg
from framework.functional.compression.entropy_code import (
    CodeError,
    decode_ranks,
    decode_rans,
    encode_ranks,
    encode_rans,
    read_exp_golomb,
    write_exp_golomb,
)
from framework.functional.compression.rate import bits_per_weight, level_counts, quantise

CODERS = {"ranks": (encode_ranks, decode_ranks), "rans": (encode_rans, decode_rans)}


def size(code):
    parts = code.values() if isinstance(code, dict) else [code]
    return sum(size(p) if isinstance(p, dict) else getattr(p, "nbytes", 8) for p in parts)


def counted(symbols):
    return np.unique(symbols, return_counts=True)


def test_the_stream_is_bitstrings():
    values = np.concatenate([np.arange(300), np.random.default_rng(0).integers(0, 2**31 - 1, 3000), [0, 0, 5]])
    stream, blocks = write_exp_golomb(values)
    expected = "".join(bitstring.Bits(ue=int(v)).bin for v in values)
    assert len(expected) == blocks.sum()
    assert "".join(format(word, "064b") for word in stream.tolist())[: len(expected)] == expected
    assert [int(b) for b in blocks] == [
        sum(len(bitstring.Bits(ue=int(v))) for v in values[i : i + 1024]) for i in range(0, len(values), 1024)
    ]
    assert np.array_equal(read_exp_golomb(stream, blocks, len(values)), values)


@pytest.mark.parametrize("n", [0, 1, 2, 1023, 1024, 1025, 70_000, (1 << 20) + 5])
@pytest.mark.parametrize("coder", CODERS)
def test_there_and_back(coder, n):
    encode, decode = CODERS[coder]
    symbols = quantise(gg.sample((n,), 0.6, 0.03, n)).numpy()
    assert np.array_equal(decode(encode(symbols, *counted(symbols))), symbols)


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize(
    "symbols",
    [
        np.zeros(5000, np.int32),
        np.full(3, -7, np.int32),
        np.array([2**31 - 200, -(2**31) + 200, 0, 0, 0], np.int32),
        np.random.default_rng(0).integers(-40_000, 40_000, 200_000).astype(np.int32),  # more than have a frequency
        np.arange(3000, dtype=np.int32).repeat(np.arange(3000) % 7 + 1),
    ],
)
def test_unusual_sequences(coder, symbols):
    encode, decode = CODERS[coder]
    assert np.array_equal(decode(encode(symbols, *counted(symbols))), symbols)


def test_a_code_of_an_earlier_version_is_read():
    symbols = [0, 0, 1, 0, -1, 0, 2, 0, 0, -1, 1, 0, 0, 5, 0, -7]

    def table(*words, bits):
        gaps = {"bits": np.array([3990189269850259456], np.uint64), "blocks": np.array([11], np.uint16)}
        frequencies = {"bits": np.array(words, np.uint64), "blocks": np.array([bits], np.uint16)}
        return {"first": -7, "distinct": 6, "gaps": gaps, "frequencies": frequencies}

    ranks = {
        "count": 16,
        "table": table(3653004237983449088, bits=22),
        "bits": np.array([15945460219979497472], np.uint64),
        "blocks": np.array([36], np.uint16),
    }
    assert decode_ranks(ranks).tolist() == symbols
    rans = {
        "count": 16,
        "table": table(2251799847239680, 1297036694830186528, 17592186044416, bits=160),
        "lanes": 1,
        "states": np.array([2174577925], np.uint32),
        "words": np.array([53248], np.uint16),
    }
    assert decode_rans(rans).tolist() == symbols


@pytest.mark.parametrize("shape", [0.5, 2.0])
def test_lengths(shape):
    weights = gg.sample((1_000_000,), shape, 0.02, 1)
    symbols, counts, rate = quantise(weights).numpy(), level_counts(weights), bits_per_weight(weights)
    written = encode_ranks(symbols, *counts)
    assert int(written["blocks"].astype(np.int64).sum()) == round(rate.eg * rate.count)  # to the bit
    assert 8 * size(written) / len(symbols) < 1.01 * rate.eg
    bits = 8 * size(encode_rans(symbols, *counts)) / len(symbols)
    assert rate.entropy < bits < 1.01 * rate.entropy


@pytest.mark.parametrize("coder", CODERS)
def test_damage_is_noticed_and_nothing_worse(coder):
    encode, decode = CODERS[coder]
    symbols = quantise(gg.sample((5000,), 0.6, 0.03, 0)).numpy()
    code = encode(symbols, *counted(symbols))
    key = "bits" if coder == "ranks" else "words"
    short = {**code, key: code[key][: len(code[key]) // 2]}
    with pytest.raises(CodeError, match="ends too early"):
        decode(short)
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(12):
        bad = copy.deepcopy(code)
        place = rng.integers(len(bad[key]))
        bad[key][place] ^= bad[key].dtype.type(1 << int(rng.integers(8 * bad[key].itemsize)))
        try:
            wrong += not np.array_equal(decode(bad), symbols)
        except CodeError:
            wrong += 1
    assert wrong >= 11  # bits after the end are of no account
    with pytest.raises((CodeError, KeyError)):
        decode({**code, "count": 7000})


def test_types():
    symbols = torch.tensor([1, 2, 3], dtype=torch.int32).numpy()
    for encode, decode in CODERS.values():
        assert decode(encode(symbols, *counted(symbols))).dtype == np.int32
