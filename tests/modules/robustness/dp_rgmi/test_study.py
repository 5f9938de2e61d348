"""The study of runs: rows, order, associations, files, and runs that cannot be compared."""

import csv
import json

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from framework.config.yaml12 import dump
from framework.errors import UserError
from modules.robustness.dp_rgmi.study import associations, main, read_checkpoint, read_checkpoints, write_study

PRIVACY = {
    "none": None,
    "clipped": {"init_args": {"epsilon": None, "noise_multiplier": 0}},
    "8": {"init_args": {"epsilon": 8, "noise_multiplier": None}},
    "0.5": {"init_args": {"epsilon": 0.5}},
}


def write_run(folder, privacy="8", public="photographs", seed=0, end=0.8, probe=0.9, sha="a", weights=None, moved=0.5):
    folder.mkdir(parents=True)
    config = {
        "seed_everything": seed,
        "model": {"class_path": "m", "init_args": {"weights": weights, "pretrain_epochs": 6}},
        "data": {"class_path": "d", "init_args": {"public": public}},
        "techniques": {"dp_sgd": PRIVACY[privacy]},
    }
    (folder / "config.yaml").write_text(dump(config))
    start = {"epoch": 0, "step": 0}
    last = {"epoch": 15, "step": 9, "bootstrap": {"sha256": sha}}
    interval = {"low": probe - end - 0.01, "high": probe - end + 0.01}
    gap = [
        {**start, "end_to_end": 0.5, "probe": 0.7, "gap": 0.2},
        {**last, "end_to_end": end, "probe": probe, "gap": probe - end, "intervals": {"gap": interval}},
    ]
    geometry = [
        {**start, "effective_dimension": 3.0, "displacement": 0.0},
        {**last, "effective_dimension": 4.0, "displacement": moved, "eigenvalues": [0.4, 0.1, 0.0]},
    ]
    for name, rows in (("utilization_gap", gap), ("representation_geometry", geometry)):
        (folder / f"{name}.json").write_text(json.dumps({"rows": rows}))


def test_a_run_is_read_with_its_start_and_budget(tmp_path):
    write_run(tmp_path / "a", seed=3)
    found = read_checkpoint(tmp_path / "a")
    assert (found.start, found.privacy, found.epsilon, found.seed) == ("photographs", "8", 8.0, 3)
    assert (found.end_to_end, found.probe, found.probe_at_start) == (0.8, 0.9, 0.7)
    assert found.gap == pytest.approx(0.1)
    assert (found.displacement, found.effective_dimension, found.effective_dimension_at_start) == (0.5, 4.0, 3.0)
    assert found.spectrum == (0.4, 0.1, 0.0)
    write_run(tmp_path / "b", "clipped", public="none")
    other = read_checkpoint(tmp_path / "b")
    assert (other.start, other.privacy, other.epsilon) == ("random", "clipped", np.inf)
    write_run(tmp_path / "c", "none", public="none", weights="/here/fashion.pt")
    assert read_checkpoint(tmp_path / "c").start == "fashion"


def test_runs_are_ordered_by_start_budget_and_seed(tmp_path):
    for number, (privacy, seed) in enumerate([("0.5", 0), ("none", 1), ("8", 0), ("clipped", 0), ("none", 0)]):
        write_run(tmp_path / str(number), privacy, seed=seed)
    found = [(c.privacy, c.seed) for c in read_checkpoints(tmp_path)]
    assert found == [("none", 0), ("none", 1), ("clipped", 0), ("8", 0), ("0.5", 0)]


def test_associations_are_scipys(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(9):
        write_run(tmp_path / str(number), end=rng.uniform(0.6, 0.9), moved=rng.uniform(), seed=number)
    found = read_checkpoints(tmp_path)
    u = [c.end_to_end for c in found]
    gap, moved, dimension = associations(found)
    assert gap.spearman == pytest.approx(spearmanr(u, [c.gap for c in found]).statistic)
    assert gap.spearman == pytest.approx(-1)
    assert moved.spearman == pytest.approx(spearmanr(u, [c.displacement for c in found]).statistic)
    assert moved.pearson == pytest.approx(pearsonr(u, [c.displacement for c in found]).statistic)
    assert moved.spearman_interval[0] <= moved.spearman <= moved.spearman_interval[1]
    assert np.isnan(dimension.spearman)  # all are 4


def test_tables_and_figures(tmp_path, capsys):
    for number, (privacy, end) in enumerate((("none", 0.95), ("clipped", 0.9), ("8", 0.8), ("0.5", 0.7))):
        write_run(tmp_path / "trials" / str(number), privacy, end=end, moved=end / 2)
        write_run(tmp_path / "trials" / f"r{number}", privacy, public="none", end=end - 0.05, moved=end / 3)
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "not part of a differentially private release" in said
    rows = list(csv.DictReader((tmp_path / "dp_rgmi.csv").open()))
    assert len(rows) == 8
    assert rows[0]["privacy"] == "none"
    assert float(rows[0]["gap"]) == pytest.approx(-0.05)
    for name in ("budgets", "geometry", "spectra", "associations"):
        assert (tmp_path / "figures" / f"{name}.png").is_file()
    assert write_study(tmp_path / "again", read_checkpoints(tmp_path))


def test_a_sweep_that_has_not_ended(tmp_path, capsys):
    """Trials that run yet, that stopped between their reports, and that diverged."""
    for number, end in enumerate((0.95, 0.9, 0.8, 0.7)):
        write_run(tmp_path / str(number), end=end, moved=end**2, seed=number)
    (tmp_path / "running").mkdir()
    (tmp_path / "running" / "config.yaml").write_text("model: {}\n")
    write_run(tmp_path / "stopped", seed=8)
    (tmp_path / "stopped" / "representation_geometry.json").unlink()
    write_run(tmp_path / "diverged", seed=9)
    for name, keys in (
        ("utilization_gap", ("end_to_end", "probe", "gap")),
        ("representation_geometry", ("displacement", "effective_dimension")),
    ):
        file = tmp_path / "diverged" / f"{name}.json"
        rows = json.loads(file.read_text())["rows"]
        rows[-1].update(dict.fromkeys(keys))
        if "intervals" in rows[-1]:
            rows[-1]["intervals"]["gap"] = {"low": None, "high": None}
        rows[-1].pop("displacement", None)
        file.write_text(json.dumps({"rows": rows}))
    assert main([str(tmp_path)]) == 0
    assert f"left out: {tmp_path / 'stopped'} has no representation_geometry.json" in capsys.readouterr().err
    found = read_checkpoints(tmp_path)
    assert [c.seed for c in found] == [0, 1, 2, 3, 9]
    assert associations(found)[0] == associations(found[:4])[0]
    assert associations(found)[1].spearman == pytest.approx(1)
    assert np.isnan(associations(found[4:])[0].spearman)
    for run in ("0", "1", "2", "3", "diverged"):
        (tmp_path / run / "utilization_gap.json").unlink()
    with pytest.raises(UserError, match="no run in it has both utilization_gap"):
        read_checkpoints(tmp_path)


def test_other_resamples_cannot_be_paired(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", seed=1, sha="b")
    with pytest.raises(UserError, match="measured on other resamples than"):
        read_checkpoints(tmp_path)


def test_what_is_missing_is_named(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "no run in it has a utilization_gap.json" in capsys.readouterr().err
    write_run(tmp_path / "a")
    (tmp_path / "a" / "utilization_gap.json").write_text("{}")
    with pytest.raises(UserError, match=r"utilization_gap\.json: not a report of a training: KeyError: 'rows'"):
        read_checkpoints(tmp_path)
    (tmp_path / "a" / "utilization_gap.json").write_text('{"rows": []}')
    with pytest.raises(UserError, match=r"utilization_gap\.json: not a report of a training: it has no rows"):
        read_checkpoints(tmp_path)
