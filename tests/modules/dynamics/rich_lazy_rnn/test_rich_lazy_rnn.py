"""Rich and lazy networks: their starts, their training beside plain torch, what they measure and refuse."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn

from datamodules.dynamics.cognitive_tasks import CognitiveTasks
from framework import OptimizerConfig
from framework.errors import UserError
from framework.functional.laziness import kernel_alignment, representation_alignment
from modules.dynamics.rich_lazy_rnn import LeakyReluRNN
from modules.dynamics.rich_lazy_rnn.module import final
from modules.dynamics.rich_lazy_rnn.network import Weights, recurrent_kernel, states
from modules.dynamics.rich_lazy_rnn.plots import laziness_figure, spectra_figure
from modules.ensemble import prepared

SMALL = {"hidden": 12, "ranks": [1, 4, 12], "seeds": 2, "batch_size": 8, "kernel_trials": 5, "dtype": "float64"}


def batch_of(**options):
    data = CognitiveTasks(**{"trials": 80, "probes": 20, "test_trials": 30, **options})
    data.setup("fit")
    return data.train_set.batch


def last_only(batch):
    return {**batch, "y": batch["y"][:, -1], "test_y": batch["test_y"][:, -1]}


def test_starts_have_their_rank_the_norm_of_full_rank_and_everything_else_alike():
    torch.manual_seed(0)
    model = LeakyReluRNN(**SMALL, g=[0.5, 1.25], structures={"Dale": {"kind": "dale"}})
    table = {name: np.array(values) for name, values in model.settings().items()}
    assert len(table["seed"]) == len(model.w_rec) == 2 * 2 * 4
    assert table["start"][:4].tolist() == ["rank 1", "rank 4", "rank 12", "Dale"]
    for seed in range(2):
        mine = np.flatnonzero(table["seed"] == seed)
        for shared in (model.w_in, model.w_out):
            assert all(torch.equal(shared[mine[0]], shared[i]) for i in mine)
        for g in (0.5, 1.25):
            group = model.w_rec[mine[table["g"][mine] == g]].detach()
            assert [int(torch.linalg.matrix_rank(w)) for w in group[:3]] == [1, 4, 12]
            torch.testing.assert_close(group.flatten(1).norm(dim=1), group[2].norm().expand(4), rtol=1e-6, atol=0)
    torch.testing.assert_close(model.w_rec[4:8], 2.5 * model.w_rec[:4])
    assert float(model.w_rec[6].detach().std()) == pytest.approx(1.25 / 12**0.5, rel=0.15)
    assert float(model.w_in.detach().abs().max()) < 3**-0.5
    torch.manual_seed(0)
    alone = LeakyReluRNN(**{**SMALL, "ranks": [4], "seeds": 1})
    assert torch.equal(alone.w_rec[0], model.w_rec[5])
    torch.manual_seed(1)
    assert not torch.equal(LeakyReluRNN(**SMALL).w_rec[0], model.w_rec[4])


@pytest.mark.parametrize("sequence", [True, False])
@pytest.mark.parametrize("scale", [None, 7.0])
def test_written_gradients_are_autograds(sequence, scale):
    torch.manual_seed(0)
    model, batch = LeakyReluRNN(**SMALL, leak=0.7, centred_scale=scale), batch_of()
    batch = batch if sequence else last_only(batch)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    found = model.gradients(batch)
    expected = torch.autograd.grad(model.losses(batch).sum(), list(model.parameters()))
    for part, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(part, reference / (1 if scale is None else scale**2))


def test_training_is_that_of_a_plain_loop_on_torchs_network():
    torch.manual_seed(0)
    model, batch = LeakyReluRNN(**SMALL), batch_of(trials=83)
    member = 1
    net = nn.RNN(3, 12, nonlinearity="relu", bias=False, batch_first=True, dtype=torch.float64)
    out = nn.Linear(12, 3, bias=False, dtype=torch.float64)
    parameters = [*net.parameters(), *out.parameters()]
    with torch.no_grad():
        for own, value in zip(parameters, model.start, strict=True):
            own.copy_(value[member])
    optimizer = torch.optim.SGD(parameters, lr=0.003, momentum=0.9)
    for step in range(10):  # ten batches of eight: all but three trials, once, in their order
        rows = slice(8 * step, 8 * step + 8)
        logits = out(net(batch["x"][rows].double())[0])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch["y"][rows].long().flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = final(model.simulate(batch, 10, [0, 10]))
    for own, value in zip(parameters, model.weights, strict=True):
        torch.testing.assert_close(value[member].detach(), own.detach(), rtol=1e-10, atol=1e-12)
    change = (net.weight_hh_l0 - model.start_rec[member]).norm()
    assert found["weight_change"][member] == pytest.approx(float(change.detach()), rel=1e-8)
    correct = (out(net(batch["test_x"].double())[0])[:, -1].argmax(-1) == batch["test_y"][:, -1]).double().mean()
    assert found["test_accuracy"][member] == pytest.approx(float(correct))


def test_each_pass_has_an_order_of_its_own_and_shows_every_trial_once():
    torch.manual_seed(0)
    model = LeakyReluRNN(**SMALL)
    batch = {"x": torch.arange(24).view(24, 1, 1), "y": torch.arange(24)}
    orders = []
    for step in range(9):
        model.steps_taken = step
        orders.append(model.part(batch, 0)["y"].tolist())
    passes = [[row for order in orders[i : i + 3] for row in order] for i in (0, 3, 6)]
    assert passes[0] == list(range(24))
    assert all(sorted(order) == passes[0] for order in passes)
    assert passes[1] != passes[2]
    assert passes[1] != passes[0]
    model.steps_taken = 4
    assert model.part(batch, 0)["y"].tolist() == orders[4]


@pytest.mark.parametrize("sequence", [True, False])
def test_what_it_measures(sequence):
    torch.manual_seed(0)
    model, batch = LeakyReluRNN(**SMALL), batch_of()
    batch = batch if sequence else last_only(batch)
    start = model.measure(batch)
    for name in ("kernel_alignment", "representation_alignment"):
        torch.testing.assert_close(start[name], torch.ones(6, dtype=torch.float64), rtol=1e-12, atol=0)
    assert float(start["weight_change"].abs().max()) == 0
    torch.testing.assert_close(start["rank_participation"][::3], torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(start["rank_entropy"][::3], torch.ones(2, dtype=torch.float64))
    model.simulate(batch, 200, [200])
    found, probe = model.measure(batch), batch["probe"].double()
    kernels = [recurrent_kernel(probe[:5], Weights(*w), 1.0, not sequence) for w in (model.weights, model.start)]
    torch.testing.assert_close(found["kernel_alignment"], kernel_alignment(*kernels).detach())
    last = [states(probe, Weights(*w))[:, -1] for w in (model.weights, model.start)]
    torch.testing.assert_close(found["representation_alignment"], representation_alignment(*last).detach())
    assert (found["kernel_alignment"] < 1).all()
    assert (found["loss"] < start["loss"]).all()


def test_the_larger_the_centred_scale_the_lazier():
    batch, least = batch_of(trials=800, task="dms"), []
    for scale in (1.0, 30.0):
        torch.manual_seed(0)
        model = LeakyReluRNN(**SMALL, centred_scale=scale, optimizer=OptimizerConfig("sgd", 0.1, 0.0))
        least.append(final(model.simulate(batch, 300, [0, 300]))["kernel_alignment"].min())
    assert least[1] > least[0]


def test_a_run_writes_figures_and_goes_on_where_it_stopped(tmp_path):
    def fit(folder, epochs, resume=None):
        torch.manual_seed(0)
        model = LeakyReluRNN(**{**SMALL, "seeds": 1}, inner_steps=5)
        data = CognitiveTasks(trials=80, probes=20, test_trials=30, passes=3)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", default_root_dir=folder, enable_checkpointing=False, **quiet
        )
        trainer.fit(model, data, ckpt_path=resume, weights_only=True)
        trainer.save_checkpoint(folder / "end.ckpt")
        return model

    whole = fit(tmp_path / "whole", 2)
    for name in ("laziness", "spectra"):
        assert (tmp_path / "whole" / "figures" / f"{name}.png").stat().st_size > 5000
    assert np.load(tmp_path / "whole" / "trajectory.npz")["start"].tolist() == ["rank 1", "rank 4", "rank 12"]
    fit(tmp_path / "part", 1)
    rest = fit(tmp_path / "rest", 2, tmp_path / "part" / "end.ckpt")
    for one, other in zip(whole.parameters(), rest.parameters(), strict=True):
        assert torch.equal(one, other)
    for name, values in final(whole.trajectory()).items():
        np.testing.assert_array_equal(values, final(rest.trajectory())[name])


def test_figures_hold_a_point_for_each_member():
    table = {
        "start": np.array(["rank 1", "rank 8"] * 2),
        "seed": np.array([0, 0, 1, 1]),
        "g": np.array([1.0] * 4),
        "kernel_alignment": np.array([0.1, 0.9, 0.2, 0.8]),
        "representation_alignment": np.array([0.5, 0.9, 0.6, 0.8]),
        "weight_change": np.array([2.0, 1.0, 3.0, 1.0]),
    }
    axes = laziness_figure(table).axes
    drawn = np.concatenate([line.get_ydata() for line in axes[0].lines])
    assert sorted(drawn) == [0.1, 0.2, 0.8, 0.9]
    left, right = spectra_figure({"one": np.diag([3.0, 2.0, 0.0])}).axes
    assert left.lines[0].get_ydata().tolist() == [3.0, 2.0]
    assert sorted(right.lines[0].get_xdata()) == [0.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"ranks": [0]}, "ranks"),
        ({"ranks": [13]}, "ranks"),
        ({"ranks": [4, 4]}, "ranks"),
        ({"ranks": []}, "ranks"),
        ({"g": []}, "g"),
        ({"g": [0.0]}, "g"),
        ({"leak": 0.0}, "leak"),
        ({"centred_scale": 0.0}, "centred_scale"),
        ({"dtype": "float16"}, "dtype"),
        ({"seeds": 0}, "seeds"),
        ({"kernel_trials": 0}, "kernel_trials"),
        ({"structures": {"mine": {"kind": "odd"}}}, "structures.mine.kind"),
        ({"structures": {"mine": {"sort": "dale"}}}, "structures.mine.sort"),
        ({"structures": {"mine": {"kind": "from_file", "path": "none.npy"}}}, "structures.mine.path"),
    ],
)
def test_bad_settings_are_named(options, key):
    with pytest.raises(UserError, match=f"^{key}:"):
        LeakyReluRNN(**{**SMALL, **options})


def test_data_of_another_shape_are_refused():
    with pytest.raises(UserError, match=r"^inputs: 3, but the data have 7"):
        LeakyReluRNN(**SMALL).begin(batch_of(task="cxt"))
    with pytest.raises(UserError, match=r"^outputs: 2, but the data have class 2"):
        LeakyReluRNN(**SMALL, outputs=2).begin(batch_of())
    with pytest.raises(UserError, match=r"^batch_size: 8 is not accepted; at most 3 "):
        LeakyReluRNN(**SMALL).begin(batch_of(trials=3))
    with pytest.raises(UserError, match="probe, test_x, test_y is needed too"):
        LeakyReluRNN(**SMALL).begin({"x": torch.zeros(9, 2, 3), "y": torch.zeros(9)})


def test_the_shipped_experiment_is_prepared_at_a_small_size():
    model, batch = prepared("dynamics/rich_lazy_rnn_digits", "--model.hidden=6", "--model.ranks=[1, 6]")
    found = final(model.simulate(batch, 3, [0, 3]))
    assert len(found["loss"]) == 6
    assert np.isfinite(found["kernel_alignment"]).all()
