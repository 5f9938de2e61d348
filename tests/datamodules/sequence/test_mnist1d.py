"""MNIST-1D: generated as its authors do, read from their file, refused where it is broken."""

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.sequence.mnist1d import Mnist1D, generate_mnist1d, read_mnist1d
from framework.data.seeding import seed_generators
from framework.errors import UserError


def small(**settings):
    data = Mnist1D(**{"samples": 60, "batch_size": 8, **settings})
    data.setup("fit")
    return data


def test_it_is_what_the_authors_package_makes():
    from mnist1d.data import get_dataset_args, make_dataset

    settings = get_dataset_args()
    settings.num_samples = 100
    expected = make_dataset(settings)
    found = generate_mnist1d(samples=100)
    for name, array in found.items():
        assert np.array_equal(array, expected[name].astype(array.dtype))
    assert found["x"].dtype == np.float32
    assert found["x"].shape == (80, 40)


def test_generating_leaves_the_generators_as_they_were():
    seed_generators(1)
    expected = np.random.rand(), random.random(), torch.rand(())  # noqa: NPY002
    seed_generators(1)
    generate_mnist1d(samples=20)
    assert (np.random.rand(), random.random(), torch.rand(())) == expected  # noqa: NPY002


def test_batches_and_parts():
    data = small(test_fraction=0.6667, as_sequence=True, val_fraction=0.5)
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [10, 10, 40]
    x, y = next(iter(data.train_dataloader()))
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((8, 40, 1), torch.float32, (8,), torch.int64)
    plain = small()
    assert plain.val_set is plain.test_set
    assert plain.train_set.tensors[0].shape == (48, 40)
    assert torch.equal(small(seed=3).train_set.tensors[0], small(seed=3).train_set.tensors[0])
    assert not torch.equal(small(seed=3).train_set.tensors[0], plain.train_set.tensors[0])


def write(path, drop=(), **changes):
    rng = np.random.default_rng(0)
    content = {
        "x": rng.standard_normal((12, 40)),
        "x_test": rng.standard_normal((4, 40)),
        "y": np.arange(12) % 10,
        "y_test": np.arange(4),
        "t": np.linspace(0, 1, 40),
        "templates": {"x": np.zeros((10, 12)), "y": np.arange(10)},
        **changes,
    }
    content = {key: value for key, value in content.items() if key not in drop}
    if path.suffix == ".npz":
        np.savez(path, **{key: value for key, value in content.items() if key != "templates"})
    else:
        path.write_bytes(pickle.dumps(content, protocol=3))  # the authors' protocol
    return content


@pytest.mark.parametrize("name", ["mnist1d_data.pkl", "mnist1d.npz"])
def test_the_authors_file_is_read(tmp_path, name):
    content = write(tmp_path / name)
    data = small(path=str(tmp_path / name))
    x, y = data.train_set.tensors
    assert np.array_equal(x.numpy(), content["x"].astype(np.float32))
    assert np.array_equal(y.numpy(), content["y"])
    assert len(data.test_set) == 4


class Hostile:
    def __reduce__(self):
        return Path.mkdir, (Path("trap"),)


def test_broken_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.pkl: not found"):
        read_mnist1d(tmp_path / "none.pkl")
    for name in ("a.pkl", "a.npz"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(UserError, match=r"mnist1d_data\.pkl or an \.npz"):
            read_mnist1d(tmp_path / name)
    write(tmp_path / "b.pkl", drop=["y_test"])
    with pytest.raises(UserError, match="lacks y_test"):
        read_mnist1d(tmp_path / "b.pkl")
    write(tmp_path / "c.pkl", y=np.arange(12))
    with pytest.raises(UserError, match="y\[10\] is 10; whole numbers from 0 to 9"):
        read_mnist1d(tmp_path / "c.pkl")
    write(tmp_path / "d.npz", x=np.zeros((3, 40)))
    with pytest.raises(UserError, match=r"y has the shape \(12,\)"):
        read_mnist1d(tmp_path / "d.npz")
    write(tmp_path / "e.pkl", x=Hostile())
    with pytest.raises(UserError, match=r"it names .*, which is not data"):
        read_mnist1d(tmp_path / "e.pkl")
    assert not Path("trap").exists()
    write(tmp_path / "f.npz", x=np.zeros((12, 30)), x_test=np.zeros((4, 30)))
    with pytest.raises(UserError, match="length: 40 declared, the signals have 30"):
        small(path=str(tmp_path / "f.npz"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 55}, "samples: 55"),
        ({"test_fraction": 1.0}, "test_fraction: 1.0"),
        ({"val_fraction": 1.0}, "val_fraction: 1.0"),
        ({"num_classes": 7}, "num_classes: 7 declared, MNIST-1D has 10"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        Mnist1D(**settings)
