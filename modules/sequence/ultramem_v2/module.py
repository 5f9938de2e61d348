"""UltraMemV2 as LightningModules: a language model, and a small model of facts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torchmetrics import MeanMetric

from framework.errors import UserError
from framework.module import Module, OptimizerConfig, ScheduleConfig, as_dataclass
from framework.optim.row_adamw import clip_norm_
from framework.settings import above, at_least, between
from modules.language_model import Generation
from modules.sequence.decoder import DecoderLM, SwiGLU, mlp_width
from modules.sequence.ultramem_v2.layers import (
    MemoryConfig,
    MemoryLayer,
    build_memory,
    core_spectrum,
    refresh,
    tucker_penalty,
)
from modules.sequence.ultramem_v2.model import memory_decoder


class MemoryModel(Module):
    """The base class of models with memories: updates of the singular vectors, and auxiliary losses."""

    memories: list[MemoryLayer]
    memory_config: MemoryConfig
    sparse: bool

    def set_memory(self, memory: MemoryConfig | None, value_boost: float, value_boost_share: float) -> dict[str, Any]:
        """Checks the settings of the memories.

        Args:
            memory: Kind and sizes.
            value_boost: c, learning rate of the tables at the start as a multiple of the others'.
            value_boost_share: ρ, share of training in which it falls to 1: ``1 + (c−1) max(0, 1 − step/(ρ T))``.

        Returns:
            What the table is made with: whether its gradients are sparse, which they are for ``row_adamw``, and the
            learning rate's boost.

        Raises:
            UserError: a setting is not accepted.
        """
        self.memory_config = as_dataclass(MemoryConfig, memory).check()
        above(0, value_boost=value_boost)
        between(0, 1, "(]", value_boost_share=value_boost_share)
        self.sparse = self.optimizer_config.name.lower() == "row_adamw"
        return {"sparse": self.sparse, "boost": (value_boost, value_boost_share)}

    def configure_optimizers(self) -> Any:
        """As the base class's.

        Raises:
            UserError: gradients are clipped by value, which torch cannot do to sparse ones.
        """
        if self.sparse and self.trainer.gradient_clip_val and self.trainer.gradient_clip_algorithm == "value":
            raise UserError(
                "trainer.gradient_clip_algorithm: 'value' is not for row_adamw's sparse gradients; 'norm' is"
            )
        return super().configure_optimizers()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips sparse gradients along with the others."""
        if not self.sparse or not gradient_clip_val:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        clip_norm_((p for group in optimizer.param_groups for p in group["params"]), gradient_clip_val)

    def parameter_report(self) -> dict[str, int]:
        """Parameters in all (``total``), in the tables (``tables``), and what a token uses (``activated``): everything
        but embeddings that are looked up and rows that are not read."""
        looked_up = {id(part.weight) for part in self.modules() if isinstance(part, nn.Embedding)}
        looked_up -= {id(part.weight) for part in self.modules() if isinstance(part, nn.Linear)}  # a tied head
        rest = sum(p.numel() for p in self.parameters() if id(p) not in looked_up)
        tables = [layer.table for layer in self.memories[:1]]
        read = sum(layer.heads * self.memory_config.top * (layer.width + layer.pre_width) for layer in self.memories)
        return {
            "total": sum(p.numel() for p in self.parameters()),
            "tables": sum(p.numel() for table in tables for p in table.parameters()),
            "activated": rest + read,
        }

    def on_fit_start(self) -> None:
        """Prints the number of parameters, and how rows that a step does not read are updated."""
        report = {name: f"{count:,}" for name, count in self.parameter_report().items()}
        rank_zero_info(
            f"parameters: {report['total']}, {report['tables']} in tables; a token uses {report['activated']}"
        )
        if self.sparse and self.memories:
            kept = self.optimizer_config.args.get("untouched", "skip") == "skip"
            rank_zero_info(
                "row_adamw: rows that a step does not read "
                + ("are left alone, by weight decay too" if kept else "catch up, weight decay too, when they are read")
            )

    def refresh(self) -> None:
        """Brings the cores' singular vectors up to date; done before each forward pass in training."""
        refresh(self.memories)

    def core_spectrum(self) -> Tensor:
        """Singular values (layers, r) of the cores, for :class:`framework.protocols.HasCoreSpectrum`."""
        return core_spectrum(self.memories)

    def auxiliary_loss(self) -> Tensor | None:
        """Returns the Tucker penalty and the balance loss, where they are switched on."""
        config, found = self.memory_config, []
        if config.penalty and len(spectrum := self.core_spectrum()):
            found.append(config.penalty * tucker_penalty(spectrum, config.penalty_margin))
        if config.balance:
            found += [config.balance * loss for layer in self.memories if (loss := layer.balance_loss()) is not None]
        return torch.stack(found).sum() if found else None


class UltraMemLM(MemoryModel, DecoderLM):
    """A causal language model with memory layers parallel to its FFNs.

    Args:
        vocab_size: Tokens.
        d_model: D, width.
        n_layers: L, blocks.
        n_heads: Heads of the attention.
        hidden: Inner width of the FFN; 8/3 of ``d_model`` rounded up to a multiple of 16 by default.
        memory: Kind and sizes of the memories.
        memory_layers: Blocks with a memory, from 0; all by default. For ``ultramem`` the blocks that its memories read.
        memory_span: For ``ultramem``: blocks from the one read to the one that the memory is added after.
        tie_embeddings: Whether the head is the embedding's transpose.
        value_boost: c, learning rate of the tables at the start as a multiple of the others'.
        value_boost_share: ρ, share of training in which it falls to 1.
        generation: How ``predict`` continues sequences.
        optimizer: The optimiser; with ``row_adamw`` only rows that were read cost time.
        schedule: The learning-rate schedule.

    Raises:
        UserError: a setting is not accepted.
    """

    def __init__(
        self,
        vocab_size: int = 256,
        d_model: int = 128,
        n_layers: int = 4,
        n_heads: int = 4,
        hidden: int | None = None,
        memory: MemoryConfig | None = None,
        memory_layers: list[int] | None = None,
        memory_span: int = 4,
        tie_embeddings: bool = False,
        value_boost: float = 1.0,
        value_boost_share: float = 1.0,
        generation: Generation = Generation(),
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(vocab_size, generation, optimizer=optimizer, schedule=schedule)
        at_least(1, d_model=d_model, n_layers=n_layers, n_heads=n_heads, hidden=hidden, memory_span=memory_span)
        self.save_hyperparameters()
        at_least(1, n_layers=n_layers)
        table = self.set_memory(memory, value_boost, value_boost_share)
        width = mlp_width(d_model, hidden)
        self.decoder, self.table, self.memories = memory_decoder(
            vocab_size,
            d_model,
            n_layers,
            n_heads,
            width,
            self.memory_config,
            memory_layers,
            memory_span,
            tie_embeddings,
            **table,
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Maps tokens (B, T) to logits (B, T, vocab_size)."""
        if self.training:
            self.refresh()
        return super().forward(input_ids, attention_mask)


class FactModel(MemoryModel):
    """Recalls the object of (subject, relation) from frozen random embeddings of the subjects: what a memory holds.

    ``x = subject + relation``, ``z = norm(x)``, ``h = x + FFN(z) + Mem(z)``, logits over the objects from ``norm(h)``.
    Batches are a language model's: ``input_ids`` (B, 2), subject and relation; ``targets`` (B, 2), the object at the
    second place. Tokens are numbered subjects first, then relations, then objects.

    Logs ``train/loss`` (nats), and ``loss``, ``accuracy`` and ``bits_per_fact`` (log2 NO − loss in bits, what has been
    stored of each fact) under ``val/`` and ``test/``.

    Args:
        subjects: NS.
        relations: NR.
        objects: NO.
        d_model: D.
        hidden: Inner width of the FFN.
        memory: Kind and sizes of the memory.
        value_boost: c, learning rate of the table at the start as a multiple of the others'.
        value_boost_share: ρ, share of training in which it falls to 1.
        optimizer: The optimiser.
        schedule: The learning-rate schedule.

    Raises:
        UserError: a setting is not accepted; the datamodule's facts are more (in ``setup``).
    """

    subject: Tensor

    def __init__(
        self,
        subjects: int = 1024,
        relations: int = 8,
        objects: int = 512,
        d_model: int = 64,
        hidden: int = 128,
        memory: MemoryConfig | None = None,
        value_boost: float = 1.0,
        value_boost_share: float = 1.0,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        at_least(1, d_model=d_model, hidden=hidden)
        self.save_hyperparameters()
        at_least(1, subjects=subjects, relations=relations, objects=objects)
        table = self.set_memory(memory, value_boost, value_boost_share)
        self.subjects, self.relations, self.objects = subjects, relations, objects
        self.register_buffer("subject", torch.randn(subjects, d_model))
        self.relation = nn.Embedding(relations, d_model)
        self.norm, self.last_norm = nn.RMSNorm(d_model, eps=1e-6), nn.RMSNorm(d_model, eps=1e-6)
        self.mlp, self.head = SwiGLU(d_model, hidden), nn.Linear(d_model, objects, bias=False)
        self.table, self.memory, self.memories = None, None, []
        if self.memory_config.kind != "none":
            self.table, self.memories = build_memory(self.memory_config, d_model, hidden, 1, **table)
            self.memory = self.memories[0]
        for part in ("val", "test"):
            setattr(self, f"{part}_loss", MeanMetric())
            setattr(self, f"{part}_accuracy", MeanMetric())

    def setup(self, stage: str) -> None:
        """Compares the datamodule's facts with the model's.

        Raises:
            UserError: they differ in number.
        """
        data = getattr(self.trainer, "datamodule", None)
        for name in ("subjects", "relations", "objects"):
            if (there := getattr(data, name, None)) not in (None, getattr(self, name)):
                raise UserError(f"{name}: {getattr(self, name)}, but {type(data).__name__} has {there}")

    def get_classifier(self) -> nn.Module:
        """Returns the output layer, by the name that timm's models have for it."""
        return self.head

    def forward(self, questions: Tensor) -> Tensor:
        """Maps questions (B, 2), tokens of subject and relation, to logits (B, NO) of the objects."""
        if self.training:
            self.refresh()
        x = F.embedding(questions[:, 0], self.subject) + self.relation(questions[:, 1] - self.subjects)
        z = self.norm(x)
        h = x + self.mlp(z)
        if self.memory is not None:
            h = h + self.memory(z).to(h.dtype)
        return self.head(self.last_norm(h))

    def _answers(self, batch: Mapping[str, Tensor]) -> Tensor:
        return batch["targets"][:, 1] - self.subjects - self.relations

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy of the objects, and what the memory adds to it."""
        loss = F.cross_entropy(self(batch["input_ids"]).float(), self._answers(batch))
        self.log("train/loss", loss, prog_bar=True)
        added = self.auxiliary_loss()
        if added is None:
            return loss
        self.log("train/auxiliary_loss", added)
        return loss + added

    def _evaluate(self, batch: Mapping[str, Tensor], part: str) -> None:
        logits, answers = self(batch["input_ids"]).float(), self._answers(batch)
        found = {"loss": F.cross_entropy(logits, answers), "accuracy": (logits.argmax(-1) == answers).float().mean()}
        for name, value in found.items():
            metric = getattr(self, f"{part}_{name}")
            metric.update(value, len(answers))
            self.log(f"{part}/{name}", metric, prog_bar=part == "val")
        stored = math.log2(self.objects) - found["loss"] / math.log(2)
        self.log(f"{part}/bits_per_fact", stored, batch_size=len(answers), sync_dist=True)

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Loss, accuracy and bits of a batch."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Loss, accuracy and bits of a batch."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """``prediction`` (B,), the token of the likeliest object, its ``probability`` (B,), and ``target`` (B,)."""
        probability, index = self(batch["input_ids"]).float().softmax(-1).max(-1)
        first = self.subjects + self.relations
        return {"prediction": first + index, "probability": probability, "target": batch["targets"][:, 1]}
