"""The technique: linearises a model before training, or before an epoch."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from callbacks.liger.attention import Recipe
from callbacks.liger.conversion import add_gate_projections, convert_layers, converted, restore, select
from callbacks.liger.gates import Variant
from framework.editing import Context, Once, Plan, Stage
from framework.errors import UserError
from framework.optim import OptimizerConfig, ScheduleConfig, changed
from framework.settings import at_least


class Liger(Once):
    """Turns softmax attention into a gated recurrence and a sliding window with the same weights.

    Args:
        variant: ``gla``, ``hgrn2``, ``gsa``, ``rwkv6``, ``mamba2``, ``retention``, ``mlstm``, or ``linear`` (no decay).
        tau: Temperature of the decays; by default the variant's own: 16 for gla, gsa, retention, mlstm, else 1.
        window: Number of tokens of the softmax attention, including the current one.
        alpha: Weight of the recurrence.
        beta: Weight of the windowed attention; its sum with ``alpha`` should be 1, otherwise the scale of the output
            projection's input changes.
        hybrid_every: Every n-th attention layer is not converted (8 in the paper's "-H"); 0 converts all.
        layers: Names or patterns of attention layers; all by default.
        gate_projection: Whether the decays are computed from a random projection of the input, a new parameter
            ``gate_proj`` in each layer, rather than from the key (the paper's ablation).
        slots: Number of slots of ``gsa``.
        lower_bound: Lower bound of the decays of ``hgrn2``.
        chunk: Number of positions in a chunk of the recurrence, a power of two.
        epoch: Epoch before which it is done; 0 for a pretrained model. Techniques that need the new model (``lora``)
            start at the same epoch.
        recovery_optimizer: Fields of the optimiser that differ afterwards, such as ``{lr: 0.001}``.
        recovery_schedule: Fields of the schedule, which starts again, such as ``{name: plateau}``.

    Raises:
        UserError: a setting is not accepted, or no attention of the model can be converted (before training).
    """

    technique: ClassVar[str] = "liger"
    changes: ClassVar[frozenset[str]] = frozenset({"structure"})
    optimizer = "reset"
    phase = "convert"
    needs = frozenset()  # attention keeps its class whatever else happens to its layers

    def __init__(
        self,
        variant: Variant = "gla",
        tau: float | None = None,
        window: int = 64,
        alpha: float = 0.5,
        beta: float = 0.5,
        hybrid_every: int = 0,
        layers: list[str] | None = None,
        gate_projection: bool = False,
        slots: int = 64,
        lower_bound: float = 0.0,
        chunk: int = 64,
        epoch: int = 0,
        recovery_optimizer: dict[str, Any] | None = None,
        recovery_schedule: dict[str, Any] | None = None,
    ) -> None:
        at_least(0, hybrid_every=hybrid_every, epoch=epoch)
        changed(OptimizerConfig(), recovery_optimizer or {}, "recovery_optimizer")
        changed(ScheduleConfig(), recovery_schedule or {}, "recovery_schedule")
        self.recipe = Recipe(variant, tau, window, alpha, beta, slots, lower_bound, chunk)
        self.variant, self.tau, self.window, self.alpha, self.beta = variant, tau, window, alpha, beta
        self.hybrid_every, self.layers, self.gate_projection = hybrid_every, layers, gate_projection
        self.slots, self.lower_bound, self.chunk, self.epoch = slots, lower_bound, chunk, epoch
        self.recovery_optimizer, self.recovery_schedule = recovery_optimizer, recovery_schedule

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a model without such attention, and an epoch that is never reached, before anything is written."""
        super().check(model, context)
        if not converted(model):
            select(model, self.layers, self.hybrid_every)

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """Chooses the layers."""
        decision: dict[str, Any] = {
            "layers": select(model, self.layers, self.hybrid_every),
            "recipe": self.recipe.to_plain(),
            "gate_projection": self.gate_projection,
        }
        if context.epoch or self.recovery_optimizer or self.recovery_schedule:
            stage = Stage(context.epoch, None, dict(self.recovery_optimizer or {}), dict(self.recovery_schedule or {}))
            decision["stage"] = stage.to_plain()
        return decision

    @classmethod
    def apply(cls, model: nn.Module, decision: Mapping[str, Any]) -> None:
        """Converts the layers."""
        convert_layers(model, decision["layers"], Recipe(**decision["recipe"]))
        if decision["gate_projection"]:
            add_gate_projections(model, decision["layers"])

    @classmethod
    def undo(cls, model: nn.Module, decision: Mapping[str, Any]) -> None:
        """Restores softmax attention, with the current weights."""
        restore(model)

    @classmethod
    def fold(cls, model: nn.Module, decision: Mapping[str, Any]) -> None:
        """Keeps the layers converted, because softmax attention would have other outputs; the names do not change.

        Raises:
            UserError: a gate projection is one more parameter per layer.
        """
        if decision["gate_projection"]:
            raise UserError("liger.gate_projection: a model with gate projections cannot be folded into a plain one")

    def report(self, model: nn.Module, plan: Plan, context: Context) -> None:
        """Prints how many layers were converted."""
        layers = plan.decision["layers"]
        print(
            f"{self.name}: epoch {plan.epoch}: {len(layers)} attention layers are {self.alpha:g} {self.variant} + "
            f"{self.beta:g} softmax over {self.window} tokens",
            file=sys.stderr,
        )
