"""S4D: the configs build at full size on the meta device."""

from importlib import import_module

import pytest
import torch
import yaml
from checkout import CONFIGS

from framework.optim import OptimizerConfig, build_optimizer

PAPER = ("s4d_paper", "s4d_listops_paper", "s4d_speech_paper", "s4d_bidmc_paper")


def arguments(name):
    config = yaml.safe_load((CONFIGS / "sequence" / f"{name}.yaml").read_text())
    given = dict(config["model"]["init_args"])
    data = config["data"]["init_args"]
    for key, value in given.items():
        if isinstance(value, str) and value.startswith("${data.init_args."):
            given[key] = data[value[len("${data.init_args.") : -1]]
    optimizer = given["optimizer"]
    assert all(isinstance(value, (int, float)) for key, value in optimizer.items() if key != "name")
    module, _, cls = config["model"]["class_path"].rpartition(".")
    return getattr(import_module(module), cls), given


@pytest.mark.parametrize("name", [*PAPER, "s4d", "s4d_smnist"])
def test_builds_at_full_size_on_meta(name):
    cls, given = arguments(name)
    with torch.device("meta"):
        model = cls(**given)
    assert model.backbone.layers[0].d_model == given["d_model"]
    build_optimizer(model, OptimizerConfig(**given["optimizer"]))


def test_the_card_names_the_paper():
    import modules.sequence.s4d as method

    assert "Paper: On the Parameterization and Initialization of Diagonal State Space Models" in (method.__doc__ or "")
