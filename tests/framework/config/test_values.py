"""Null where none is meant, and numbers that are none, are refused with key and place; what means something passes."""

from __future__ import annotations

from typing import Any

import pytest
from lightning.pytorch import LightningModule

from framework.config.compose import compose, read_inputs
from framework.config.values import unusable
from framework.optim import OptimizerConfig


class Model(LightningModule):
    def __init__(
        self,
        size: int = 3,
        rate: float = 0.1,
        widths: list[float] = [1.0],  # noqa: B006
        limit: float | None = None,
        loose: int = None,  # noqa: RUF013
        any_thing: Any = 1,
        untyped=1,
        text: str = "a",
        optimizer: OptimizerConfig | None = None,
    ) -> None:
        super().__init__()


def found(**arguments: Any) -> list[str]:
    config = {"model": {"class_path": f"{__name__}.Model", "init_args": arguments}}
    return unusable(compose(read_inputs(config), "fit", {}), {"model": LightningModule}, {"run": Run})


class Run:
    def __init__(self, mode: str = "min") -> None: ...


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"size": None}, "model.size: null is not accepted; an integer is needed (Python)"),
        ({"text": None}, "model.text: null is not accepted; text is needed (Python)"),
        ({"optimizer": {"lr": None}}, "model.optimizer.lr: null is not accepted; a number is needed (Python)"),
        ({"rate": float("nan")}, "model.rate: nan is not accepted; NaN is no number (Python)"),
        ({"rate": ".nan"}, "model.rate: '.nan' is not accepted; NaN is no number (Python)"),
        ({"widths": [1.0, float("nan")]}, "model.widths: [1.0, nan] is not accepted; NaN is no number (Python)"),
        ({"optimizer": {"lr": float("nan")}}, "model.optimizer.lr: nan is not accepted; NaN is no number (Python)"),
    ],
)
def test_refused(arguments, said):
    assert found(**arguments) == [said]


def test_a_number_of_too_many_digits():
    (said,) = found(size=10**400)
    assert said.endswith("a number of so many digits is beyond every type (Python)")
    assert len(said) < 250


def test_all_are_told_at_once():
    assert len(found(size=None, rate=float("nan"), limit=float("nan"))) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        {"limit": None, "loose": None, "any_thing": None, "untyped": None, "optimizer": None},
        {"size": 10**300, "rate": float("inf"), "text": "nan", "widths": []},
        {"nowhere": None},  # for the types to refuse
    ],
)
def test_accepted(arguments):
    assert found(**arguments) == []
