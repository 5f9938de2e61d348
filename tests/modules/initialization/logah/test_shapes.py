"""Files of architectures: what is read, what is refused, which are kept for evaluations."""

from __future__ import annotations

import json

import pytest

from framework.errors import UserError
from modules.initialization.logah import GraphHyperNetwork, Space
from modules.initialization.logah.module import HELD_OUT
from modules.initialization.logah.shapes import read_shapes

VITS = [{"num_layers": 3, "hidden_dim": 32 * n, "num_heads": 4, "patch_size": 2, "mlp_dim": 128 * n} for n in (1, 2, 3)]


def written(tmp_path, rows):
    file = tmp_path / "shapes.json"
    file.write_text(json.dumps(rows))
    return file


def test_the_authors_rows(tmp_path):
    found = read_shapes(written(tmp_path, VITS), "vit")
    assert found == [{"depth": 3, "width": 32 * n, "heads": 4, "patch_size": 2} for n in (1, 2, 3)]
    found = read_shapes(written(tmp_path, [{"n_layer": 9, "n_embd": 72, "n_head": 8}]), "gpt2")
    assert found == [{"depth": 9, "width": 72, "heads": 8}]
    table = tmp_path / "shapes.csv"
    table.write_text("widths\n64-32\n16\n")
    assert [row["widths"] for row in read_shapes(table, "mlp")] == [[64, 32], [16]]


def test_perceptrons_of_a_file_have_the_biases_that_are_asked_for(tmp_path):
    file = written(tmp_path, [{"widths": "8"}, {"widths": "16"}])
    for bias in (False, True):
        space = Space("mlp", bias=bias, file=str(file))
        model = GraphHyperNetwork(space, dim=8, rank=2, layers=1, heads=2, size=64, eval_networks=1)
        assert [model.shape(seed) for seed in (0, HELD_OUT)] == [
            {"widths": [8], "bias": bias}, {"widths": [16], "bias": bias},
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"shapes\.json: no row"),
        ([{"num_layers": 3}], "column 'hidden_dim' not found"),
        ([{**VITS[0], "hidden_dim": 33.5}], "hidden_dim '33.5' is not accepted; a whole number"),
        ([{**VITS[0], "num_layers": 0}], "num_layers '0' is not accepted"),
        ([{**VITS[0], "num_layers": "many"}], "num_layers 'many' is not accepted"),
        ([{**VITS[0], "num_layers": float("nan")}], "NaN is not a value of JSON"),
        ([{**VITS[0], "num_heads": 5}], "hidden_dim 32 is not a multiple of num_heads 5"),
        ([{**VITS[0], "hidden_dim": 10**9}], "hidden_dim '1000000000' is not accepted"),
    ],
)
def test_what_is_refused(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        read_shapes(written(tmp_path, rows), "vit")


def test_the_last_ones_are_for_evaluations(tmp_path):
    space = Space("vit", file=str(written(tmp_path, VITS)))
    model = GraphHyperNetwork(space, dim=8, rank=2, layers=1, heads=2, size=64, eval_networks=1)
    assert [model.shape(seed)["width"] for seed in range(4)] == [32, 64, 32, 64]
    assert model.shape(HELD_OUT)["width"] == 96
    few = GraphHyperNetwork(space, dim=8, rank=2, layers=1, heads=2, size=64, eval_networks=3)
    with pytest.raises(UserError, match="has 3 networks; more than eval_networks"):
        few.listed()
