"""Where a host comes from: drawn and trained here, a checkpoint, a folder of transformers, a class of your own."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.checkpoints.opening import open_model
from framework.checkpoints.weights_file import read_weights_file
from framework.errors import UserError
from framework.readers.transformers_folder import LOCAL
from framework.settings import above, at_least, at_most_one
from modules.interpretability.causal_abstraction.equality import EqualityMLP
from modules.interpretability.causal_abstraction.maps import own_class
from modules.interpretability.causal_abstraction.networks import BlockMLP, LastToken


@dataclass(frozen=True)
class HostConfig:
    """The network that is analysed.

    Without ``checkpoint``, ``path``, ``config`` and ``network`` it is a :class:`BlockMLP`, trained here on the
    datamodule's task by :func:`train_host` for ``epochs`` passes; 0 leaves it as it was drawn.

    Attributes:
        checkpoint: A run folder or checkpoint of this framework; of the method's own host network ``best`` is used in a
            folder if there is one.
        path: Local folder of a causal language model of transformers; layers are named ``lm.…``.
        random: Of ``path``: draw random weights instead of reading them.
        config: Instead of ``path``, a fresh language model's config: ``model_type`` and values of transformers.
        network: Your own network: the path of a subclass of ``torch.nn.Module``, ``package.module.Class``.
        args: Its arguments.
        weights: File with its state dict; drawn at random without one.
        inputs: Numbers in an input of the perceptron.
        blocks: Its blocks.
        epochs: Passes over the task's samples.
        lr: Learning rate of Adam.
        batch_size: Samples in a batch.
        check_every: Batches between two evaluations; the best weights are kept.
        patience: Evaluations without a gain until training stops.

    Raises:
        UserError: a setting is not accepted.
    """

    checkpoint: str | Path | None = None
    path: str | Path | None = None
    random: bool = False
    config: dict[str, Any] | None = None
    network: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    weights: str | Path | None = None
    inputs: int = 16
    blocks: int = 3
    epochs: int = 8
    lr: float = 1e-3
    batch_size: int = 1024
    check_every: int = 16
    patience: int = 64

    def __post_init__(self) -> None:
        names = ("checkpoint", "path", "config", "network")
        at_most_one(**{f"host.{name}": getattr(self, name) for name in names})
        for name, needed in (("random", "path"), ("weights", "network"), ("args", "network")):
            if getattr(self, name) and not getattr(self, needed):
                raise UserError(f"host.{name}: {getattr(self, name)!r} has no effect without host.{needed}")
        at_least(0, **{"host.epochs": self.epochs})
        above(0, **{"host.lr": self.lr})
        counts = ("inputs", "blocks", "batch_size", "check_every", "patience")
        at_least(1, **{f"host.{name}": getattr(self, name) for name in counts})

    @property
    def trains(self) -> bool:
        """Whether the network is trained here."""
        return not self.is_drawn_elsewhere and self.epochs > 0

    @property
    def label(self) -> str:
        """``random`` for weights that nothing has trained, else ``trained``."""
        drawn = self.random or self.config or (self.network and not self.weights)
        return "random" if drawn or not (self.is_drawn_elsewhere or self.epochs) else "trained"

    @property
    def is_drawn_elsewhere(self) -> bool:
        """Whether it is not the perceptron of this method."""
        return bool(self.checkpoint or self.path or self.config or self.network)


def build_host(config: HostConfig, num_classes: int = 2, may_import: bool = True) -> nn.Module:
    """Returns the network, not yet trained if it is to be trained here.

    Args:
        config: Which.
        num_classes: Classes of the perceptron.
        may_import: Whether your own class may be imported; otherwise it has to be already.

    Raises:
        UserError: a file is missing or does not fit, or a class is not known.
    """
    if config.checkpoint is not None:
        opened = open_model(_best_of(Path(config.checkpoint).expanduser()))
        return opened.net if isinstance(opened, EqualityMLP) else opened
    if config.path is not None or config.config is not None:
        return LastToken(_language_model(config))
    if config.network is None:
        return BlockMLP(config.inputs, config.blocks, num_classes)
    network = own_class(config.network, nn.Module, "host.network", config.args, may_import)
    if config.weights is not None:
        state, _ = read_weights_file(config.weights, "host.weights")
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(f"host.weights: {config.weights} does not fit the network: {error}") from error
    return network


def _best_of(path: Path) -> Path:
    """Returns the best checkpoint of a run folder that has one."""
    best = path / "checkpoints" / "best.ckpt"
    return best if best.is_file() else path


def _language_model(config: HostConfig) -> nn.Module:
    from modules.finetuning.causal_lm import fresh_config, load_pretrained

    if config.path is not None and not config.random:
        return load_pretrained(config.path)
    from transformers import AutoConfig, AutoModelForCausalLM

    if config.path is None:
        described, where = fresh_config(config.config or {}), "config"
    else:
        folder = Path(config.path).expanduser()
        where = f"path: {folder}"
        if not (folder / "config.json").is_file():
            raise UserError(f"host.path: {folder / 'config.json'} not found; expected a local folder of transformers")
        try:
            described = AutoConfig.from_pretrained(str(folder), **LOCAL)
        except Exception as error:  # transformers raises many types
            raise UserError(f"host.{where} cannot be read: {error}") from error
    try:
        return AutoModelForCausalLM.from_config(described, dtype=torch.float32)
    except Exception as error:  # an inconsistent config shows itself in the model's constructor
        raise UserError(f"host.{where} cannot be built: {error}") from error


def train_host(
    network: nn.Module,
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    config: HostConfig,
    seed: int = 0,
    trial: bool = False,
) -> float:
    """Trains a classifier in place by Adam on cross-entropy, and returns its accuracy on ``val``.

    Every ``check_every`` batches, and after the last, it is evaluated; it ends with the weights of the lowest loss,
    after ``epochs`` passes or ``patience`` evaluations without a gain (the authors: every batch, 1,024).

    Args:
        network: Maps x to logits.
        train: Inputs (N, …) and classes (N,).
        val: Those of the evaluation.
        config: The recipe.
        seed: Seed of the order.
        trial: Whether to train for one step only.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=config.lr, fused=train[0].device.type == "cpu")
    generator = torch.Generator().manual_seed(seed)
    best, kept, waited, step = float("inf"), copy.deepcopy(network.state_dict()), 0, 0
    last = config.epochs * -(-len(train[0]) // config.batch_size)
    network.train()
    for _ in range(config.epochs):
        for rows in torch.randperm(len(train[0]), generator=generator).split(config.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(network(train[0][rows]), train[1][rows]).backward()
            optimizer.step()
            step += 1
            if step % config.check_every and step < last and not trial:
                continue
            loss = _loss(network, *val)
            waited = 0 if loss < best else waited + 1
            if loss < best:
                best, kept = loss, copy.deepcopy(network.state_dict())
            if waited >= config.patience or trial:
                break
        else:
            continue
        break
    network.load_state_dict(kept)
    network.eval()
    with torch.no_grad():
        return float((network(val[0]).argmax(1) == val[1]).double().mean())


@torch.no_grad()
def _loss(network: nn.Module, x: Tensor, y: Tensor) -> float:
    network.eval()
    found = float(F.cross_entropy(network(x), y))
    network.train()
    return found


def network_hash(network: nn.Module) -> str:
    """Returns the SHA-256 of names, shapes and values of a network's parameters and buffers.

    Floating-point values are hashed as float64, so that a network has one hash in float32 and float64.
    """
    found = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        values = value.detach().cpu().contiguous()
        values = values.double() if values.is_floating_point() else values.long()
        found.update(f"{name} {tuple(values.shape)}\n".encode())
        found.update(values.numpy().tobytes())
    return found.hexdigest()
