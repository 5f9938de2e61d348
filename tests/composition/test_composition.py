"""Every technique on every architecture, alone and in pairs: killed and resumed equals never stopped."""

from __future__ import annotations

import os
from pathlib import Path

import peft  # noqa: F401 - imported once here, so that no forked child has to
import pytest
import timm  # noqa: F401
import transformers.models.gpt2.modeling_gpt2  # noqa: F401

from composition import cells
from composition.cells import Cell, product, run, sample

DISTRIBUTED = [
    Cell("mlp", ("lora", "warm_start"), ranks=2),
    Cell("vit", ("kappa_tune", "lora"), ranks=2),
    Cell("resnet", ("gg_init", "ema"), ranks=2, hook="on_before_optimizer_step"),
    Cell("gpt2", ("warm_start", "ema"), ranks=2),
    Cell("s4d", ("kappa_tune",), ranks=2),
]
# Each technique in bf16-mixed, on one of the models.
MIXED = [
    Cell(architecture, (name,), precision="bf16-mixed")
    for architecture, name in zip(["gpt2", "resnet", "vit", "s4d", "mlp"], cells.TECHNIQUES, strict=True)
]
CELLS = [*product()] if os.environ.get("MATRIX") else [*sample(), *MIXED, *DISTRIBUTED]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_cell(cell: Cell, tmp_path: Path) -> None:
    run(cell, tmp_path)


def test_the_sample_meets_every_technique_on_every_architecture() -> None:
    met = {(cell.architecture, name) for cell in sample() for name in cell.techniques}
    assert met == {(a, t) for a in cells.ARCHITECTURES for t in cells.TECHNIQUES}
