"""MoM as LightningModules: losses, the hybrid, decoding, resume, precision, two processes, settings."""

import math

import lightning.pytorch as pl
import pytest
import torch
from resume_harness import in_two_ranks

from datamodules.sequence.recall import Recall, recall_batch
from framework.errors import UserError
from framework.protocols import Generates, HasRouters
from modules.sequence.attention import SoftmaxAttention
from modules.sequence.mom import MoMLM, MoMRecall, balance_loss
from modules.sequence.mom.layer import MoMLayer
from modules.sequence.mom.rules import RULES


def small(seed=0, **settings):
    torch.manual_seed(seed)
    return MoMLM(
        **{
            "vocab_size": 50,
            "d_model": 16,
            "n_layers": 2,
            "n_heads": 2,
            "generation": {"max_new_tokens": 4},
            **settings,
        }
    )


def batch(seed=0):
    return {"input_ids": torch.randint(50, (3, 20), generator=torch.Generator().manual_seed(seed))}


def test_the_loss_is_cross_entropy_and_the_mean_balance_of_the_layers():
    model = small(aux_weight=0.5)
    model.log = lambda *args, **kwargs: None
    loss = model.training_step(batch(), 0)
    tokens = batch()["input_ids"]
    ce = torch.nn.functional.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    balance = torch.stack([layer.balance for layer in model.layers().values()]).mean()
    torch.testing.assert_close(loss, ce + 0.5 * balance)
    assert 2 <= float(balance.detach()) < 4
    assert model.auxiliary_loss() is not None
    assert model.auxiliary_loss() is None  # handed out once
    model.eval()(tokens)
    assert model.auxiliary_loss() is None


def test_the_hybrid_has_attention_where_it_says():
    model = small(n_layers=8, attention_every=4)
    kinds = [type(block.mixer) for block in model.decoder.blocks]
    assert kinds == ([MoMLayer] * 3 + [SoftmaxAttention]) * 2
    assert list(model.routers()) == ["layer0", "layer1", "layer2", "layer4", "layer5", "layer6"]


@pytest.mark.parametrize("settings", [*({"memory": {"rule": rule}} for rule in RULES), {"attention_every": 2}])
def test_decoding_equals_the_whole(settings):
    model = small(**settings).double().eval()
    tokens = batch()["input_ids"]
    whole = model(tokens)
    first, state = model.extend(tokens[:, :6])
    second, state = model.extend(tokens[:, 6:7], state)
    third, _ = model.extend(tokens[:, 7:], state)
    torch.testing.assert_close(torch.cat([first, second, third], 1), whole, rtol=1e-6, atol=1e-6)
    prompt, added = model.generate(tokens[:, :6])
    grown = torch.cat([prompt, added], 1)
    assert torch.equal(model(grown)[:, 5:-1].argmax(-1), added)


def test_padding_on_the_left_changes_nothing():
    model = small().double().eval()
    tokens = batch()["input_ids"]
    padded = torch.cat([torch.zeros(3, 5, dtype=torch.int64), tokens], 1)
    logits = model(padded, torch.arange(25).expand(3, -1) >= 5)
    torch.testing.assert_close(logits[:, 5:], model(tokens), rtol=1e-8, atol=1e-8)


def test_they_meet_the_protocols():
    for model in (small(), MoMRecall(8, 4)):
        assert isinstance(model, Generates)
        assert isinstance(model, HasRouters)
        router = next(iter(model.routers().values()))
        assert any(module is router for module in model.modules())


def recall_model(**settings):
    torch.manual_seed(0)
    return MoMRecall(**{"keys": 8, "values": 4, "d_model": 12, "head_dim": 4, "memory": {"expand_v": 2.0}, **settings})


def test_a_fused_token_is_the_sum_of_its_parts():
    model = recall_model()
    x = model.embed(torch.tensor([[3 * 4 + 2, 8 * 4 + 3]]))[0]
    torch.testing.assert_close(x[0], model.key.weight[3] + model.value.weight[2] + model.kind.weight[0])
    torch.testing.assert_close(x[1], model.key.weight[3] + model.kind.weight[1])


def test_answers_stand_where_something_is_asked():
    model = recall_model()
    tokens, targets = recall_batch(5, 6, 8, 4)
    found = model.predict_step({"input_ids": tokens, "targets": targets}, 0)
    assert model(tokens).shape == (5, 12, 4)
    assert (found["prediction"][:, :6] == -100).all()
    assert ((found["prediction"][:, 6:] >= 0) & (found["prediction"][:, 6:] < 4)).all()
    pieces = [model.extend(tokens[:, :7])]
    pieces.append(model.extend(tokens[:, 7:], pieces[0][1]))
    torch.testing.assert_close(torch.cat([p[0] for p in pieces], 1), model(tokens), rtol=1e-4, atol=1e-5)


def test_recall_refuses_data_of_another_size():
    model, data = recall_model(), Recall(pairs=4, keys=9, values=4)
    with pytest.raises(UserError, match=r"model.keys: 8, but Recall has 9"):
        fit(model, data, max_steps=1)


def fit(model, data, precision="32-true", devices=1, **settings):
    pl.seed_everything(0, verbose=False)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, precision=precision, enable_model_summary=False, **quiet, **settings
    )
    trainer.fit(model, data)
    return trainer


def recall_data(**settings):
    return Recall(
        **{"pairs": 4, "keys": 8, "values": 4, "train_samples": 64, "eval_samples": 8, "batch_size": 8} | settings
    )


def test_it_learns_in_bfloat16():
    model = recall_model(optimizer={"lr": 0.02})
    fit(model, recall_data(train_samples=800), "bf16-mixed", max_epochs=1, num_sanity_val_steps=0)
    tokens, targets = recall_batch(200, 4, 8, 4, torch.Generator().manual_seed(1))
    right = (model.eval()(tokens).argmax(-1) == targets)[:, 4:].float().mean()
    assert right > 0.6  # 0.25 by chance


def test_a_checkpoint_opens_with_weights_only_and_goes_on(tmp_path):
    whole = small()
    model = small()
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-2) for m in (whole, model)]
    for m in (whole, model):
        m.log = lambda *args, **kwargs: None

    def step(m, optimizer, number):
        optimizer.zero_grad()
        m.training_step(batch(number), number).backward()
        optimizer.step()

    for number in range(4):
        step(whole, optimizers[0], number)
    for number in range(2):
        step(model, optimizers[1], number)
    torch.save({"model": model.state_dict(), "optimizer": optimizers[1].state_dict()}, tmp_path / "x.pt")
    saved = torch.load(tmp_path / "x.pt", weights_only=True)
    again = small(seed=5)
    again.log = lambda *args, **kwargs: None
    again.load_state_dict(saved["model"])
    optimizer = torch.optim.AdamW(again.parameters(), lr=1e-2)
    optimizer.load_state_dict(saved["optimizer"])
    for number in range(2, 4):
        step(again, optimizer, number)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def _train_rank():
    # A memory that nobody chooses still takes part in the gradient, or DDP would wait for it.
    model = recall_model(memory={"expand_v": 2.0, "num_memories": 6, "topk": 1})
    with torch.no_grad():
        model.mixer.router.proj.weight[5] = 0
        model.mixer.router.proj.weight[:5] += 1.0
    fit(model, recall_data(), devices=2, strategy="ddp", max_epochs=1, num_sanity_val_steps=0)
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    other = flat.clone()
    torch.distributed.broadcast(other, 0)
    assert torch.equal(flat, other)
    assert flat.isfinite().all()


@pytest.mark.slow
def test_two_processes_stay_together():
    assert in_two_ranks(_train_rank) == [0, 0]


def test_every_parameter_gets_a_gradient_even_of_a_memory_that_nobody_chose():
    for backend in ("varlen", "masked"):
        model = small(memory={"backend": backend})
        for layer in model.layers().values():
            with torch.no_grad():
                layer.router.proj.weight.zero_()  # ties: memories 0 and 1 take everything
        model(batch()["input_ids"]).sum().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_balance_is_k_at_even_loads_in_expectation():
    model = small()
    model(batch()["input_ids"])
    for layer in model.layers().values():
        assert math.isclose(float(layer.balance), 2.0, abs_tol=0.2)
    layer = model.layers()["layer0"]
    x = torch.randn(2, 9, 16)
    layer(x)
    torch.testing.assert_close(layer.balance, balance_loss(layer.router(x)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_layers": 0}, "n_layers: 0"),
        ({"attention_every": 1}, "attention_every: 1"),
        ({"aux_weight": -1.0}, "aux_weight: -1.0"),
        ({"memory": {"rule": "gsa"}}, "memory.rule: 'gsa' is not one of"),
    ],
)
def test_bad_settings_are_told(settings, message):
    with pytest.raises(UserError, match=message):
        small(**settings)
