"""Copied head: the second stage of deep clustering, which starts with the feature head's weights in the cluster head.

Paper: Ding, Tong, Chan, Dai, Ma, Haeffele, 2023, "Unsupervised Manifold Linearizing and Clustering", ICCV, arXiv
2301.01805, Section 3.3 and Algorithm 1.

Before epoch ``epoch`` the weights of the feature head are copied into the cluster head, so that the first memberships
are those of the features, Γ = P(Zᵀ Z), and no random head must be trained. From then on both heads are trained, by the
module's second loss, with an optimiser and a schedule of that stage. ``start: random`` leaves the cluster head as it
was drawn, for comparison.

It works on modules with two heads of the same shape (:class:`framework.protocols.HasClusterHead`), with adapters of
LoRA on both, one or none of them. Limits: it cannot be undone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from framework.editing import Context, Once, OptimizerState, Stage
from framework.editing.ledger import set_trainable, trainable_names
from framework.errors import UserError
from framework.optim import OptimizerConfig, ScheduleConfig, changed
from framework.protocols import HasClusterHead
from framework.settings import at_least, one_of

HeadStart = Literal["copy", "random"]


def copy_head(model: nn.Module, source: str, target: str) -> None:
    """Makes a submodule compute what another one does, by copying its tensors.

    Where only one of them has adapters of LoRA, those of the source are added to the target's weight, and those of the
    target start again at zero.

    Args:
        model: The model.
        source: Name of the submodule that is copied.
        target: Name of the one that is overwritten.

    Raises:
        UserError: they are not of one shape.
    """
    one, other = model.get_submodule(source), model.get_submodule(target)
    first, second = one.state_dict(), other.state_dict()
    if _shapes(first) != _shapes(second):
        first, second = _merged(one), _plain(other).state_dict()
        for name, value in other.named_parameters():
            if "lora_B" in name:
                value.data.zero_()
    if _shapes(first) != _shapes(second):
        shown = f"{source} has {_shapes(first)}, {target} has {_shapes(second)}"
        raise UserError(f"copied_head: {shown}; heads of one shape are needed")
    with torch.no_grad():
        for name, value in second.items():
            value.copy_(first[name])


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def _plain(head: nn.Module) -> nn.Module:
    """The layer under adapters, or the layer."""
    base = getattr(head, "base_layer", None)
    return base if isinstance(base, nn.Module) else head


def _merged(head: nn.Module) -> dict[str, Tensor]:
    """The tensors of a layer, with what its adapters add to the weight."""
    state = dict(_plain(head).state_dict())
    if _plain(head) is not head:
        layer: Any = head
        state["weight"] = state["weight"] + sum(layer.get_delta_weight(name) for name in layer.active_adapters)
    return state


class CopiedHead(Once):
    """Copies the feature head into the cluster head, and starts the second stage.

    Args:
        epoch: Epoch before which it is done; by default at the start, for an encoder that is trained already.
        start: ``copy``, or ``random`` to leave the cluster head as it was drawn.
        optimizer: Whether to ``reset`` the optimiser, or to ``keep`` the state of what was trained before.
        cluster_optimizer: Fields of the optimiser that differ in the second stage, such as ``{lr: 0.0003}``.
        cluster_schedule: Fields of the schedule, which spans only this stage.

    Raises:
        UserError: a setting is not accepted (in the constructor); the module has no two heads of one shape, or the
            epoch is not reached (before training).
    """

    changes = frozenset({"values", "trainability"})
    phase = "remap"
    needs = frozenset()

    def __init__(
        self,
        epoch: int | None = None,
        start: HeadStart = "copy",
        optimizer: OptimizerState = "reset",
        cluster_optimizer: dict[str, Any] | None = None,
        cluster_schedule: dict[str, Any] | None = None,
    ) -> None:
        at_least(0, epoch=epoch)
        one_of(get_args(HeadStart), start=start)
        one_of(get_args(OptimizerState), optimizer=optimizer)
        changed(OptimizerConfig(), cluster_optimizer or {}, "cluster_optimizer")
        changed(ScheduleConfig(), cluster_schedule or {}, "cluster_schedule")
        if optimizer == "keep" and (cluster_optimizer or cluster_schedule):
            raise UserError(
                "cluster_optimizer, cluster_schedule: not accepted with optimizer keep, which changes nothing"
            )
        self.epoch, self.start, self.optimizer = epoch, start, optimizer
        self.cluster_optimizer, self.cluster_schedule = cluster_optimizer, cluster_schedule

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module without two heads, and an epoch that is not reached.

        Raises:
            UserError: either is the case.
        """
        if not isinstance(model, HasClusterHead):
            raise UserError(f"{self.name}: {type(model).__name__} has no feature head and cluster head")
        super().check(model, context)

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """Returns the heads and what is trained: a parameter of the cluster head where its counterpart is.

        One without a counterpart, because only one head has adapters, is trained if it was, or if anything of the
        feature head is.
        """
        source, target = cast(HasClusterHead, model).head_names()
        own = dict(model.get_submodule(target).named_parameters())
        flags = {name: p.requires_grad for name, p in model.get_submodule(source).named_parameters()}
        trained = [name for name in trainable_names(model) if not name.startswith(f"{target}.")]
        any_trained = any(flags.values())
        trained += [f"{target}.{name}" for name, p in own.items() if flags.get(name, p.requires_grad or any_trained)]
        decision = {"source": source, "target": target, "start": self.start, "trainable": trained}
        if self.optimizer == "keep":
            return decision
        optimizer, schedule = dict(self.cluster_optimizer or {}), dict(self.cluster_schedule or {})
        return decision | {"stage": Stage(context.epoch, None, optimizer, schedule).to_plain()}

    @classmethod
    def apply(cls, model: nn.Module, decision: Mapping[str, Any]) -> None:
        """Makes the decision's parameters trainable, and no others."""
        set_trainable(model, decision["trainable"])

    def initialise(self, model: nn.Module, decision: Mapping[str, Any], context: Context) -> None:
        """Copies the head, and begins the second stage."""
        if decision["start"] == "copy":
            copy_head(model, decision["source"], decision["target"])
        cast(HasClusterHead, model).begin_clustering()
