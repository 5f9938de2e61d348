"""LoGAH initialisation: weights that a trained hypernetwork predicts from the network's graph, once, before training.

Paper: LoGAH: Predicting 774-Million-Parameter Transformers using Graph HyperNetworks with 1/100 Parameters (Zhou,
Knyazev, Jolicoeur-Martineau, Fu 2024, arXiv 2405.16287).

A run of ``initialization/logah`` trains the hypernetwork on a family of architectures: perceptrons, vision transformers
or GPT-2. This technique opens its folder, or one of its checkpoints, and writes the predicted weights of the model's
network of that family, which must hold half of the parameters, or be named as ``network``; widths and depths need not
be among those of the training. Every parameter is reported as ``predicted``, ``tiled`` (a prediction that was too
small, repeated), ``drawn`` (class tokens), ``copied`` (tied to another one) or ``left alone`` (of other parts of the
model). What the hypernetwork has not met is refused by name: another family, an operation of no network of its
training.

Noise of deviation ``noise`` is added, so that equal operations do not keep equal weights. Use a low learning rate: a
high one erases the start within an epoch. Weights that come from it are plain: a checkpoint's ``state_dict`` loads
without this package.

Cost: one pass of the hypernetwork, seconds for a ViT-B. It comes after techniques that draw weights, which it
overwrites, and before those that add noise, shrink, rank or adapt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from framework.checkpoints.finding import find_checkpoint
from framework.checkpoints.opening import open_model
from framework.checkpoints.weights_file import file_sha256
from framework.data.seeding import mix
from framework.editing import Context, Edit
from framework.editing.capabilities import PLAIN_LAYERS, TRAINED_WEIGHTS
from framework.errors import UserError
from framework.protocols import PredictsWeights
from framework.settings import at_least

if TYPE_CHECKING:
    from framework.editing import Plan

SHOWN = 12  # parameters that the report names


def open_hypernetwork(path: str | Path) -> tuple[Path, PredictsWeights]:
    """Returns the checkpoint and the hypernetwork of a file, or of a run folder.

    Args:
        path: A checkpoint, or a run folder (then its last checkpoint).

    Raises:
        UserError: it cannot be opened, or is no hypernetwork.
    """
    file = Path(path).expanduser()
    file = find_checkpoint(str(file)) if file.is_dir() else file
    found = open_model(file)
    if not isinstance(found, PredictsWeights):
        raise UserError(f"{path}: {type(found).__name__} is no hypernetwork; a run of initialization/logah is")
    return file, found


def init_model(
    model: nn.Module, path: str | Path, network: str | None = None, seed: int = 0, noise: float = 1e-5
) -> dict[str, str]:
    """Writes the weights that a hypernetwork predicts into a model, and returns how each parameter got its value.

    Args:
        model: Any module that holds a network of the hypernetwork's family.
        path: The hypernetwork's checkpoint, or its run folder.
        network: Name of the network within the model; by default the first one of a known family.
        seed: Of class tokens and of the noise.
        noise: Deviation of the noise that is added.

    Raises:
        UserError: the file is no hypernetwork's, or the model has no network that it knows.
    """
    found = open_hypernetwork(path)[1].predict_weights(model, network, seed)
    write(model, found.values, seed, noise)
    return found.how


@torch.no_grad()
def write(model: nn.Module, values: Mapping[str, Tensor], seed: int, noise: float) -> None:
    """Writes values and noise into a model's parameters.

    Args:
        model: The model.
        values: Tensors by the names of the parameters.
        seed: Of the noise; each parameter has its own, whatever the others are.
        noise: Its deviation.
    """
    for name, value in values.items():
        generator = torch.Generator().manual_seed(mix(seed, crc32(name.encode())))
        parameter = model.get_parameter(name)
        drawn = torch.randn(value.shape, generator=generator) * noise
        parameter.copy_(value.cpu() + drawn)


class LogahInit(Edit):
    """Starts the model's network from weights that a hypernetwork predicts.

    Args:
        path: A run folder of ``initialization/logah``, or one of its checkpoints; it has to be given.
        network: Name of the network in the model; by default the first one of a known family.
        noise: Deviation of the noise that is added.

    Raises:
        UserError: a setting is not accepted (in the constructor); the file is missing or no hypernetwork's, or the
            model has no network that it knows (at the start).
    """

    technique = "logah_init"
    changes = frozenset({"values"})
    phase = "predict"
    offers = frozenset({TRAINED_WEIGHTS})
    needs = frozenset({PLAIN_LAYERS})

    def __init__(self, path: str | Path | None = None, network: str | None = None, noise: float = 1e-5) -> None:
        at_least(0, noise=noise)
        self.path, self.network, self.noise = path, network, noise
        self._values: dict[str, Tensor] | None = None

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a second technique that predicts weights.

        Raises:
            UserError: there is one.
        """
        super().check(model, context)
        for other in context.offering(TRAINED_WEIGHTS, self):
            if other.phase == self.phase:
                raise UserError(
                    f"{self.name} and {other.name} cannot be combined: both write all weights of the network"
                )

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """Returns the file with its hash, the network, the seed, and how each parameter gets its value.

        Raises:
            UserError: the file is no hypernetwork's, or the model has no network that it knows.
        """
        if self.path is None:
            raise UserError(
                f"techniques.{self.name}.path: None is not accepted; the folder of a run of initialization/logah, or "
                "one of its checkpoints"
            )
        try:
            file, hypernetwork = open_hypernetwork(self.path)
            found = hypernetwork.predict_weights(model, self.network, context.seed)
        except UserError as error:
            raise UserError(f"techniques.{self.name}: {error}") from None
        self._values = found.values
        return {
            "path": str(self.path),
            "sha256": file_sha256(file),
            "network": found.network,
            "seed": context.seed,
            "parameters": found.how,
        }

    def initialise(self, model: nn.Module, decision: Mapping[str, Any], context: Context) -> None:
        """Writes the prediction."""
        assert self._values is not None
        write(model, self._values, context.seed, self.noise)
        self._values = None

    def report(self, model: nn.Module, plan: Plan, context: Context) -> None:
        """Prints how many parameters got which values, and which did not."""
        how = plan.decision["parameters"]
        counts = Counter(how.values())
        rank_zero_info(f"{self.name}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
        for kind in ("tiled", "drawn", "copied", "left alone"):
            names = [name for name, value in how.items() if value == kind]
            if names:
                more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                rank_zero_info(f"{self.name}: {kind}: {', '.join(names[:SHOWN])}{more}")
