"""One layer of memories on fused pairs, to measure recall alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from framework import OptimizerConfig, ScheduleConfig
from framework.errors import UserError
from framework.module import as_dataclass
from framework.settings import above, at_least, finite
from modules.language_model import IGNORED, Generation, LanguageModel
from modules.sequence.mom.layer import Memories, MoMLayer
from modules.sequence.mom.module import IN_MEMORY, check_sizes, weighted_balance

MEMORY = Memories(expand_v=6.0, rule="linear", conv_size=0)


class MoMRecall(LanguageModel):
    """Embeddings of key, value and kind, RMSNorm, one MoM layer, RMSNorm, a linear head over the values.

    A write of key a and value b is the token ``a V + b``, a query for key a the token ``K V + a``, as
    ``datamodules.sequence.recall`` has them; ``val/accuracy`` is the share of queries answered rightly. No residual
    path and no convolution, so that what is read from the memory is all there is.

    Args:
        keys: K.
        values: V.
        d_model: Width.
        n_heads: Heads of each memory.
        head_dim: d of a query and a key: what bounds the pairs that one memory keeps apart.
        memory: The memories: by default four, written by the rule ``linear``, with values of six times d and no
            convolution; with ``num_memories`` 1, ``topk`` 1 and no shared one it is a single memory.
        aux_weight: λ, the weight of the balance loss.
        init_std: Standard deviation of the embeddings at the start. The norm after them takes it away, so it says how
            fast they turn: at 1 the router hardly learns, at 0.02 it learns well or not at all, as the seed has it.
        optimizer: The optimiser.
        schedule: The learning-rate schedule.

    Raises:
        UserError: a setting is not accepted; the datamodule has other keys or values (in ``setup``).
    """

    moved: ClassVar[dict[str, str]] = IN_MEMORY

    def __init__(
        self,
        keys: int = 64,
        values: int = 64,
        d_model: int = 48,
        n_heads: int = 1,
        head_dim: int = 8,
        memory: Memories = MEMORY,
        aux_weight: float = 0.01,
        init_std: float = 0.3,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        at_least(1, keys=keys, values=values)
        super().__init__(keys * values + keys, Generation(max_new_tokens=32), optimizer, schedule)
        finite(aux_weight=aux_weight)
        at_least(1, d_model=d_model, n_heads=n_heads, head_dim=head_dim)
        above(0, init_std=init_std)
        self.save_hyperparameters()
        check_sizes(1, 0, aux_weight)
        self.keys, self.values, self.aux_weight = keys, values, aux_weight
        self.key, self.value, self.kind = (nn.Embedding(n, d_model) for n in (keys, values, 2))
        for embedding in (self.key, self.value, self.kind):
            nn.init.normal_(embedding.weight, std=init_std)
        self.mixer_norm = nn.RMSNorm(d_model, eps=1e-6)
        self.mixer = MoMLayer(d_model, n_heads, head_dim, as_dataclass(Memories, memory, MEMORY), output_gate=False)
        for module in self.mixer.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()  # the paper's small gain leaves a single memory untrained after 1,000 steps
        self.norm = nn.RMSNorm(d_model, eps=1e-6)
        self.head = nn.Linear(d_model, values)

    def setup(self, stage: str) -> None:
        """Compares the datamodule's keys and values with the model's.

        Raises:
            UserError: they differ.
        """
        data = getattr(self.trainer, "datamodule", None)
        for name in ("keys", "values"):
            found = getattr(data, name, None)
            if isinstance(found, int) and found != getattr(self, name):
                raise UserError(f"model.{name}: {getattr(self, name)}, but {type(data).__name__} has {found}")

    def get_classifier(self) -> nn.Module:
        """Returns the output layer, by the name that timm's models have for it: techniques leave it whole."""
        return self.head

    def routers(self) -> dict[str, nn.Module]:
        """Returns the router, for :class:`framework.protocols.HasRouters`."""
        return {"layer0": self.mixer.router}

    def embed(self, input_ids: Tensor) -> Tensor:
        """Tokens (B, T) to (B, T, d_model): key, value and kind of a write, key and kind of a query."""
        query = input_ids >= self.keys * self.values
        key = torch.where(query, input_ids - self.keys * self.values, input_ids // self.values)
        value = torch.where(query[..., None], 0, self.value(input_ids % self.values))
        return self.key(key) + value + self.kind(query.long())

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Maps tokens (B, T) to logits over the values, (B, T, V)."""
        mask = None if attention_mask is None else attention_mask.bool()
        return self._logits(self.mixer(self.mixer_norm(self.embed(input_ids)), mask))

    def extend(self, input_ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Logits over the values after the tokens that follow ``state``, and the state after them."""
        y, state = self.mixer.extend(self.mixer_norm(self.embed(input_ids)), state)
        return self._logits(y), state

    def _logits(self, y: Tensor) -> Tensor:
        return self.head(self.norm(y.to(self.norm.weight.dtype)))  # under autocast y is narrower

    def auxiliary_loss(self) -> Tensor | None:
        """Returns λ times the balance loss; nothing if there is only one memory."""
        return weighted_balance([self.mixer], self.aux_weight) if self.mixer.num_memories > 1 else None

    def predict_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Returns ``prediction`` (B, T), value numbers, and ``target`` (B, T), both -100 where nothing is asked."""
        answers = self(batch["input_ids"], batch.get("attention_mask")).argmax(-1)
        return {"prediction": answers.where(batch["targets"] != IGNORED, IGNORED), "target": batch["targets"]}
