from __future__ import annotations

import json
import math
import sys
import types
from pathlib import Path

import pytest

from framework.__main__ import main
from framework.claims import Claim, Reproduction, at_least, at_most, close_to, over_seeds, reproduce, within
from framework.figures import new_figure


@pytest.mark.parametrize(
    ("bound", "good", "bad"),
    [
        (at_most(1), 1, 1.01), (at_least(1), 1, 0.99), (within(0, 1), 0.5, -0.1), (close_to(2, absolute=0.1), 2.1 - 1e-12, 2.2),
        (close_to(2, relative=0.1), 1.81, 1.7), (close_to(-2, relative=0.1), -1.81, -1.7),
    ],
)  # fmt: skip
def test_a_bound_holds_or_not(bound, good, bad):
    assert Claim("c", "p", good, bound).holds
    assert not Claim("c", "p", bad, bound).holds
    assert not Claim("c", "p", math.nan, bound).holds


def test_a_claim_over_seeds_is_judged_by_one_number_and_keeps_all():
    claim = over_seeds("c", "p", [0.5, 1.0, 3.0], at_most(2))
    assert (claim.measured, claim.seeds, claim.values) == (1.5, 3, (0.5, 1.0, 3.0))
    assert claim.holds
    assert not over_seeds("c", "p", [0.5, 1.0, 3.0], at_most(2), by=max).holds
    for by in (min, max):
        assert not over_seeds("c", "p", [0.5, math.nan], at_most(2), by=by).holds


@pytest.fixture
def toy(monkeypatch):
    """A method called toy whose claims are given by the test."""
    module = types.ModuleType("toy_claims")
    monkeypatch.setitem(sys.modules, "toy_claims", module)
    monkeypatch.setattr(reproduce, "claims_modules", lambda: {"toy": "toy_claims"})

    def claims(run):
        figure = new_figure()
        figure.axes[0].plot([1, 2])
        run.figure("curve", figure)
        yield from module.yields

    module.claims = claims
    return module


def test_it_prints_a_table_writes_json_and_exits_by_the_verdict(toy, capsys):
    toy.yields = [
        Claim("one", "1.0", 1.0, at_most(1), details={"seeds": [1, 2]}),
        Claim("two", "2", 2.0, at_least(1), scale="small"),
    ]
    assert main(["reproduce", "toy", "--json", "out.json"]) == 0
    printed = capsys.readouterr().out
    assert "one" in printed
    assert "1 of 1 reproduced" in printed
    (report,) = json.loads(Path("out.json").read_text())
    assert report["holds"] is True
    assert report["claims"][0]["details"] == {"seeds": [1, 2]}
    assert report["claims"][1]["scale"] == "small"
    assert Path(report["figures"][0]).is_file()
    assert json.loads(Path("runs/reproduce/toy/claims.json").read_text()) == report


def test_the_range_over_seeds_is_shown_and_kept(toy, capsys):
    toy.yields = [over_seeds("one", "1.0", [0.5, 0.25, 1.5], at_most(1)), Claim("two", "2", 2.0, at_least(1))]
    main(["reproduce", "toy", "--json", "out.json", "--page", "results.md"])
    printed = capsys.readouterr().out
    assert printed.count("0.75 (0.25 to 1.5)") == 2, "as it is measured, and in the table"
    assert "0.75 (0.25 to 1.5)" in Path("results.md").read_text()
    first, second = json.loads(Path("out.json").read_text())[0]["claims"]
    assert first["values"] == [0.5, 0.25, 1.5]
    assert first["seeds"] == 3
    assert "values" not in second


@pytest.mark.release
def test_runs_side_by_side_give_the_numbers_of_runs_in_turn(monkeypatch):
    run = Reproduction(Path("claims"))
    small = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"]
    runs = [[*small, f"--seed_everything={seed}"] for seed in (1, 2)]
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    found = run.fits("vision/image_classifier_digits", runs)
    assert found[1] == run.fit("vision/image_classifier_digits", *runs[1])
    assert found[0]["val/loss"] != found[1]["val/loss"]
    steps = run.fits("vision/image_classifier_digits", runs, lambda experiment, seconds: experiment.trainer.global_step)
    assert steps == [2, 2]


def test_runs_of_an_earlier_reproduction_make_way(toy, tmp_path):
    toy.yields = [Claim("c", "p", 1.0, at_most(2))]
    taken, other = tmp_path / "toy" / "runs" / "digits" / "seed-0", tmp_path / "toy" / "notes.txt"
    taken.mkdir(parents=True)
    other.write_text("mine")
    assert main(["reproduce", "toy", "--folder", str(tmp_path)]) == 0
    assert not taken.exists()
    assert other.read_text() == "mine"


def test_one_failing_claim_is_enough(toy, capsys):
    toy.yields = [Claim("one", "1", 1.0, at_most(1)), Claim("two", "2", math.nan, at_most(1))]
    assert main(["reproduce", "--all", "--json=out.json"]) == 1
    assert "0 of 1 reproduced; not: toy" in capsys.readouterr().out
    (report,) = json.loads(Path("out.json").read_text())
    assert report["claims"][1]["measured"] is None
    assert report["claims"][1]["holds"] is False


def test_no_claim_at_all_is_no_reproduction(toy):
    toy.yields = []
    assert main(["reproduce", "toy"]) == 1


def test_the_claims_of_another_package_go_by_their_module(toy, capsys):
    Path("lab").mkdir()
    source = """from framework.claims import Claim, at_most
def claims(run):
    yield Claim("mine", "1", 1.0, at_most(1))
"""
    Path("lab/own_claims.py").write_text(source)
    Path("lab/broken_claims.py").write_text("import not_installed")
    Path("lab/no_claims.py").write_text("")
    sys.path.insert(0, str(Path.cwd()))
    try:
        assert main(["reproduce", "lab.own_claims"]) == 0
        assert "1 of 1 reproduced" in capsys.readouterr().out
        assert json.loads(Path("runs/reproduce/lab.own_claims/claims.json").read_text())["holds"] is True
        assert main(["reproduce", "lab.no_claims"]) == 2
        assert "no_claims.py has no function claims(run)" in capsys.readouterr().err
        assert main(["reproduce", "lab.others"]) == 2
        assert "reproduce: no module 'lab.others'" in capsys.readouterr().err
        with pytest.raises(ModuleNotFoundError, match="not_installed"):
            main(["reproduce", "lab.broken_claims"])
    finally:
        sys.path.remove(str(Path.cwd()))
        for name in [name for name in sys.modules if name.partition(".")[0] == "lab"]:
            del sys.modules[name]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["s4"], "did you mean s4d?"),
        ([], "a method is needed; with claims: "),
        (["--jsn"], "reproduce: --jsn is not accepted; accepted: --all, --json"),
        (["--json"], "reproduce: --json needs a value"),
    ],
)
def test_mistakes(capsys, arguments, said):
    assert main(["reproduce", *arguments]) == 2
    assert said in capsys.readouterr().err
