"""The causal language model: loss against transformers' own, files, checkpoints, retention, generation, export."""

import copy
import json
import math
import pickle

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tiny_files import write_language_model
from transformers import AutoModelForCausalLM

import framework
from callbacks.lora import LoRA
from datamodules.finetuning.text import TextData
from framework.errors import UserError
from modules.finetuning.causal_lm import CausalLM, check_folder
from modules.language_model import Perplexity, token_losses

GPT2 = {"model_type": "gpt2", "vocab_size": 257, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2}
ENDS = {"bos_token_id": 256, "eos_token_id": 256}


def small(**settings):
    torch.manual_seed(0)
    return CausalLM(config={**GPT2, **ENDS}, optimizer={"lr": 0.003}, **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    write_language_model(path)
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "notes.txt"
    path.write_text("\n\n".join(f"Paragraph {i} says little, and says it again." for i in range(60)))
    return str(path)


def trainer(folder, *callbacks, **settings):
    defaults = {"max_epochs": 2, "limit_train_batches": 6, "logger": False, "enable_checkpointing": False}
    return pl.Trainer(
        **{**defaults, **settings},
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        log_every_n_steps=1,
    )


def test_the_loss_is_transformers_own():
    model = small().eval()
    tokens = torch.randint(0, 256, (3, 20))
    labels = tokens.clone()
    labels[1, 12:] = -100
    expected = model.lm(input_ids=tokens, labels=labels).loss
    total, count = token_losses(model(tokens), {"labels": labels})
    assert count == 2 * 19 + 11
    torch.testing.assert_close(total / count, expected)


def test_perplexity_weighs_tokens_not_batches():
    metric, mean = Perplexity(), Perplexity(log=True)
    for total, count in ((10.0, 4), (3.0, 20)):
        metric.update(torch.tensor(total), torch.tensor(count))
        mean.update(torch.tensor(total), torch.tensor(count))
    assert float(metric.compute()) == pytest.approx(math.exp(13 / 24))
    assert float(mean.compute()) == pytest.approx(13 / 24)


def test_padding_changes_nothing(folder):
    model = CausalLM(path=str(folder)).eval()
    tokens = torch.randint(0, 256, (1, 12))
    padded = torch.cat([tokens, torch.full((1, 5), 256)], 1)
    mask = (torch.arange(17) < 12).long()[None]
    torch.testing.assert_close(model(padded, mask)[:, :12], model(tokens))


def test_it_learns_and_logs(tmp_path, texts):
    data = TextData(path=texts, length=32, batch_size=8, retention="topics", retention_rows=3)
    logger = CSVLogger(tmp_path, "csv", version=0)
    run = trainer(tmp_path, logger=logger, max_epochs=3)
    model = small()
    run.fit(model, datamodule=data)
    logged = run.callback_metrics
    assert logged["val/loss"] < 5.0 < math.log(257)
    assert float(logged["val/perplexity"]) == pytest.approx(math.exp(float(logged["val/loss"])), rel=1e-4)
    # against a plain loop over the validation part
    model.eval()
    with torch.no_grad():
        sums = [
            model.lm(**{**row, "labels": row["labels"]}).loss * 31
            for row in ({k: v[None] for k, v in data.val_set[i].items()} for i in range(len(data.val_set)))
        ]
    assert float(logged["val/loss"]) == pytest.approx(float(sum(sums)) / 31 / len(data.val_set), rel=1e-4)
    rows = (tmp_path / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    values = [dict(zip(rows[0].split(","), row.split(","), strict=True)) for row in rows[1:]]
    retained = [float(row["val/retention_perplexity"]) for row in values if row["val/retention_perplexity"]]
    assert len(retained) == 4  # the start and three validations
    start = small().eval()
    totals = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        for i in range(3):
            row = data.retention_set[i]["input_ids"][None]
            totals += torch.tensor(
                [float(x) for x in token_losses(start(row), {"input_ids": row})], dtype=torch.float64
            )
    assert retained[0] == pytest.approx(float((totals[0] / totals[1]).exp()), rel=1e-5)
    assert float(logged["val/forgetting"]) == pytest.approx(retained[-1] - retained[0], rel=1e-3)


def test_measuring_retention_leaves_training_as_it_was(tmp_path, texts):
    models = []
    for retention in (None, "topics"):
        model = small()
        data = TextData(path=texts, length=32, batch_size=8, retention=retention, retention_rows=3)
        pl.seed_everything(3)
        trainer(tmp_path, num_sanity_val_steps=0).fit(model, datamodule=data)
        models.append(model.lm.state_dict())
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])


def test_a_checkpoint_opens_without_the_folder(tmp_path, folder, texts):
    copy = tmp_path / "copy"
    write_language_model(copy)
    model = CausalLM(path=str(copy), optimizer={"lr": 0.01})
    data = TextData(path=texts, tokenizer=str(copy), length=32, batch_size=8, retention="topics", retention_rows=2)
    run = trainer(tmp_path)
    run.fit(model, datamodule=data)
    run.save_checkpoint(tmp_path / "a.ckpt")
    for file in copy.iterdir():
        file.unlink()
    again = CausalLM.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    tokens = torch.randint(0, 256, (2, 9))
    assert torch.equal(again.eval()(tokens), model.eval()(tokens))
    assert again.retention_start == model.retention_start is not None
    assert again.hparams["path"] is None


def test_lora_is_trained_merged_and_saved_as_transformers_reads_it(tmp_path, folder, texts):
    model = CausalLM(path=str(folder), optimizer={"lr": 0.02})
    data = TextData(path=texts, tokenizer=str(folder), length=32, batch_size=8)
    before = {name: value.clone() for name, value in model.lm.state_dict().items()}
    run = trainer(tmp_path, LoRA(rank=4))
    run.fit(model, datamodule=data)
    for writer in (model, model.lm, copy.deepcopy(model).lm, pickle.loads(pickle.dumps(model.lm))):
        with pytest.raises(UserError, match=r"save_pretrained: .* call framework.fold\(module\) first"):
            writer.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    tokens = torch.randint(0, 256, (2, 9))
    adapted = model.eval()(tokens)
    framework.fold(model)
    model.save_pretrained(tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True).eval()
    torch.testing.assert_close(plain(tokens).logits, adapted, rtol=1e-4, atol=1e-5)
    changed = {name for name, value in plain.state_dict().items() if not torch.equal(value, before[name])}
    assert len(changed) == 2 * 7  # the linear layers of two blocks
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_predict_continues_prompts_greedily(tmp_path, folder, texts):
    model = CausalLM(path=str(folder), generation={"prompt_length": 5, "max_new_tokens": 4})
    data = TextData(path=texts, tokenizer=str(folder), length=16, batch_size=8)
    data.setup("predict")
    (row,) = (data.test_set[i]["input_ids"][None] for i in range(1))
    prompt, continuation = model.eval().generate(row[:, :5])
    tokens = prompt
    for _ in range(4):
        following = model(tokens)[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, following], 1)
    ends = (tokens[0, 5:] == 256).nonzero()
    kept = int(ends[0]) + 1 if len(ends) else 4
    assert torch.equal(continuation[0, :kept], tokens[0, 5 : 5 + kept])
    outputs = trainer(tmp_path).predict(model, datamodule=data)
    assert outputs[0]["prompt"].shape[1] == 5
    assert outputs[0]["continuation"].shape[1] == 4
    told = [json.loads(line) for line in (tmp_path / "continuations.jsonl").read_text().splitlines()]
    assert len(told) == len(data.test_set)
    assert told[0]["prompt"] == data.decode(row[0, :5].tolist())
    sampled = CausalLM(path=str(folder), generation={"temperature": 1.0, "max_new_tokens": 30})
    torch.manual_seed(0)
    first = sampled.generate(row[:, :5])[1]
    torch.manual_seed(0)
    assert torch.equal(sampled.generate(row[:, :5])[1], first)
    assert not torch.equal(sampled.generate(row[:, :5])[1], first)


def test_a_mixture_of_experts_adds_its_balancing_loss(tmp_path):
    write_language_model(tmp_path, "olmoe")
    config = json.loads((tmp_path / "config.json").read_text())
    plain = CausalLM(path=str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({**config, "output_router_logits": True}))
    balanced = CausalLM(path=str(tmp_path))
    batch = {"input_ids": torch.randint(0, 256, (2, 16))}
    output = balanced.lm(**batch, labels=batch["input_ids"], use_cache=False)
    torch.testing.assert_close(balanced.training_step(batch, 0), output.loss)
    assert float(balanced.training_step(batch, 0).detach()) > float(plain.training_step(batch, 0).detach())


def test_it_is_built_on_the_meta_device_in_another_type_and_with_checkpointing(folder):
    with torch.device("meta"):
        assert all(p.is_meta for p in small().lm.parameters())
    half = CausalLM(path=str(folder), dtype="bfloat16", attn_implementation="eager")
    assert {p.dtype for p in half.lm.parameters()} == {torch.bfloat16}
    full, saving = CausalLM(path=str(folder)), CausalLM(path=str(folder), gradient_checkpointing=True)
    batch = {"input_ids": torch.randint(0, 256, (2, 16))}
    for model in (full, saving):
        model.training_step(batch, 0).backward()
    for one, other in zip(full.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_missing_files_are_named(tmp_path, folder):
    with pytest.raises(UserError, match=r"path: gpt2 not found; nothing is downloaded; expected a local folder"):
        CausalLM(path="gpt2")
    with pytest.raises(UserError, match=r"config.json not found"):
        check_folder(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UserError, match=r"model.safetensors not found"):
        CausalLM(path=str(tmp_path))
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"model-00002-of-00002.safetensors not found; model.safetensors.index.json names"
    ):
        CausalLM(path=str(tmp_path))
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"cannot be loaded"):
        CausalLM(path=str(tmp_path))
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lack model.layers.1.mlp.up_proj.weight"):
        CausalLM(path=str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "path: exactly one of path, config is needed"),
        ({"config": GPT2, "path": "x"}, "path: exactly one of path, config is needed"),
        ({"config": {"model_type": "gtp2"}}, "config.model_type: 'gtp2' is not a type .* gpt2"),
        ({"config": {**GPT2, "n_heads": 2}}, "config.n_heads: gpt2 has no such key; nearest: n_head"),
        ({"config": {**GPT2, "n_head": 3}}, "config: gpt2 cannot be built"),
        ({"config": GPT2, "dtype": "half"}, "dtype: 'half' is not one of float32"),
        ({"config": GPT2, "attn_implementation": "flash"}, "attn_implementation: 'flash' is not one of sdpa"),
        ({"config": GPT2, "generation": {"max_new_tokens": 0}}, "generation.max_new_tokens: 0 is not accepted"),
    ],
)
def test_bad_settings_are_named_at_once(settings, message):
    with pytest.raises(UserError, match=message):
        CausalLM(**settings)


def test_tokens_that_the_model_does_not_know_are_refused(tmp_path, texts):
    model = CausalLM(config={**GPT2, "vocab_size": 200})
    with pytest.raises(UserError, match=r"model: 200 tokens, but TextData has 257; set config.vocab_size to as many"):
        trainer(tmp_path).fit(model, datamodule=TextData(path=texts, length=32))
