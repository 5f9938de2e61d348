"""The training of an alignment map on a frozen host (arXiv 2507.08802)."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torchmetrics import CatMetric

from framework import Module, OptimizerConfig, ScheduleConfig
from framework.checkpoints.reading import open_checkpoint
from framework.data.seeding import mix, seeded
from framework.errors import UserError
from framework.files import write_text
from framework.module import as_dataclass
from framework.settings import at_least
from modules.interpretability.causal_abstraction.alignment_file import save_alignment
from modules.interpretability.causal_abstraction.cache import HiddenCache
from modules.interpretability.causal_abstraction.equality import ADAM, same_inputs
from modules.interpretability.causal_abstraction.hosts import HostConfig, build_host, train_host
from modules.interpretability.causal_abstraction.interchange import Interchange, InterchangeModel, contiguous
from modules.interpretability.causal_abstraction.maps import MapConfig, build_map
from modules.interpretability.causal_abstraction.networks import BlockMLP

MAP, HOST = MapConfig(), HostConfig()
MOST_TUPLES = 1_000_000

Batch = Mapping[str, Tensor]


def is_right(logits: Tensor, y: Tensor, other: Tensor | None = None) -> Tensor:
    """Returns which rows (B,) count for the accuracy of interchange interventions.

    Args:
        logits: (B, C).
        y: Classes (B,) after the intervention.
        other: Classes (B,) that they are compared with, the other name's token; all classes if ``None``.
    """
    if other is None:  # argmax takes NaN for the largest
        return (logits.argmax(1) == y) & ~logits.isnan().any(1)
    return (logits.gather(1, y[:, None]) > logits.gather(1, other[:, None]))[:, 0]


def majority_rate(y: Tensor) -> float:
    """Returns the share of the most frequent value of ``y`` (n,): what a constant answer reaches."""
    return float(y.unique(return_counts=True)[1].max() / len(y))


def summary(rows: Tensor) -> dict[str, float]:
    """Returns ``iia``, ``majority``, ``pairs`` and ``task`` of the rows (n, 3) of :meth:`CausalAbstraction.scores`."""
    right, task, answer = rows.double().T  # metrics hold float32
    return {
        "iia": float(right.mean()),
        "majority": majority_rate(answer),
        "pairs": float(len(rows)),
        "task": float(task.mean()),
    }


class CausalAbstraction(Module):
    """Fits an alignment map so that interventions on a frozen network do what they do in an algorithm.

    Batches are mappings: ``base`` (B, …), ``sources`` (B, m, …), ``nodes`` (B, m) of 0 and 1, ``y`` (B,) of the
    intervened algorithm, ``base_y`` (B,) of the algorithm; for names also ``other`` (B,), the other name; and
    ``base_rows`` (B,) and ``source_rows`` (B, m), which of the data set's inputs they are, for the cache.
    Logs ``train/loss`` and ``train/iia`` of an epoch, and under ``val/`` and ``test/``: ``loss``; ``iia``, the accuracy
    of interventions; ``majority``, the rate of the most frequent answer; ``pairs``, how many interventions; ``task``,
    the host's own accuracy without them; ``inversion``, the largest |φ⁻¹(φ(h)) − h|. Training ends with the map of the
    lowest ``run.monitor``, which is saved alone in the run folder with its scores on the test set.

    The identity map learns nothing: in each epoch every node gets one more unit, the tuple of unused ones with the
    lowest loss over the epoch.

    Args:
        features: d, numbers in the layer at the place of the intervention.
        layer: Dotted name of the module whose output is changed.
        nodes: m, nodes of the algorithm.
        size: Latents of each node, in contiguous blocks from the front.
        partition: Instead of ``size``: the latents of each node.
        source_layer: Module from which sources are read; ``layer`` by default.
        position: Place in the layer's output, see :class:`Interchange`.
        units: Which numbers there are seen by the map; all by default.
        alignment: The map.
        host: The network.
        num_classes: Classes of a host that is built here.
        cache_gib: Memory for the host's hidden states, in GiB; 0 to compute them in every step.
        candidates: Tuples of units whose loss is computed at a time, for the identity.
        optimizer: The optimiser; Adam with rate 0.001 by default.
        schedule: The learning-rate schedule.

    Attributes:
        model: The host with its map.

    Raises:
        UserError: a setting is not accepted, a file is missing or does not fit; the datamodule has other nodes or no
            task to train the host on (when it starts).
    """

    losses: Tensor
    tuples: Tensor

    def __init__(
        self,
        features: int = 16,
        layer: str = "blocks.0",
        nodes: int = 2,
        size: int = 8,
        partition: list[list[int]] | None = None,
        source_layer: str | None = None,
        position: list[int] | None = None,
        units: list[int] | None = None,
        alignment: MapConfig = MAP,
        host: HostConfig = HOST,
        num_classes: int = 2,
        cache_gib: float = 2.0,
        candidates: int = 64,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(ADAM if optimizer is None else optimizer, schedule)
        at_least(1, features=features, candidates=candidates, nodes=nodes, size=size)
        at_least(0, cache_gib=cache_gib)
        self.save_hyperparameters()
        # Mappings come from a checkpoint, which imports nothing.
        known = [isinstance(alignment, MapConfig), isinstance(host, HostConfig)]
        self.map_config, self.host_config = as_dataclass(MapConfig, alignment), as_dataclass(HostConfig, host)
        if partition is None and nodes * size > features:
            raise UserError(f"size: {nodes} nodes (nodes) of {size} latents, but there are {features} (features)")
        blocks = contiguous(nodes, size) if partition is None else tuple(map(tuple, partition))
        if len(blocks) != nodes:
            raise UserError(f"partition: {len(blocks)} blocks, but there are {nodes} nodes (nodes)")
        self.nodes, self.size = nodes, max(map(len, blocks), default=0)
        where = Interchange(
            layer,
            blocks,
            source_layer,
            None if position is None else tuple(position),
            None if units is None else tuple(units),
        )
        network = build_host(self.host_config, num_classes, known[1])
        self.model = InterchangeModel(network, build_map(self.map_config, features, known[0]), where)
        self.searches = self.map_config.name == "identity"
        if self.searches:
            self.automatic_optimization = False
            self._start_search(partition is None)
            self.wanted_units = nodes * size if partition is None else 0  # a given partition is kept
        self.cache_bytes, self.candidates = cache_gib * 2**30, candidates
        # As a buffer, so that a resumed run does not train the host again.
        self.register_buffer("host_ready", torch.tensor(not self.host_config.trains))
        self.host_ready: Tensor
        self._caches: dict[str, HiddenCache] = {}
        self._task: dict[str, float] = {}
        self.val_rows, self.test_rows = (CatMetric(nan_strategy="disable") for _ in range(2))  # gathered over ranks

    def _start_search(self, empty: bool) -> None:
        """Lists the tuples of units, one for each node."""
        features, count = len(self.model.owner), math.perm(len(self.model.owner), self.nodes)
        if count > MOST_TUPLES:
            raise UserError(
                f"alignment.name: identity would try {count:,} tuples of {self.nodes} of {features} units, more than "
                f"{MOST_TUPLES:,}; give units, or another map"
            )
        if empty:
            self.model.owner.fill_(-1)
        self.register_buffer("tuples", torch.tensor(list(permutations(range(features), self.nodes))), persistent=False)
        self.register_buffer("losses", torch.zeros(count, dtype=torch.float64))

    def setup(self, stage: str) -> None:
        """Compares the datamodule's nodes with the model's.

        Raises:
            UserError: they differ, or it has no interventions.
        """
        self._caches, self._task = {}, {}  # of another host or data, if this is not the first run
        self.model.forget()
        self._check(getattr(self.trainer, "datamodule", None))

    def _check(self, data: Any) -> None:
        found = getattr(data, "nodes", None)
        if not found:
            raise UserError(f"data: {type(data).__name__} has no interventions; set its algorithm")
        if found != self.nodes:
            raise UserError(f"model.init_args.nodes: {self.nodes}, but the data's algorithm has {found}")
        if isinstance(self.model.network, BlockMLP):
            same_inputs(data, "host.inputs", self.model.network.head.in_features)
        known, tokens = getattr(self.model.network, "vocab_size", None), getattr(data, "vocab_size", None)
        if known is not None and tokens is not None and tokens > known:
            raise UserError(f"data.tokenizer: has {tokens} tokens, but the host only {known}; use the host's own")

    def on_fit_start(self) -> None:
        """Trains the host on the datamodule's task, once, if a training starts and the config says so.

        A checkpoint was read before, so that a resumed training has its host already. The first process trains it, on
        the CPU in float32, and sends it to the others.

        Raises:
            UserError: the datamodule has no task.
        """
        trainer = self.trainer
        # Lightning warns of the host, which stays in evaluation mode on purpose.
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
        if self.host_ready:
            return
        task = getattr(getattr(trainer, "datamodule", None), "task", None)
        if task is None:
            raise UserError("host: it is to be trained here, but the data has no task; set host.checkpoint or epochs 0")
        state: dict[str, Tensor] = {}
        if trainer.is_global_zero:
            seed = torch.initial_seed()
            with seeded(mix(seed, 3) % 2**32):
                train, val = task()
            network = copy.deepcopy(self.model.network).cpu().float().requires_grad_(True)
            trial = bool(getattr(trainer, "fast_dev_run", False))
            accuracy = train_host(network, train, val, self.host_config, seed, trial)
            state = network.state_dict()
            rank_zero_info(f"host: trained in place on {len(train[0]):,} samples, accuracy {accuracy:.4f}")
        self.model.network.load_state_dict(trainer.strategy.broadcast(state))
        self.host_ready.fill_(True)

    def forward(self, base: Tensor, sources: Tensor, nodes: Tensor) -> Tensor:
        """Returns the logits of the intervened network, see :class:`InterchangeModel`."""
        return self.model(base, sources, nodes)

    def hidden(self, batch: Batch, part: str) -> tuple[Tensor | None, Tensor]:
        """Returns the layer's output for the base inputs, if it is worth keeping, and the used sources' activity.

        Args:
            batch: The batch.
            part: ``train``, ``val`` or ``test``.
        """
        model, cache = self.model, self._cache_of(part, batch)
        base, used = batch["base"], batch["nodes"].bool()
        if cache is None:
            return None, model.source_activity(batch["sources"], used)
        activity = cache.get(
            "sources", batch["source_rows"][used], lambda new: model.activity_of(batch["sources"][used][new])
        )
        if not cache.fits("base"):
            return None, activity
        output = cache.get("base", batch["base_rows"], lambda new: model.base_output(base[new]))
        if not model.can_skip(base, output):
            cache.refuse("base")
            return None, activity
        return output, activity

    def _cache_of(self, part: str, batch: Batch) -> HiddenCache | None:
        if part not in self._caches:
            data: Any = getattr(getattr(self._trainer, "datamodule", None), f"{part}_set", None)
            if not self.cache_bytes or not hasattr(data, "pools"):
                return None
            self._caches[part] = HiddenCache(data.pools, self.cache_bytes)
        return self._caches[part]

    def logits(self, batch: Batch, part: str) -> Tensor:
        """Returns the logits of the intervened network; arguments as of :meth:`hidden`."""
        hidden = self.hidden(batch, part)
        return self.model(batch["base"], batch["sources"], batch["nodes"], hidden)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Returns the cross-entropy of a batch; the identity adds the loss of each tuple of units."""
        if self.searches:
            with torch.no_grad():
                self._search(batch)
            wrapped: Any = self.optimizers()
            wrapped.step()  # there are no gradients; Lightning counts training steps by optimiser steps
            return None
        logits = self.logits(batch, "train")
        loss = F.cross_entropy(logits, batch["y"])
        right = is_right(logits.detach(), batch["y"], batch.get("other")).float().mean()
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": len(logits), "sync_dist": True}
        self.log("train/loss", loss, prog_bar=True, **options)
        self.log("train/iia", right, prog_bar=True, **options)
        return loss

    def on_train_epoch_start(self) -> None:
        """Forgets the losses of the last search, unless training was resumed within an epoch."""
        if self.searches and self.trainer.fit_loop.epoch_loop.batch_progress.current.ready == 0:
            self.losses.zero_()

    def _search(self, batch: Batch) -> None:
        """Adds the loss of each tuple of units; after the last batch the best one is given to the nodes."""
        owner, model = self.model.owner, self.model
        if int((owner >= 0).sum()) >= self.wanted_units:
            return
        free = (owner[self.tuples] < 0).all(1).nonzero()[:, 0]
        output, activity = self.hidden(batch, "train")
        output = model.base_output(batch["base"]) if output is None else output
        y = batch["y"]
        for part in free.split(self.candidates):
            owners = owner.expand(len(part), -1).scatter(
                1, self.tuples[part], torch.arange(self.nodes, device=owner.device).expand(len(part), -1)
            )
            logits = model.logits_of_units(batch["base"], output, activity, batch["nodes"], owners)
            losses = F.cross_entropy(logits.flatten(0, 1), y.repeat_interleave(len(part)), reduction="none")
            self.losses[part] += losses.view(len(y), -1).sum(0)
        if not self.trainer.is_last_batch:
            return
        every: Any = self.losses[None] if self.trainer.world_size == 1 else self.all_gather(self.losses)
        total = every.sum(0)
        best = free[total[free].argmin()]
        owner[self.tuples[best]] = torch.arange(self.nodes, device=owner.device)

    def scores(self, logits: Tensor, batch: Batch, task: bool = True) -> Tensor:
        """Returns what :func:`summary` needs of each intervention, (B, 3) float64.

        Args:
            logits: Of the intervened network.
            batch: The batch.
            task: Whether the host is run without interventions too.
        """
        y, base_y, other = batch["y"], batch["base_y"], batch.get("other")
        right, alone = is_right(logits, y, other), torch.zeros_like(y)
        if task:
            alone = is_right(self.model.network(batch["base"]), base_y, None if other is None else y + other - base_y)
        # of names what counts is whether the intervention changes the answer
        answer = y if other is None else y == base_y
        return torch.stack([right.double(), alone.double(), answer.double()], 1)

    @torch.no_grad()
    def evaluate(self, batch: Batch, part: str, first: bool) -> None:
        """Logs the loss of a batch, and keeps what the scores of the whole part need.

        Args:
            batch: The batch.
            part: ``val`` or ``test``.
            first: Whether it is the first batch, on which the map's inversion is checked.
        """
        logits, y = self.logits(batch, part), batch["y"]
        self.log(f"{part}/loss", F.cross_entropy(logits, y), batch_size=len(y), sync_dist=True)
        getattr(self, f"{part}_rows").update(self.scores(logits, batch, part not in self._task))
        if first:
            h = self.model.interchange.select(self.model.base_output(batch["base"]))
            h = self.model.in_precision_of_map(h)
            wrong = (self.model.alignment.inverse(self.model.alignment(h)) - h).abs().max()
            self.log(f"{part}/inversion", wrong, sync_dist=True)

    def _report(self, part: str) -> None:
        metric = getattr(self, f"{part}_rows")
        rows = metric.compute()
        metric.reset()
        found = summary(rows)
        found["task"] = self._task.setdefault(part, found["task"])  # it does not change
        for name, value in found.items():
            self.log(f"{part}/{name}", value, prog_bar=name == "iia")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and scores of a batch."""
        self.evaluate(batch, "val", batch_idx == 0)

    def on_validation_epoch_end(self) -> None:
        """Logs the scores of all interventions."""
        if self.trainer.sanity_checking:
            self.val_rows.reset()
            return
        self._report("val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and scores of a batch."""
        self.evaluate(batch, "test", batch_idx == 0)

    def on_test_epoch_end(self) -> None:
        """Logs the scores of all interventions."""
        self._report("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Returns the predicted class, ``target`` and whether it counts as right, each (B,)."""
        logits = self.model(batch["base"], batch["sources"], batch["nodes"])
        right = is_right(logits, batch["y"], batch.get("other"))
        return {"prediction": logits.argmax(1), "target": batch["y"], "right": right}

    def on_train_end(self) -> None:
        """Goes back to the map of the best checkpoint, if there is one; writes the map and its scores on the test set.

        In the run folder these are ``alignment/`` (see :func:`save_alignment`) and ``iia.json``.
        """
        trainer = self.trainer
        for callback in trainer.checkpoint_callbacks:
            path = getattr(callback, "best_model_path", "")
            if getattr(callback, "monitor", None) and path and Path(path).is_file():
                state = open_checkpoint(Path(path))["state_dict"]
                prefix = "model.alignment."
                own = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
                self.model.alignment.load_state_dict(own)
                self.model.owner.copy_(state["model.owner"])
                break
        if getattr(trainer, "fast_dev_run", False):
            return
        row = self.row()  # on all processes, each on its part
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            save_alignment(self.model, self.map_config, folder / "alignment")
            write_text(folder / "iia.json", json.dumps(row, indent=2) + "\n")

    @torch.no_grad()
    def row(self) -> dict[str, Any]:
        """Returns the scores on the datamodule's test set, with what they belong to: map, layer, size, host."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.model.eval()
        precision = self.trainer.precision_plugin
        for given in data.test_dataloader():
            batch = self.transfer_batch_to_device(precision.convert_input(given), self.device, 0)
            with precision.forward_context():
                self.test_rows.update(self.scores(self.logits(batch, "test"), batch))
        found = summary(self.test_rows.compute())  # of all processes
        self.test_rows.reset()
        where = {"map": self.map_config.label, "layer": self.model.interchange.layer, "size": self.size}
        task = {"algorithm": getattr(data, "algorithm", None) or type(data).__name__}
        return {**where, **task, "host": self.host_config.label, "seed": torch.initial_seed(), **found}
