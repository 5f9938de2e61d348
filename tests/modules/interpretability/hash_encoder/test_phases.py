"""The chart of the regimes from a sweep's folder."""

from __future__ import annotations

import json

import numpy as np
import pytest

from framework.errors import UserError
from modules.interpretability.hash_encoder.phases import main, phase_maps, read_trials


def write_trial(folder, width, samples, ratios):
    folder.mkdir(parents=True)
    config = f"model: {{init_args: {{width: {width}}}}}\ndata: {{init_args: {{samples: {samples}}}}}\n"
    (folder / "config.yaml").write_text(config)
    rows = [{"epoch": e, "val/redundancy_ratio": r, "train/examples": 40} for e, r in ratios.items()]
    (folder / "neural_code.json").write_text(json.dumps({"kind": "neural_code", "rows": rows}))


def test_the_maps_of_a_sweep(tmp_path, capsys):
    write_trial(tmp_path / "trials" / "0", 3, 10, {0: 0.9, 1: 0.8, 5: 0.7, 9: 0.6})
    write_trial(tmp_path / "trials" / "1", 3, 10, {0: 0.7, 1: 0.8, 5: 0.7, 9: 0.6})
    write_trial(tmp_path / "trials" / "2", 8, "null", {0: 0.3, 1: 0.2, 5: 0.1, 9: 0.0})
    ratios = read_trials(tmp_path)
    assert ratios[3, 10, 0] == [0.9, 0.7]
    maps, sizes, widths = phase_maps(ratios)
    assert (sizes, widths, list(maps)) == ([10, 40], [3, 8], ["at the start", "epoch 1", "epoch 5", "epoch 9"])
    expected = np.array([[0.8, np.nan], [np.nan, 0.3]])
    np.testing.assert_allclose(maps["at the start"], expected)
    assert main([str(tmp_path), "--epochs", "9", "--under", "0.6", "--sufficient", "0.05"]) == 0
    assert (tmp_path / "figures" / "phases.png").stat().st_size > 5000
    capsys.readouterr()
    for options, said in (
        ([str(tmp_path), "--epochs", "7"], "epochs: 7 was not measured; accepted: 0, 1, 5, 9"),
        ([str(tmp_path), "--sufficient", "0.7"], "sufficient: 0.7 is not accepted; at most 0.5 (under)"),
        ([str(tmp_path), "--part", "train"], "no run in it has"),
    ):
        assert main(options) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(UserError, match="no run in it has"):
        read_trials(tmp_path / "nothing")
