"""W&B offline: the file holds what the metrics log holds, after a kill too, and W&B never stops a run."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from resume_harness import fit, in_child
from wandb_runs import offline_runs

from framework.errors import UserError
from framework.figures import new_figure, save_figure
from framework.tracking.metrics_log import read_metrics
from framework.tracking.wandb_mode import choose_mode
from framework.tracking.wandb_run import SETTINGS, WandbConfig, WandbRun, make_wandb_logger

RARE = {"every_n_seconds": None, "every_n_steps": 4}


def logger(folder: Path, **config) -> WandbRun:
    made = make_wandb_logger(WandbConfig(**config), folder, "abc123", "a name", {"model": {"rank": 4}, "lr": 0.1})
    assert isinstance(made, WandbRun)
    return made


def train(folder: Path, **kwargs) -> None:
    run = logger(folder, group="g", tags=["t"])
    code = 1
    try:
        fit(folder, loggers=[run], point=RARE, **kwargs)
        code = 0
    finally:
        run.close(code)


def sent(folder: Path) -> dict[tuple[int, str], float]:
    """The values by step and name in the union of all offline folders."""
    return {
        (row["trainer/global_step"], name): value
        for run in offline_runs(folder)
        for row in run.history
        for name, value in row.items()
        if not name.startswith("_") and name != "trainer/global_step"
    }


def logged(folder: Path) -> dict[tuple[int, str], float]:
    return {(r["step"], name): v for r in read_metrics(folder) for name, v in r.items() if name != "step"}


def test_killed_three_times_no_row_is_missing(tmp_path, capfd):
    assert in_child(lambda: train(tmp_path, kill=("on_train_batch_start", 7))) == 137
    assert in_child(lambda: train(tmp_path, kill=("on_train_batch_start", 9), resume=True)) == 137
    assert in_child(lambda: train(tmp_path, resume=True)) == 0
    runs = offline_runs(tmp_path)
    assert {run.run_id for run in runs} - {None} == {"abc123"}  # older versions leave an empty file behind a kill
    assert [run.exit_code for run in runs] == [None, None, 0]
    assert runs[-1].config["model"] == {"rank": 4}
    assert (runs[-1].group, runs[-1].tags, runs[-1].project) == ("g", ["t"], "framework")
    assert sent(tmp_path) == logged(tmp_path)
    for run in runs:
        steps = [row["_step"] for row in run.history]
        assert steps == sorted(steps)
    (line, *_) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("W&B")]
    assert "wandb sync" in line


def test_an_exception_ends_the_run_with_its_code(tmp_path):
    def broken() -> None:
        run = logger(tmp_path)
        try:
            run.log_metrics({"a": 1.0}, 3)
            run.log_metrics({"b": 2.0}, 1)  # an earlier step: the row is not lost for that
            run.log_metrics({"c": 3.0})
        finally:
            run.finalize("failed")
            run.close(0)

    assert in_child(broken) == 0
    (run,) = offline_runs(tmp_path)
    assert run.exit_code == 1
    rows = [{key: row.get(key) for key in ("a", "b", "c", "trainer/global_step", "_step")} for row in run.history]
    assert rows == [
        {"a": 1.0, "b": None, "c": None, "trainer/global_step": 3, "_step": 0},
        {"a": None, "b": 2.0, "c": None, "trainer/global_step": 1, "_step": 1},
        {"a": None, "b": None, "c": 3.0, "trainer/global_step": 1, "_step": 2},
    ]


def test_rows_reach_the_disk_within_seconds(tmp_path):
    if "x_transaction_log_flush_interval" not in __import__("wandb").Settings.model_fields:
        pytest.skip("this wandb has no such setting: after a kill the rows are sent again")

    def killed() -> None:
        run = logger(tmp_path)
        for step in range(5):
            run.log_metrics({"a": float(step)}, step)
        time.sleep(2.5)
        os.kill(os.getpid(), 9)

    assert in_child(killed) == 137
    (run,) = offline_runs(tmp_path)
    assert [row["a"] for row in run.history] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_images(tmp_path):
    def images() -> None:
        run = logger(tmp_path)
        path = save_figure(new_figure(), tmp_path / "figures" / "a.png")
        run.log_image(key="figures/a", images=[str(path)], step=2)
        run.close(0)

    assert in_child(images) == 0
    (run,) = offline_runs(tmp_path)
    assert any(name.startswith("figures/a") for row in run.history for name in row)
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/figures/*.png"))


def test_no_network_falls_back_to_offline(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setitem(SETTINGS, "init_timeout", 2.0)

    def run() -> None:
        run = logger(tmp_path)
        run.log_metrics({"a": 1.0}, 0)
        run.close(0)

    assert in_child(run) == 0
    assert "W&B offline run (the server cannot be reached" in capfd.readouterr().out
    assert sent(tmp_path) == {(0, "a"): 1.0}


def test_settings_are_known():
    import wandb

    known = wandb.Settings.model_fields
    new = {"x_transaction_log_flush_interval"}  # not in every version that is supported
    assert set(SETTINGS) - new <= set(known)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "offline"),
        ({"WANDB_MODE": "offline", "WANDB_API_KEY": "x"}, "offline"),
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": "disabled"}, "disabled"),
        ({"WANDB_API_KEY": "x"}, "online"),
        ({"WANDB_MODE": "online", "WANDB_API_KEY": "x"}, "online"),
        ({"WANDB_MODE": "online"}, "offline"),  # it would ask for a login
        ({"WANDB_IDENTITY_TOKEN_FILE": "f"}, "online"),
    ],
)
def test_auto(tmp_path, environment, expected):
    assert choose_mode("auto", {"HOME": str(tmp_path), **environment})[0] == expected


def test_netrc(tmp_path):
    environment = {"HOME": str(tmp_path)}
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password x\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert choose_mode("auto", environment)[0] == "online"
    assert choose_mode("auto", environment | {"WANDB_BASE_URL": "https://other.example"})[0] == "offline"
    assert choose_mode("offline", environment)[0] == "offline"
    (tmp_path / ".netrc").write_text("nonsense")
    assert choose_mode("auto", environment)[0] == "offline"


def test_disabled_is_no_logger(tmp_path):
    assert make_wandb_logger(WandbConfig(mode="disabled"), tmp_path, "r", "n", {}) is None


def test_an_unknown_mode_is_refused():
    with pytest.raises(UserError, match=r"wandb\.mode"):
        WandbConfig(mode="on")


def test_wandb_is_imported_only_when_a_run_starts(tmp_path):
    def make() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "wandb"]:
            del sys.modules[name]
        logger(tmp_path, mode="offline")
        assert "wandb" not in sys.modules

    assert in_child(make) == 0


def test_under_an_agent_the_sweep_decides_where_the_run_belongs(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep123")
    monkeypatch.setenv("WANDB_RUN_ID", "agents")
    monkeypatch.delenv("WANDB_SILENT", raising=False)

    def run() -> None:
        run = logger(tmp_path)
        run.log_metrics({"a": 1.0}, 0)
        run.close(0)

    assert in_child(run) == 0
    (found,) = offline_runs(tmp_path)
    assert (found.run_id, found.sweep_id, found.history[0]["a"]) == ("agents", "sweep123", 1.0)
    out = capfd.readouterr()
    assert "gnoring" not in out.out + out.err
