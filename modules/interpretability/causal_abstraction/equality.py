"""The training of the paper's host network (arXiv 2507.08802, appendix I)."""

from __future__ import annotations

from typing import Any

from framework import OptimizerConfig, ScheduleConfig
from framework.errors import UserError
from modules.classifier import Classifier
from modules.interpretability.causal_abstraction.networks import BlockMLP

ADAM = OptimizerConfig("adam", lr=1e-3, weight_decay=0.0)


class EqualityMLP(Classifier):
    """The paper's host: blocks of a linear layer and ReLU, trained on an algorithm's inputs and outputs.

    Args:
        inputs: Numbers in an input, and units of each block (d).
        blocks: Number of blocks.
        num_classes: Number of classes.
        optimizer: The optimiser; Adam with rate 0.001 by default.
        schedule: The learning-rate schedule.

    Raises:
        UserError: a setting is not accepted; the datamodule's inputs or classes differ (in ``setup``).
    """

    net: BlockMLP

    def __init__(
        self,
        inputs: int = 16,
        blocks: int = 3,
        num_classes: int = 2,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(num_classes, ADAM if optimizer is None else optimizer, schedule)
        self.save_hyperparameters()
        self.inputs = inputs
        self.net = BlockMLP(inputs, blocks, num_classes)

    def setup(self, stage: str) -> None:
        """Compares the datamodule's inputs and classes with the model's.

        Raises:
            UserError: they differ, or the data are interventions.
        """
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        same_inputs(data, "inputs", self.inputs)
        if getattr(data, "nodes", 0):
            raise UserError("data.init_args.algorithm: a host is trained on the task itself; set it to null")


def same_inputs(data: Any, key: str, inputs: int) -> None:
    """Compares the numbers in an input with a datamodule's.

    Args:
        data: The datamodule.
        key: The model's setting.
        inputs: Its value.

    Raises:
        UserError: they differ.
    """
    found = getattr(data, "inputs", None)
    if found is not None and found != inputs:
        raise UserError(f"model.init_args.{key}: {inputs}, but an input of the data has {found} numbers")
