"""Two tasks: formats, the generated default, and what the loaders hold."""

import numpy as np
import pytest
import torch

from datamodules.finetuning.two_task import TwoTask, mnist1d, read_task, transformed
from framework.errors import UserError

RNG = np.random.default_rng(0)
ARRAYS = {
    "x": RNG.normal(size=(10, 4)),
    "y": np.arange(10) % 3,
    "x_test": RNG.normal(size=(5, 4)),
    "y_test": np.arange(5) % 3,
}


def test_the_default_is_mnist1d_and_its_reversal():
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    data = TwoTask(num_samples=200, batch_size=16)
    data.setup()
    data.setup()
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    assert data.task_a["x"].shape == (160, 40)
    assert torch.equal(data.task_b["x"], data.task_a["x"].flip(-1))
    assert torch.equal(data.task_b["y_test"], data.task_a["y_test"])
    assert (data.num_classes, data.d_input) == (10, 40)
    a, b, fitted = data.val_dataloader()
    assert torch.equal(torch.cat([x for x, _ in a]), data.task_a["x_test"])
    assert torch.equal(torch.cat([x for x, _ in b]), data.task_b["x_test"])
    assert torch.equal(torch.cat([x for x, _ in fitted]), data.task_b["x"])
    assert len(data.test_dataloader()) == 2
    seen = torch.cat([x for x, _ in data.train_dataloader()])
    assert not torch.equal(seen, data.task_b["x"])
    assert torch.equal(seen.sort(0).values, data.task_b["x"].sort(0).values)
    assert seen.dtype == torch.float32
    assert data.task_a["y"].dtype == torch.int64
    assert all((mnist1d(200)[part] == mnist1d(200)[part]).all() for part in ("x", "y_test"))


def test_files_of_each_format(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    table = np.column_stack([ARRAYS["x"], ARRAYS["y"]])
    np.savetxt(tmp_path / "b.csv", table, delimiter=",", header="u,v,w,z,label", comments="")
    data = TwoTask(str(tmp_path / "a.npz"), str(tmp_path / "b.csv"), test_fraction=0.3, num_classes=3, d_input=4)
    data.setup()
    torch.testing.assert_close(data.task_a["x"], torch.tensor(ARRAYS["x"], dtype=torch.float32))
    assert len(data.task_b["x"]) == 7
    joined = torch.cat([data.task_b["x"], data.task_b["x_test"]])
    torch.testing.assert_close(joined.sort(0).values, torch.tensor(ARRAYS["x"], dtype=torch.float32).sort(0).values)
    assert sorted(torch.cat([data.task_b["y"], data.task_b["y_test"]]).tolist()) == sorted(ARRAYS["y"].tolist())


def test_the_labels_stay_with_their_samples():
    x = np.arange(50.0)[:, None]
    task = read_task({"x": x, "y": np.arange(50)}, test_fraction=0.4, split_seed=3)
    for part in ("", "_test"):
        assert (task[f"x{part}"][:, 0] == task[f"y{part}"]).all()
    assert len(task["y_test"]) == 20
    assert set(task["y"]) | set(task["y_test"]) == set(range(50))


def test_transforms():
    task = {"x": np.arange(12.0).reshape(2, 6), "y": np.zeros(2)}
    assert transformed(task, "reverse")["x"][0].tolist() == [5, 4, 3, 2, 1, 0]
    permuted = transformed(task, "permute", 1)["x"]
    assert sorted(permuted[0]) == sorted(task["x"][0])
    assert (permuted[1] - permuted[0] == 6).all()
    assert (transformed(task, "none")["x"] == task["x"]).all()


BAD = {
    "missing": ("nowhere.npz", "nowhere.npz: not found"),
    "suffix": ("a.txt", "ending in .npz, .csv or .tsv"),
    "broken": ("broken.npz", "broken.npz: cannot be read"),
    "text": ("text.csv", "text.csv, line 3: 'cat' is not a number"),
    "empty": ("empty.csv", "empty.csv: has no rows of numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_named(case, tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no")
    (tmp_path / "text.csv").write_text("a,b\n1,2\n3,cat\n")
    (tmp_path / "empty.csv").write_text("")
    name, said = BAD[case]
    with pytest.raises(UserError, match=said):
        read_task(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"y": None}, "no array 'y'"),
        ({"y_test": None}, "both are needed"),
        ({"y": np.arange(9)}, "shape"),
        ({"y": np.full(10, 0.5)}, "whole numbers"),
        ({"y": np.full(10, -1)}, "whole numbers"),
        ({"x": np.full((10, 4), np.nan)}, "40 of 40 values of x are not finite"),
        ({"x": np.full((10, 4), "cat")}, "x holds str96; real numbers"),
        ({"x_test": np.zeros((5, 3))}, "x_test"),
        ({"x": np.zeros(10)}, "shape"),
    ],
)
def test_bad_arrays_are_refused(change, said):
    arrays = {key: value for key, value in {**ARRAYS, **change}.items() if value is not None}
    with pytest.raises(UserError, match=said):
        read_task(arrays)


def test_declarations_and_settings_are_checked():
    with pytest.raises(UserError, match=r"data\.num_classes: 4 was given, the tasks have 3"):
        TwoTask(ARRAYS, num_classes=4).setup()
    with pytest.raises(UserError, match=r"task_b: its samples have shape \(3,\)"):
        TwoTask(ARRAYS, {**ARRAYS, "x": np.zeros((10, 3)), "x_test": np.zeros((5, 3))}).setup()
    with pytest.raises(UserError, match="one of reverse, permute, none"):
        TwoTask(transform="flip")
    with pytest.raises(UserError, match="test_fraction"):
        TwoTask(test_fraction=1.0)
    with pytest.raises(UserError, match="num_samples"):
        TwoTask(num_samples=10)
