"""Grokfast against a plain loop, with everything that happens to gradients around it, and killed and resumed."""

import pytest
import torch
from editing_toys import Net, Widen, trainer_of
from resume_harness import same
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.grokfast import Grokfast, filter_gradients
from callbacks.lora import LoRA
from framework.errors import UserError


def data(batch_size=4):
    generator = torch.Generator().manual_seed(7)
    x, y = torch.randn(24, 5, generator=generator), torch.randint(0, 3, (24,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=batch_size)


def fit(folder, *callbacks, loader=None, module=None, ckpt=None, **options):
    torch.manual_seed(3)
    module = Net() if module is None else module
    trainer = trainer_of(folder, *callbacks, limit_val_batches=0, **options)
    trainer.fit(module, data() if loader is None else loader, ckpt_path=ckpt, weights_only=True)
    return module, trainer


def reference(alpha, lamb, accumulate=1, clip=None):
    """The authors' loop: average of each parameter's gradients, added before clipping."""
    torch.manual_seed(3)
    module, average = Net(), {}
    optimizer = module.configure_optimizers()["optimizer"]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)
    for _ in range(2):
        for number, (x, y) in enumerate(data()):
            (nn.functional.cross_entropy(module(x), y) / accumulate).backward()
            if (number + 1) % accumulate:
                continue
            for name, p in module.named_parameters():
                if name not in average:
                    average[name] = p.grad.clone()
                average[name] = average[name] * alpha + p.grad * (1 - alpha)
                p.grad = p.grad + average[name] * lamb
            if clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return module.state_dict()


@pytest.mark.parametrize(
    ("options", "also"),
    [
        ({}, {}),
        ({"accumulate_grad_batches": 3, "gradient_clip_val": 0.05}, {"accumulate": 3, "clip": 0.05}),
    ],
    ids=["plain", "accumulated, and clipped afterwards"],
)
def test_it_is_the_authors_loop(tmp_path, options, also):
    module, _ = fit(tmp_path, Grokfast(0.8, 0.5), **options)
    expected = reference(0.8, 0.5, **also)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    bare, _ = fit(tmp_path, **options)
    assert not same(module.state_dict(), bare.state_dict())


def test_mixed_precision_is_near_full(tmp_path):
    full, _ = fit(tmp_path, Grokfast())
    mixed, _ = fit(tmp_path, Grokfast(), precision="bf16-mixed")
    for a, b in zip(full.parameters(), mixed.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.02)


def test_with_nothing_added_the_run_is_the_same(tmp_path):
    assert same(fit(tmp_path, Grokfast(lamb=0.0))[0].state_dict(), fit(tmp_path)[0].state_dict())


def test_a_resume_continues_the_average(tmp_path):
    straight, _ = fit(tmp_path, Grokfast(), max_epochs=3)
    _, trainer = fit(tmp_path, Grokfast(), max_epochs=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    resumed, _ = fit(tmp_path, Grokfast(), max_epochs=3, ckpt=tmp_path / "two.ckpt")
    assert same(resumed.state_dict(), straight.state_dict())
    saved = torch.load(tmp_path / "two.ckpt", weights_only=True)
    (state,) = [value for key, value in saved["callbacks"].items() if key.startswith("Grokfast")]
    assert set(state["average"]) == {name for name, _ in straight.named_parameters()}
    del saved["callbacks"]
    torch.save(saved, tmp_path / "without.ckpt")
    other, _ = fit(tmp_path, Grokfast(), max_epochs=3, ckpt=tmp_path / "without.ckpt")
    assert not same(other.state_dict(), straight.state_dict())


def test_edits_keep_the_averages_of_what_remains(tmp_path):
    technique = Grokfast()
    module, _ = fit(tmp_path, technique, Widen(9, epoch=1))
    assert technique._average["first.weight"].shape == module.first.weight.shape == (9, 5)
    technique = Grokfast()
    module, _ = fit(tmp_path, technique, LoRA(rank=2))
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    assert set(technique._average) == trained
    assert any("lora_" in name for name in trained)


class Scaler:
    """What Lightning asks of a gradient scaler."""


def test_fp16_leaves_out_what_overflows_and_refuses_scaled_gradients(tmp_path):
    module, trainer = fit(tmp_path, Grokfast())
    technique, optimizer = Grokfast(), trainer.optimizers[0]
    technique.on_train_start(trainer, module)
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    trainer.strategy.precision_plugin.scaler = Scaler()
    technique.on_before_optimizer_step(trainer, module, optimizer)
    assert all(bool((value == 1).all()) for value in technique._average.values())
    module.first.weight.grad[0, 0] = torch.inf
    technique.on_before_optimizer_step(trainer, module, optimizer)
    assert all(bool((value == 1).all()) for value in technique._average.values())
    optimizer._step_supports_amp_scaling = True
    with pytest.raises(UserError, match=r"techniques.grokfast and a fused optimiser in 16-mixed"):
        technique.on_before_optimizer_step(trainer, module, optimizer)


def test_the_plain_function():
    net, average = nn.Linear(2, 1, bias=False), {}
    for gradient, expected in ((1.0, 1 + 0.1), (0.0, 0.1 * 0.8), (0.0, 0.1 * 0.64)):
        net.weight.grad = torch.full((1, 2), gradient)
        filter_gradients(net, average)
        torch.testing.assert_close(net.weight.grad, torch.full((1, 2), expected))
    table = nn.Embedding(3, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(UserError, match="grokfast: the gradient of weight is sparse"):
        filter_gradients(table, {})


def test_what_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"alpha: 1 is not accepted; at least 0 and below 1"):
        Grokfast(alpha=1)
    with pytest.raises(UserError, match=r"lamb: -1 is not accepted"):
        Grokfast(lamb=-1)
    module = Net()
    module.automatic_optimization = False
    with pytest.raises(UserError, match=r"techniques.grokfast and manual optimisation cannot be combined"):
        fit(tmp_path, Grokfast(), module=module)
