"""Prompts in batches: drawn again by number, fresh in each epoch, and read from files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.in_context.law import real_rows
from datamodules.in_context.prompt_files import read_prompts
from datamodules.in_context.prompts import Prompts
from framework.errors import UserError
from framework.protocols import HandsOutPrompts


def batches(data, loader):
    return [data.on_after_batch_transfer(request, 0) for request in loader]


def prepared(**options):
    data = Prompts(**{"batch_size": 3, "inner_steps": 2, "batches": 2, "eval_prompts": 20, **options})
    data.setup("fit")
    return data


class Epoch:
    """As much of a Trainer as drawing looks at."""

    def __init__(self, current_epoch=0, global_step=0):
        self.current_epoch, self.global_step, self.world_size, self.global_rank = current_epoch, global_step, 1, 0


def test_shapes_and_lengths():
    data = prepared(length=8)
    assert isinstance(data, HandsOutPrompts)
    train = batches(data, data.train_dataloader())
    assert [batch["x"].shape for batch in train] == [(2, 3, 9, 5)] * 2
    assert [batch["y"].shape for batch in train] == [(2, 3, 9, 1)] * 2
    assert [batch["x"].shape[1] for batch in batches(data, data.val_dataloader())] == [3, 9, 33]
    assert sum(len(batch["x"]) for batch in batches(data, data.test_dataloader())) == 3 * 200


def test_batches_are_functions_of_seed_epoch_and_number():
    first, again, other = prepared(), prepared(), prepared(seed=1)
    requests = list(first.train_dataloader())
    for data in (first, again, other):
        data.trainer = Epoch()
    drawn = [[data.on_after_batch_transfer(request, 0)["x"] for request in requests] for data in (first, again, other)]
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not torch.equal(drawn[0][0], drawn[2][0])
    assert not torch.equal(drawn[0][0], drawn[0][1])
    again.trainer = Epoch(current_epoch=1)
    assert not torch.equal(drawn[0][0], again.on_after_batch_transfer(requests[0], 0)["x"])
    again.trainer = None


def test_streams_do_not_meet():
    data = prepared(eval_lengths=[20], eval_prompts=6)
    train = batches(data, data.train_dataloader())[0]["x"].flatten(0, 1)
    val, test = (batches(data, loader)[0]["x"] for loader in (data.val_dataloader(), data.test_dataloader()))
    other = data.draw(6, 20)["x"]
    for a, b in ((train, val), (val, test[:6]), (test[:6], other), (train, other)):
        assert not torch.isclose(a, b).all(-1).any()


def test_the_curriculum_grows_dimensions_and_lengths():
    data = prepared(dim=8, length=20, curriculum=4)
    request = next(iter(data.train_dataloader()))
    for steps, active, length in ((0, 5, 10), (2, 6, 12), (100, 8, 20)):
        data.trainer = Epoch(global_step=steps)
        x = data.on_after_batch_transfer(request, 0)["x"]
        assert x.shape[2] == length + 1
        assert int((x.abs().amax((0, 1, 2)) > 0).sum()) == active
    data.trainer = None


def test_a_mean_by_its_norm_or_by_its_entries():
    assert prepared(law={"prior_mean": 2.0}).law.task_mean.norm().item() == pytest.approx(2.0)
    assert prepared(dim=2, law={"prior_mean": [1.0, -1.0]}).law.task_mean.tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize("whiten", [False, True])
def test_real_rows_are_standardised(whiten):
    rows = real_rows("diabetes", whiten)
    assert rows.shape == (442, 10)
    assert torch.allclose(rows.mean(0), torch.zeros(10, dtype=torch.float64), atol=1e-9)
    gram = rows.T @ rows / len(rows)
    assert torch.allclose(gram.diagonal(), torch.ones(10, dtype=torch.float64))
    assert torch.allclose(gram, torch.eye(10, dtype=torch.float64), atol=1e-6) == whiten


def write(path, form, prompts=20, length=4, dim=3):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(prompts, length + 1, dim)), rng.normal(size=(prompts, length + 1))
    if form == "whole":
        np.savez(path, X=x, y=y)
    elif form == "apart":
        np.savez(path, X=x[:, :-1], y=y[:, :-1], xq=x[:, -1], yq=y[:, -1])
    else:
        z = np.concatenate([x, y[..., None]], 2)
        np.savez(path, z=z[:, :-1], zq=np.concatenate([x[:, -1:], np.zeros((prompts, 1, 1))], 2), yq=y[:, -1:])
    return x, y


@pytest.mark.parametrize("form", ["whole", "apart", "tokens"])
def test_files_in_each_form_hold_the_same(tmp_path, form):
    x, y = write(tmp_path / "prompts.npz", form)
    found = read_prompts(tmp_path / "prompts.npz")
    np.testing.assert_allclose(found[0].numpy(), x, rtol=1e-6)
    np.testing.assert_allclose(found[1][..., 0].numpy(), y, rtol=1e-6)


def test_a_file_trains_on_most_of_it_and_evaluates_on_the_rest(tmp_path):
    x, _ = write(tmp_path / "prompts.npz", "whole")
    data = prepared(path=str(tmp_path / "prompts.npz"), dim=3)
    (val,) = batches(data, data.val_dataloader())
    np.testing.assert_allclose(val["x"].numpy(), x[18:], rtol=1e-6)
    seen = torch.cat([batch["x"].flatten(0, 1) for batch in batches(data, data.train_dataloader())])
    kept = torch.as_tensor(x[:18], dtype=torch.float32)
    assert all(any(torch.equal(row, other) for other in kept) for row in seen)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dim": 0}, "dim: 0"),
        ({"law": {"noise": -1.0}}, "law.noise: -1.0"),
        ({"law": {"covariance": "arr"}}, "law.covariance: 'arr' is not one of identity, ar"),
        ({"source": "iris"}, "source: 'iris'"),
        ({"law": {"function": "cube"}}, "law.function: 'cube'"),
        ({"eval_lengths": []}, "eval_lengths"),
        ({"law": {"scale": 0.0}}, "law.scale: 0.0"),
    ],
)
def test_bad_settings_are_named(options, said):
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        Prompts(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"law": {"covariance": "ar", "correlation": 1.0}}, "correlation: 1.0"),
        ({"law": {"eigenvalues": [1.0, 2.0]}}, "law.eigenvalues"),
        ({"law": {"prior_mean": [1.0]}}, "law.prior_mean"),
        ({"law": {"blocks": [[0, 9]]}}, "law.blocks"),
        ({"source": "diabetes"}, "dim: 5 is not accepted; diabetes has 10 columns"),
        ({"path": "nowhere.npz"}, "nowhere.npz: not found"),
    ],
)
def test_settings_that_do_not_fit_together_are_named(options, said):
    with pytest.raises(UserError, match=said):
        prepared(**options)


def test_broken_files_are_named(tmp_path):
    path = tmp_path / "prompts.npz"
    for arrays in (
        {"X": np.zeros((20, 3))},
        {"X": np.zeros((20, 5, 3)), "y": np.zeros((20, 4))},
        {"other": np.zeros(3)},
    ):
        np.savez(path, **arrays)
        with pytest.raises(UserError, match=r"prompts\.npz: .* expected"):
            read_prompts(path)
    path.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(UserError, match="cannot be read"):
        read_prompts(path)
    write(path, "whole", dim=4)
    with pytest.raises(UserError, match="d = 4"):
        prepared(path=str(path), dim=3)
