"""Text in the encoding that the file or the user says."""

from __future__ import annotations

import pytest

from framework.errors import UserError
from framework.readers.text import check_encoding, read_lines, read_text


def test_line_ends_and_marks(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo\rthree\n".encode())
    assert read_text(tmp_path / "a.txt") == "one\ntwo\nthree\n"
    (tmp_path / "b.txt").write_bytes(b"one\n\n \ntwo\x0cstill two\n")
    assert read_lines(tmp_path / "b.txt") == [(1, "one"), (4, "two\x0cstill two")]


def test_nothing_is_replaced(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ncaf\xe9\n")
    with pytest.raises(UserError, match=r"a\.txt, line 2: not utf-8 .*0xe9"):
        read_text(tmp_path / "a.txt")
    assert read_text(tmp_path / "a.txt", "cp1252") == "one\ncafé\n"


@pytest.mark.parametrize("name", ["utf-9", "base64", "", "rot13"])
def test_an_encoding_that_is_none(name):
    with pytest.raises(UserError, match=r"encoding: .* is not accepted; an encoding of Python"):
        check_encoding(encoding=name)
    check_encoding(encoding=None)
    check_encoding(encoding="UTF-8")
