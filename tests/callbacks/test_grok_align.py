"""The technique: as if the module added the term, off with weight 0, in mixed precision, with adapters, collapse."""

import pytest
import torch
from editing_toys import Net, trainer_of
from resume_harness import same
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import framework
from callbacks.centroid_alignment import CentroidAlignment
from callbacks.grok_align import EVERY, GrokAlign
from callbacks.grokfast import Grokfast
from callbacks.grokking_delay import GrokkingDelay
from callbacks.lora import LoRA
from framework.errors import UserError
from framework.functional.jacobian import grok_align


class Own(Net):
    """Adds the term itself, drawn from the global generator's copy."""

    def __init__(self, weight=0.1, **settings):
        super().__init__()
        self.term = lambda outputs, x: weight * grok_align(outputs, x, **settings)

    def training_step(self, batch, batch_idx):
        x = batch[0].clone().requires_grad_()
        outputs = self(x)
        return nn.functional.cross_entropy(outputs, batch[1]) + self.term(outputs, x)


def data():
    generator = torch.Generator().manual_seed(7)
    x, y = torch.randn(24, 5, generator=generator), torch.randint(0, 3, (24,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=4)


def fit(folder, *callbacks, module=None, loader=None, **options):
    torch.manual_seed(3)
    module = Net() if module is None else module()
    trainer = trainer_of(folder, *callbacks, limit_val_batches=0, **options)
    trainer.fit(module, data() if loader is None else loader)
    return module.state_dict(), trainer


@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.05}, {"precision": "bf16-mixed"}],
    ids=["plain", "accumulated and clipped", "bf16-mixed"],
)
@pytest.mark.parametrize("settings", [{}, {"power": 2}, {"level": 2.0}], ids=["norm", "square", "level"])
def test_as_if_the_module_added_it_itself(tmp_path, options, settings):
    ours, trainer = fit(tmp_path, GrokAlign(0.1, exact=True, **settings), **options)
    expected, _ = fit(tmp_path, module=lambda: Own(exact=True, **settings), **options)
    assert same(ours, expected)
    assert not same(ours, fit(tmp_path, **options)[0])
    assert float(trainer.callback_metrics["train/grok_align"]) > 0


def test_mixed_precision_and_accumulation_are_near_full_precision(tmp_path):
    """The gradients of one step, drawn alike, of the term alone and with twice the batches of half the size."""

    def gradients(precision, batch_size):
        seen = {}

        class Watch(Net):
            def on_before_optimizer_step(self, optimizer):
                seen.update({name: p.grad.clone() for name, p in self.named_parameters()})

        loader = DataLoader(data().dataset, batch_size=batch_size)
        options = {"max_steps": 1, "accumulate_grad_batches": 8 // batch_size, "precision": precision}
        fit(tmp_path, GrokAlign(1.0, exact=True), module=Watch, loader=loader, **options)
        return seen

    full = gradients("32-true", 8)
    for precision, batch_size, tolerance in (("32-true", 4, 1e-5), ("bf16-mixed", 8, 0.02), ("bf16-mixed", 4, 0.02)):
        found = gradients(precision, batch_size)
        for name, value in full.items():
            error = (found[name] - value).norm() / value.norm()
            assert error < tolerance, f"{precision}, {batch_size}: {name}"


def test_weight_0_is_the_run_without_it(tmp_path):
    """Check 6, with data in random order: nothing is drawn from the global generators."""

    def shuffled():
        return DataLoader(data().dataset, batch_size=4, shuffle=True)

    bare, _ = fit(tmp_path, loader=shuffled())
    state = torch.random.get_rng_state()
    assert same(fit(tmp_path, GrokAlign(0.0), loader=shuffled())[0], bare)
    assert torch.equal(torch.random.get_rng_state(), state)
    fit(tmp_path, GrokAlign(0.1), loader=shuffled())
    assert torch.equal(torch.random.get_rng_state(), state), "projections are drawn from a generator of their own"


class Foreign(Net):
    """Logs nothing, returns a mapping, and calls a part of itself."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))

    def training_step(self, batch, batch_idx):
        return {"loss": nn.functional.cross_entropy(self.body(batch[0]), batch[1])}


def test_a_foreign_module_with_adapters_under_a_plain_trainer(tmp_path):
    lora = LoRA(rank=2, target_modules=["body.0", "body.2"], trainable_modules=[])
    with_both, _ = fit(tmp_path, lora, GrokAlign(0.1, net="body"), module=Foreign)
    lora = LoRA(rank=2, target_modules=["body.0", "body.2"], trainable_modules=[])
    adapters, _ = fit(tmp_path, lora, module=Foreign)
    moved = {name for name in adapters if not same(adapters[name], with_both[name])}
    assert moved
    assert all("lora_" in name for name in moved)


class Measured(Foreign):
    """Logs both accuracies."""

    def forward(self, x):
        return self.body(x)

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.log("train/accuracy", (logits.argmax(1) == batch[1]).float().mean(), on_step=False, on_epoch=True)
        return nn.functional.cross_entropy(logits, batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())


def test_all_of_grokking_with_adapters_under_a_plain_trainer(tmp_path):
    ours = [GrokAlign(0.1), Grokfast(), CentroidAlignment(points=4), GrokkingDelay(threshold=0.1)]
    lora = LoRA(rank=2, target_modules=["body.0"], trainable_modules=[])
    torch.manual_seed(0)
    module = Measured()
    trainer_of(tmp_path, *ours, lora).fit(module, data(), data())
    metrics = module.trainer.callback_metrics
    assert {"train/grok_align", "centroid_alignment/pc1", "grokking_delay/waited", "grok_align/centroid_norm"} <= set(
        metrics
    )
    assert set(ours[1]._average) == {name for name, p in module.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in ours[1]._average)


class Tokens(Net):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 5)
        self.embed.weight.requires_grad_(False)

    def forward(self, x):
        return super().forward(self.embed(x).mean(1))


def test_at_the_embedding_and_not_at_tokens(tmp_path):
    tokens, y = torch.randint(0, 7, (12, 3)), torch.randint(0, 3, (12,))
    loader = DataLoader(TensorDataset(tokens, y), batch_size=4)
    bare, _ = fit(tmp_path, module=Tokens, loader=loader)
    assert not same(fit(tmp_path, GrokAlign(0.1, embed="embed"), module=Tokens, loader=loader)[0], bare)
    with pytest.raises(UserError, match=r"techniques.grok_align: the module itself was given no tensor of"):
        fit(tmp_path, GrokAlign(0.1), module=Tokens, loader=loader)


def test_a_network_that_collapses_is_reported_and_a_resume_reports_it_once(tmp_path):
    """Check 8: λ = 1 makes a narrow XOR net constant."""
    assert EVERY < 70
    overrides = [
        "--model.width=32",
        "--data.samples=200",
        "--techniques.grok_align.weight=1",
        "--techniques.centroid_alignment=null",
        "--data.passes=50",
        "--trainer.max_epochs=3",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--run.monitor=null",
        "--wandb.mode=disabled",
        f"--run.root={tmp_path}",
    ]
    experiment = framework.build("interpretability/grok_align_xor", overrides)
    with pytest.warns(UserWarning, match=r"has become nearly constant.*accuracy_noise_1 is 0\.\d+; a weight below 1"):
        experiment.fit()
    metrics = experiment.trainer.callback_metrics
    assert float(metrics["val/accuracy_noise_1"]) < 0.6
    assert float(metrics["grok_align/centroid_norm"]) <= 0.01
    (technique,) = (c for c in experiment.trainer.callbacks if isinstance(c, GrokAlign))
    other = GrokAlign(1.0)
    other.load_state_dict(technique.state_dict())
    assert (other.norm, other._reported, other._batches) == (technique.norm, True, 150)


def test_what_is_refused():
    with pytest.raises(UserError, match="power: 3 is not one of 1, 2"):
        GrokAlign(power=3)
    with pytest.raises(UserError, match="projections: 0 is not accepted"):
        GrokAlign(projections=0)
    with pytest.raises(UserError, match="level: -1"):
        GrokAlign(level=-1)
    with pytest.raises(UserError, match="weight: -1"):
        GrokAlign(-1)
