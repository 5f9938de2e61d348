from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import pytest

from framework.__main__ import main
from framework.config import yaml12


def make(folder: str, seed: int, lr: float, values: list[float]) -> None:
    place = Path(folder)
    place.mkdir(parents=True)
    tree = {
        "seed_everything": seed,
        "model": {"class_path": "a.B", "init_args": {"lr": lr}},
        "run": {"method": "toy", "name": None},
    }
    (place / "config.yaml").write_text(yaml12.dump(tree))
    rows = [json.dumps({"step": step, "epoch": 0, "val/accuracy": value}) for step, value in enumerate(values)]
    (place / "metrics.jsonl").write_text("\n".join(rows) + "\n")


@pytest.fixture
def runs():
    for seed, gap in enumerate([0.1, 0.2, 0.4]):
        make(f"runs/toy/a{seed}", seed, 0.1, [0.2, 0.9, 0.5 + 0.01 * seed])
        make(f"runs/toy/b{seed}", seed, 0.2, [0.2, 0.6, 0.5 + 0.01 * seed + gap])
    # an evaluation inside a run is not a run of its own
    make("runs/toy/a0/test", 0, 0.1, [0.0])


def rows(*arguments: str) -> list[dict]:
    assert main(["compare", *arguments, "--json", "out.json"]) == 0
    return json.loads(Path("out.json").read_text())


def test_groups_by_what_differs_and_pairs_by_seed(runs, capsys):
    first, second = rows()
    assert (first["group"], second["group"]) == ("model.lr=0.1", "model.lr=0.2")
    assert first["runs"] == second["runs"] == 3
    assert first["mean"] == pytest.approx(0.51)
    assert first["std"] == pytest.approx(0.01)
    gaps = [0.1, 0.2, 0.4]
    assert second["difference"] == pytest.approx(statistics.fmean(gaps))
    assert second["standard_error"] == pytest.approx(statistics.stdev(gaps) / math.sqrt(3))
    printed = capsys.readouterr().out
    assert "0.51 ± 0.01" in printed
    assert Path("runs/compare.png").stat().st_size > 5000


def test_the_best_value_instead_of_the_last(runs):
    assert [row["mean"] for row in rows("--best", "max")] == pytest.approx([0.9, (0.6 + 0.71 + 0.92) / 3])


def test_single_folders_and_an_explicit_key(runs):
    (only,) = rows("runs/toy/a0", "runs/toy/a1", "--by", "model.lr", "--metric=val/accuracy")
    assert only["group"] == "model.lr=0.1"
    assert only["values"] == {"0": 0.5, "1": 0.51}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "no folder nowhere"),
        (["--metric", "val/acc"], "no run logged val/acc; logged: val/accuracy"),
        (["--by", "model.l"], "nearest: model.lr"),
        (["--best=mean"], "min or max is needed"),
        (["--what"], "compare: --what is not accepted"),
        (["--metric"], "--metric needs a value"),
    ],
)
def test_mistakes(runs, capsys, arguments, said):
    assert main(["compare", *arguments]) == 2
    assert said in capsys.readouterr().err
