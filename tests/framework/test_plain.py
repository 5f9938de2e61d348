from __future__ import annotations

import io
import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch

from framework.errors import UserError
from framework.plain import plain_data


class Colour(Enum):
    RED = "red"


class Text(str):
    __slots__ = ()


@dataclass
class Settings:
    lr: float
    where: Path


def test_everything_that_has_a_plain_form_loads_with_weights_only():
    given = {
        "path": Path("a/b"), "enum": Colour.RED, "scalar": np.float32(0.5), "array": np.arange(3), "data": Settings(1.0, Path("x")),
        "class": torch.nn.ReLU, "tuple": (1, {2}), "text": Text("t"), "nested": [{"a": None}], "bool": np.bool_(True), "dtype": torch.float32,
    }  # fmt: skip
    plain = plain_data(given)
    file = io.BytesIO()
    torch.save(plain, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert loaded["path"] == "a/b"
    assert loaded["enum"] == "red"
    assert loaded["scalar"] == 0.5
    assert torch.equal(loaded["array"], torch.arange(3))
    assert loaded["data"] == {"lr": 1.0, "where": "x"}
    assert loaded["class"] == "torch.nn.modules.activation.ReLU"
    assert loaded["tuple"] == (1, [2])
    assert loaded["text"] == "t"
    assert type(loaded["text"]) is str
    assert loaded["bool"] is True


def test_what_has_none_is_named_with_its_place():
    with pytest.raises(UserError, match=r"hyper_parameters.model\[1\]: function"):
        plain_data({"model": [1, lambda: 0]})


def test_without_strictness_it_is_what_json_holds():
    given = {
        "tuple": (1, (2.5, None)), "size": torch.Size([3]), "tensor": torch.eye(2), "array": np.arange(2), "enum": Colour.RED,
        "data": Settings(np.float64(0.5), Path("x")), "class": torch.nn.ReLU, "dtype": torch.float32, "complex": 1j, "text": Text("t"),
    }  # fmt: skip
    plain = plain_data(given, strict=False)
    assert json.loads(json.dumps(plain)) == plain
    assert plain == {
        "tuple": [1, [2.5, None]], "size": [3], "tensor": [[1.0, 0.0], [0.0, 1.0]], "array": [0, 1], "enum": "red",
        "data": {"lr": 0.5, "where": "x"}, "class": "torch.nn.modules.activation.ReLU", "dtype": "torch.float32", "complex": "1j", "text": "t",
    }  # fmt: skip
    assert plain_data(print, strict=False) == "<built-in function print>"
