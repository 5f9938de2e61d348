"""The autoencoders: their loss against torch.distributions and a plain VAE, the guard of the scale, and baselines."""

import math

import pytest
import torch
import torch.nn.functional as F
from checkout import CONFIGS
from editing_toys import trainer_of
from resume_harness import same
from torch import nn
from torch.utils.data import DataLoader

import framework
from callbacks.dependency_sparsity import DependencySparsity
from datamodules.interpretability.structured_mixing import StructuredMixing
from framework.config import yaml12
from framework.editing import Observer
from framework.errors import UserError
from modules.interpretability.diverse_dictionary import SparseJacobianVAE
from modules.interpretability.diverse_dictionary.baselines import hessian_penalty, latent_l1, orthogonal_jacobian
from modules.interpretability.diverse_dictionary.module import gaussian_kl


class PlainVAE(nn.Module):
    """Kingma & Welling's, written out: layers in the same order, so that a seed gives the same weights."""

    def __init__(self):
        super().__init__()
        layers = [nn.Linear(3, 16), nn.LeakyReLU(0.2), nn.Linear(16, 4)]
        self.encoder = nn.Sequential(*layers)
        self.decoder = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 3))

    def loss(self, x):
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        kl = (0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)).sum(1).mean()
        return (x - self.decoder(z)).square().sum(1).mean() + kl


def data(**settings):
    return StructuredMixing(samples=600, val_samples=100, test_samples=10, batch_size=60, **settings)


def fit(folder, model, *callbacks, epochs=1, source=None):
    trainer = trainer_of(folder, *callbacks, max_epochs=epochs)
    trainer.fit(model, data() if source is None else source)
    return trainer


def test_without_the_penalty_a_step_is_that_of_a_plain_vae_to_the_last_bit(tmp_path):
    adam = framework.OptimizerConfig("adam", lr=1e-3, weight_decay=0.0)
    torch.manual_seed(4)
    ours = SparseJacobianVAE(3, 2, (16,), beta=1.0, optimizer=adam, schedule=framework.ScheduleConfig("constant"))
    source = data()
    source.setup("fit")
    batches = [source.train_set.__getitems__(range(start, start + 60)) for start in (0, 60, 120)]
    torch.manual_seed(5)
    trainer = trainer_of(tmp_path, DependencySparsity(0.0), max_epochs=1)
    # an iterator of its own generator, for it would draw a seed from the global one
    trainer.fit(ours, DataLoader(batches, batch_size=None, generator=torch.Generator()))
    torch.manual_seed(4)
    plain = PlainVAE()
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3, fused=True)
    torch.manual_seed(5)
    for batch in batches:
        optimizer.zero_grad()
        plain.loss(batch["x"]).backward()
        optimizer.step()
    assert same(ours.state_dict(), plain.state_dict())


def test_the_kl_is_that_of_torch_distributions():
    torch.manual_seed(0)
    mean, log_variance = torch.randn(2, 50, 4)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (0.5 * log_variance).exp()), normal(0.0, 1.0))
    torch.testing.assert_close(gaussian_kl(mean, log_variance), expected, atol=1e-6, rtol=1e-5)


def test_the_likelihood_is_gaussian_up_to_its_constant():
    torch.manual_seed(0)
    model = SparseJacobianVAE(3, 2, (8,), beta=0.0, variance=0.3)
    x, z = torch.randn(7, 3), torch.randn(7, 2)
    found, _ = model._terms(x, z, torch.zeros(7, 2), z)
    density = torch.distributions.Normal(model.decoder(z), math.sqrt(0.3)).log_prob(x).sum(1).mean()
    constant = 1.5 * math.log(2 * math.pi * 0.3)
    torch.testing.assert_close(found, -density - constant)


def test_larger_latents_are_a_cheat_that_is_reported_and_the_guard_stops_it(tmp_path):
    """An autoencoder under a strong penalty: points grow, and the penalty falls without any entry becoming sparse."""
    source = data(nonlinearity=0.2)
    fast = framework.OptimizerConfig("adam", lr=2e-2, weight_decay=0.0)
    settings = {"beta": 0.0, "optimizer": fast, "schedule": framework.ScheduleConfig("constant")}

    def train(posterior, **penalty):
        torch.manual_seed(0)
        model = SparseJacobianVAE(3, 3, (32,), posterior=posterior, **settings)
        watch, stds = DependencySparsity(0.3, **penalty), []

        class Watch(Observer):
            def on_train_epoch_end(self, trainer, pl_module):
                stds.append((watch.scale["latent_std"], float(trainer.callback_metrics["val/latent_std"])))

        fit(tmp_path, model, watch, Watch(), epochs=20, source=source)
        return [list(each) for each in zip(*stds, strict=True)], watch

    with pytest.warns(UserWarning, match=r"the penalty fell .* because the latents' standard deviation grew"):
        (_, stds), cheat = train("point")
    assert cheat.cheated
    assert all(later > 1.2 * earlier for earlier, later in zip(stds[4::5], stds[9::5], strict=False)), "without bound"
    assert stds[-1] > 5
    assert cheat.scale["omega"] < cheat.peak["omega"] / 2
    (batch_stds, stds), guarded = train("normalised")
    assert all(0.9 <= std <= 1.1 for std in [*batch_stds, *stds[5:]])  # running statistics take some epochs
    assert not guarded.cheated
    (_, stds), free = train("point", scale_free=True)
    assert max(stds) < 1
    assert not free.cheated


def test_baselines_by_loops():
    torch.manual_seed(0)
    net, z = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4)).double(), torch.randn(5, 3).double()
    jacobians = torch.stack([torch.func.jacrev(net)(one) for one in z])
    slow = sum((j[:, a] @ j[:, b]) ** 2 for j in jacobians for a in range(3) for b in range(3) if a != b) / 5
    torch.testing.assert_close(orthogonal_jacobian(net, z), slow)
    orthogonal = nn.Linear(3, 4, bias=False).double()
    nn.init.orthogonal_(orthogonal.weight)
    assert float(orthogonal_jacobian(orthogonal, z).detach()) < 1e-20
    torch.testing.assert_close(latent_l1(z), z.abs().sum() / 5)

    def quadratic(x):  # Hessian with off-diagonal entries of one output
        return torch.stack([x[:, 0] * x[:, 1], x[:, 2] ** 2], 1)

    # vᵀHv = ±2 for the first output and constant for the second: a variance of 2 Σ_{i≠j} H² = 4
    found = torch.stack([hessian_penalty(quadratic, z) for _ in range(400)]).mean()
    assert float(found) == pytest.approx(4 / 2, rel=0.15)


@pytest.mark.parametrize("baseline", ["latent_l1", "orojar", "hessian"])
def test_a_baseline_is_added_to_the_loss_and_nothing_else(baseline):
    torch.manual_seed(0)
    plain, other = SparseJacobianVAE(3, 2, (8,)), SparseJacobianVAE(3, 2, (8,), baseline=baseline, baseline_weight=2.0)
    other.load_state_dict(plain.state_dict())
    batch = {"x": torch.randn(20, 3)}
    losses = []
    for model in (plain, other):
        model.log = lambda *args, **kwargs: None
        torch.manual_seed(1)
        losses.append(model.training_step(batch, 0))
    assert losses[1] > losses[0]
    losses[1].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in other.decoder.parameters() if p.ndim > 1)


def test_posterior_and_reconstruction():
    torch.manual_seed(0)
    model = SparseJacobianVAE(4, 2, (8,), activation="gelu")
    x = torch.randn(6, 4)
    mean, std = model.posterior({"x": x})
    torch.testing.assert_close(torch.cat([mean, 2 * std.log()], 1), model.encoder(x))
    torch.testing.assert_close(model(x), model.decoder(mean))
    assert set(model.predict_step({"x": x}, 0)) == {"latent", "std"}
    points = SparseJacobianVAE(4, 2, (8,), beta=0.0, posterior="point")
    assert not points.posterior({"x": x})[1].any()
    assert isinstance(SparseJacobianVAE(activation="softplus").decoder[1], nn.Softplus)
    assert F.leaky_relu(torch.tensor(-1.0), SparseJacobianVAE().decoder[1].negative_slope) == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"posterior": "point"}, "beta: 0.05 is not accepted; point latents have no KL"),
        ({"hidden": (0,)}, r"hidden: \[0\] is not accepted"),
        ({"variance": 0.0}, r"variance: 0\.0 is not accepted; above 0"),
        ({"baseline": "oro_jar"}, "did you mean 'orojar'"),
        ({"activation": "relu"}, "'relu' is not one of leaky_relu, gelu, softplus"),
    ],
)
def test_settings_that_are_not_accepted(settings, message):
    with pytest.raises(UserError, match=message):
        SparseJacobianVAE(**settings)


def test_data_of_another_size_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"model\.init_args\.inputs: 4, but the data has 3 observations"):
        fit(tmp_path, SparseJacobianVAE(4, 2, (8,)))


def test_a_last_batch_of_one_sample_is_normalised_by_the_running_statistics(tmp_path):
    settings = {"beta": 0.0, "posterior": "normalised"}
    sizes = {"samples": 13, "val_samples": 8, "test_samples": 4}
    model = SparseJacobianVAE(3, 2, (8,), **settings)
    trainer = fit(tmp_path, model, DependencySparsity(scale_free=True), source=StructuredMixing(**sizes, batch_size=4))
    assert trainer.global_step == 4
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    with pytest.raises(UserError, match=r"posterior: 'normalised' is not accepted with data\.init_args\.batch_size 1"):
        fit(tmp_path, SparseJacobianVAE(3, 2, (8,), **settings), source=StructuredMixing(**sizes, batch_size=1))


def test_the_configs_are_of_the_paper():
    for name in ("diverse_dictionary", "diverse_dictionary_paper"):
        tree = yaml12.load((CONFIGS / "interpretability" / f"{name}.yaml").read_text(encoding="utf-8"))
        assert tree["model"]["init_args"]["beta"] == 0.05
        assert tree["techniques"]["dependency_sparsity"]["init_args"]["weight"] == 0.05
        assert tree["data"]["init_args"]["samples"] == 10_000
