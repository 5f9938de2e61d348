"""The user's arrays: read without running anything, and checked in one way."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from framework.errors import UserError
from framework.readers import arrays
from framework.readers.arrays import (
    array_shape,
    check_arrays,
    check_symmetric,
    float32,
    labels_of,
    map_array,
    read_array,
    read_array_rows,
    read_arrays,
    shapes_of,
)
from framework.readers.unpacking import set_max_unpacked


def test_arrays_by_name_and_converted(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(3), y=np.ones((2, 2), ">f8"))
    found = read_arrays(tmp_path / "a.npz", "x", np.float32)
    assert {name: array.dtype.name for name, array in found.items()} == {"x": "float32", "y": "float32"}
    assert shapes_of(found) == "x (3,), y (2, 2)"
    assert read_arrays(tmp_path / "a.npz", "x")["y"].dtype.isnative
    np.savez_compressed(tmp_path / "c.npz", x=np.arange(3))
    assert read_arrays(tmp_path / "c.npz", "x")["x"].tolist() == [0, 1, 2]
    np.save(tmp_path / "b.npy", np.arange(3))
    assert read_arrays(tmp_path / "b.npy", "x")["array"].tolist() == [0, 1, 2]
    assert map_array(tmp_path / "b.npy", "x").tolist() == [0, 1, 2]


def test_rows_of_an_array_that_is_never_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_PIECE", 10 * 120 + 7)
    x = np.arange(45 * 30, dtype=">i4").reshape(45, 5, 6)
    np.savez_compressed(tmp_path / "a.npz", x=x, y=np.arange(3))
    rows = np.array([0, 1, 9, 10, 11, 44])
    found = read_array_rows(tmp_path / "a.npz", "x", rows, "x")
    np.testing.assert_array_equal(found, x[rows])
    assert found.dtype.isnative
    assert array_shape(tmp_path / "a.npz", "x", "x") == x.shape
    assert read_array_rows(tmp_path / "a.npz", "x", np.array([], int), "x").shape == (0, 5, 6)
    assert list(read_arrays(tmp_path / "a.npz", "x", only=("y",))) == ["y"]
    for rows, name, message in (([3], "y", r"y has the shape \(3,\) in C order; 4 rows"), ([0], "z", "lacks z")):
        with pytest.raises(UserError, match=message):
            read_array_rows(tmp_path / "a.npz", name, np.array(rows), "x")
    np.savez(tmp_path / "b.npz", x=np.asfortranarray(np.ones((3, 2))), o=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="in Fortran order"):
        read_array_rows(tmp_path / "b.npz", "x", np.array([0]), "x")
    with pytest.raises(UserError, match="o holds Python objects"):
        array_shape(tmp_path / "b.npz", "o", "x")
    (tmp_path / "c.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match=r"c\.npz: cannot be read .*; expected x"):
        array_shape(tmp_path / "c.npz", "x", "x")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"\x93NUMPY", b"text", b"\x93NUMPY\x09\x00aa"])
def test_whatever_is_wrong_names_the_file_and_what_was_expected(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npz: cannot be read .*; expected x \(N, d\)"):
        read_arrays(tmp_path / "a.npz", "x (N, d)")


def test_missing_objects_and_words(tmp_path):
    with pytest.raises(UserError, match=r"a\.npz: not found; expected x"):
        read_arrays(tmp_path / "a.npz", "x")
    others = {"words": np.array(["word"]), "complex": np.ones(2, complex), "objects": np.array([{}], dtype=object)}
    np.savez(tmp_path / "a.npz", x=np.arange(3), **others)
    found = read_arrays(tmp_path / "a.npz", "x", np.float32)
    assert check_arrays(found, {"x": "n"}, "f") == {"n": 3}  # what nobody asked for is not looked at
    messages = {"words": "str.*; real numbers", "complex": "complex128; real", "objects": "Python objects .a pickle."}
    for name, message in messages.items():
        with pytest.raises(UserError, match=f"f: {name} holds {message}"):
            check_arrays(found, {name: "n"}, "f")
    np.save(tmp_path / "o.npy", others["objects"], allow_pickle=True)
    with pytest.raises(UserError, match="the array holds Python objects"):
        map_array(tmp_path / "o.npy", "x")
    with pytest.raises(UserError, match=r"a\.npz: an \.npz with x \(3,\), .*; expected x"):
        read_array(tmp_path / "a.npz", "x")


def test_damaged_headers(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(30))
    whole = (tmp_path / "a.npy").read_bytes()
    refused = 0
    for place in range(6, 100):
        for byte in (0, 34, 40, 57, 123):
            (tmp_path / "b.npy").write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
            for read in (read_arrays, map_array):
                try:
                    read(tmp_path / "b.npy", "x")
                except UserError:  # anything else would be a traceback
                    refused += 1
    assert refused > 300


def test_numbers_too_large_for_float32():
    with pytest.raises(UserError, match=r"f: 1 of 2 values of x in float32 are not finite"):
        float32(np.array([1.0, 1e300]), "x", "f")


def header_of(shape):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return head.getvalue()


def test_a_header_that_promises_more_than_there_is_makes_no_room_for_it(tmp_path):
    lie = header_of((10**9, 10**3))
    (tmp_path / "a.npy").write_bytes(lie + bytes(64))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", lie + bytes(64))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(UserError, match=r"truncated, .* needs 8000000000\d+ bytes"):
            read_arrays(tmp_path / name, "x")
    with pytest.raises(UserError, match="truncated"):
        map_array(tmp_path / "a.npy", "x")


def test_a_member_that_was_changed_and_one_that_is_no_array(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(300))
    whole = bytearray((tmp_path / "a.npz").read_bytes())
    whole[700] ^= 1
    (tmp_path / "a.npz").write_bytes(whole)
    with pytest.raises(UserError, match=r"a\.npz: cannot be read .*CRC"):
        read_arrays(tmp_path / "a.npz", "x")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("notes.txt", "no array")
    with pytest.raises(UserError, match=r"b\.npz: its member 'notes\.txt' is not an array"):
        read_arrays(tmp_path / "b.npz", "x")


def test_more_than_the_limit(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(300_000))
    try:
        set_max_unpacked(0.001)
        with pytest.raises(UserError, match="unpacks to more than"):
            read_arrays(tmp_path / "a.npz", "x")
    finally:
        set_max_unpacked(8.0)


X, Y = np.ones((3, 2)), np.zeros(3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, r"f: lacks y \(it has x \(3, 2\)\); expected this"),
        ({"x": X[0], "y": Y}, r"f: x has the shape \(2,\), not \(n, d\); expected this"),
        ({"x": X, "y": Y[:2]}, r"f: y has the shape \(2,\); \(n,\) with n = 3, as in x, is expected"),
        ({"x": X[:0], "y": Y[:0]}, r"f: x has the shape \(0, 2\), which holds no numbers"),
        ({"x": X.astype(complex), "y": Y}, r"f: x holds complex128; real numbers"),
        ({"x": X, "y": np.array([0, np.nan, np.inf])}, r"f: 2 of 3 values of y are not finite, the first at \[1\]"),
    ],
)
def test_arrays_that_do_not_fit(arrays, message):
    with pytest.raises(UserError, match=message):
        check_arrays(arrays, {"x": "n d", "y": "n"}, "f", "this")


def test_arrays_that_fit_say_their_sizes():
    assert check_arrays({"x": X, "y": Y}, {"x": "n d", "y": "n"}, "f") == {"n": 3, "d": 2}
    assert check_arrays({"x": X[:, None, None]}, {"x": "n ..."}, "f") == {"n": 3}


def test_symmetric_matrices():
    check_symmetric(X.T @ X, "M", "f")
    with pytest.raises(UserError, match=r"f: M is not symmetric, it differs from its transpose by up to 1"):
        check_symmetric(np.array([[0.0, 1.0], [0.0, 0.0]]), "M", "f")
    with pytest.raises(UserError, match=r"f: M has the shape \(3, 2\); a symmetric matrix is square"):
        check_symmetric(X, "M", "f")


def test_labels():
    assert labels_of(np.array([0.0, 2.0]), "y", "f").dtype == np.int64
    for values, message in (
        ([0, 1.5], r"f: y\[1\] is 1\.5; whole numbers from 0 are expected"),
        ([0, -1], r"y\[1\] is -1"),
        ([0, np.nan], "not finite"),
        ([[0], [1]], r"y has the shape \(2, 1\); classes \(N,\)"),
        ([], "shape"),
        (["a"], "real numbers"),
    ):
        with pytest.raises(UserError, match=message):
            labels_of(np.array(values), "y", "f")
    with pytest.raises(UserError, match=r"y\[0\] is 3; whole numbers from 0 to 2"):
        labels_of(np.array([3]), "y", "f", classes=3)
