"""Folders of transformers: code in them is never run."""

from __future__ import annotations

import json

import pytest
from tiny_files import write_language_model

from datamodules.finetuning.text import Codec
from framework.errors import UserError
from modules.finetuning.causal_lm.module import load_pretrained

CODE = "from pathlib import Path\nPath({trap!r}).mkdir()\nclass Mine: pass\n"


@pytest.mark.parametrize("part", ["config", "tokenizer_config"])
def test_code_in_a_folder_is_not_run_and_nobody_is_asked(tmp_path, monkeypatch, part):
    write_language_model(tmp_path / "model")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked to let code run"))
    file, trap = tmp_path / "model" / f"{part}.json", tmp_path / "trap"
    settings = json.loads(file.read_text())
    if part == "config":
        settings["auto_map"] = {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Mine"}
        settings["model_type"] = "mine"
    else:
        settings["auto_map"] = {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}
        settings["tokenizer_class"] = "Mine"
    file.write_text(json.dumps(settings))
    (tmp_path / "model" / "mine.py").write_text(CODE.format(trap=str(trap)))
    if part == "config":
        with pytest.raises(UserError, match="cannot be loaded"):
            load_pretrained(tmp_path / "model")
    else:
        with pytest.raises(UserError, match="holds no tokenizer"):
            Codec(tmp_path / "model")
    assert not trap.exists()
