from __future__ import annotations

import json
import re
import sys

import pytest

from framework import catalogue, paths
from framework.__main__ import main
from framework.config.explain import find_class
from framework.errors import UserError


def test_every_entry_leads_to_a_class_and_a_config():
    for entry in [*catalogue.method_entries(), *catalogue.technique_entries()]:
        assert entry.summary
        assert find_class(entry.class_path, object)
        assert set(entry.configs) <= set(paths.shipped_configs())


def test_the_name_of_a_method_is_that_of_its_config_and_its_module():
    for entry in catalogue.method_entries():
        assert f"{entry.field}/{entry.name}" in entry.configs
        assert entry.class_path.startswith(f"modules.{entry.field}.{entry.name}.")


def test_techniques_are_registered_under_their_files_names():
    assert catalogue.techniques()["kernel_plot"] == "callbacks.kernel_plot.KernelPlot"


def test_list_prints_methods_papers_and_configs(capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for part in ("s4d", "arXiv 2206.11893", "sequence/s4d_paper", "image_classifier", "kernel_plot"):
        assert part in printed


def test_shipped_sweeps_have_a_section_of_their_own_with_their_first_comment(capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    section = printed.partition("\nSweeps (")[2].partition("\n\n")[0]
    for name, path in paths.shipped_configs().items():
        if name.startswith("sweeps/"):
            first = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
            assert re.search(rf"^  {name} +{re.escape(first)}$", section, re.MULTILINE), name
            assert printed.count(name) == 1
    assert "arXiv 2206.11893" in section
    assert main(["list", "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)
    listed = {entry["name"]: entry for entry in tables["sweeps"]}
    assert set(listed) == {name for name in tables["configs"] if name.startswith("sweeps/")}
    assert listed["sweeps/s4d_init"]["summary"].startswith("Which spectrum S4D")
    assert "arXiv 2206.11893" in listed["sweeps/s4d_init"]["paper"]


def test_list_refuses_what_it_does_not_know(capsys):
    assert main(["list", "--yaml"]) == 2
    assert "accepted: --json" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["configs/sequence/s4d.yaml", "sequence/s4d.yaml", "sequence/s4d", "s4d"])
def test_a_shipped_config_is_found_by_its_short_names_from_any_folder(name):
    assert paths.find_config(name) == paths.configs() / "sequence" / "s4d.yaml"


def test_a_file_of_that_name_in_the_folder_comes_first(tmp_path):
    (tmp_path / "s4d").write_text("{}")
    assert paths.find_config("s4d").resolve() == tmp_path / "s4d"


def test_a_folder_is_no_config(tmp_path):
    (tmp_path / "s4d").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        paths.find_config("s4d")


def test_a_foreign_folder_is_noticed_before_and_after_its_import(tmp_path, monkeypatch):
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "callbacks", raising=False)
    assert paths.hidden() == [("callbacks", tmp_path / "callbacks")]
    with pytest.raises(UserError, match="hides the framework's package 'callbacks'"):
        paths.refuse_if_hidden()
    monkeypatch.setattr(sys, "path", list(sys.path))
    paths.own_packages_first()
    assert paths.hidden() == []
    assert sys.path.index(str(paths.root())) < sys.path.index(str(tmp_path))


def test_a_folder_without_init_hides_nothing(tmp_path, monkeypatch):
    (tmp_path / "modules").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert paths.hidden() == []


def test_a_shipped_sweep_is_found_beside_the_folder_that_it_has_filled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps" / "s4d_init").mkdir(parents=True)
    for name in ("sweeps/s4d_init", "s4d_init"):
        assert paths.find_config(name, sweep=True) == paths.configs() / "sweeps" / "s4d_init.yaml"
    with pytest.raises(UserError, match="--config: no file s4d_init"):
        paths.find_config("s4d_init")


def test_one_paper_is_listed(capsys):
    assert main(["list", "s4d"]) == 0
    printed = capsys.readouterr().out
    assert "arXiv 2206.11893" in printed
    assert "modules/sequence/s4d" in printed
    assert main(["list", "diagonal", "state"]) == 0
    assert capsys.readouterr().out == printed
    assert main(["list", "s4d", "--json"]) == 2
    assert "s4d: a paper is shown as text alone" in capsys.readouterr().err
    assert main(["list", "s5d"]) == 2
    assert "did you mean s4d?" in capsys.readouterr().err
