"""The observer: what it logs of known latents, its alarm, its files, and data that knows less."""

import json

import numpy as np
import pytest
import torch
from editing_toys import Net, trainer_of
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.identifiability import Identifiability
from datamodules.interpretability.structured_mixing import StructuredMixing
from framework.errors import UserError
from modules.interpretability.diverse_dictionary import SparseJacobianVAE

SIZES = {"samples": 300, "val_samples": 250, "test_samples": 20, "eval_batch_size": 100}


class Knows(SparseJacobianVAE):
    """Its posterior is the truth with its latents in another order; its decoder has one entry that is not true."""

    def __init__(self, collapsed=()):
        super().__init__(3, 3, (4,))
        self.decoder = nn.Linear(3, 3)
        self.collapsed = list(collapsed)

    def posterior(self, batch):
        mean = batch["z"][:, [2, 0, 1]].clone() if "z" in batch else torch.randn(len(batch["x"]), 3)
        mean[:, self.collapsed] = 0
        return mean, torch.zeros_like(mean)

    def on_validation_start(self):
        weights = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -2.0], [0.3, 0.0, 1.0]])
        weights[0, 2] = 0.4
        self.decoder.weight.data = weights[:, [2, 0, 1]]


def fit(folder, technique, module=None, source=None, **options):
    trainer = trainer_of(folder, technique, **{"max_epochs": 2, **options})
    trainer.fit(Knows() if module is None else module, StructuredMixing(**SIZES) if source is None else source)
    return trainer


def test_recovered_latents_and_a_support_with_one_entry_too_many(tmp_path):
    technique = Identifiability(examples=220, splits=3)
    trainer = fit(tmp_path, technique)
    found = {k.removeprefix("identifiability/"): float(v) for k, v in trainer.callback_metrics.items() if "ident" in k}
    assert found["active_units"] == 3
    for name in ("mcc", "mcc_low", "mcc_high", "mcc_spearman"):
        assert found[name] == pytest.approx(1, abs=1e-5)
    assert found["support_f1"] == pytest.approx(12 / 13)
    assert found["support_f1_all_ones"] == pytest.approx(0.8)
    assert (found["support_shd"], found["support_shd_all_ones"]) == (1, 3)
    assert found["r2_ref"] > 0.95
    assert all(found[f"r2_{name}"] < 0.1 for name in ("int", "sym", "comp_a", "comp_b"))
    report = json.loads((tmp_path / "identifiability.json").read_text())
    assert report["samples"] == 220
    assert report["permutation"] == [1, 2, 0]
    assert report["guarantees"]["diverse"]
    assert [row["threshold"] for row in report["support"]] == [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5]
    assert np.array(report["strength"])[0].tolist() == pytest.approx([1, 0.5, 0.4])
    assert (report["set_r2"]["k"], report["set_r2"]["v"]) == ([0], [1])
    assert [row["step"] for row in report["curve"]] == [2, 4]
    assert "r2_ref" not in report["curve"][0], "only at the end"
    assert (tmp_path / "figures" / "identifiability.png").stat().st_size > 5000


def test_collapsed_latents_are_reported_before_all_else(tmp_path):
    with pytest.warns(UserWarning, match=r"1 of 3 latents have collapsed \(1\)"):
        trainer = fit(tmp_path, Identifiability(splits=2, set_r2="never"), Knows(collapsed=[1]))
    assert float(trainer.callback_metrics["identifiability/active_units"]) == 2
    assert float(trainer.callback_metrics["identifiability/mcc"]) == pytest.approx(2 / 3, abs=1e-5)


def test_latents_that_become_active_after_the_first_validation_are_not_reported(tmp_path, recwarn):
    class Late(Knows):
        def on_validation_start(self):
            super().on_validation_start()
            self.collapsed = [1] if self.current_epoch == 0 else []

    fit(tmp_path, Identifiability(splits=2, set_r2="never"), Late())
    assert not [one for one in recwarn if "collapsed" in str(one.message)]


def test_without_true_latents_or_a_support_it_measures_what_it_can(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(80, 3)))
    np.savez(tmp_path / "a.npz", x=rng.normal(size=(80, 3)), z=rng.normal(size=(80, 3)))
    sizes = {"val_samples": 20, "test_samples": 20}
    trainer = fit(tmp_path, Identifiability(), source=StructuredMixing(tmp_path / "x.npy", **sizes))
    assert "identifiability/active_units" in trainer.callback_metrics
    assert "identifiability/mcc" not in trainer.callback_metrics
    assert (tmp_path / "figures" / "identifiability.png").exists()
    trainer = fit(tmp_path, Identifiability(set_r2="always"), source=StructuredMixing(tmp_path / "a.npz", **sizes))
    assert "identifiability/mcc" in trainer.callback_metrics
    assert "identifiability/support_f1" not in trainer.callback_metrics


def test_it_validates_and_goes_on_from_its_state(tmp_path):
    technique = Identifiability(splits=2, set_r2="always", groups=[[0], [2]])
    trainer = trainer_of(tmp_path, technique)
    trainer.validate(Knows(), StructuredMixing(**SIZES), verbose=False)
    assert "identifiability/r2_ref" in trainer.callback_metrics
    assert technique.curve == []
    technique.curve = [{"step": 3.0, "mcc": 0.5}]
    other = Identifiability()
    other.load_state_dict(technique.state_dict())
    assert other.curve == technique.curve


def test_the_last_validation_has_the_sets_wherever_training_ends(tmp_path):
    trainer = fit(tmp_path, Identifiability(splits=2), max_epochs=3, check_val_every_n_epoch=2)
    assert "identifiability/r2_ref" in trainer.callback_metrics

    class Stops(Knows):
        def on_validation_end(self):
            self.trainer.should_stop = not self.trainer.sanity_checking

    (tmp_path / "early").mkdir()
    trainer = fit(tmp_path / "early", Identifiability(splits=2), Stops(), max_epochs=4)
    assert trainer.current_epoch < 3
    report = json.loads((tmp_path / "early" / "identifiability.json").read_text())
    assert report["set_r2"]["reference"]["mean"] > 0.95


def test_without_a_jacobian_by_the_latents_alone_it_measures_the_rest(tmp_path):
    class Two(nn.Module):
        def forward(self, z, condition):
            return z + condition

    class Conditioned(Knows):
        def __init__(self):
            super().__init__()
            self.two = Two()

    with pytest.warns(
        UserWarning, match="two has no Jacobian by the latents alone, so the support is left out"
    ) as seen:
        trainer = fit(tmp_path, Identifiability(splits=2, set_r2="never", net="two"), Conditioned())
    assert sum("no Jacobian" in str(one.message) for one in seen) == 1
    assert float(trainer.callback_metrics["identifiability/mcc"]) == pytest.approx(1, abs=1e-5)
    assert "identifiability/support_f1" not in trainer.callback_metrics

    class Broken(Knows):
        def on_validation_start(self):
            self.decoder.weight.data.fill_(float("nan"))

    trainer = fit(tmp_path, Identifiability(splits=2, set_r2="never"), Broken())
    assert "identifiability/support_f1" not in trainer.callback_metrics


def test_what_has_no_latents_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"techniques\.identifiability: Net infers no latents"):
        fit(tmp_path, Identifiability(), module=Net())
    with pytest.raises(UserError, match=r"groups: \[7\] is not accepted; at least one observation, from 0 to 2"):
        fit(tmp_path, Identifiability(groups=[[0], [7]]))

    import lightning.pytorch as pl

    class Other(pl.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(TensorDataset(torch.zeros(4, 3)))

    with pytest.raises(UserError, match="Other does not say what its latents are"):
        fit(tmp_path, Identifiability(), source=Other())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"examples": 3}, "examples: 3 is not accepted; at least 4"),
        ({"groups": [[0]]}, r"groups: \[\[0\]\] is not accepted; two groups"),
        ({"set_r2": "sometimes"}, "set_r2: 'sometimes' is not one of end, always, never"),
        ({"threshold": 1.0}, r"threshold: 1\.0 is not accepted"),
    ],
)
def test_settings_that_are_not_accepted(settings, message):
    with pytest.raises(UserError, match=message):
        Identifiability(**settings)
