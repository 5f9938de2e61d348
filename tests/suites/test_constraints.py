"""What is installed is pinned: constraints.txt for `make install`, constraints-oldest.txt for `make test-oldest`."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version

import pytest
from checkout import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FILES = ("constraints.txt", "constraints-oldest.txt")
EXTRAS = PROJECT["optional-dependencies"]


def lines(file: str) -> list[str]:
    """Its pins, as they stand there."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pins(file: str) -> dict[str, Version]:
    """Versions by normalised names."""
    pairs = [line.split("==") for line in lines(file)]
    return {canonicalize_name(name): Version(pinned) for name, pinned in pairs}


def needed(requirement: Requirement, seen: set[tuple[str, str]]) -> None:
    """Adds to ``seen`` what is installed with it, each with the extra for which it is, or an empty one."""
    try:
        further = [Requirement(text) for text in requires(requirement.name) or []]
    except PackageNotFoundError:  # nothing that this environment was asked for
        return
    name = canonicalize_name(requirement.name)
    for extra in {"", *requirement.extras} - {known for package, known in seen if package == name}:
        seen.add((name, extra))
        for each in further:
            if each.marker is None or each.marker.evaluate({"extra": extra}):
                needed(each, seen)


@pytest.mark.parametrize("file", FILES)
def test_a_package_is_pinned_once(file):
    assert all(line.count("==") == 1 and " " not in line for line in lines(file))
    assert len(lines(file)) == len(pins(file)) > 150


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_what_the_project_asks_for_is_pinned_within_its_bounds(file, extra):
    pinned = pins(file)
    for text in EXTRAS[extra] if extra else PROJECT["dependencies"]:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{text} has no pin in {file}"
        assert requirement.specifier.contains(pinned[name], prereleases=True), f"{text}, but {file} has {pinned[name]}"


def test_the_oldest_are_the_oldest():
    pinned = pins("constraints-oldest.txt")
    for text in PROJECT["dependencies"]:
        requirement = Requirement(text)
        (bound,) = requirement.specifier
        oldest = pinned[canonicalize_name(requirement.name)]
        assert oldest.release[: len(Version(bound.version).release)] == Version(bound.version).release, text


def test_whatever_is_installed_with_the_project_is_pinned():
    """In an environment that one of the files made: what its packages need, and what these need."""
    torch = Version(version("torch")).base_version
    made = [file for file in FILES if pins(file)["torch"].base_version == torch]
    if not made or sys.platform != "linux" or sys.version_info[:2] != (3, 11):
        pytest.skip("the files are for Python 3.11 on Linux, and for their versions of torch")
    seen: set[tuple[str, str]] = set()
    for text in [*PROJECT["dependencies"], *EXTRAS["dev"]]:
        needed(Requirement(text), seen)
    found = {name for name, _ in seen}
    assert "markupsafe" in found  # for jinja2, for torch
    unpinned = sorted(found - pins(made[0]).keys() - {"pip"})
    assert not unpinned, f"without a pin in {made[0]}"
