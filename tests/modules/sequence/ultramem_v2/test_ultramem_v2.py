"""UltraMemLM and FactModel: blocks, decoding, training with sparse tables, resume, data-parallel, checkpoints."""

import copy
from typing import get_args

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from resume_harness import in_two_ranks

from callbacks.memory_table import MemoryTable
from datamodules.sequence.fact_table import FactTable
from datamodules.sequence.tokens import TokenData
from framework.data import DataModule
from framework.data.arrays import NamedArrays
from framework.errors import UserError
from framework.optim import OptimizerConfig
from framework.optim.row_adamw import RowAdamW
from framework.protocols import HasCoreSpectrum, ReadsTable
from modules.sequence.ultramem_v2 import FactModel, MemoryConfig, UltraMemLM
from modules.sequence.ultramem_v2.layers import Kind
from modules.sequence.ultramem_v2.model import MemorySpan

MEMORY = {"n_keys": 8, "d_key": 8, "top": 4, "d_value": 8, "d_pre": 6}
SPARSE = OptimizerConfig("row_adamw", lr=1e-2, weight_decay=0.1, args={"betas": [0.9, 0.95]})


def small(memory=None, seed=0, **options):
    torch.manual_seed(seed)
    shape = {"vocab_size": 19, "d_model": 16, "n_layers": 3, "n_heads": 2, "hidden": 24}
    return UltraMemLM(**{**shape, "memory": {**MEMORY, **(memory or {})}, **options})


class Tokens(DataModule):
    vocab_size = 19

    def __init__(self, size=24, **options):
        super().__init__(**options)
        self.size = size

    def setup(self, stage):
        tokens = torch.randint(0, 19, (self.size, 13), generator=torch.Generator().manual_seed(5))
        self.train_set = self.val_set = NamedArrays(input_ids=tokens[:, :-1], targets=tokens[:, 1:])


def trainer(folder, **options):
    return pl.Trainer(
        **{
            "max_epochs": 1,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "log_every_n_steps": 1,
            "default_root_dir": folder,
            **options,
        }
    )


@pytest.mark.parametrize("kind", get_args(Kind))
def test_decoding_continues_what_forward_computes(kind):
    model = small({"kind": kind}).double().eval()
    tokens = torch.randint(0, 19, (2, 11))
    with torch.no_grad():
        whole = model(tokens)
        first, state = model.extend(tokens[:, :4])
        parts = [first]
        for at in range(4, 11):
            logits, state = model.extend(tokens[:, at : at + 1], state)
            parts.append(logits)
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-10)
    assert model.generate(tokens[:, :3])[1].shape == (2, 128)


def test_the_memory_reads_what_the_ffn_reads():
    block = small().decoder.blocks[1]
    x = torch.randn(2, 5, 16)
    h = x + block.mixer(block.mixer_norm(x))
    z = block.mlp_norm(h)
    assert torch.allclose(block(x), h + block.mlp(z) + block.memory(z), atol=1e-6)


def test_ultramem_skips_blocks():
    model = small({"kind": "ultramem"}, n_layers=6, memory_span=4)
    assert [type(block).__name__ for block in model.decoder.blocks] == ["MemoryBlock", "MemorySpan", "MemorySpan"]
    span = model.decoder.blocks[1]
    assert isinstance(span, MemorySpan)
    assert len(span.blocks) == 4
    assert all(block.memory is None for block in span.blocks)
    x = torch.randn(2, 5, 16)
    first = last = span.blocks[0](x)
    for block in span.blocks[1:]:
        last = block(last)
    assert torch.allclose(span(x), last + span.memory(span.norm(first)), atol=1e-6)


def test_which_blocks_have_a_memory():
    model = small(memory_layers=[2, 0])
    assert [block.memory is not None for block in model.decoder.blocks] == [True, False, True]
    assert [layer.index for layer in model.memories] == [0, 1]
    assert model.table.rows == 2 * 64
    assert small({"kind": "none"}).table is None
    with pytest.raises(UserError, match=r"memory_layers: \[3\] is not accepted; each from 0 to 2"):
        small(memory_layers=[3])
    with pytest.raises(UserError, match="not 2 blocks apart"):
        small({"kind": "ultramem"}, memory_layers=[0, 1], memory_span=2)


def test_the_table_is_in_the_state_once():
    model = small({"shared_tables": 2})
    names = [name for name in model.state_dict() if "values" in name]
    assert names == ["table.values.weight", "table.pre_values.weight"]
    twin = copy.deepcopy(model)
    assert all(layer.table is twin.table for layer in twin.memories)
    tokens = torch.randint(0, 19, (2, 7))
    model.eval()
    other = small({"shared_tables": 2}, seed=1).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(tokens), other(tokens))


def test_singular_vectors_follow_the_core_in_training_only():
    model = small()
    tokens = torch.randint(0, 19, (2, 7))
    before = model.memories[0].u.clone()
    with torch.no_grad():
        model.memories[0].cores.copy_(torch.tensor([[0.1, 0.0], [0.9, 1.0]]).expand(2, 2, 2))
    model.eval()(tokens)
    assert torch.equal(model.memories[0].u, before)
    model.train()(tokens)
    u, _, vh = torch.linalg.svd(model.memories[0].cores.sum(0).detach())
    assert torch.allclose(model.memories[0].u.abs(), u[:, 0].abs(), atol=1e-6)
    assert torch.allclose(model.memories[0].t.abs(), vh[0].abs(), atol=1e-6)
    assert (model.memories[0].u * before).sum() > 0


def test_validation_before_training_is_finite_and_repeatable(tmp_path):
    model, data = small(), Tokens(batch_size=8)
    losses = [trainer(tmp_path).validate(model, data, verbose=False)[0]["val/loss"] for _ in range(2)]
    assert losses[0] == losses[1] < 4


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("optimizer", ["row_adamw", "adamw"])
def test_it_learns(tmp_path, precision, optimizer):
    pl.seed_everything(0, verbose=False)
    model = small(optimizer=OptimizerConfig(optimizer, lr=1e-2))
    assert model.table.values.sparse == (optimizer == "row_adamw")
    run = trainer(tmp_path, max_epochs=12, precision=precision, gradient_clip_val=1.0)
    run.fit(model, Tokens(size=16, batch_size=8))
    assert float(run.callback_metrics["train/loss"]) < 2.4  # ln 19 = 2.94
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    "memory",
    [{"d_pre": 0, "top": 8}, {"shared_query": True}, {"key_expand": 2}, {"shared_tables": 3}, {"init": "released"}],
)
def test_variants_train(tmp_path, memory):
    model = small(memory, optimizer=SPARSE)
    before = model.table.values.weight.detach().clone()
    trainer(tmp_path, max_steps=2).fit(model, Tokens(batch_size=8))
    assert not torch.equal(before, model.table.values.weight)


def test_sparse_and_dense_gradients_train_alike_where_all_rows_are_read(tmp_path):
    results = []
    for name in ("row_adamw", "adamw"):
        pl.seed_everything(0, verbose=False)
        model = small({"n_keys": 4, "top": 16}, optimizer=OptimizerConfig(name, lr=1e-2))
        trainer(tmp_path, max_epochs=2, gradient_clip_val=0.5).fit(model, Tokens(batch_size=8))
        results.append(model.state_dict())
    for name, value in results[0].items():
        assert torch.allclose(value, results[1][name], atol=2e-4), name


def test_resumed_is_uninterrupted(tmp_path):
    def fit(epochs, path=None):
        pl.seed_everything(1, verbose=False)
        model, watch = small(optimizer=SPARSE, value_boost=3.0, schedule={"name": "cosine"}), MemoryTable()
        run = trainer(tmp_path, max_epochs=epochs, callbacks=[watch], num_sanity_val_steps=0)
        run.fit(model, Tokens(batch_size=8), ckpt_path=path)
        return run, model, watch

    run, _, _ = fit(4)
    # a first half with the schedule of the whole
    pl.seed_everything(1, verbose=False)
    half = small(optimizer=SPARSE, value_boost=3.0, schedule={"name": "cosine"})

    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "half.ckpt")
                trainer.should_stop = True

    trainer(tmp_path, max_epochs=4, callbacks=[MemoryTable(), Stop()], num_sanity_val_steps=0).fit(
        half, Tokens(batch_size=8)
    )
    torch.load(tmp_path / "half.ckpt", weights_only=True)
    resumed, model, watch = fit(4, str(tmp_path / "half.ckpt"))
    assert resumed.global_step == run.global_step == 12
    whole = run.lightning_module
    for name, value in whole.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    ours, theirs = resumed.optimizers[0].state_dict(), run.optimizers[0].state_dict()
    for key, state in theirs["state"].items():
        assert all(torch.equal(ours["state"][key][name], value) for name, value in state.items())
    assert watch.history == run.callbacks[0].history


def test_the_table_has_a_learning_rate_of_its_own(tmp_path):
    model = small(optimizer=OptimizerConfig("row_adamw", lr=1e-2), value_boost=4.0, value_boost_share=0.5)
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            (optimizer,) = trainer.optimizers
            assert isinstance(optimizer, RowAdamW)
            boosted = [group for group in optimizer.param_groups if "boost" in group]
            plain = [group for group in optimizer.param_groups if "boost" not in group]
            assert {id(p) for group in boosted for p in group["params"]} == {id(p) for p in model.table.parameters()}
            assert all(group["lr"] == 1e-2 for group in plain)
            seen.append(boosted[0]["lr"] / 1e-2)

    trainer(tmp_path, max_epochs=2, callbacks=[Watch()]).fit(model, Tokens(batch_size=6))
    assert seen == pytest.approx([4.0, 3.25, 2.5, 1.75, 1, 1, 1, 1])


def test_auxiliary_losses_are_added(tmp_path):
    model = small({"penalty": 1e-3, "balance": 1e-3}, optimizer=OptimizerConfig("row_adamw", lr=1e-3))
    tokens = torch.randint(0, 19, (2, 7))
    assert small().train().auxiliary_loss() is None
    model.train()(tokens)
    added = model.auxiliary_loss()
    spectrum = model.core_spectrum()
    penalty = (spectrum[:, 1:] - 0.15).clamp(min=0).square().sum()
    balance = torch.stack([layer.balance_loss() for layer in model.memories]).sum()
    assert added.item() == pytest.approx(1e-3 * (penalty + balance).item(), rel=1e-5)
    assert balance.item() >= 0.9 * 3  # 1 a layer is even use
    added.backward()
    assert model.memories[0].scores.query.weight.grad.abs().sum() > 0
    run = trainer(tmp_path, max_steps=1)
    run.fit(model, Tokens(batch_size=8))
    assert "train/auxiliary_loss" in run.callback_metrics


def ddp_fit(folder, optimizer, **options):
    pl.seed_everything(2, verbose=False)
    model = small(optimizer=OptimizerConfig(optimizer, lr=1e-2))
    run = trainer(folder, max_epochs=3, num_sanity_val_steps=0, limit_val_batches=0, **options)
    run.fit(model, Tokens(size=8, batch_size=8 // run.world_size))
    return model


@pytest.mark.slow
def test_two_processes_with_sparse_gradients_are_one(tmp_path):
    alone = ddp_fit(tmp_path, "row_adamw").state_dict()

    def rank():
        found = ddp_fit(tmp_path, "row_adamw", devices=2, strategy="ddp").state_dict()
        for name, value in found.items():
            assert torch.allclose(value, alone[name], atol=1e-4), name

    assert in_two_ranks(rank) == [0, 0]


def test_checkpoints_open_as_plain_data(tmp_path):
    model = small({"kind": "ultramem_v2", "heads": 2}, optimizer=SPARSE)
    run = trainer(tmp_path, max_steps=1)
    run.fit(model, Tokens(batch_size=8))
    run.save_checkpoint(tmp_path / "a.ckpt")
    again = UltraMemLM.load_from_checkpoint(tmp_path / "a.ckpt").eval()
    assert again.memory_config == MemoryConfig(**MEMORY, heads=2)
    tokens = torch.randint(0, 19, (2, 7))
    assert torch.equal(again(tokens), model.eval()(tokens))


def test_parameter_report():
    model = small({"heads": 2})
    report = model.parameter_report()
    assert report["total"] == sum(p.numel() for p in model.parameters())
    assert report["tables"] == 3 * 64 * (8 + 6)
    assert report["activated"] == report["total"] - report["tables"] - 19 * 16 + 3 * 2 * 4 * (8 + 6)
    tied = small({"kind": "none"}, tie_embeddings=True).parameter_report()
    assert tied["tables"] == 0
    assert tied["activated"] == tied["total"]


def test_clipping_by_value_is_refused_before_training(tmp_path):
    run = trainer(tmp_path, gradient_clip_val=1.0, gradient_clip_algorithm="value")
    with pytest.raises(UserError, match="gradient_clip_algorithm: 'value' is not for row_adamw"):
        run.fit(small(optimizer=SPARSE), Tokens(batch_size=8))
    run.fit(small(), Tokens(batch_size=8))


def test_what_callbacks_ask_for():
    model = small()
    assert isinstance(model, HasCoreSpectrum)
    assert model.core_spectrum().shape == (3, 2)
    assert small({"kind": "pkm"}).core_spectrum().numel() == 0
    assert all(isinstance(layer, ReadsTable) for layer in model.memories)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": {"kind": "moe"}}, "memory.kind: 'moe' is not one of"),
        ({"value_boost": 0.0}, "value_boost: 0.0"),
        ({"value_boost_share": 1.5}, "value_boost_share: 1.5"),
        ({"n_layers": 0}, "n_layers: 0"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(UserError, match=message):
        small(**options)


def facts_model(**options):
    torch.manual_seed(0)
    shape = {"subjects": 30, "relations": 3, "objects": 11, "d_model": 16, "hidden": 16}
    return FactModel(**{**shape, "memory": MEMORY, **options})


def test_fact_model_computes_its_formula():
    model = facts_model().eval()
    questions = torch.tensor([[3, 31], [7, 30], [3, 32]])
    x = model.subject[questions[:, 0]] + model.relation.weight[questions[:, 1] - 30]
    z = F.rms_norm(x, (16,), eps=1e-6)
    h = x + model.mlp(z) + model.memory(z)
    assert torch.allclose(model(questions), model.head(F.rms_norm(h, (16,), eps=1e-6)), atol=1e-6)
    assert "subject" in dict(model.named_buffers())


def test_facts_are_learnt(tmp_path):
    pl.seed_everything(0, verbose=False)
    data = FactTable(subjects=30, relations=3, objects=11, batch_size=30)
    model = facts_model(optimizer=OptimizerConfig("row_adamw", lr=1e-2, weight_decay=0.0), value_boost=4.0)
    run = trainer(tmp_path, max_epochs=60, check_val_every_n_epoch=60)
    run.fit(model, data)
    scores = run.validate(model, data, verbose=False)[0]
    assert scores["val/accuracy"] > 0.95
    assert 2.5 < scores["val/bits_per_fact"] <= 3.46  # log2 11
    found = run.predict(model, data)[0]
    assert (found["prediction"] == found["target"]).float().mean() > 0.95
    assert found["probability"].max() <= 1
    with pytest.raises(UserError, match="objects: 11, but FactTable has 12"):
        run.validate(model, FactTable(subjects=30, relations=3, objects=12))


def test_a_language_model_learns_facts_too(tmp_path):
    data = FactTable(subjects=10, relations=2, objects=4, batch_size=20)
    torch.manual_seed(0)
    model = UltraMemLM(
        16, d_model=16, n_layers=1, n_heads=2, memory=MEMORY, optimizer=OptimizerConfig("row_adamw", lr=2e-2)
    )
    run = trainer(tmp_path, max_epochs=60, check_val_every_n_epoch=60)
    run.fit(model, data)
    assert run.validate(model, data, verbose=False)[0]["val/accuracy"] > 0.9


def test_bytes_of_the_embedded_text(tmp_path):
    data = TokenData(length=16, batch_size=4, eval_windows=4)
    run = trainer(tmp_path, max_steps=2, limit_val_batches=1, val_check_interval=2)
    run.fit(small(vocab_size=256, optimizer=SPARSE), data)
    assert 4 < float(run.callback_metrics["val/loss"]) < 7
