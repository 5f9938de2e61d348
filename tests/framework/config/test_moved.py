"""Settings that have moved into a group: their former names are read wherever they stand, and one line says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import lightning.pytorch as pl
import pytest
import torch
import yaml

import framework
from framework.config.moved import moves_of, regroup


@dataclass(frozen=True)
class Encoder:
    name: str = "cnn"
    width: int = 8
    depth: int = 2


class Old(framework.Module):
    """What a run was made with before."""

    def __init__(self, encoder: str = "cnn", width: int = 8, depth: int = 2, size: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(size, width)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).square().mean()


class New(Old):
    moved: ClassVar[dict[str, str]] = {"width": "encoder.width", "encoder": "encoder.name"}

    def __init__(self, encoder: Encoder | None = None, size: int = 3) -> None:
        framework.Module.__init__(self)
        self.save_hyperparameters()
        self.encoder = framework.module.as_dataclass(Encoder, encoder, Encoder(depth=5))
        self.layer = torch.nn.Linear(size, self.encoder.width)


class Newest(New):
    moved: ClassVar[dict[str, str]] = {"depth": "encoder.depth"}


class Data(pl.LightningDataModule):
    def __init__(self, size: int = 3) -> None:
        super().__init__()

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 3)))


QUIET = {
    "trainer.max_steps": 1,
    "trainer.enable_progress_bar": False,
    "trainer.enable_model_summary": False,
    "wandb.mode": "disabled",
}


def built(config, overrides=(), **arguments):
    settings = {"model": {"class_path": f"{__name__}.Newest", "init_args": arguments}, "data": f"{__name__}.Data"}
    return framework.build([*config, settings], {**QUIET, **dict(overrides)})


def test_what_base_classes_say_holds_too():
    assert moves_of(Newest) == {"width": "encoder.width", "encoder": "encoder.name", "depth": "encoder.depth"}
    assert moves_of(Old) == {}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"width": 4, "encoder": "vit", "size": 2}, {"encoder": {"name": "vit", "width": 4}, "size": 2}),
        ({"encoder": {"name": "vit"}, "width": 4}, {"encoder": {"name": "vit", "width": 4}}),
        ({"encoder": None, "depth": 1}, {"encoder": {"depth": 1}}),
        ({"encoder": Encoder("vit"), "depth": 1}, {"encoder": Encoder("vit", depth=1)}),
        ({"encoder": Encoder("vit")}, {"encoder": Encoder("vit")}),
        ({"size": 2}, {"size": 2}),
    ],
)
def test_arguments_are_put_into_their_groups(given, expected):
    before = dict(given)
    assert regroup(given, moves_of(Newest))[0] == expected
    assert given == before


def test_a_config_and_overrides_with_former_names_are_read_and_one_line_says_so(capsys, tmp_path):
    (tmp_path / "base.yaml").write_text("model: {width: 4, encoder: vit, size: 3}\n")
    experiment = built([tmp_path / "base.yaml"], {"model.depth": 7})
    assert experiment.model.encoder == Encoder("vit", 4, 7)
    said = [line for line in capsys.readouterr().err.splitlines() if " now " in line]
    assert said == ["model: encoder is now encoder.name; width, depth are now in encoder"]
    saved = experiment.config["model"]["init_args"]
    assert saved == {"encoder": {"name": "vit", "width": 4, "depth": 7}, "size": 3}


def test_present_names_are_read_without_a_word_and_a_later_former_name_wins(capsys):
    assert built([], encoder={"width": 4}).model.encoder == Encoder("cnn", 4)
    assert " now " not in capsys.readouterr().err
    assert built([], {"model.width": 6}, encoder={"name": "vit", "width": 4}).model.encoder == Encoder("vit", 6)


def test_a_reference_to_a_former_name_is_followed():
    experiment = built([{"data": {"class_path": f"{__name__}.Data", "init_args": {"size": "${model.width}"}}}], width=3)
    assert experiment.config["data"]["init_args"]["size"] == 3


def test_a_mistake_below_a_former_name_has_the_present_name_and_the_place(tmp_path):
    (tmp_path / "base.yaml").write_text("model:\n  width: wide\n")
    with pytest.raises(framework.UserError, match=rf"model.encoder.width: 'wide' .*{tmp_path / 'base.yaml'}:2"):
        built([tmp_path / "base.yaml"])


def test_a_checkpoint_with_former_arguments_opens_and_goes_on(tmp_path, capsys):
    config = {"model": {"class_path": f"{__name__}.Old", "init_args": {"width": 4, "depth": 9}}}
    data = {"data": f"{__name__}.Data"}
    before = framework.build([config, data], {**QUIET, "run.root": str(tmp_path), "run.method": "m"})
    before.fit()
    file = before.folder / "config.yaml"
    text = yaml.safe_load(file.read_text())
    text["model"]["class_path"] = f"{__name__}.Newest"  # as if the class had changed since
    file.write_text(yaml.safe_dump(text))
    weights = before.model.layer.weight
    for model in (
        framework.open_model(before.folder),
        framework.open_model(before.folder, Newest),
        Newest.load_from_checkpoint(before.folder / "checkpoints" / "last.ckpt"),
    ):
        assert model.encoder == Encoder("cnn", 4, 9)
        assert torch.equal(model.layer.weight, weights)
    assert framework.open_model(before.folder, depth=1).encoder == Encoder("cnn", 4, 1)
    assert framework.open_model(before.folder, encoder=Encoder(width=4)).encoder == Encoder("cnn", 4)
    capsys.readouterr()
    overrides = {"ckpt_path": str(before.folder), "trainer.max_steps": 2, "model.depth": 3}
    again = framework.build(None, {**QUIET, **overrides})
    again.fit()
    said = capsys.readouterr().err
    assert "model: encoder is now encoder.name; width, depth are now in encoder\n" in said
    assert "model.encoder.depth: the checkpoint has 9, the config 3; the config's is used" in said
    assert again.model.encoder == Encoder("cnn", 4, 3)
    assert again.trainer.global_step == 2


def test_a_class_within_a_class_has_moves_of_its_own():
    wrapped = {"class_path": f"{__name__}.Wrapping", "init_args": {"inner": {"class_path": f"{__name__}.Newest"}}}
    wrapped["init_args"]["inner"]["init_args"] = {"width": 5}
    experiment = framework.build({"model": wrapped, "data": f"{__name__}.Data"}, QUIET)
    assert experiment.model.inner.encoder.width == 5


class Wrapping(framework.Module):
    def __init__(self, inner: framework.Module) -> None:
        super().__init__()
        self.inner = inner
