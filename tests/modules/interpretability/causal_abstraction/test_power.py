"""The table and the figure over the power of the map, from rows that runs write."""

from __future__ import annotations

import json

import pytest

from modules.interpretability.causal_abstraction import MapConfig
from modules.interpretability.causal_abstraction.power import main, over_runs, power, table


def row(name, iia, host="trained", seed=0, layer="blocks.0"):
    where = {"map": name, "layer": layer, "size": 8, "algorithm": "both", "host": host, "seed": seed}
    return {**where, "iia": iia, "majority": 0.5 + 0.01 * seed, "pairs": 200.0, "task": 1.0}


ROWS = [
    row("revnet 10x16", 0.99),
    row("orthogonal", 0.7),
    row("orthogonal", 0.9, seed=1),
    row("orthogonal", 0.5, "random"),
    row("revnet 2x16", 0.8),
    row("orthogonal", 0.5, layer="blocks.2"),
]


def test_rows_have_the_random_host_beside_them():
    found = table(over_runs(ROWS))
    assert found[0] == ("both, blocks.0, size 8", "orthogonal", 0.8, 0.9, 0.5, 0.5, 0.505, 200, 2)
    assert [line[1] for line in found] == ["orthogonal", "revnet 2x16", "revnet 10x16", "orthogonal"]
    assert found[1][4:6] == ("", "")


def test_maps_are_ordered_by_power():
    names = ["Own", "revnet 10x16", "revnet 1x16", "revnet 1x2", "orthogonal", "identity"]
    assert sorted(names, key=power) == names[::-1]


def test_the_command(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "no run in it has an iia.json" in capsys.readouterr().err
    for number, found in enumerate(ROWS):
        folder = tmp_path / "trials" / f"{number:04}"
        folder.mkdir(parents=True)
        (folder / "iia.json").write_text(json.dumps(found))
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "figures" / "power.png").stat().st_size > 5000
    lines = (tmp_path / "iia.csv").read_text().splitlines()
    assert lines[0] == "place,map,host_mean,host_max,random_mean,random_max,majority,pairs,seeds"
    assert len(lines) == 5
    assert lines[1] in capsys.readouterr().out
    for broken in ("{", "[1]", '{"map": "revnet 1x2"}'):
        (folder / "iia.json").write_text(broken)
        assert main([str(tmp_path)]) == 2
        assert "not what a training of causal_abstraction writes" in capsys.readouterr().err


@pytest.mark.parametrize("label", ["revnet 10xd", "revnet 3x7", "revnet 3x7x7"])
def test_labels_of_revnets(label):
    assert power(label)[0] == 2
    deep = MapConfig("revnet", 3, 7, 2), MapConfig("revnet", 3, 7)
    assert [config.label for config in deep] == ["revnet 3x7x7", "revnet 3x7"]
