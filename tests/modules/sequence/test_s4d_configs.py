"""S4D: the paper's configs build at full size on the meta device, and narrowed copies take a step."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml

from framework.optim import OptimizerConfig, build_optimizer
from modules.sequence.s4d import S4DClassifier, S4DRegressor

CONFIGS = Path(__file__).parents[3] / "configs" / "sequence"
PAPER = ("s4d_paper", "s4d_listops_paper", "s4d_speech_paper", "s4d_bidmc_paper")


def arguments(name):
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
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


@pytest.mark.parametrize("name", PAPER)
def test_a_narrowed_copy_takes_a_step(name):
    torch.manual_seed(0)
    cls, given = arguments(name)
    model = cls(**{**given, "d_model": 8, "n_layers": 2})
    lengths = None
    if given.get("vocabulary"):
        x, lengths = torch.randint(given["vocabulary"], (4, 50)), torch.tensor([50, 20, 30, 1])
    else:
        x = torch.randn(4, 50, given["d_input"])
    if cls is S4DRegressor:
        y = given["target_mean"] + torch.randn(4, 1)
    else:
        assert cls is S4DClassifier
        y = torch.randint(given["n_classes"], (4,))
    optimizer = build_optimizer(model, OptimizerConfig(**given["optimizer"]))
    before = [p.detach().clone() for p in model.parameters()]
    model.loss(model(x, lengths), y).backward()
    optimizer.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_the_card_names_the_paper():
    import modules.sequence.s4d as method

    assert "Paper: On the Parameterization and Initialization of Diagonal State Space Models" in (method.__doc__ or "")
