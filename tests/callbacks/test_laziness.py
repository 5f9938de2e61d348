"""laziness: what it logs against slow references, that it changes nothing, what it refuses."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.laziness import Laziness, blockwise_kernel
from framework import OptimizerConfig
from framework.editing import Context
from framework.errors import UserError
from framework.module import Module
from framework.observing.activity import activity_of


class Net(Module):
    """A recurrent classifier with dropout."""

    def __init__(self, dropout=0.5):
        super().__init__(OptimizerConfig("sgd", lr=0.5, weight_decay=0.0))
        self.rnn = nn.RNN(3, 6, batch_first=True, bias=False)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.drop(self.rnn(x)[0][:, -1]))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])


def trained(root, callbacks, epochs=2, ckpt=None, dropout=0.5):
    torch.manual_seed(0)
    model = Net(dropout)
    x = torch.randn(24, 4, 3)
    data = DataLoader(TensorDataset(x, (x[:, 0, 0] > 0).long()), batch_size=8)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=root,
        callbacks=callbacks,
        enable_model_summary=False,
        **quiet,
    )
    trainer.fit(model, data, ckpt_path=ckpt, weights_only=True)
    return model, trainer, x


def jacobian(model, x, names):
    """(P C, parameters), by a pass for each output of each point."""
    values = [dict(model.named_parameters())[name] for name in names]
    rows = [torch.autograd.grad(output, values, retain_graph=True) for point in x for output in model(point[None])[0]]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows]).double()


def test_it_logs_what_changed_and_leaves_training_alone(tmp_path):
    names = ["rnn.weight_hh_l0", "head.weight"]
    seen = Laziness(every_n_steps=2, points=5, chunk=2, parameters=["weight_hh_l0", "head.weight"])
    model, trainer, x = trained(tmp_path, [seen])
    plain, _, _ = trained(tmp_path / "plain", [])
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [point["step"] for point in seen.points] == [0, 2, 3, 4, 6]
    first, last = seen.points[0], seen.points[-1]
    assert first["weight_change"] == 0
    assert first["kernel_alignment"] == pytest.approx(1, abs=1e-12)
    assert first["representation_alignment"] == pytest.approx(1, abs=1e-12)

    torch.manual_seed(0)
    start = Net()
    nets, x = (start.eval(), model.eval()), x[:5]
    changes = [
        (dict(model.named_parameters())[n] - dict(start.named_parameters())[n]).detach().square().sum() for n in names
    ]
    assert last["weight_change"] == pytest.approx(float(sum(changes)) ** 0.5, rel=1e-5)
    size = sum(float(dict(start.named_parameters())[n].detach().square().sum()) for n in names) ** 0.5
    assert last["relative_change"] == pytest.approx(last["weight_change"] / size)
    kernels = [j @ j.T for j in (jacobian(net, x, names) for net in nets)]
    expected = (kernels[0] * kernels[1]).sum() / (kernels[0].norm() * kernels[1].norm())
    assert last["kernel_alignment"] == pytest.approx(float(expected), abs=1e-6)
    with torch.no_grad():
        grams = [a @ a.T for a in (net.rnn(x)[0][:, -1].double() for net in nets)]
    expected = (grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm())
    assert last["representation_alignment"] == pytest.approx(float(expected), abs=1e-6)
    assert last["kernel_alignment"] < 0.999
    for name, value in last.items():
        if name != "step":
            assert float(trainer.callback_metrics[f"laziness/{name}"]) == pytest.approx(value)
    assert (tmp_path / "figures" / "laziness.png").stat().st_size > 5000


def test_a_resumed_run_compares_with_the_first_start(tmp_path):
    whole, part, rest = (Laziness(every_n_steps=2, points=4) for _ in range(3))
    trained(tmp_path, [whole], dropout=0)
    _, trainer, _ = trained(tmp_path, [part], epochs=1, dropout=0)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    trained(tmp_path, [rest], ckpt=tmp_path / "half.ckpt", dropout=0)
    assert rest.points == whole.points


def test_the_blocks_are_one_kernel():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    x, names = torch.randn(7, 3), ["0.weight", "2.bias"]
    j = jacobian(net, x, names)
    for chunk in (1, 3, 7, 9):
        torch.testing.assert_close(blockwise_kernel(net, x, names, chunk), j @ j.T, rtol=1e-5, atol=1e-5)


def test_activity_of_a_layer():
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(5, 4, 3)
    with torch.no_grad():
        torch.testing.assert_close(activity_of(net, x), net.rnn(x)[0][:, -1])
        torch.testing.assert_close(activity_of(net, x, "rnn"), net.rnn(x)[0].flatten(1))
        torch.testing.assert_close(activity_of(net, x, "head"), net(x))
    with pytest.raises(UserError, match=r"^layer: 'heads' names nothing in the model; nearest: head"):
        activity_of(net, x, "heads")
    with pytest.raises(UserError, match="gives no activity"):
        activity_of(Beside(), x, "unused")
    with pytest.raises(UserError, match="a layer with weights"):
        activity_of(nn.Sequential(nn.Tanh()), x)


class Beside(nn.Module):
    """Has a layer that it does not use."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        return x


class NoForward(Module):
    """Cannot be called."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2)


def test_without_the_kernel_and_after_the_parameters_changed():
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(5, 4, 3)
    seen = Laziness(kernel=False)
    assert "kernel_alignment" not in seen.look(net, x, torch.zeros(5, 1))
    with torch.no_grad():
        net.head.weight += 1
    assert seen.look(net, x, torch.zeros(5, 1))["weight_change"] == pytest.approx(12**0.5, rel=1e-5)
    net.head = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    assert seen.look(net, x, torch.zeros(5, 1))["weight_change"] == 0


def test_what_it_refuses():
    for name in ("every_n_steps", "points", "chunk"):
        with pytest.raises(UserError, match=rf"^{name}: 0"):
            Laziness(**{name: 0})
    with pytest.raises(UserError, match="NoForward has no forward"):
        Laziness().check(NoForward(), Context())
    with pytest.raises(UserError, match=r"laziness.parameters: 'hed.weight' names nothing"):
        Laziness(parameters=["hed.weight"]).check(Net(), Context())
