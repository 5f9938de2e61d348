"""What other libraries raise, told as a user's mistake; and what stays a bug."""

from __future__ import annotations

import multiprocessing.reduction
import os
import re
import time
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, Dataset

from framework import library_errors
from framework.errors import RunFailed, UserError
from framework.library_errors import user_mistakes

CONFIG = {
    "seed_everything": 10**9,
    "model": {"class_path": "a.B", "init_args": {"hidden": 10**15, "layers": 2, "dropout": 0.1, "widths": [3, 7]}},
    "data": {"class_path": "c.D", "init_args": {"path": "~/files", "other": "data/x", "batch_size": 64, "layers": 3}},
    "techniques": {"lora": {"class_path": "e.F", "init_args": {"rank": 8, "scale": float("nan")}}},
}


def told(action) -> str:
    with pytest.raises(UserError) as caught, user_mistakes(CONFIG):
        action()
    return str(caught.value)


@pytest.mark.parametrize(
    ("action", "beginning"),
    [
        (lambda: torch.empty(10**15), "out of memory: 4e+06 GB could not be allocated; "),
        (lambda: np.empty(10**15), "out of memory: 7.11 PiB could not be allocated; "),
        (lambda: [0] * 10**15, "out of memory; "),
        (lambda: torch.empty(2**40, 2**40), "out of memory: a size is too large for any machine ("),
        (lambda: torch.empty(10**30), "out of memory: a size is too large for any machine ("),
        (lambda: np.empty((2**40, 2**40)), "out of memory: a size is too large for any machine ("),
        (lambda: range(10**30).__len__(), "out of memory: a size is too large for any machine ("),
    ],
)
def test_memory_that_cannot_be_had_is_said_with_the_largest_settings(action, beginning):
    said = told(action)
    assert said.startswith(beginning)
    largest = "model.hidden = 1000000000000000, data.batch_size = 64, techniques.lora.rank = 8, model.widths = 7, "
    assert said.endswith(f"the largest settings: {largest}data.layers = 3")


def test_batches_that_cannot_be_trained_on():
    said = told(lambda: torch.nn.BatchNorm1d(3)(torch.zeros(1, 3)))
    assert said.startswith("data.batch_size: a batch normalisation got one value per channel; accepted: ")
    assert told(lambda: DataLoader([], shuffle=True)) == "data: the data set is empty, 0 samples"


def test_a_validation_interval_above_the_batches_of_an_epoch(tmp_path):
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = pl.Trainer(default_root_dir=tmp_path, max_epochs=1, val_check_interval=5, **options)
    model, loader = BoringModel(), DataLoader(RandomDataset(32, 2))
    said = told(lambda: trainer.fit(model, loader, loader))
    assert said.startswith("trainer.val_check_interval: 5, but an epoch has 2 batches; accepted: at most 2, ")


def test_what_the_function_held_is_let_go_before_the_message_is_made():
    class Held:
        gone = False

        def __del__(self):
            Held.gone = True

    def allocates():
        held = Held()
        torch.empty(10**15)
        return held

    with pytest.raises(UserError), user_mistakes(CONFIG):
        allocates()
    assert Held.gone


def test_a_file_is_told_with_the_setting_that_names_it(tmp_path):
    with pytest.raises(UserError, match=r"^/no/where: No such file or directory$"), user_mistakes(CONFIG):
        Path("/no/where").read_bytes()
    assert told(Path("data/x/y.txt").read_bytes) == "data.other: data/x/y.txt: No such file or directory"
    assert told(Path("data/xy.txt").read_bytes) == "data/xy.txt: No such file or directory"
    assert told(Path("x" * 300).read_bytes) == "x" * 117 + "...: File name too long"


@pytest.mark.parametrize(
    ("message", "full"),
    [
        ("batch_size: 0 is not accepted", "data.batch_size: 0 is not accepted"),
        ("rank: 0 is not accepted", "techniques.lora.rank: 0 is not accepted"),
        ("layers: 0 is not accepted", "layers: 0 is not accepted"),  # two classes have it
        ("data/x/a.npz: not found", "data.other: data/x/a.npz: not found"),
        ("data.path: no such file", "data.path: no such file"),
        ("nothing that begins with a key", "nothing that begins with a key"),
    ],
)
def test_a_message_gets_the_full_key(message, full):
    def fails():
        raise UserError(message)

    assert told(fails) == full


def test_a_setting_that_lightning_refuses():
    def fails():
        raise MisconfigurationException("No such thing.\nMore of it.")

    assert told(fails) == "No such thing."


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("no"),
        KeyError("x"),
        OSError("odd"),
        ZeroDivisionError(),
    ],
)
def test_a_bug_stays_as_it_is(error):
    with pytest.raises(type(error)) as caught, user_mistakes(CONFIG):
        raise error
    assert caught.value is error


class Dying(Dataset):
    """Its process breaks the connection on which a tensor is handed over, and dies a moment later."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        def send_handle(connection, *_):
            connection.close()
            time.sleep(0.2)
            os._exit(7)

        multiprocessing.reduction.send_handle = send_handle
        return torch.zeros(3)


def test_any_loaders_worker_that_dies_handing_over_is_said():
    with pytest.raises(RunFailed) as caught, user_mistakes(CONFIG):
        next(iter(DataLoader(Dying(), num_workers=1)))
    assert re.match(r"DataLoader worker \(pid \d+\) exited unexpectedly with exit code 7\.", str(caught.value))
    assert "/dev/shm" in str(caught.value)


def test_an_error_while_receiving_a_batch_stays_where_no_worker_died(monkeypatch):
    monkeypatch.setattr(library_errors, "_DYING_SECONDS", 0.1)
    batches = iter(DataLoader(torch.zeros(4), num_workers=1))

    def get(timeout):
        raise EOFError("of something else")

    monkeypatch.setattr(batches._data_queue, "get", get)
    with pytest.raises(EOFError, match="of something else"), user_mistakes(CONFIG):
        next(batches)


def test_the_folder_of_an_unknown_user_is_named():
    config = {"model": {"class_path": "M", "init_args": {"path": "~nobody_here/x"}}}
    error = RuntimeError("Could not determine home directory.")
    said = library_errors.explained(error, config)
    assert said == "model.path: ~nobody_here/x starts with the folder of a user who is not known on this machine"
