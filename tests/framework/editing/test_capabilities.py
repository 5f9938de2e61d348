"""What a technique needs is offered by another, or refused before training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import lightning.pytorch as pl
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel

from framework.catalogue import capabilities
from framework.editing import Context, Edit, Observer, Once, Transform
from framework.editing.capabilities import CAPABILITIES, NOISE, PLAIN_LAYERS
from framework.errors import UserError


class Noisy(Edit):
    technique = "toy_noisy"
    phase = "noise"
    offers = frozenset({NOISE, "toy_capability"})


class Wanting(Observer):
    technique = "toy_wanting"
    needs = frozenset({"toy_capability"})


class Grows(Transform):
    technique = "toy_grows"
    phase = "grow"
    changes = frozenset({"structure"})
    settles_by = "until"

    def __init__(self, until: int | None) -> None:
        self.until = until

    def settled(self, context: Context) -> int | None:
        return self.until

    def due(self, context: Context) -> bool:
        return False


class AtStart(Edit):
    technique = "toy_at_start"
    phase = "draw"
    needs = frozenset({PLAIN_LAYERS})


class Waits(Once):
    technique = "toy_waits"
    phase = "adapt"

    def __init__(self, epoch: int | None = None) -> None:
        self.epoch = epoch


class Careless(Waits):
    """Acts on layers whatever another does to them."""

    technique = "toy_careless"
    needs = frozenset()


def check(*techniques: Any, **settings: Any) -> None:
    """As a run does before training; it stops there."""
    trainer = pl.Trainer(
        max_epochs=5,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        callbacks=list(techniques),
        **settings,
    )
    from framework.editing.engine import check_run, in_order

    check_run(trainer, BoringModel(), in_order(techniques))


def test_a_need_that_nothing_offers_is_refused() -> None:
    with pytest.raises(UserError, match=r"techniques.toy_wanting: a technique that offers toy_capability is needed"):
        check(Wanting())
    check(Wanting(), Noisy())


def test_a_technique_does_not_meet_its_own_need() -> None:
    class Both(Wanting):
        technique = "toy_both"
        offers = frozenset({"toy_capability"})

    with pytest.raises(UserError, match=r"techniques.toy_both: a technique that offers"):
        check(Both())
    check(Both(), Noisy())


def test_what_a_known_capability_means_is_in_the_message() -> None:
    class Known(Observer):
        technique = "toy_known"
        needs = frozenset({"ranking"})

    with pytest.raises(UserError, match="offers ranking is needed, which ranks the weights that it finds"):
        check(Known())


def test_an_edit_at_the_start_needs_layers_that_are_plain_then() -> None:
    for until in (None, 2):
        with pytest.raises(UserError, match=r"toy_at_start and techniques.toy_grows cannot be combined: toy_at_start"):
            check(AtStart(), Grows(until))
    check(AtStart(), Grows(0))


def test_once_waits_for_them_and_one_that_does_not_need_them_does_not() -> None:
    def context(*techniques: Any) -> Context:
        return Context(
            trainer=cast(pl.Trainer, SimpleNamespace(max_epochs=5)),
            techniques={technique.name: technique for technique in techniques},
        )

    grows, waits, careless = Grows(3), Waits(), Careless()
    assert waits.first_epoch(context(grows, waits)) == 3
    assert careless.first_epoch(context(grows, careless)) == 0
    early = Waits(epoch=1)
    with pytest.raises(UserError, match=r"toy_waits.epoch: 1 is not accepted with toy_grows, which is done at epoch 3"):
        early.first_epoch(context(grows, early))
    with pytest.raises(UserError, match=r"toy_grows.until: None is not accepted with toy_waits"):
        waits.first_epoch(context(Grows(None), waits))

    class Endless(Grows):
        technique = "toy_endless"
        settles_by = ""

    with pytest.raises(UserError, match=r"techniques.toy_waits and techniques.toy_endless cannot be combined: toy_wai"):
        waits.first_epoch(context(Endless(None), waits))


def test_once_waits_for_one_of_an_earlier_phase_but_not_of_its_own() -> None:
    class Earlier(Waits):
        technique = "toy_earlier"
        phase = "select"

    class Equal(Waits):
        technique = "toy_equal"

    waits = Waits()
    for other, epoch in ((Earlier(2), 2), (Equal(2), 0)):
        techniques = {item.name: item for item in (other, waits)}
        assert waits.first_epoch(Context(techniques=techniques)) == epoch


def test_the_page_and_the_code_have_the_same_capabilities() -> None:
    assert capabilities() == CAPABILITIES
