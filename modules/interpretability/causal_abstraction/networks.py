"""Networks that are analysed: the paper's perceptron (arXiv 2507.08802), and the last token of a language model."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from framework.settings import at_least


class BlockMLP(nn.Module):
    """Blocks of a linear layer and ReLU, all of one width, then a linear head: the paper's network.

    Args:
        inputs: Numbers in an input, and in each block (d).
        blocks: Number of blocks; the layers are ``blocks.0``, ``blocks.1``, ….
        num_classes: Number of classes.

    Raises:
        UserError: a size is not accepted.
    """

    def __init__(self, inputs: int = 16, blocks: int = 3, num_classes: int = 2) -> None:
        super().__init__()
        at_least(1, inputs=inputs, blocks=blocks)
        at_least(2, num_classes=num_classes)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(inputs, inputs), nn.ReLU()) for _ in range(blocks)))
        self.head = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, inputs) to logits (B, num_classes)."""
        return self.head(self.blocks(x))


class LastToken(nn.Module):
    """A causal language model of transformers: tokens to the logits of what follows the last one.

    Tokens are padded at the front with -1, so that the last token is at place -1 of every row.

    Args:
        lm: The model.

    Attributes:
        vocab_size: Tokens that it knows, if its config says so.
    """

    def __init__(self, lm: nn.Module) -> None:
        super().__init__()
        self.lm = lm
        self.vocab_size: int | None = getattr(getattr(lm, "config", None), "vocab_size", None)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps tokens (B, T) int64 to logits (B, vocabulary)."""
        mask = tokens >= 0
        places = (mask.cumsum(1) - 1).clamp(min=0)
        given: dict[str, Any] = {"input_ids": tokens.clamp(min=0), "attention_mask": mask.long(), "use_cache": False}
        return self.lm(**given, position_ids=places, logits_to_keep=1).logits[:, -1]
