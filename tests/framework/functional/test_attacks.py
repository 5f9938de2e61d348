"""Attacks against torchattacks and a linear model's closed form; modes, units and the clean accuracy."""

import pytest
import torch
from resume_harness import same
from torch import nn

from framework.errors import UserError
from framework.functional.attacks import accuracy, pgd

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(6 * 36, 4)]
    net = nn.Sequential(*layers)
    net(torch.randn(64, 3, 8, 8))
    return net.train()


def images(count=12):
    generator = torch.Generator().manual_seed(1)
    pixels, y = torch.rand(count, 3, 8, 8, generator=generator), torch.randint(0, 4, (count,), generator=generator)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return pixels, (pixels - mean) / std, y


def test_size_0_is_the_clean_accuracy_exactly():
    net = network()
    _, x, y = images(64)
    for norm in ("linf", "l2"):
        attacked = pgd(net, x, y, 0.0, norm, mean=MEAN, std=STD, generator=torch.Generator().manual_seed(0))
        assert torch.equal(attacked, x)
        with torch.no_grad():
            clean = float((net.eval()(x).argmax(1) == y).float().mean())
        assert accuracy(net.train(), attacked, y) == clean


def test_modes_gradients_and_generators_are_as_before():
    net = network()
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes, state = [part.training for part in net.modules()], torch.random.get_rng_state()
    pixels, x, y = images()
    with torch.inference_mode():
        pgd(net, x, y, 0.1, mean=MEAN, std=STD, generator=torch.Generator().manual_seed(0))
    assert [part.training for part in net.modules()] == modes
    assert same(net.state_dict(), before)
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(RuntimeError):
        pgd(net, pixels[:, :2], y, 0.1)
    assert [part.training for part in net.modules()] == modes, "after an error too"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_sizes_and_bounds_are_in_pixel_units(norm):
    net, (pixels, x, y) = network(), images()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    eps = 0.1 if norm == "linf" else 1.0
    attacked = pgd(net, x, y, eps, norm, 5, mean=MEAN, std=STD, generator=torch.Generator().manual_seed(0))
    moved = attacked * std + mean
    assert moved.min() >= -1e-6
    assert moved.max() <= 1 + 1e-6
    delta = (moved - pixels).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert (size <= eps * (1 + 1e-5)).all()
    assert size.max() > 0.9 * eps
    loss = nn.CrossEntropyLoss()
    assert loss(net.eval()(attacked), y) > loss(net(x), y)


def test_a_linear_model_of_two_classes():
    """The worst case in the box is -eps sign(w): the margin of y = 1 falls by eps ‖w‖₁."""
    net = nn.Linear(6, 2, bias=False).double()
    x = torch.full((3, 6), 0.5, dtype=torch.float64)
    w = (net.weight[1] - net.weight[0]).detach()
    attacked = pgd(net, x, torch.ones(3, dtype=torch.long), 0.2, steps=10)
    torch.testing.assert_close(attacked, x - 0.2 * w.sign())
    attacked = pgd(net, x, torch.ones(3, dtype=torch.long), 0.2, "l2", steps=10)
    torch.testing.assert_close(attacked, x - 0.2 * w / w.norm())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_is_torchattacks(norm):
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    net, (pixels, x, y) = network().eval(), images()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    attack = torchattacks.PGD if norm == "linf" else torchattacks.PGDL2
    normalised = nn.Sequential(nn.Module(), net)
    normalised.forward = lambda inputs: net((inputs - mean) / std)
    expected = attack(normalised, eps=0.3, alpha=0.1, steps=6, random_start=False)(pixels, y)
    found = pgd(net, x, y, 0.3, norm, 6, 0.1, MEAN, STD)
    torch.testing.assert_close(found * std + mean, expected, atol=1e-4, rtol=0)


def test_it_is_foolbox():
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")
    net, (pixels, x, y) = network().eval(), images()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    model = foolbox.PyTorchModel(net, bounds=(0, 1), preprocessing={"mean": mean, "std": std}, device="cpu")
    attack = foolbox.attacks.LinfPGD(abs_stepsize=0.1, steps=6, random_start=False)
    _, expected, _ = attack(model, pixels, y, epsilons=0.3)
    found = pgd(net, x, y, 0.3, "linf", 6, 0.1, MEAN, STD)
    torch.testing.assert_close(found * std + mean, expected, atol=1e-4, rtol=0)


def test_one_output_classifies_by_its_sign():
    net = nn.Linear(6, 1, bias=False).double()
    x, y = torch.full((2, 6), 0.5, dtype=torch.float64), torch.tensor([0, 1])
    sign = net.weight.detach().sign()
    torch.testing.assert_close(pgd(net, x, y, 0.2), torch.cat([x[:1] + 0.2 * sign, x[1:] - 0.2 * sign]))
    assert accuracy(net, x, (net(x)[:, 0] > 0).long()) == 1


def test_half_precision_is_attacked_in_small_steps():
    torch.manual_seed(0)
    net, x = nn.Linear(6, 2), torch.full((3, 6), 0.5, dtype=torch.bfloat16)
    y = torch.tensor([0, 1, 1])
    found = pgd(net.bfloat16(), x, y, 0.2, steps=100)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close((found - x).abs(), torch.full_like(x, 0.2), atol=2e-3, rtol=0)


def test_a_rounding_error_outside_the_bounds_moves_nothing_further():
    net, x = nn.Linear(6, 2), torch.tensor([[-0.01, 1.01, 0.0, 1.0, 0.5, 0.5]])
    moved = pgd(net, x, torch.tensor([0]), 0.002, steps=4)
    assert float((moved - x).abs().max()) <= 0.002 + 1e-6


class Rounds(nn.Module):
    def forward(self, x):
        return x.long().float()


def test_the_best_point_is_never_below_the_last_one():
    net = network()
    _, x, y = images()

    def losses(at):
        with torch.no_grad():
            return nn.functional.cross_entropy(net.eval()(at), y, reduction="none")

    settings = {"steps": 10, "step_size": 0.2, "mean": MEAN, "std": STD}  # steps so long that the loss goes up and down
    last = pgd(net, x, y, 0.1, **settings)
    best = pgd(net, x, y, 0.1, keep_best=True, **settings)
    assert (losses(best) >= losses(last)).all()
    assert (losses(best) > losses(last)).any()
    assert (losses(best) >= losses(x)).all()
    decayed = pgd(net, x, y, 0.1, decay=0.1, **settings)
    assert not torch.equal(decayed, last)
    with pytest.raises(UserError, match="decay: 0 is not accepted"):
        pgd(net, x, y, 0.1, decay=0)


def test_what_is_refused():
    _, x, y = images()
    with pytest.raises(UserError, match="mean: 2 values are not accepted; 1, or 3 for the channels"):
        pgd(network(), x, y, 0.1, mean=[0.0, 1.0])
    for net in (Rounds(), nn.Sequential(Rounds(), nn.Linear(4, 2))):
        with pytest.raises(UserError, match="the outputs cannot be differentiated by the inputs"):
            pgd(net, torch.rand(2, 4), torch.tensor([0, 1]), 0.1)
