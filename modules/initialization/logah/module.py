"""Training of a hypernetwork over a stream of architectures (arXiv 2405.16287)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from framework import Module, OptimizerConfig, ScheduleConfig
from framework.data.seeding import mix
from framework.errors import UserError
from framework.functional.evaluating import evaluating
from framework.module import as_dataclass
from framework.protocols.weights import PredictedWeights
from framework.settings import at_least, between
from modules.initialization.logah.families import Space, Task, build, draw, recognise
from modules.initialization.logah.graph import OPERATIONS, ROLES, Graph, trace, with_shapes
from modules.initialization.logah.hypernetwork import HyperNetwork, Normalise, predicted_shape
from modules.initialization.logah.shapes import read_shapes
from modules.language_model import aligned, token_losses

ADAMW = OptimizerConfig("adamw", lr=3e-4, weight_decay=0.01)
KEPT = 256  # networks whose graphs are kept
HELD_OUT = 2**40  # seeds of the architectures of evaluations start here


class GraphHyperNetwork(Module):
    """Trains a hypernetwork: in each step it predicts the weights of a few networks, which the batch is tried on.

    Batches are ``(x, y)``, images and classes, or tokens as :class:`modules.language_model.LanguageModel` takes them.
    The loss is the mean cross-entropy of the networks with their predicted weights, plus ``penalty`` times the sum of
    the norms of all that was predicted. Logs ``train/loss`` (with the penalty), ``train/error`` (without), and under
    ``val/`` and ``test/`` the mean ``loss`` and ``accuracy`` of ``eval_networks`` architectures, of seeds that no
    training step uses, without any training of their own. In a small space training draws some of the same shapes by
    chance; for shapes that it has certainly not seen, list the architectures in a file.

    Architectures and class tokens are drawn from the seed, the epoch and the batch, so that a resumed training sees the
    same ones. Of the architectures of a file the last ``eval_networks`` are kept for the evaluations.

    Args:
        architectures: What can be drawn.
        num_classes: Classes of the data, or its vocabulary.
        channels: Channels of images.
        image_size: Side of images.
        length: Tokens of a text.
        dim: Width d of the operations' embeddings.
        rank: Largest rank r of a predicted matrix.
        layers: Layers of the graph encoder.
        heads: Its attention heads.
        size: ck, the most rows and columns of a matrix without tiling.
        normalise: How predictions are scaled: ``fan_in``, or ``std`` as for GPT-2; by default by the family.
        meta_batch: Networks in a step.
        networks: Number of different architectures of the training; ``null`` for ever new ones.
        eval_networks: Number of architectures of the evaluations.
        penalty: Weight of the norms.
        label_smoothing: Share of the label that is spread over all classes in training.
        seed: Of the architectures.
        optimizer: The optimiser; by default AdamW, rate 3e-4, weight decay 0.01.
        schedule: The learning-rate schedule.

    Raises:
        UserError: a setting is not accepted (in the constructor); the data does not fit the networks, or the file of
            architectures is broken (in ``setup``).
    """

    operations: Tensor

    def __init__(
        self,
        architectures: Space | None = None,
        num_classes: int = 10,
        channels: int = 1,
        image_size: int = 8,
        length: int = 64,
        dim: int = 64,
        rank: int = 32,
        layers: int = 3,
        heads: int = 8,
        size: int = 32768,
        normalise: Normalise | None = None,
        meta_batch: int = 1,
        networks: int | None = None,
        eval_networks: int = 4,
        penalty: float = 3e-5,
        label_smoothing: float = 0.0,
        seed: int = 0,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(ADAMW if optimizer is None else optimizer, schedule)
        at_least(1, meta_batch=meta_batch, networks=networks, eval_networks=eval_networks)
        at_least(0, penalty=penalty, seed=seed)
        between(0, 1, "[)", label_smoothing=label_smoothing)
        self.save_hyperparameters()
        self.space = as_dataclass(Space, architectures)
        self.task = Task(num_classes, channels, image_size, length)
        self.meta_batch, self.networks, self.eval_networks = meta_batch, networks, eval_networks
        self.penalty, self.label_smoothing, self.seed = penalty, label_smoothing, seed
        scaled: Normalise = normalise or ("std" if self.space.family == "gpt2" else "fan_in")
        self.hypernetwork = HyperNetwork(dim, rank, layers, heads, size, scaled)
        # which parameters of which operations the training has met: of others nothing is known
        self.register_buffer("operations", torch.zeros(len(OPERATIONS), len(ROLES), dtype=torch.bool))
        self._met: set[tuple[str, str]] = set()
        self._listed: list[dict[str, Any]] = []
        self._topologies: dict[Any, Graph] = {}
        self._kept: OrderedDict[Any, tuple[nn.Module, Graph]] = OrderedDict()
        self._predicted: list[tuple[nn.Module, dict[str, Tensor]]] = []
        self.scores = nn.ModuleDict({f"{part}_{name}": MeanMetric() for part in ("val", "test") for name in _SCORES})

    def setup(self, stage: str) -> None:
        """Compares the data with the networks that are to be drawn.

        Raises:
            UserError: classes, channels or size differ, texts have more tokens than the networks, the data is of
                another kind, patches do not divide the images, or the file of architectures is broken.
        """
        self.listed()
        data = getattr(self.trainer, "datamodule", None)
        text = self.space.family == "gpt2"
        kind, other = ("tokens", "image_size") if text else ("images", "vocab_size")
        if hasattr(data, other):
            raise UserError(f"architectures.family: {self.space.family} takes {kind}; {type(data).__name__} has none")
        for theirs, name in (("vocab_size", "num_classes"), ("length", "length")) if text else _IMAGES:
            found, given = getattr(data, theirs, None), getattr(self.task, name)
            if found is not None and (found > given if text else found != given):
                raise UserError(f"model.init_args.{name}: {given}, but the data has {found}")
        if self.space.family == "vit":
            for side in {shape["patch_size"] for shape in self._listed} or self.space.patch_size:
                if self.task.image_size % side:
                    where = "patch_size" if self.space.file is None else "file"
                    raise UserError(
                        f"architectures.{where}: patches of {side} do not divide images of {self.task.image_size}"
                    )

    def listed(self) -> list[dict[str, Any]]:
        """Returns the architectures of the file; an empty list if they are drawn.

        Raises:
            UserError: the file is broken, or has too few networks.
        """
        if self.space.file is not None and not self._listed:
            found = read_shapes(self.space.file, self.space.family, self.space.bias)
            if len(found) <= self.eval_networks:
                raise UserError(
                    f"architectures.file: {self.space.file} has {len(found)} networks; more than eval_networks "
                    f"({self.eval_networks}) are needed"
                )
            self._listed = found
        return self._listed

    def shape(self, seed: int) -> dict[str, Any]:
        """Returns the shape of an architecture: drawn, or of the file.

        Args:
            seed: Of the draw; from ``HELD_OUT`` on those of evaluations.
        """
        listed = self.listed()
        if not listed:
            return draw(self.space, self.task, mix(self.seed, seed))
        first = len(listed) - self.eval_networks
        return listed[first + seed - HELD_OUT if seed >= HELD_OUT else seed % first]

    def network(self, seed: int) -> tuple[nn.Module, Graph]:
        """Returns the architecture of a seed, on the meta device, and its graph.

        Args:
            seed: Of the draw.
        """
        shape = self.shape(seed)
        key = repr(sorted(shape.items()))
        if key not in self._kept:
            with torch.device("meta"):
                net = build(self.space.family, self.task, shape)
            self._kept[key] = net, self._graph(net, shape)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _graph(self, net: nn.Module, shape: Mapping[str, Any]) -> Graph:
        """The graph; it is traced once for each number of layers, the rest are shapes."""
        depth = shape.get("depth", len(shape.get("widths", ())))
        if depth not in self._topologies:
            known = recognise(net)
            assert known is not None
            self._topologies[depth] = trace(net, known.args, known.kwargs)
        return with_shapes(self._topologies[depth], net)

    def seeds(self, batch_idx: int) -> list[int]:
        """Returns the seeds of the architectures of a training batch of the present epoch."""
        drawn = [mix(self.seed, self.current_epoch, batch_idx, place) for place in range(self.meta_batch)]
        return [seed % (self.networks or HELD_OUT) for seed in drawn]

    def on_train_start(self) -> None:
        """Forgets what it has noted: a checkpoint may have replaced the buffer."""
        super().on_train_start()
        self._met = set()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Returns the loss of a batch, over the networks of this step."""
        seeds = self.seeds(batch_idx)
        nets, graphs = zip(*map(self.network, seeds), strict=True)
        self._meet(graphs)
        # of their own, so that class tokens depend on the step alone
        found = self.hypernetwork(graphs, torch.Generator().manual_seed(mix(self.current_epoch, batch_idx, *seeds)))
        errors = [
            self.error(apply(net, values, batch), batch, self.label_smoothing)
            for net, values in zip(nets, found, strict=True)
        ]
        error = torch.stack(errors).mean()
        norms = torch.stack([value.norm() for values in found for value in values.values() if value.requires_grad])
        loss = error + self.penalty * norms.sum() / len(nets)
        size = len(inputs_of(batch))
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=size, sync_dist=True)
        self.log("train/error", error, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        return loss

    def _meet(self, graphs: Sequence[Graph]) -> None:
        """Notes which parameters of which operations the training meets; the buffer is written for new ones alone."""
        pairs = {(graph.nodes[number].operation, slot.role) for graph in graphs for number, slot in graph.slots}
        for operation, role in pairs - self._met:
            self.operations[OPERATIONS.index(operation), ROLES.index(role)] = True
        self._met |= pairs

    def error(self, logits: Tensor, batch: Any, smoothing: float = 0.0) -> Tensor:
        """Returns the cross-entropy of logits on a batch.

        Args:
            logits: (B, C), or (B, T, C) of tokens.
            batch: The batch.
            smoothing: Of the labels; not of tokens.
        """
        if isinstance(batch, Mapping):
            total, count = token_losses(logits, batch)
            return total / count.clamp(min=1)
        return F.cross_entropy(logits, batch[1], label_smoothing=smoothing)

    def _predict(self) -> None:
        """Predicts the weights of the evaluation's networks."""
        pairs = [self.network(HELD_OUT + number) for number in range(self.eval_networks)]
        with torch.no_grad():
            generator = torch.Generator().manual_seed(mix(self.seed, HELD_OUT))  # the same at every evaluation
            found = self.hypernetwork([graph for _, graph in pairs], generator)
        self._predicted = [(net, values) for (net, _), values in zip(pairs, found, strict=True)]

    def on_validation_epoch_start(self) -> None:
        """Predicts the networks of the evaluation."""
        self._predict()

    def on_test_epoch_start(self) -> None:
        """Predicts the networks of the evaluation."""
        self._predict()

    def on_validation_epoch_end(self) -> None:
        """Frees their weights."""
        self._predicted = []

    def on_test_epoch_end(self) -> None:
        """Frees their weights."""
        self._predicted = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Logs the scores of a batch."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Logs the scores of a batch."""
        self._evaluate(batch, "test")

    def _evaluate(self, batch: Any, part: str) -> None:
        for net, values in self._predicted:
            with evaluating(net):
                logits = apply(net, values, batch)
            hits, count = hits_of(logits, batch)
            if count:
                for name, value in (("loss", self.error(logits, batch)), ("accuracy", hits / count)):
                    metric: Any = self.scores[f"{part}_{name}"]
                    metric.update(value, count)
        for name in _SCORES:
            self.log(f"{part}/{name}", self.scores[f"{part}_{name}"], prog_bar=True)  # type: ignore[arg-type]

    @torch.no_grad()
    def predict_weights(self, model: nn.Module, network: str | None = None, seed: int = 0) -> PredictedWeights:
        """Returns the weights of a network of the family that this hypernetwork was trained on.

        Args:
            model: The model.
            network: Name of the network within it; by default the first one of a known family.
            seed: Of class tokens.

        Raises:
            UserError: there was no training step, or it diverged; there is no such network, it is on the meta device,
                of another family, or one of its operations was in no network of the training.
        """
        if not self.operations.any():
            raise UserError("the hypernetwork was never trained: its checkpoint is from before the first step")
        name, net, known = find_network(model, network)
        if known.family != self.space.family:
            raise UserError(
                f"{type(net).__name__} is of the family {known.family}; this hypernetwork was trained on "
                f"{self.space.family}"
            )
        if any(parameter.is_meta for parameter in net.parameters()):
            raise UserError(f"{type(net).__name__} is on the meta device, which holds no values; move it with to_empty")
        graph = trace(net, known.args, known.kwargs)
        for number, slot in graph.slots:
            operation = graph.nodes[number].operation
            if not self.operations[OPERATIONS.index(operation), ROLES.index(slot.role)]:
                with_biases = known.family == "mlp" and slot.role == "bias" and not self.space.bias
                raise UserError(
                    f"{slot.name}: the {slot.role} of the operation {operation} was in no network of the "
                    "hypernetwork's training" + ("; train one with architectures.bias: true" if with_biases else "")
                )
        with evaluating(self):
            (found,) = self.hypernetwork([graph], torch.Generator().manual_seed(seed))
        lead = f"{name}." if name else ""
        how = dict.fromkeys((key for key, _ in model.named_parameters(remove_duplicate=False)), "left alone")
        for number, slot in graph.slots:
            tiled = self.hypernetwork.decoder.tiles(predicted_shape(graph.nodes[number], slot))
            how[lead + slot.name] = "drawn" if slot.role == "token" else "tiled" if tiled else "predicted"
        written = {id(net.get_parameter(key)) for key in found}
        for key, parameter in model.named_parameters(remove_duplicate=False):
            if id(parameter) in written and how[key] == "left alone":
                how[key] = "copied"
        for key, value in found.items():
            if not value.isfinite().all():
                raise UserError(f"{lead}{key}: the prediction is not finite; the hypernetwork's training diverged")
        return PredictedWeights(name, {lead + key: value for key, value in found.items()}, how)


_SCORES = ("loss", "accuracy")
_IMAGES = (("num_classes", "num_classes"), ("channels", "channels"), ("image_size", "image_size"))


def inputs_of(batch: Any) -> Tensor:
    """Returns the inputs of a batch: of images, or tokens (B, T)."""
    return batch["input_ids"] if isinstance(batch, Mapping) else batch[0]


def apply(net: nn.Module, values: Mapping[str, Tensor], batch: Any) -> Tensor:
    """Returns the logits of a network with given parameters on a batch.

    Args:
        net: The network; its own parameters are not used.
        values: All of its parameters.
        batch: The batch.
    """
    found = torch.func.functional_call(net, dict(values), (inputs_of(batch),))
    return found if isinstance(found, Tensor) else found.logits


def hits_of(logits: Tensor, batch: Any) -> tuple[Tensor, int]:
    """Returns how many predictions are right, and of how many; unlabelled tokens do not count.

    Args:
        logits: (B, C), or (B, T, C) of tokens.
        batch: The batch.
    """
    flat, targets = aligned(logits, batch) if isinstance(batch, Mapping) else (logits, batch[1])
    there = targets >= 0
    return (flat.argmax(1) == targets)[there].float().sum(), int(there.sum())


def find_network(model: nn.Module, name: str | None) -> tuple[str, nn.Module, Any]:
    """Returns name, network and family (:class:`modules.initialization.logah.families.Known`) of a network in a model.

    Args:
        model: The model.
        name: Of the network; by default the first one of a known family that holds at least half of the parameters.

    Raises:
        UserError: there is none of this name, or none of a known family.
    """
    accepted = (
        "vision transformers of timm and torchvision, GPT2LMHeadModel, Sequential of linear layers and activations"
    )
    if name is not None:
        try:
            net = model.get_submodule(name)
        except AttributeError:
            raise UserError(f"network: {type(model).__name__} has no {name!r}") from None
        known = recognise(net)
        if known is None:
            raise UserError(f"network: {name} is a {type(net).__name__}, of no known family; accepted: {accepted}")
        return name, net, known
    whole = sum(parameter.numel() for parameter in model.parameters())
    for found, net in model.named_modules():
        known = recognise(net)
        # a layer of a larger network may look like a perceptron
        if known is not None and 2 * sum(parameter.numel() for parameter in net.parameters()) >= whole:
            return found, net, known
    raise UserError(f"{type(model).__name__} holds no network of a known family; accepted: {accepted}")
