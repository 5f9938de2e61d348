"""The multi-layer perceptron of the paper: linear, batch normalisation and ReLU in each block.

Paper: He, Lei, Ji, Tao, 2021, "Neural networks behave as hash encoders: An empirical study", arXiv 2101.05490 (the
official code, whose layers have the defaults of Keras).
"""

from __future__ import annotations

from torch import Tensor, nn

from framework.settings import at_least, at_most


class BNReLUMLP(nn.Module):
    """``depth`` blocks of Linear(⌊width/depth⌋), BatchNorm and ReLU, then a linear head.

    Weights are drawn Glorot-uniform, biases are 0. The batch norms have Keras's constants: running averages move by
    0.01, ε is 1e-3.

    Args:
        inputs: Numbers in an example; inputs (B, …) are flattened.
        num_classes: Number of classes.
        width: Number of hidden units of all layers together.
        depth: Number of hidden layers.
        batch_norm: Whether there is batch normalisation.

    Raises:
        UserError: a size is below 1, or there are fewer units than layers.
    """

    def __init__(
        self, inputs: int = 784, num_classes: int = 10, width: int = 40, depth: int = 1, batch_norm: bool = True
    ) -> None:
        super().__init__()
        at_least(1, inputs=inputs, num_classes=num_classes, width=width, depth=depth)
        at_most({"width": width}, depth=depth)
        units = width // depth
        blocks: list[nn.Module] = []
        for index in range(depth):
            norm = nn.BatchNorm1d(units, eps=1e-3, momentum=0.01) if batch_norm else nn.Identity()
            blocks.append(nn.Sequential(nn.Linear(units if index else inputs, units), norm, nn.ReLU()))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(units, num_classes)
        for layer in [*self.kernels(), self.head]:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def kernels(self) -> list[nn.Linear]:
        """Returns the hidden linear layers, input side first."""
        return [layer for layer in self.blocks.modules() if isinstance(layer, nn.Linear)]

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, …) to logits (B, num_classes)."""
        return self.head(self.blocks(x.flatten(1)))
