"""What the pages point at exists."""

from __future__ import annotations

import importlib
import re

import pytest

from docs.blocks import PAGES, ROOT, anchors, code_spans, links

FILES = re.compile(r"(framework|modules|datamodules|callbacks|configs|tests|benchmarks|docs)/[\w./-]+\.(py|ya?ml|md)")
GROUPS = {"framework.techniques"}  # of entry points, no module
NAMES = re.compile(r"(framework|modules|datamodules|callbacks)(\.\w+)+")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_resolve(page):
    for link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link} is no heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_and_names_in_a_page_exist(page):
    for span in code_spans(page):
        if FILES.fullmatch(span):
            assert (ROOT / span).is_file(), f"{page.name}: {span}"
        elif NAMES.fullmatch(span) and span not in GROUPS:
            assert _found(span), f"{page.name}: {span}"


def _found(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_every_page_is_linked_from_the_readme():
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md") if "://" not in link}
    assert set(PAGES) - {ROOT / "README.md"} <= linked
