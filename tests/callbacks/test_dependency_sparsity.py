"""The penalty: as if the module added it, on foreign decoders, off with weight 0, subsampled, resumed, refused."""

import pytest
import torch
from editing_toys import Net, trainer_of
from resume_harness import same
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.dependency_sparsity import DependencySparsity
from framework.data.seeding import mix
from framework.errors import UserError
from framework.functional.dependency import dependency_sparsity, draw_columns, jacobian_columns, sparsity
from modules.interpretability.diverse_dictionary import SparseJacobianVAE


class Foreign(Net):
    """A plain LightningModule: its ``last`` is a decoder of the hidden layer, and gets a second argument."""

    def __init__(self):
        super().__init__()
        self.last = Conditional()

    def forward(self, x):
        return self.last(x=torch.tanh(self.first(x)), shift=x.sum(1, keepdim=True))


class Conditional(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.drop = nn.Sequential(nn.Linear(7, 6), nn.GELU(), nn.Linear(6, 3)), nn.Dropout(0.3)

    def forward(self, shift, x):
        return self.drop(self.net(torch.cat([x, shift], 1)))


class Own(Foreign):
    """Adds the term itself."""

    def __init__(self, through=False, **settings):
        super().__init__()
        self.settings, self.through = settings, through

    def training_step(self, batch, batch_idx):
        z, shift = torch.tanh(self.first(batch[0])), batch[0].sum(1, keepdim=True)
        outputs = self.last(x=z, shift=shift)
        self.last.eval()
        points = z if self.through else z.detach()
        columns = jacobian_columns(lambda other: self.last(x=other, shift=shift), points.detach())
        if self.through:
            columns = columns * z.std(0, correction=0)[:, None, None]
        self.last.train()
        loss = nn.functional.cross_entropy(outputs, batch[1])
        return loss + 0.1 * sparsity(columns, 6, **self.settings)


def data(width=5):
    generator = torch.Generator().manual_seed(7)
    x, y = torch.randn(24, width, generator=generator), torch.randint(0, 3, (24,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=4)


def fit(folder, *callbacks, module=Foreign, **options):
    torch.manual_seed(3)
    module = module()
    trainer = trainer_of(folder, *callbacks, limit_val_batches=0, **options)
    trainer.fit(module, data())
    return module.state_dict(), trainer


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.05}])
@pytest.mark.parametrize("norm", ["l1", "group", "log"])
def test_as_if_the_module_added_it_itself(tmp_path, norm, options):
    ours, trainer = fit(tmp_path, DependencySparsity(0.1, norm, net="last"), **options)
    expected, _ = fit(tmp_path, module=lambda: Own(norm=norm), **options)
    assert same(ours, expected)
    assert not same(ours, fit(tmp_path, **options)[0])
    assert float(trainer.callback_metrics["train/dependency_sparsity"]) > 0


def test_free_of_scale_its_gradient_reaches_the_encoder_by_the_deviation(tmp_path):
    ours, _ = fit(tmp_path, DependencySparsity(0.1, scale_free=True, net="last"))
    expected, _ = fit(tmp_path, module=lambda: Own(through=True))
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, atol=1e-6, rtol=1e-5)


def test_with_weight_0_the_run_is_that_without_it(tmp_path):
    assert same(fit(tmp_path, DependencySparsity(0.0, net="last"))[0], fit(tmp_path)[0])


def test_columns_are_drawn_by_a_generator_of_its_own(tmp_path):
    seen = []

    class Watched(Foreign):
        def training_step(self, batch, batch_idx):
            seen.append(torch.rand(1).item())
            return super().training_step(batch, batch_idx)

    penalty = DependencySparsity(0.1, columns=2, net="last")
    first = fit(tmp_path, penalty, module=Watched)[0]
    drawn = [*seen]
    seen.clear()
    fit(tmp_path, module=Watched)
    assert drawn == seen, "the global generator moved"
    assert same(first, fit(tmp_path, DependencySparsity(0.1, columns=2, net="last"), module=Watched)[0])
    chosen = {tuple(draw_columns(6, 2, torch.Generator().manual_seed(mix(0, n))).tolist()) for n in range(20)}
    assert len(chosen) > 5
    with pytest.raises(
        UserError, match=r"techniques\.dependency_sparsity\.columns: 7 is not accepted; at most 6 \(lat"
    ):
        fit(tmp_path, DependencySparsity(0.1, columns=7, net="last"))


class VAE(SparseJacobianVAE):
    """Reads pairs, and remembers what its decoder was given."""

    def __init__(self):
        super().__init__(5, 3, (8,), activation="gelu")

    def training_step(self, batch, batch_idx):
        return super().training_step({"x": batch[0]}, batch_idx)

    def posterior(self, batch):
        return super().posterior({"x": batch[0]})


def test_a_module_names_its_decoder_and_its_latents_are_the_drawn_ones_or_their_mean(tmp_path):
    found = {}
    for at in ("sample", "mean"):

        class Watched(DependencySparsity):
            def penalty(self, module, batch, outputs, captured):
                value = super().penalty(module, batch, outputs, captured)
                z = captured.input if self.at == "sample" else module.posterior(batch)[0].detach()
                torch.testing.assert_close(value, dependency_sparsity(module.decoder, z))
                found.setdefault(self.at, float(value.detach()))
                return value

        Watched.__name__ = "DependencySparsity"
        fit(tmp_path, Watched(0.1, at=at), module=VAE, max_epochs=1)
    assert found["sample"] != found["mean"]


def test_mixed_precision_is_near_full_precision(tmp_path):
    terms = []
    for precision in ("32-true", "bf16-mixed"):
        _, trainer = fit(tmp_path, DependencySparsity(0.1), module=VAE, precision=precision, max_steps=1)
        terms.append(float(trainer.callback_metrics["train/dependency_sparsity"]))
    assert terms[1] == pytest.approx(terms[0], rel=0.02)


class Shifted(Conditional):
    def __init__(self):
        super().__init__()
        self.shifted = nn.Linear(1, 1)

    def forward(self, shift, x):
        return super().forward(self.shifted(shift), x)


def test_other_arguments_in_mixed_precision_have_the_type_of_the_decoder(tmp_path):
    class Module(Foreign):
        def __init__(self):
            super().__init__()
            self.last, self.shift = Shifted(), nn.Linear(5, 1)  # autocast makes its output bf16

        def forward(self, x):
            return self.last(x=torch.tanh(self.first(x)), shift=self.shift(x))

    terms = []
    for precision in ("32-true", "bf16-mixed"):
        _, trainer = fit(tmp_path, DependencySparsity(0.1, net="last"), module=Module, precision=precision, max_steps=1)
        terms.append(float(trainer.callback_metrics["train/dependency_sparsity"]))
    assert terms[1] == pytest.approx(terms[0], rel=0.05)


def test_the_posteriors_mean_draws_nothing_and_counts_nothing(tmp_path):
    class Normal(VAE):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(0.5), *self.encoder)

        def training_step(self, batch, batch_idx):
            self.drawn = float(torch.rand(1))
            return super().training_step(batch, batch_idx)

    seen = []
    for at in ("sample", "mean"):
        torch.manual_seed(3)
        module = Normal()
        trainer_of(tmp_path, DependencySparsity(0.1, at=at), limit_val_batches=0, max_epochs=1).fit(module, data())
        seen.append((int(module.encoder[0].num_batches_tracked), module.drawn))
    assert seen[0] == seen[1]
    assert seen[0][0] == 6


def test_a_jacobian_of_zeros_and_single_samples_raise_no_alarm(tmp_path):
    class Zero(VAE):
        def __init__(self):
            super().__init__()
            nn.init.zeros_(self.decoder[-1].weight)

    penalty = DependencySparsity(0.1)
    fit(tmp_path, penalty, module=Zero, max_steps=1)
    assert penalty.scale["omega"] == 0
    assert not penalty.cheated
    one = DataLoader(TensorDataset(*(part[:3] for part in data().dataset.tensors)), batch_size=1)
    torch.manual_seed(3)
    penalty = DependencySparsity(0.1)
    trainer_of(tmp_path, penalty, limit_val_batches=0).fit(VAE(), one)
    assert penalty.scale == {}, "one sample has no deviation"
    with pytest.raises(
        UserError, match=r"techniques\.dependency_sparsity\.scale_free: not accepted with batches of one"
    ):
        trainer_of(tmp_path, DependencySparsity(0.1, scale_free=True), limit_val_batches=0).fit(VAE(), one)


def test_the_deviation_is_that_of_all_latents_whichever_columns_are_drawn(tmp_path):
    found = set()
    for seed in range(3):
        penalty = DependencySparsity(0.1, columns=1, net="last")
        penalty.draw = seed

        class Drawn(Foreign):
            def on_train_batch_start(self, batch, batch_idx, own=penalty):
                own._seed = (own.draw,)

        fit(tmp_path, penalty, module=Drawn, max_steps=1)
        found.add((penalty.scale["latent_std"], penalty.scale["omega"]))
    assert len({omega for _, omega in found}) > 1
    assert len({std for std, _ in found}) == 1


def test_what_is_logged_and_kept(tmp_path):
    penalty = DependencySparsity(0.1)
    _, trainer = fit(tmp_path, penalty, module=VAE)
    for name in ("omega", "omega_scale_free", "latent_std"):
        assert float(trainer.callback_metrics[f"dependency_sparsity/{name}"]) > 0
    other = DependencySparsity(0.1)
    other.load_state_dict(penalty.state_dict())
    assert (other.scale, other.peak, other._batches) == (penalty.scale, penalty.peak, 12)


def test_what_counts_as_a_cheat():
    penalty = DependencySparsity()
    penalty.peak = {"omega": 8.0, "omega_scale_free": 8.0, "latent_std": 1.0}
    for now, expected in (((2.0, 6.0, 3.0), True), ((2.0, 2.0, 1.0), False), ((2.0, 3.0, 3.0), False)):
        penalty.scale = dict(zip(penalty.peak, now, strict=True))
        assert penalty.cheated == expected


class NoForwardMode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class Custom(Net):
    def __init__(self):
        super().__init__()
        outer = self.last

        class Last(nn.Module):
            def forward(self, x):
                return NoForwardMode.apply(outer(x))

        self.head = Last()

    def forward(self, x):
        return self.head(torch.tanh(self.first(x)))


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (Net, {}, r"dependency_sparsity\.net: Net names no decoder"),
        (Net, {"net": "decoder"}, r"dependency_sparsity\.net: .*decoder"),
        (Net, {"net": "last", "at": "mean"}, r"dependency_sparsity\.at: 'mean' is not accepted; Net has no posterior"),
        (Custom, {"net": "head"}, "needs forward-mode derivatives of the decoder, and an operation has none"),
    ],
)
def test_what_it_cannot_penalise_is_refused(tmp_path, module, settings, message):
    with pytest.raises(UserError, match=message):
        fit(tmp_path, DependencySparsity(0.1, **settings), module=module)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1.0}, r"weight: -1\.0 is not accepted; at least 0"),
        ({"norm": "l2"}, "'l2' is not one of l1, group, log"),
        ({"columns": 0}, "columns: 0 is not accepted; at least 1"),
        ({"at": "means"}, "did you mean 'mean'"),
        ({"epsilon": 0.0}, r"epsilon: 0\.0 is not accepted; above 0"),
    ],
)
def test_settings_that_are_not_accepted(settings, message):
    with pytest.raises(UserError, match=message):
        DependencySparsity(**settings)
