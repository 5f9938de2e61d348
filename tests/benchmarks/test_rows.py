"""Benchmarks are not run here: only that each can be imported, and what becomes of its rows."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path

import pytest
from checkout import ROOT

FOLDER = ROOT / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == FOLDER:
            del sys.modules[name]


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_has_a_docstring_and_rows(benchmarks, name):
    script = benchmarks(name)
    assert script.__doc__.splitlines()[0]
    assert list(inspect.signature(script.rows).parameters) == ["options"]
    assert inspect.isgeneratorfunction(script.rows)


def test_rows_are_printed_and_kept_for_the_page(benchmarks, monkeypatch, capsys):
    rows = benchmarks("_rows")
    claims = importlib.import_module("framework.claims")

    def found(options):
        yield rows.Row("ours, fast", "a|loop", 0.05, "2 s", claims.at_most(0.5))
        yield rows.Row("ours, large", "a loop", 1.3, "3 MB", claims.at_most(1.2), "bytes")
        yield rows.Row("ours, alone", "nobody", float("nan"))

    monkeypatch.setattr(sys, "argv", ["toy.py", "--page", "docs/benchmarks.md"])
    rows.report("/somewhere/toy.py", "A toy.\n\nMore of it.", found)
    printed = capsys.readouterr().out
    assert "0.050  ours, fast / a|loop (2 s)  ≤ 0.5: kept" in printed
    page = Path("docs/benchmarks.md").read_text()
    assert "| ours, fast | a\\|loop (2 s) | time | 0.05 (20 ×) | ≤ 0.5 |" in page
    assert "| ours, large | a loop (3 MB) | bytes | 1.30 | ≤ 1.2 **missed** |" in page
    assert "| ours, alone | nobody | time | – |  |" in page
    assert "| [`toy`](#toy) | A toy. | 3 | 1 of 2 |" in page[: page.index("## toy")]
    assert "Of 2 ratios that something is promised of, 1 keep it" in page

    monkeypatch.setattr(sys, "argv", ["other.py", "--page", "docs/benchmarks.md"])
    rows.report("/somewhere/other.py", "Another.", lambda options: [])
    page = Path("docs/benchmarks.md").read_text()
    assert page.index("## other") < page.index("## toy")
