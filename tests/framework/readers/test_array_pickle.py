"""Pickles of arrays, opened without running anything in them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from framework.errors import UserError
from framework.readers import array_pickle
from framework.readers.array_pickle import read_array_pickle


@pytest.mark.parametrize("protocol", [0, 2, 3, 4])
@pytest.mark.parametrize("kind", ["f8", "f4", "i8", "i4", "u1"])
def test_arrays_of_numbers(tmp_path, protocol, kind):
    arrays = {"x": np.arange(6).reshape(2, 3).astype(kind), "name": "a", "list": [1, 2.5]}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(arrays, protocol=protocol))
    found = read_array_pickle(tmp_path / "a.pkl")
    np.testing.assert_array_equal(found["x"], arrays["x"])
    assert found["x"].dtype == arrays["x"].dtype
    assert (found["name"], found["list"]) == ("a", [1, 2.5])


def test_a_pickle_cannot_set_attributes_of_what_it_may_call(tmp_path):
    code = b"cnumpy.core.multiarray\n_reconstruct\n(dVleft\nI1\nsb."  # BUILD on the function
    (tmp_path / "a.pkl").write_bytes(code)
    with pytest.raises(UserError, match=r"a\.pkl: not a pickle of arrays, nothing of it was used: it sets attributes"):
        read_array_pickle(tmp_path / "a.pkl")
    assert not hasattr(array_pickle._reconstruct, "left")


@pytest.mark.parametrize("content", [b"", b"text", b"cos\nsystem\n(S'true'\ntR.", pickle.dumps(np.array([{}], object))])
def test_everything_else_is_refused(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.pkl: not a pickle of arrays"):
        read_array_pickle(tmp_path / "a.pkl")
