from __future__ import annotations

import pytest

from framework.commands import compare, export, reproduce, sweep
from framework.commands import list as list_command
from framework.commands.options import CommandParser, number
from framework.errors import UserError


def toy() -> CommandParser:
    parser = CommandParser("toy", "WORD... [OPTION...]", "Does nothing.", "That is all.")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--out")
    parser.add_argument("--by", action="append", default=[])
    parser.add_argument("--size", type=number(int, lambda size: size < 3, "a number below 3"))
    parser.add_argument("--best", choices=("last", "min", "max"), default="last")
    parser.add_argument("--deep-shape", "--deep_shape", action="store_true")
    return parser


def refused(parser: CommandParser, *arguments: str) -> str:
    with pytest.raises(UserError) as error:
        parser.read(arguments)
    return str(error.value)


def test_words_values_and_flags_in_any_order():
    found = toy().read(
        ["a", "--out", "x", "--by=1", "b", "--deep_shape", "--by", "2", "c", "--out=y=z", "--size", "-2"]
    )
    assert found.words == ["a", "b", "c"]
    assert found.by == ["1", "2"]
    assert (found.out, found.size, found.best, found.deep_shape) == ("y=z", -2, "last", True)
    assert toy().read(["--deep-shape"]).deep_shape
    nothing = toy().read([])
    assert (nothing.words, nothing.by, nothing.out, nothing.deep_shape) == ([], [], None, False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--uot=3"], "--uot=3 is not accepted; accepted: --out, --by, --size, --best, --deep-shape; did you mean --out?"),
        (["a", "--uot", "3"], "--uot is not accepted; accepted: --out, --by, --size, --best, --deep-shape; did you mean --out?"),
        (["--ou=3"], "--ou=3 is not accepted; accepted: --out, --by, --size, --best, --deep-shape; did you mean --out?"),
        (["-x"], "-x is not accepted; accepted: --out, --by, --size, --best, --deep-shape"),
        (["a", "--out"], "--out needs a value"),
        (["--out", "--by=1"], "--out needs a value"),
        (["--deep-shape=1"], "--deep-shape takes no value"),
        (["--size", "x"], "--size x is not accepted; a number below 3"),
        (["--size", "-1e-3"], "--size -1e-3 is not accepted; a number below 3"),
        (["--size=3"], "--size 3 is not accepted; a number below 3"),
        (["--best", "mox"], "--best mox is not accepted; last, min or max is needed; did you mean max?"),
        (["--best", "7"], "--best 7 is not accepted; last, min or max is needed"),
    ],
)  # fmt: skip
def test_mistakes(arguments, said):
    assert refused(toy(), *arguments) == f"toy: {said}"


def test_one_word():
    assert toy().only(["a"], "one file") == "a"
    for words, found in (([], "none was given"), (["a", "b"], "2 were given: a, b")):
        with pytest.raises(UserError, match=f"toy: one file is needed; {found}"):
            toy().only(words, "one file")


def test_words_where_none_are_taken():
    wordless = CommandParser("toy", "[OPTION...]", "Does nothing.")
    wordless.add_argument("--out")
    assert refused(wordless, "all") == "toy: all is not accepted; accepted: --out"
    assert "not allowed with argument --json" in refused(list_command.command_line(), "--json", "--markdown")


@pytest.mark.parametrize("columns", ["60", "120"])
@pytest.mark.parametrize("module", [compare, export, list_command, reproduce, sweep])
def test_help_is_printed(module, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    assert module.main(["a", "--help"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    name = module.__name__.rpartition(".")[2]
    assert shown.out.startswith(f"usage: framework {name} ")
    for action in module.command_line()._actions:
        assert (action.option_strings or [action.metavar])[0] in shown.out
        assert action.help
