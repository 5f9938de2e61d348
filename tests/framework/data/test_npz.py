"""The user's arrays."""

from __future__ import annotations

import numpy as np
import pytest

from framework.data.npz import read_npz, shapes_of
from framework.errors import UserError


def test_arrays_by_name_and_converted(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(3), y=np.ones((2, 2)))
    found = read_npz(tmp_path / "a.npz", "x", np.float32)
    assert {name: array.dtype.name for name, array in found.items()} == {"x": "float32", "y": "float32"}
    assert shapes_of(found) == "x (3,), y (2, 2)"
    np.save(tmp_path / "b.npy", np.arange(3))
    assert read_npz(tmp_path / "b.npy", "x")["array"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"\x93NUMPY", b"text"])
def test_whatever_is_wrong_names_the_file_and_what_was_expected(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npz cannot be read .*; expected: x \(N, d\)"):
        read_npz(tmp_path / "a.npz", "x (N, d)")


def test_missing_objects_and_words(tmp_path):
    with pytest.raises(UserError, match=r"a\.npz not found; expected: x"):
        read_npz(tmp_path / "a.npz", "x")
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="cannot be read"):
        read_npz(tmp_path / "a.npz", "x")
    np.savez(tmp_path / "a.npz", x=np.array(["word"]))
    with pytest.raises(UserError, match="cannot be read"):
        read_npz(tmp_path / "a.npz", "x", np.float32)
