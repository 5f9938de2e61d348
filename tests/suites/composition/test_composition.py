"""Every technique on every architecture, in every subset: killed and resumed equals never stopped."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import peft  # noqa: F401 - imported once here, so that no forked child has to
import pytest
import timm  # noqa: F401
import transformers.models.gpt2.modeling_gpt2  # noqa: F401
from checkout import ROOT

from composition import table
from composition.cells import Cell, build, every, others, run, subsets, train
from composition.covering import ALL, APART, TECHNIQUES, WAYS, covering, refused, runs
from composition.probes import ARCHITECTURES
from composition.settings import CORE, OTHERS

MATRIX = os.environ.get("MATRIX")  # "1" for all, "1/2" and "2/2" for its halves


def chosen() -> list[Cell]:
    if not MATRIX:
        return [*covering(), *refused()]
    part, _, parts = MATRIX.partition("/")
    return [*every()][int(part) - 1 :: int(parts or 1)]


@pytest.fixture(scope="module", autouse=True)
def _imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Runs one cell in this process: what a run imports late, forked children then have."""
    here = Path.cwd()
    train(build(Cell("mlp", ("gg_init", "lora"))), tmp_path_factory.mktemp("imported"))
    os.chdir(here)


@pytest.mark.parametrize("cell", chosen(), ids=str)
def test_cell(cell: Cell, tmp_path: Path) -> None:
    run(cell, tmp_path)


def test_every_subset_on_every_architecture_is_enumerated() -> None:
    assert len({(cell.architecture, frozenset(cell.techniques)) for cell in subsets()}) == 2 ** len(CORE) * len(
        ARCHITECTURES
    )
    met = {frozenset((a, b)) for cell in others() for a in cell.techniques for b in cell.techniques if a != b}
    assert met >= {frozenset((a, b)) for a in OTHERS for b in (*CORE, *OTHERS) if a != b}


def test_the_few_cells_cover_every_pair() -> None:
    """Counted here from the cells themselves, by names."""
    cells = covering()
    assert all(map(runs, cells))
    assert {cell.techniques for cell in cells} >= {(name,) for name in TECHNIQUES}, "each alone"
    met: set[frozenset[object]] = set()
    for cell in cells:
        ways = [(name, getattr(cell, name)) for name in WAYS]
        met |= {frozenset(two) for two in itertools.combinations([cell.architecture, *cell.techniques, *ways], 2)}
    for name in TECHNIQUES:
        for other in (*TECHNIQUES, *ALL):
            cell = Cell(other, (name,)) if other in ALL else None
            may = runs(cell) if cell else any(runs(Cell(a, (name, other))) for a in ALL)
            assert other == name or not may or frozenset((name, other)) in met, f"{name} never meets {other}"
    ways = [(name, value) for name, values in WAYS.items() for value in values]
    for way in ways:
        models = () if way[0] in APART else ALL
        able = [name for name in TECHNIQUES if any(runs(Cell(a, (name,), **dict([way]))) for a in ALL)]  # type: ignore[arg-type]
        missing = [item for item in (*able, *models) if frozenset((item, way)) not in met]
        assert not missing, f"{way} never meets {missing}"
    together = {frozenset(two) for two in itertools.combinations(ways, 2) if two[0][0] != two[1][0]}
    impossible = {frozenset((("ranks", 2), ("hook", hook))) for hook in ("on_validation_start", "save")}
    assert together - met == impossible
    # each technique has a cell of its own, and what needs interval bounds meets every other on three architectures
    assert len(cells) <= 92, "92 do: find out what makes it so many"


def test_the_table_in_the_docs_is_what_the_matrix_checks() -> None:
    page = ROOT / "docs" / "composition.md"
    assert page.read_text(encoding="utf-8") == table.page(), (
        "the page is out of date; write it with PYTHONPATH=tests/suites:tests/support python -m composition.table"
    )
