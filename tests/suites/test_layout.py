"""A test stands where its code stands: what is tested is found from the test's path, and the other way round."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkout import ROOT, TESTS

OWN_FOLDERS = ("suites", "support")  # what spans rooms, and what tests share


def mirrored(test: Path) -> bool:
    """Whether ``tests/<path>/test_<stem>.py`` has its code in ``<path>``: a file, or the folder itself, of which the
    stem begins with the name."""
    folder = ROOT / test.parent.relative_to(TESTS)
    stem = test.stem.removeprefix("test_")
    names = {path.stem for path in folder.glob("*.py") if path.stem != "__init__"}
    names |= {path.name for path in folder.glob("*/") if (path / "__init__.py").is_file()}
    if folder.parent != ROOT:
        names.add(folder.name)
    return any(stem == name or stem.startswith(f"{name}_") for name in (name.strip("_") for name in names))


def test_every_test_mirrors_what_it_tests():
    tests = [path for path in TESTS.rglob("test_*.py") if path.relative_to(TESTS).parts[0] not in OWN_FOLDERS]
    assert len(tests) > 100
    astray = [str(path.relative_to(ROOT)) for path in tests if not mirrored(path)]
    assert not astray, f"no file or folder beside the code has these names: {astray}"


def test_only_tests_and_suites_lie_beside_them():
    """A helper that two files share belongs to tests/support, where it is imported by its name."""
    others = [
        path
        for path in TESTS.rglob("*.py")
        if path.relative_to(TESTS).parts[0] not in OWN_FOLDERS and not path.name.startswith(("test_", "conftest"))
    ]
    assert {str(path.relative_to(TESTS)) for path in others} == {
        "framework/resume/signal_script.py",  # a process of its own
        "framework/sweep/wandb/make.py",  # made the JSON beside it
    }


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("framework/test_optim.py", True),
        ("framework/test_optim_plateau.py", True),
        ("framework/test_plateau.py", False),
        ("framework/editing/test_engine_more.py", True),
        ("modules/sequence/s4d/test_s4d_configs.py", True),
        ("modules/sequence/test_s4d_configs.py", True),
        ("modules/test_s4d_configs.py", False),
        ("benchmarks/test_rows.py", True),
    ],
)
def test_what_counts_as_a_mirror(name, found):
    assert mirrored(TESTS / name) == found
