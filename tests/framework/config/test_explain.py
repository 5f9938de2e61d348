"""What is said of a value that its argument does not take."""

from __future__ import annotations

from typing import Literal

import pytest
from lightning.pytorch import LightningModule

from framework.config.compose import compose, read_inputs
from framework.config.explain import explain
from framework.runs import command_line  # noqa: F401  (it registers the loader of texts)


class Model(LightningModule):
    def __init__(
        self,
        init: Literal["small", "large"] = "small",
        norm: Literal["layer", "batch"] | None = None,
        when: Literal["start"] | list[int] = "start",
        parts: tuple[Literal["val", "test"], ...] = ("val",),
    ) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ({"init": "smal"}, "model.init: 'smal' is not one of small, large; did you mean 'small'? (Python)"),
        ({"norm": "Layer"}, "model.norm: 'Layer' is not one of layer, batch; did you mean 'layer'? (Python)"),
        ({"init": 3}, "model.init: 3 is not accepted; one of small, large is needed (Python)"),
        ({"when": "end"}, "model.when: 'end' is not accepted; one of start or a list of an integer is needed (Python)"),
        ({"parts": ["tets"]}, "model.parts: ['tets'] is not accepted; a list of one of val, test is needed (Python)"),
    ],
)
def test_a_choice_that_is_none_is_answered_with_the_choices(argument, said):
    config = {"model": {"class_path": f"{__name__}.Model", "init_args": argument}}
    assert explain(compose(read_inputs(config), "fit", {}), {"model": LightningModule}, {}) == [said]
