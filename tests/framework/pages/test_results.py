from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
from PIL import Image

from framework.__main__ import main
from framework.claims import Claim, at_least, at_most, reproduce
from framework.errors import UserError
from framework.figures import new_figure
from framework.pages import results
from framework.pages.markdown import cell, table

PAGE = Path("docs/results.md")


@pytest.fixture
def toys(monkeypatch):
    """Two methods, ``one`` and ``two``, whose claims the test gives."""
    modules = {}
    for name in ("one", "two"):
        modules[name] = types.ModuleType(f"{name}_claims")
        monkeypatch.setitem(sys.modules, f"{name}_claims", modules[name])
    monkeypatch.setattr(reproduce, "claims_modules", lambda: {name: f"{name}_claims" for name in modules})

    def give(name, *claims, error=None):
        def generate(run):
            figure = new_figure(size=(12, 4))
            figure.axes[0].plot([1, 2])
            run.figure("curve", figure)
            yield from claims
            if error is not None:
                raise error

        modules[name].claims = generate

    return give


def row_of(page: str, text: str) -> list[str]:
    (line,) = (line for line in page.splitlines() if line.startswith(f"| {text} |"))
    return [part.strip() for part in line.replace("\\|", "¦").strip("|").split("|")]


def test_a_page_has_every_number_of_its_claims(toys):
    toys(
        "one",
        Claim("a | b", "1.5", 1.25, at_most(2), "5 draws for 100", seeds=5),
        Claim("worse", "2", 3.0, at_most(2)),
        Claim("undefined", "2", float("nan"), at_least(2)),
    )
    toys("two", Claim("fine", "0", 0.0, at_most(0)))
    assert main(["reproduce", "--all", "--page", str(PAGE)]) == 1
    page = PAGE.read_text()
    found = row_of(page, "a \\| b")
    assert found[1:5] == ["1.5", "1.25", "≤ 2", "5"]
    assert found[6:] == ["holds", "5 draws for 100"]
    assert row_of(page, "worse")[6] == "**fails**"
    assert row_of(page, "undefined")[2] == "NaN"
    assert row_of(page, "[`one`](#one)")[2] == "1 of 3"
    assert row_of(page, "[`two`](#two)")[2] == "1 of 1"
    assert row_of(page, "[`two`](#two)")[4] == "holds"
    assert row_of(page, "all")[2] == "2 of 4"
    with Image.open(PAGE.parent / "results" / "one--curve.png") as picture:
        assert picture.width == results.WIDTH
    assert "![one: curve](results/one--curve.png)" in page


def test_running_one_method_again_changes_its_part_alone(toys):
    toys("one", Claim("first", "0", 0.0, at_most(0)))
    toys("two", Claim("fine", "0", 0.0, at_most(0)))
    main(["reproduce", "--all", "--page", str(PAGE)])
    other = (results.record_folder(PAGE) / "two.json").read_bytes()
    toys("one", Claim("second", "0", 0.0, at_most(0)))
    main(["reproduce", "one", "--page", str(PAGE)])
    page = PAGE.read_text()
    assert "first" not in page
    assert row_of(page, "second")[6] == row_of(page, "fine")[6] == "holds"
    assert (results.record_folder(PAGE) / "two.json").read_bytes() == other


def test_a_method_that_raises_is_told_and_the_next_one_still_runs(toys, capsys):
    toys("one", Claim("before", "0", 0.0, at_most(0)), error=RuntimeError("broken"))
    toys("two", Claim("fine", "0", 0.0, at_most(0)))
    assert main(["reproduce", "--all", "--page", str(PAGE)]) == 1
    shown = capsys.readouterr()
    assert "1 of 2 reproduced; not: one" in shown.out
    assert "RuntimeError: broken" in shown.err
    page = PAGE.read_text()
    assert row_of(page, "[`one`](#one)")[4] == "raised RuntimeError"
    assert row_of(page, "[`two`](#two)")[4] == "holds"


def test_details_stay_out_of_the_record(toys):
    toys("one", Claim("fine", "0", 0.0, at_most(0), details={"curve": [1, 2]}))
    main(["reproduce", "one", "--page", str(PAGE)])
    (claim,) = json.loads((results.record_folder(PAGE) / "one.json").read_text())["claims"]
    assert "details" not in claim


def test_a_broken_record_is_named():
    folder = results.record_folder(PAGE)
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match="no records"):
        results.read_records(PAGE)
    (folder / "s4d.json").write_text("{")
    with pytest.raises(UserError, match=r"s4d\.json: not a record"):
        results.read_records(PAGE)


def test_cells_cannot_break_a_table():
    assert cell("a|b\n<c> *d_e*") == "a\\|b &lt;c> \\*d\\_e\\*"
    assert table(("a", "b"), [("1", "2")], "lr") == "| a | b |\n|---|--:|\n| 1 | 2 |"
