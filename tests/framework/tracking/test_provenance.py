"""Where a run came from."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import torch

from framework.tracking.provenance import git_state, provenance, write


def test_provenance(tmp_path):
    def git(*words: str) -> None:
        options = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *options, *words], check=True, capture_output=True)

    assert provenance(["x"], 1)["git"] is None
    git("init", "-q", ".")
    Path("a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "first")
    state = git_state(Path.cwd())
    assert state is not None
    assert state["dirty"] is False
    assert len(state["commit"]) == 40
    Path("a").write_text("2")
    facts = provenance(["framework", "fit"], 7)
    assert facts["git"]["dirty"] is True
    assert facts["git"]["changed"] == ["a"]
    assert facts["packages"]["torch"] == torch.__version__.partition("+")[0] or facts["packages"]["torch"]
    assert facts["hardware"]["cores"] >= 1
    assert (facts["command"], facts["seed"]) == (["framework", "fit"], 7)
    path = write(tmp_path / "run", facts)
    assert json.loads(path.read_text()) == facts
    write(tmp_path / "run", provenance(["again"], 7))
    record = json.loads(path.read_text())
    assert record["command"] == ["framework", "fit"]
    assert [later["command"] for later in record["resumed"]] == [["again"]]
