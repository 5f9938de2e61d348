"""Every technique on every architecture, in every subset: killed and resumed equals never stopped."""

from __future__ import annotations

import os
from pathlib import Path

import peft  # noqa: F401 - imported once here, so that no forked child has to
import pytest
import timm  # noqa: F401
import transformers.models.gpt2.modeling_gpt2  # noqa: F401
from checkout import ROOT

from composition import table
from composition.cells import Cell, observed, other_ways, others, run, sample, subsets, train
from composition.probes import ARCHITECTURES
from composition.settings import CORE, OTHERS

MATRIX = os.environ.get("MATRIX")  # "1" for all, "1/2" and "2/2" for its halves


def chosen() -> list[Cell]:
    if not MATRIX:
        ways = other_ways()  # by turns the one and the other
        return [*sample(), *others()[::6], *ways[0::4], *ways[3::4], *observed()[::5]]
    part, _, parts = MATRIX.partition("/")
    return [*subsets(), *others(), *other_ways(), *observed()][int(part) - 1 :: int(parts or 1)]


@pytest.fixture(scope="module", autouse=True)
def _imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Runs one cell in this process: what a run imports late, forked children then have."""
    train(Cell("mlp", ("gg_init", "lora")), tmp_path_factory.mktemp("imported"))


@pytest.mark.parametrize("cell", chosen(), ids=str)
def test_cell(cell: Cell, tmp_path: Path) -> None:
    run(cell, tmp_path)


def test_every_subset_on_every_architecture_is_enumerated() -> None:
    assert len({(cell.architecture, frozenset(cell.techniques)) for cell in subsets()}) == 2 ** len(CORE) * len(
        ARCHITECTURES
    )
    assert len({frozenset(cell.techniques) for cell in sample()}) == 2 ** len(CORE)
    met = {(cell.architecture, name) for cell in sample() for name in cell.techniques}
    assert met == {(a, t) for a in ARCHITECTURES for t in CORE}
    pairs = {frozenset((a, b)) for cell in [*others()] for a in cell.techniques for b in cell.techniques if a != b}
    assert pairs >= {frozenset((a, b)) for a in OTHERS for b in (*CORE, *OTHERS) if a != b}


def test_the_table_in_the_docs_is_what_the_matrix_checks() -> None:
    page = ROOT / "docs" / "composition.md"
    assert page.read_text(encoding="utf-8") == table.page(), (
        "write it anew: PYTHONPATH=tests/suites:tests/support python -m composition.table"
    )
