"""A language model that answers with a level."""

from __future__ import annotations

import pytest
import torch

from framework.__main__ import main
from framework.errors import UserError
from framework.runs.experiment import build
from modules.in_context.yq_lsa import SimilarityLM

TINY = {"model_type": "gpt2", "vocab_size": 257, "n_positions": 512, "n_embd": 16, "n_layer": 1, "n_head": 2}


def test_the_answer_is_the_expected_level_at_the_place():
    torch.manual_seed(0)
    model = SimilarityLM(config=TINY).eval()
    model.level_tokens = [48, 49, 50, 51, 52, 53]
    ids = torch.randint(0, 256, (3, 20))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "place": torch.tensor([5, 9, 19])}
    probabilities = model(ids).softmax(-1)
    for row, place in enumerate(batch["place"].tolist()):
        of_levels = probabilities[row, place, 48:54]
        expected = (of_levels / of_levels.sum()) @ torch.arange(6.0)
        assert model.levels(batch)[row].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_command_trains_and_tests_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--model.config.n_embd=16", "--model.config.n_layer=1", "--data.pairs=60", "--data.batch_size=8"]
    quiet = ["--wandb.mode=disabled", "--trainer.enable_progress_bar=false"]
    run = ["--run.name=one", "--trainer.max_epochs=1", *quiet]
    assert main(["fit", "--config", "in_context/yq_lsa_similarity", *small, *run]) == 0
    folder = tmp_path / "runs" / "yq_lsa_similarity" / "one"
    assert main(["test", "--ckpt_path", str(folder), *quiet]) == 0
    said = (folder / "test" / "metrics.jsonl").read_text()
    for name in ("error/none", "error/mean", "error/cosine", "correlation/none", "error_of_guess/cosine"):
        assert f"test/{name}" in said
    assert "error_of_guess/none" not in said
    assert (folder / "test" / "figures" / "guesses.png").is_file()


def test_data_without_levels_are_named():
    other = ["--data.class_path=datamodules.finetuning.text.TextData", "--data.length=64", "--wandb.mode=disabled"]
    trainer, model, data = build("in_context/yq_lsa_similarity", overrides=[*other, "--trainer.logger=false"])
    with pytest.raises(UserError, match="TextData has no levels to answer with"):
        trainer.test(model, datamodule=data)
