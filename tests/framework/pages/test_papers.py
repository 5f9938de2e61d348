from __future__ import annotations

import re

import pytest
from checkout import ROOT

from framework import catalogue
from framework.errors import UserError
from framework.pages import papers

# Methods whose results are not on the page yet: `make results METHOD=...` puts them there, and then they go from here.
AWAITED = {"causal_abstraction", "dp_rgmi"}


def parts(name: str) -> dict[str, list[str]]:
    return {part.label: [text for text, _ in part.items] for part in papers.parts_of(papers.find_paper(name))}


def test_every_method_of_a_paper_has_a_section_with_all_it_needs():
    known = {paper.name: paper for paper in papers.papers()}
    methods = [entry for entry in catalogue.method_entries() if not entry.paper.startswith("none")]
    assert len(methods) > 20
    for entry in methods:
        found = parts(entry.name)
        assert {"module", "data", "configs", "claims", "tests"} <= set(found), entry.name
        assert ("results" in found) == (entry.name not in AWAITED), entry.name
        assert entry in known[entry.name].own
        assert entry.class_path in found["module"]


def test_every_place_that_it_names_is_there():
    for paper in papers.papers():
        for part in papers.parts_of(paper):
            for text, place in part.items:
                assert (ROOT / place.partition("#")[0]).exists(), (paper.name, part.label, text)
        assert paper.title
        assert '"' not in paper.title
        assert len(paper.title) > 10


def test_what_uses_a_paper_is_found_wherever_it_stands():
    found = parts("s4d")
    assert {"kernel_plot", "memory_probe", "rate_transfer"} <= set(found["techniques"])
    assert "datamodules.sequence.images.SequentialImages" in found["data"]
    assert "sequence/s4d_paper" in found["configs"]
    assert found["claims"] == ["reproduce s4d"]
    assert found["tests"] == ["tests/modules/sequence/s4d", "tests/framework/functional/test_precision.py"]
    found = parts("kappa_tune")
    assert "framework/functional/spectra.py" in found["mathematics"]
    assert "tests/framework/functional/test_spectra.py" in found["tests"]
    assert "tests/callbacks/test_kappa_tune.py" in found["tests"]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("2206.11893", "s4d"),
        ("s4d", "s4d"),
        ("S4D", "s4d"),
        ("arXiv:2206.11893v2", "s4d"),
        ("https://arxiv.org/abs/2206.11893", "s4d"),
        ("backslash", "backslash"),  # a method names the paper too, beside its own
        ("gg_prior", "gg_prior"),
        ("rf8", "gg_prior"),
        ("laziness", "rich_lazy_rnn"),
        ("kernel_plot", "s4d"),
        ("diagonal state space", "s4d"),
    ],
)
def test_a_paper_is_found_by_number_name_or_words(asked, name):
    assert papers.find_paper(asked).name == name


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            "nonsense",
            "'nonsense' is not a paper here; accepted: an arXiv number, words of a title, or one of backslash, ",
        ),
        ("s4dd", "'s4dd' is not a paper here; did you mean s4d?"),
        ("in-context", "'in-context' matches several papers: "),
        ("9999.99999", "'9999.99999' is not a paper here"),
    ],
)
def test_what_is_not_found_is_said(asked, message):
    with pytest.raises(UserError, match=re.escape(message)):
        papers.find_paper(asked)


def test_all_shared_mathematics_names_its_paper_or_serves_no_single_one():
    files = sorted((ROOT / "framework" / "functional").rglob("*.py"))
    without = {
        path.relative_to(ROOT / "framework" / "functional").as_posix()
        for path in files
        if path.parent.name == "functional"
        and path.stem != "__init__"
        and not papers.numbers(catalogue.docstring(path))
    }
    assert without == {
        "evaluating.py",  # a model in eval mode
        "matching.py",  # which tensors of a file are which of a module
        "pixels.py",  # units of images
        "precision.py",  # a part that is computed without autocast
    }
