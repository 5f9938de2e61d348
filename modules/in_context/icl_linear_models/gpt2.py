"""A GPT-2 on the same prompts, with x and y as separate tokens (Garg et al. 2022, arXiv 2208.01066)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from framework import OptimizerConfig, ScheduleConfig
from framework.errors import UserError
from framework.functional.regression_prompts import PromptLaw
from framework.settings import at_least, divides
from modules.in_context.experiment import InContext


class PromptGPT2(nn.Module):
    """Tokens x_1, y_1, …, x_N, y_N, x_q, embedded by one linear map (y as the first of d coordinates), output at each
    x.

    Args:
        dim: d.
        width: Width of the embedding.
        layers: Blocks.
        heads: Number of heads of each block.
        positions: Largest number of examples of a prompt, including the query.
    """

    def __init__(self, dim: int, width: int, layers: int, heads: int, positions: int) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2Model

        config = GPT2Config(
            vocab_size=1,
            n_positions=2 * positions,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
            bos_token_id=None,
            eos_token_id=None,
        )
        self.read_in = nn.Linear(dim, width)
        body: Any = GPT2Model(config)
        body.wte = nn.Identity()  # tokens are vectors; an embedding would have no gradient
        self.body = body
        self.read_out = nn.Linear(width, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Predicts each y_i from the tokens before it: (B, N + 1), from x (B, N + 1, d) and y (B, N + 1, 1)."""
        labels = nn.functional.pad(y, (0, x.shape[2] - 1))
        tokens = torch.stack([x, labels], 2).flatten(1, 2)[:, :-1]
        hidden = self.body(inputs_embeds=self.read_in(tokens)).last_hidden_state
        return self.read_out(hidden[:, ::2])[..., 0]


class GPT2InContext(InContext):
    """Trains a GPT-2 from scratch on all prefixes of prompts; evaluated at the query alone.

    Args:
        dim: d.
        width: Width of the embedding.
        layers: Blocks.
        heads: Number of heads of each block.
        positions: Largest number of examples of a prompt, including the query; longer ones cannot be evaluated.
        base_seed: Seed of the initial weights.
        clip: Largest norm of the gradient; null for no limit.
        inner_steps: Number of optimiser steps in one training batch.
        points: Approximate number of times that the loss is recorded.
        optimizer: By default Adam at 1e-4.
        schedule: Learning-rate schedule, in training batches.

    Raises:
        UserError: a setting is not accepted; the prompts have another dimension, or more than one label a point.
    """

    members_first = False

    def __init__(
        self,
        dim: int = 5,
        width: int = 64,
        layers: int = 3,
        heads: int = 2,
        positions: int = 101,
        base_seed: int = 0,
        clip: float | None = None,
        inner_steps: int = 50,
        points: int = 100,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        adam = OptimizerConfig("adam", lr=1e-4, weight_decay=0.0)
        super().__init__(1, base_seed, clip, inner_steps, points, optimizer or adam, schedule)
        at_least(1, positions=positions)
        self.save_hyperparameters()
        at_least(1, dim=dim, width=width, layers=layers, heads=heads)
        divides({"width": width}, heads=heads)
        self.dim, self.positions = dim, positions
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(base_seed)
            self.net = PromptGPT2(dim, width, layers, heads, positions)

    def fits(self, law: PromptLaw) -> None:
        """Checks dimensions and lengths.

        Raises:
            UserError: the model has another dimension, or too few positions.
        """
        if (law.dim, law.tasks) != (self.dim, 1):
            raise UserError(f"model.dim: {self.dim}, but the prompts have d = {law.dim} and {law.tasks} labels")
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        longest = max([self.train_length, *getattr(data, "eval_lengths", [])])
        if longest >= self.positions:
            raise UserError(f"model.positions: {self.positions} is not accepted; above the longest prompt, {longest}")

    def answer(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns (1, B, 1)."""
        return self.net(x, y)[:, -1][None, :, None]

    def losses(self, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        """Mean squared error over all prefixes, (1,)."""
        return (self.net(batch["x"], batch["y"]) - batch["y"][..., 0]).square().mean()[None]
