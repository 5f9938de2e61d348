"""BackSlash: the pull against autograd, when it comes, what it leaves alone, and a resume."""

import copy
import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from torch import nn
from torch.utils.data import DataLoader

from callbacks.backslash import BackSlash, backslash_step, estimate_shapes
from callbacks.ema import EMA
from callbacks.lora import LoRA
from framework.editing.order import resolve
from framework.errors import UserError
from framework.functional import generalized_gaussian as gg


def tensors(dtype=torch.float32, seed=0):
    shapes = [(70, 1000), (7,), (), (3, 2, 5), (40_000,)]
    found = [gg.sample(size, 0.8, 0.02 * (i + 1), [seed, i], torch.float64) for i, size in enumerate(shapes)]
    found[3] = found[3].transpose(0, 2)  # not contiguous
    found[1][2] = 0.0
    return [tensor.to(dtype) for tensor in found]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-7)])
@pytest.mark.parametrize("eps", [1.0, 1e-5])
@pytest.mark.parametrize("shape", [0.4, 1.0, 1.7, 3.0])
def test_the_pull_is_the_gradient_of_the_rate(dtype, tolerance, eps, shape):
    weights = tensors(dtype)
    lam = 2.0 if eps == 1 else 1e-3
    leaves = [w.double().requires_grad_() for w in weights]
    total = sum(w.numel() for w in weights)
    rate = sum(((w.abs() + eps) ** shape).sum() for w in leaves) / total
    gradients = torch.autograd.grad(rate, leaves)
    expected = [w.detach() - lam * g for w, g in zip(leaves, gradients, strict=True)]
    used = backslash_step(weights, lam, eps, shape=shape)
    assert used.tolist() == [shape]
    for w, e in zip(weights, expected, strict=True):
        assert float((w - e.detach()).abs().max()) < tolerance


@pytest.mark.parametrize("eps", [1.0, 1e-5])
def test_shape_1_is_the_l1_penalty_exactly(eps):
    weights = tensors()
    step = 3.0 / sum(w.numel() for w in weights)
    expected = [w - step * w.sign() for w in weights]
    backslash_step(weights, 3.0, eps, shape=1.0)
    assert all(torch.equal(w, e) for w, e in zip(weights, expected, strict=True))


def test_the_estimate_is_the_estimators():
    weights = tensors()
    assert estimate_shapes(weights).tolist() == [gg.fit(weights).shape]
    each = [gg.fit(w).shape for w in weights]
    assert estimate_shapes(weights, "per_tensor").tolist() == each
    used = backslash_step([w.clone() for w in weights], 1.0, scope="per_tensor")
    assert used.tolist() == each
    assert estimate_shapes([torch.zeros(4), torch.zeros(3)]).tolist() == [1.0]


def test_each_tensor_is_pulled_by_its_own_shape():
    weights, total = tensors(), sum(w.numel() for w in tensors())
    expected = [w.clone() for w in weights]
    for w in expected:
        backslash_step([w], per_weight_step=2.0 / total, shape=gg.fit(w).shape)
    backslash_step(weights, 2.0, scope="per_tensor")
    for w, e in zip(weights, expected, strict=True):
        torch.testing.assert_close(w, e, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clamped_weights_stop_at_zero_and_others_cross_it(dtype):
    weights = torch.tensor([-0.5, -0.01, 0.0, 0.01, 0.5], dtype=dtype)
    free, clamped = weights.clone(), weights.clone()
    backslash_step([free], per_weight_step=0.1, shape=1.0)
    backslash_step([clamped], per_weight_step=0.1, shape=1.0, clamp_at_zero=True)
    assert free.sign().tolist() == [-1, 1, 0, -1, 1]
    assert clamped.sign().tolist() == [-1, 0, 0, 0, 1]
    assert torch.equal(clamped[[0, -1]], free[[0, -1]])


def test_small_eps_starts_nothing_from_a_normal_distribution():
    weights = gg.sample((100_000,), 2.0, 0.02)
    ones, small = weights.clone(), weights.clone()
    backslash_step([ones], per_weight_step=1e-4)
    backslash_step([small], per_weight_step=1e-4, eps=1e-5)
    moved = [float((after - weights).abs().mean()) for after in (ones, small)]
    assert moved[0] == pytest.approx(2e-4, rel=0.05)
    assert moved[1] < 0.03 * moved[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"lam": 1.0, "per_weight_step": 1.0},
            "^lam: at most one of lam, per_weight_step is accepted; given: lam, per_weight_step",
        ),
        ({"lam": -1.0}, "^lam: -1.0"),
        ({"per_weight_step": float("nan")}, "^per_weight_step: nan"),
        ({"eps": 0.0}, "^eps: 0.0"),
        ({"scope": "layer"}, "^scope: 'layer' is not one of global, per_tensor"),
        ({"every_n_steps": 0}, "^every_n_steps: 0"),
        ({"stop_epoch": -1}, "^stop_epoch: -1"),
        ({"bits_step": 0.0}, "^bits_step: 0.0"),
    ],
)
def test_bad_settings_are_named_at_once(settings, message):
    with pytest.raises(UserError, match=message):
        BackSlash(**settings)


class Net(BoringModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(32, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 2))
        self.layer[2].weight = nn.Parameter(torch.randn(8, 8) / 8)
        self.tied = self.layer[2].weight

    def train_dataloader(self):
        return DataLoader(RandomDataset(32, 28), batch_size=4)

    val_dataloader = train_dataloader

    def configure_optimizers(self):
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=0.01)


def fit(folder, *callbacks, epochs=2, path=None, model=None, **options):
    torch.manual_seed(0)
    model = model or Net()
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        limit_val_batches=0,
        default_root_dir=folder,
        **options,
    )
    pl.seed_everything(1, verbose=False)
    trainer.fit(model, ckpt_path=path)
    return trainer, model


def by_hand(settings, epochs=2, accumulate=1, every=1, stop=None, **step):
    """The same training in a plain loop."""
    torch.manual_seed(0)
    model = Net()
    pl.seed_everything(1, verbose=False)
    loader = model.train_dataloader()
    optimizer = model.configure_optimizers()
    steps = 0
    for epoch in range(epochs):
        for index, x in enumerate(loader):
            (model.loss(model(x)) / accumulate).backward()
            if (index + 1) % accumulate and index + 1 < len(loader):
                continue
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
            if steps % every == 0 and (stop is None or epoch < stop):
                backslash_step(model.parameters(), **settings)
    return model


@pytest.mark.parametrize(
    ("settings", "loop", "options"),
    [
        ({"lam": 0.1}, {}, {}),
        ({"per_weight_step": 1e-3, "every_n_steps": 3, "scope": "per_tensor"}, {"every": 3}, {}),
        ({"lam": 0.1, "stop_epoch": 1, "eps": 1e-2}, {"stop": 1}, {}),
        ({"lam": 0.1, "clamp_at_zero": True}, {"accumulate": 3}, {"accumulate_grad_batches": 3}),
    ],
)
def test_it_comes_after_each_optimiser_step_as_in_a_plain_loop(tmp_path, settings, loop, options):
    _, model = fit(tmp_path, BackSlash(**settings), **options)
    step = {key: value for key, value in settings.items() if key not in ("every_n_steps", "stop_epoch")}
    expected, plain = by_hand(step, **loop), fit(tmp_path, **options)[1]
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name
    assert not torch.equal(model.layer[0].weight, plain.layer[0].weight)


def test_it_logs_the_shape_and_the_bits(tmp_path):
    trainer, model = fit(tmp_path, BackSlash(lam=0.1))
    weights = list(model.parameters())
    assert trainer.callback_metrics["backslash/shape"] == pytest.approx(gg.fit(weights).shape)
    levels = torch.cat([(w.detach() * 2**13).round().flatten() for w in weights])
    counts = levels.unique(return_counts=True)[1].sort(descending=True)[0]
    lengths = 2 * (torch.arange(1, len(counts) + 1).double().log2() + 1e-9).floor() + 1
    assert trainer.callback_metrics["backslash/bits"] == pytest.approx(float((counts * lengths).sum() / counts.sum()))


@pytest.mark.parametrize("options", [{"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}])
def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path, options):
    settings = {"per_weight_step": 1e-3, "every_n_steps": 2, "stop_epoch": 2}
    saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    _, whole = fit(tmp_path, BackSlash(**settings), saver, epochs=3, **options)
    _, resumed = fit(tmp_path, BackSlash(**settings), epochs=3, path=tmp_path / "epoch=0.ckpt", **options)
    plain = fit(tmp_path, epochs=3, **options)[1]
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(plain.layer[0].weight, whole.layer[0].weight)


def test_only_trainable_weights_are_pulled(tmp_path):
    model = Net()
    model.layer[2].requires_grad_(False)
    frozen = copy.deepcopy(model.layer[2].state_dict())
    pulled = []
    original = backslash_step

    def spy(parameters, *args, **kwargs):
        parameters = list(parameters)
        pulled.append(sum(p.numel() for p in parameters))
        return original(parameters, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("callbacks.backslash.backslash_step", spy)
        fit(tmp_path, BackSlash(lam=1.0), model=model, epochs=1)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert pulled == [trained] * 7
        for name, value in model.layer[2].state_dict().items():
            assert torch.equal(value, frozen[name])
        pulled.clear()
        _, model = fit(tmp_path, LoRA(rank=2, target_modules=["layer.0"]), BackSlash(lam=0.1), epochs=1)
        adapters = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
        assert adapters
        assert pulled == [adapters] * 7


def test_include_and_exclude_choose_by_name(tmp_path):
    with pytest.raises(UserError, match=r"techniques.backslash.include: 'head' names nothing in the model; nearest: "):
        fit(tmp_path, BackSlash(include=["head"]))
    model = Net()
    model.requires_grad_(False)
    model.layer[3].requires_grad_(True)
    with pytest.raises(UserError, match=r"techniques.backslash: none of the .* is trained; trained: layer.3.weight"):
        fit(tmp_path, BackSlash(include=["layer.0.*"]), model=model)
    _, model = fit(tmp_path, BackSlash(per_weight_step=0.05, exclude=["layer.1.*", "bias"]), epochs=1)
    expected = by_hand_named(lambda name: not name.endswith("bias") and not name.startswith("layer.1."))
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def by_hand_named(chosen):
    torch.manual_seed(0)
    model = Net()
    pl.seed_everything(1, verbose=False)
    optimizer = model.configure_optimizers()
    for x in model.train_dataloader():
        optimizer.zero_grad()
        model.loss(model(x)).backward()
        optimizer.step()
        backslash_step([p for name, p in model.named_parameters() if chosen(name)], per_weight_step=0.05)
    return model.state_dict()


def test_weights_that_diverged_are_logged_as_such(tmp_path):
    class Diverge(pl.Callback):
        def on_train_batch_end(self, trainer, module, *args):
            module.layer[0].weight.data.fill_(float("nan"))

    trainer, _ = fit(tmp_path, BackSlash(lam=0.1), Diverge(), epochs=1)
    assert all(math.isnan(trainer.callback_metrics[f"backslash/{name}"]) for name in ("shape", "bits"))


def test_the_average_of_the_weights_sees_the_pull(tmp_path):
    class ByHand(pl.Callback):
        average = None

        def on_train_batch_end(self, trainer, module, *args):
            now = module.layer[0].weight.detach().clone()
            self.average = now if self.average is None else self.average + 0.2 * (now - self.average)

    pulled, hand = BackSlash(lam=0.3), ByHand()
    _, model = fit(tmp_path, pulled, hand, EMA(0.8))
    torch.testing.assert_close(model.layer[0].weight.detach(), hand.average)
    assert resolve({"ema": EMA, "backslash": BackSlash}) == ["backslash", "ema"]


def test_of_a_module_the_trained_weights_are_pulled():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    backslash_step(model, per_weight_step=1e-3)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {"1.weight", "1.bias"}
