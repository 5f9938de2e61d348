from __future__ import annotations

import pytest

from framework.commands.options import read_options
from framework.errors import UserError


def read(*arguments):
    return read_options("toy", "usage\n", arguments, values=("out", "by"), flags=("deep-shape",))


def test_words_values_and_flags_in_any_order():
    found = read("a", "--out", "x", "--by=1", "b", "--deep_shape", "--by", "2", "--out=y=z")
    assert found.words == ["a", "b"]
    assert found.values == {"out": ["x", "y=z"], "by": ["1", "2"]}
    assert found.flags == {"deep-shape"}
    assert found.last("out") == "y=z"
    assert read().last("out", "none") == "none"


def test_help_is_printed(capsys):
    assert read("a", "-h") is None
    assert capsys.readouterr().out == "usage\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--uot=3"], "toy: --uot=3 is not accepted; accepted: --out, --by, --deep-shape"),
        (["a", "--out"], "toy: --out needs a value"),
        (["-x"], "toy: -x is not accepted"),
    ],
)
def test_mistakes(arguments, said):
    with pytest.raises(UserError, match=said):
        read(*arguments)
