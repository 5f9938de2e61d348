"""The base of language models: the loss of a batch of tokens, perplexity, accuracy, generation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric, Metric

from framework import Module, OptimizerConfig, ScheduleConfig
from framework.errors import UserError
from framework.files import write_text
from framework.module import as_dataclass
from framework.settings import at_least

Batch = Mapping[str, Tensor]
IGNORED = -100


@dataclass(frozen=True)
class Generation:
    """How ``predict`` continues sequences.

    Attributes:
        prompt_length: Tokens of each sequence that it starts from.
        max_new_tokens: Tokens that it adds.
        temperature: 0 takes the likeliest token, otherwise sampled at this temperature.

    Raises:
        UserError: a number is not accepted.
    """

    prompt_length: int = 32
    max_new_tokens: int = 128
    temperature: float = 0.0

    def __post_init__(self) -> None:
        lengths = {"prompt_length": self.prompt_length, "max_new_tokens": self.max_new_tokens}
        at_least(1, **{f"generation.{name}": value for name, value in lengths.items()})
        at_least(0, **{"generation.temperature": self.temperature})


def aligned(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Brings logits and what each position predicts side by side.

    Args:
        logits: ``(B, T, vocabulary)``.
        batch: ``targets`` ``(B, T)``, what each position predicts; else ``labels`` ``(B, T)``, tokens of which position
            t predicts number t + 1; else the same with ``input_ids``. -100 where no loss is wanted.

    Returns:
        Logits ``(N, vocabulary)`` and targets ``(N,)`` int64.
    """
    if "targets" in batch:
        targets = batch["targets"]
    else:
        targets, logits = batch["labels" if "labels" in batch else "input_ids"][:, 1:], logits[:, :-1]
    return logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)


def token_losses(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Returns the summed −ln p of each target, and how many there are; the loss is taken in float32.

    Args:
        logits: ``(B, T, vocabulary)``, any floating type.
        batch: As :func:`aligned` takes it.

    Returns:
        Two scalars.
    """
    flat, targets = aligned(logits, batch)
    total = F.cross_entropy(flat.float(), targets, ignore_index=IGNORED, reduction="sum")
    return total, (targets != IGNORED).sum()


class Perplexity(Metric):
    """exp of the mean −ln p over all tokens, or, with ``log``, that mean."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, log: bool = False) -> None:
        super().__init__()
        self.log = log
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, total: Tensor, count: Tensor) -> None:
        """Adds a summed loss and its number of tokens."""
        self.total += total
        self.count += count

    def compute(self) -> Tensor:
        """Returns the value over all that was added; float32."""
        mean = self.total / self.count
        return (mean if self.log else mean.exp()).float()


class LanguageModel(Module):
    """Trains next-token prediction, or prediction of given targets.

    Batches are mappings with ``input_ids`` int64 ``(B, T)``; ``targets`` or ``labels`` as :func:`aligned` takes them;
    and, where sequences are padded, ``attention_mask`` ``(B, T)``. Logs ``train/loss``, and ``loss``, ``perplexity``
    and ``accuracy`` (of the likeliest token) under ``val/`` and ``test/``.

    A subclass has ``forward`` and ``extend``, which runs on from a decoding state.

    Args:
        vocab_size: Tokens.
        generation: How ``predict`` continues sequences.
        optimizer: The optimiser.
        schedule: The learning-rate schedule.

    Raises:
        UserError: a setting is not accepted; the datamodule has more tokens than the model (in ``setup``).
    """

    moved: ClassVar[dict[str, str]] = {
        name: f"generation.{name}" for name in ("prompt_length", "max_new_tokens", "temperature")
    }

    def __init__(
        self,
        vocab_size: int,
        generation: Generation | None = None,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        at_least(1, vocab_size=vocab_size)
        self.vocab_size = vocab_size
        self.generation = as_dataclass(Generation, generation)
        self.val_loss, self.test_loss = Perplexity(log=True), Perplexity(log=True)
        self.val_perplexity, self.test_perplexity = Perplexity(), Perplexity()
        self.val_accuracy, self.test_accuracy = MeanMetric(), MeanMetric()
        self._told: list[dict[str, Any]] = []

    def setup(self, stage: str) -> None:
        """Compares the datamodule's tokens with the model's.

        Raises:
            UserError: the data has more.
        """
        data = getattr(self.trainer, "datamodule", None)
        tokens = getattr(data, "vocab_size", None)
        if tokens is not None and tokens > self.vocab_size:
            raise UserError(f"model: {self.vocab_size} tokens, but {type(data).__name__} has {tokens}; {self._more()}")

    def _more(self) -> str:
        """Returns the message on how to give the model more tokens."""
        return "set model.vocab_size=${data.vocab_size}"

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Maps tokens ``(B, T)`` to logits ``(B, T, vocabulary)``."""
        raise NotImplementedError

    def auxiliary_loss(self) -> Tensor | None:
        """Returns a term that is added to the loss of the last batch in ``forward``; ``None`` for nothing."""
        return None

    def extend(self, input_ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Runs on from a decoding state by tokens ``(B, T)``, T ≥ 1.

        Args:
            input_ids: The next tokens.
            state: What the call for the tokens before returned; ``None`` at the start.

        Returns:
            Logits ``(B, T, vocabulary)`` and the state.
        """
        raise NotImplementedError

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean loss over the batch's targets, and what the model adds to it."""
        logits = self(batch["input_ids"], batch.get("attention_mask"))
        total, count = token_losses(logits, batch)
        loss = total / count.clamp(min=1)
        rows = len(batch["input_ids"])
        self.log("train/loss", loss, prog_bar=True, batch_size=rows)
        added = self.auxiliary_loss()
        if added is None:
            return loss
        self.log("train/auxiliary_loss", added, batch_size=rows)
        return loss + added

    def _evaluate(self, batch: Batch, part: str) -> None:
        logits = self(batch["input_ids"], batch.get("attention_mask"))
        total, count = token_losses(logits, batch)
        flat, targets = aligned(logits, batch)
        right = (flat.argmax(-1) == targets).sum() / count.clamp(min=1)
        shown: dict[str, Any] = {"batch_size": len(batch["input_ids"]), "add_dataloader_idx": False}
        for name, values in {"loss": (total, count), "perplexity": (total, count), "accuracy": (right, count)}.items():
            metric = getattr(self, f"{part}_{name}")
            metric.update(*values)
            self.log(f"{part}/{name}", metric, prog_bar=part == "val", **shown)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Loss, perplexity and accuracy of a batch."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss, perplexity and accuracy of a batch."""
        self._evaluate(batch, "test")

    @torch.no_grad()
    def generate(self, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Continues prompts ``(B, P)`` by ``generation.max_new_tokens`` tokens; returns both parts.

        With a temperature above 0 it draws from torch's global generator.

        Raises:
            UserError: a prompt has no tokens.
        """
        at_least(1, prompt_length=prompt.shape[1])
        added: list[Tensor] = []
        logits, state = self.extend(prompt)
        while True:
            added.append(self._pick(logits[:, -1]))
            if len(added) == self.generation.max_new_tokens:
                return prompt, torch.stack(added, 1)
            logits, state = self.extend(added[-1][:, None], state)

    def _pick(self, logits: Tensor) -> Tensor:
        """Returns the next token of each row of logits ``(B, vocabulary)``."""
        temperature = self.generation.temperature
        if temperature == 0:
            return logits.argmax(-1)
        return torch.multinomial((logits.float() / temperature).softmax(-1), 1)[:, 0]

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Continues the first ``generation.prompt_length`` tokens of each sequence.

        Returns:
            ``prompt`` ``(B, prompt_length)`` and ``continuation`` ``(B, max_new_tokens)``.
        """
        length = min(self.generation.prompt_length, batch["input_ids"].shape[1])
        prompt, continuation = self.generate(batch["input_ids"][:, :length])
        decode = getattr(getattr(self._trainer, "datamodule", None), "decode", None)
        if callable(decode):
            self._told += [
                {"prompt": decode(first.tolist()), "continuation": decode(then.tolist())}
                for first, then in zip(prompt, continuation, strict=True)
            ]
        return {"prompt": prompt, "continuation": continuation}

    def on_predict_epoch_end(self) -> None:
        """Writes prompts and continuations as text to ``continuations.jsonl`` in the run folder, for each process."""
        if not self._told or getattr(self.trainer, "fast_dev_run", False):
            return
        rank = f"_{self.trainer.global_rank}" if self.trainer.world_size > 1 else ""
        path = Path(self.trainer.default_root_dir) / f"continuations{rank}.jsonl"
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self._told))
        self._told = []
