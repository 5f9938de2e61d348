"""The tables of the pages are those of the sources."""

from __future__ import annotations

import pytest

from framework import catalogue, paths
from framework.__main__ import main
from framework.config.explain import find_class
from framework.editing import Edit
from framework.pages import tables

PAGES = [*paths.root().glob("*.md"), *(paths.root() / "docs").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_as_the_sources_say(page):
    assert tables.fill(page) == page.read_text(encoding="utf-8"), f"{page.name} is stale: run `make docs`"


def test_the_readme_has_every_table():
    text = (paths.root() / "README.md").read_text(encoding="utf-8")
    for name in ("methods", "techniques", "datamodules", "first table of docs/composition.md"):
        assert f"<!-- generated: {name} -->" in text


def test_every_datamodule_of_a_config_says_what_it_reads():
    listed = {entry.class_path for entry in catalogue.datamodule_entries()}
    for name, path in paths.shipped_configs().items():
        data = (catalogue.load(path.read_text(encoding="utf-8")) or {}).get("data")
        if isinstance(data, dict) and "class_path" in data:
            assert data["class_path"] in listed, f"{name}: its docstring has no line 'Reads: …'"
    for class_path in listed:
        assert find_class(class_path, object)


def test_the_kind_of_a_technique_is_what_its_class_says():
    for entry in catalogue.technique_entries():
        cls = find_class(entry.class_path, object)
        kinds = [base.__name__.lower() for base in cls.__mro__ if base.__name__ in catalogue._KINDS]
        kind, _, changes = entry.kind.partition(": ")
        assert kind == (kinds[0] if kinds else "writer"), entry.name
        if issubclass(cls, Edit):
            assert cls.changes, f"{entry.name}: an edit says what it changes"
            assert set(changes.replace("resets the optimiser", "").strip(", ").split(", ")) == set(cls.changes)
            assert ("resets the optimiser" in changes) == (getattr(cls, "optimizer", "keep") == "reset")


def test_a_block_is_written_anew_and_the_rest_left_alone(tmp_path, capsys):
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# Other\n\n| a |\n|---|\n| 1 |\n\n| b |\n")
    text = "# Page\n<!-- generated: {} -->\nstale\n<!-- end -->\nafter\n"
    page.write_text(text.format("first table of other.md") + text.format("sweeps"))
    assert main(["list", "--markdown", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    written = page.read_text()
    assert "-->\n| a |\n|---|\n| 1 |\n<!-- end -->\nafter\n" in written
    assert "| `sweeps/s4d_init` | Which spectrum" in written
    assert "stale" not in written
    assert main(["list", "--markdown", str(page)]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- generated: methds -->\n<!-- end -->\n", "no table 'methds'; accepted: methods"),
        ("<!-- generated: methods -->\n", "has no <!-- end -->"),
        ("<!-- generated: methods -->\n<!-- generated: sweeps -->\n<!-- end -->\n", "has no <!-- end -->"),
        ("<!-- generated: first table of no.md -->\n<!-- end -->\n", "no table 'first table of no.md'"),
    ],
)
def test_a_wrong_block_is_refused_and_nothing_written(tmp_path, capsys, text, message):
    page = tmp_path / "page.md"
    page.write_text(text)
    assert main(["list", "--markdown", str(page)]) == 2
    assert message in capsys.readouterr().err
    assert page.read_text() == text


def test_without_a_page_every_table_is_printed(capsys):
    assert main(["list", "--markdown"]) == 0
    printed = capsys.readouterr().out
    for row in (
        "| `s4d` |",
        "| `lora` |",
        "| `datamodules.vision.small_images.SmallImages` |",
        "| `sweeps/s4d_init` |",
    ):
        assert row in printed
