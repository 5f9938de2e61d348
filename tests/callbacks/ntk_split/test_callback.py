"""ntk_split: what it logs against plain computations, before and after a probe; refusals."""

from __future__ import annotations

import copy

import lightning.pytorch as pl
import pytest
from small_classifier import leaves_training_alone, trained

from callbacks.lp_ft import LPFT
from callbacks.ntk_split import NTKSplit
from callbacks.ntk_split.split import ntk_split, residual
from framework.errors import UserError
from framework.observing.linear_probe import see


class Before(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            self.model = copy.deepcopy(pl_module)


def test_it_leaves_training_alone(tmp_path):
    leaves_training_alone(tmp_path, NTKSplit(points=5, chunk=2), "ntk_split")


@pytest.mark.parametrize("probe_epochs", [None, 1])
def test_the_split_is_of_where_finetuning_begins(tmp_path, probe_epochs):
    """At the first step, or once a probe was trained; of a random head, or a probed one."""
    split, before = NTKSplit(points=48), Before()
    techniques = [] if probe_epochs is None else [LPFT(probe_epochs=probe_epochs)]
    _, trainer, data = trained(tmp_path, *techniques, before, split, epochs=(probe_epochs or 0) + 1)
    model = before.model.double()
    x, y = data.train_set.tensors
    found = ntk_split(model, "head", x.double())
    delta = residual(see(model, "head", [(x.double(), y)]).logits, y)
    assert split.found["ft_ratio"] == pytest.approx(found.ft_ratio(delta), rel=1e-6)
    assert (split.found["rank_p"], split.found["rank_f"]) == found.ranks()
    assert split.found["norm_p"] == pytest.approx(float(found.pretrain_whole().norm()))
    assert split.found["norm_f"] == pytest.approx(float(found.finetune.norm()))
    assert float(trainer.callback_metrics["ntk_split/ft_ratio"]) == pytest.approx(split.found["ft_ratio"])


def test_what_it_refuses(tmp_path):
    for make, message in (
        (lambda: NTKSplit(points=0), r"^points: 0 is not accepted"),
        (lambda: NTKSplit(dtype="half"), r"^dtype: 'half' is not one of float64, float32"),
    ):
        with pytest.raises(UserError, match=message):
            make()
    with pytest.raises(UserError, match=r"head: 'haed' names nothing in the model; nearest: head"):
        trained(tmp_path, NTKSplit(head="haed"))
