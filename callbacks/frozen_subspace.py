"""Frozen subspace: in which directions a layer's inputs do not vary, and whether its weights move there.

Paper: Advani, Saxe, Sompolinsky, 2020, "High-dimensional dynamics of generalization error in neural networks", Neural
Networks 132, arXiv 1710.03667.

The gradient of a linear layer's weight W is in the span of the layer's inputs h. With H Hᵀ = Σ h hᵀ over the training
set, plain gradient descent never changes W in the null space of H Hᵀ: there the weights keep their initial values. The
direction of the smallest eigenvalue above 0 changes slowest and fits noise most; this eigenvalue is smallest if there
are as many features as examples. Logged each epoch for each chosen layer:

- ``frozen/<layer>/rank``, the rank of H Hᵀ, and ``frozen/<layer>/dimension``, the dimension of its null space;
- ``frozen/<layer>/smallest`` and ``frozen/<layer>/largest``, the smallest non-zero and the largest eigenvalue of H Hᵀ,
  divided by the number of examples;
- ``frozen/<layer>/moved``, ‖(W − W(0)) Q‖ with Q the projector on the null space, and ``frozen/<layer>/moved_share``,
  the same divided by ‖W − W(0)‖ (0 if nothing has moved). It is larger than rounding if the optimiser rescales entries
  (Adam) or decays weights, or if layers below change the inputs between epochs.

With several members they are means over members. Layers are the model's ``nn.Linear``, whose inputs are collected
during training, or the features that a module with members names (``trained_features``). The rank counts eigenvalues
above ``tolerance`` times the largest.

It works with any module with linear layers and does not change it. Cost: a product of N x N x batch for each step and
layer, in float64, and an eigendecomposition of N x N each epoch; choose layers if N is large.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from framework.editing import Observer
from framework.editing.names import choose, nothing_matches
from framework.figures import log_figure, new_figure
from framework.protocols import HasTrainedFeatures
from framework.settings import at_least, between

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOLERANCE = 1e-10


class Subspace(NamedTuple):
    """The subspace of a layer's inputs.

    Attributes:
        eigenvalues: (…, N) of H Hᵀ, in descending order.
        basis: (…, N, N), its eigenvectors in columns.
        frozen: (…, N), which eigenvalues count as 0.
    """

    eigenvalues: Tensor
    basis: Tensor
    frozen: Tensor

    def moved(self, change: Tensor) -> Tensor:
        """Returns ‖change Q‖ (…) of a change (…, M, N) of the weights, with Q the projector on the null space."""
        inside = (change.to(self.basis) @ self.basis) * self.frozen[..., None, :]
        return inside.norm(dim=(-2, -1))


def frozen_subspace(moment: Tensor, tolerance: float = TOLERANCE) -> Subspace:
    """Splits the space of inputs by their second moment.

    Args:
        moment: H Hᵀ (…, N, N), symmetric, float64.
        tolerance: Eigenvalues up to this share of the largest count as 0.
    """
    values, basis = torch.linalg.eigh(moment)
    values, basis = values.flip(-1), basis.flip(-1)
    return Subspace(values, basis, values <= tolerance * values[..., :1])


def subspace_figure(spectra: dict[str, Tensor], rows: list[dict[str, float]]) -> Figure:
    """Draws the eigenvalues of each layer's last inputs, and how far its weights have moved in the null space."""
    figure = new_figure(1, 2, size=(9.2, 3.6))
    left, right = figure.axes
    for index, (name, values) in enumerate(spectra.items()):
        color, kept = f"C{index}", values[values > TOLERANCE * values.max()]
        left.plot(
            range(1, len(kept) + 1), kept.numpy(), ".", markersize=4, color=color, label=f"{name} ({len(values)})"
        )
        shares = [row[f"{name}/moved_share"] for row in rows]
        right.plot([row["step"] for row in rows], shares, "o-", markersize=3, color=color, label=name)
    left.set(xlabel="rank", ylabel="eigenvalue of the inputs", yscale="log")
    left.legend(title="layer (inputs)", frameon=False, fontsize=7, title_fontsize=8)
    right.set(xlabel="step", ylabel="share of the movement in the null space", ylim=(-0.02, 1.02))
    return figure


class FrozenSubspace(Observer):
    """Logs and draws the spectrum of layers' inputs and the movement of the weights in its null space.

    Args:
        layers: Patterns of names of ``nn.Linear`` modules, or of the module's own features; all for ``None``.
        every_n_epochs: Epochs between two measurements; the first is after the first epoch.
        tolerance: Eigenvalues up to this share of the largest count as 0.

    Raises:
        UserError: a setting is not accepted; at the start, a pattern names nothing or there is no linear layer.
    """

    def __init__(self, layers: list[str] | None = None, every_n_epochs: int = 1, tolerance: float = TOLERANCE) -> None:
        at_least(1, every_n_epochs=every_n_epochs)
        between(0, 1, "[)", tolerance=tolerance)
        self.layers, self.every_n_epochs, self.tolerance = layers, every_n_epochs, tolerance
        self.rows: list[dict[str, float]] = []
        self.spectra: dict[str, Tensor] = {}
        self.moments: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.starts: dict[str, Tensor] = {}
        self._modules: dict[str, nn.Linear] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._batch: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finds the layers, stores their weights, and adds hooks for their inputs.

        Raises:
            UserError: there is no linear layer, or a pattern names none; the nearest names are listed.
        """
        if isinstance(pl_module, HasTrainedFeatures):
            return
        linear = {name: module for name, module in pl_module.named_modules() if isinstance(module, nn.Linear)}
        names = choose(linear, self.layers, key="frozen_subspace.layers")
        if not names:
            raise nothing_matches(", ".join(self.layers or ("*",)), list(linear), "frozen_subspace.layers")
        self._modules = {name: linear[name] for name in names}
        for name, module in self._modules.items():
            self.starts.setdefault(name, module.weight.detach().cpu().clone())
            self._hooks.append(module.register_forward_pre_hook(self._listener(name)))

    def _listener(self, name: str) -> Any:
        def listen(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if not (module.training and torch.is_grad_enabled()):
                return
            h = inputs[0].detach().flatten(0, -2).double()
            moment = h.mT @ h
            self.moments[name] = self.moments[name].to(moment) + moment if name in self.moments else moment
            self.counts[name] = self.counts.get(name, 0) + len(h)

        return listen

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stores the weights on the module's own features, before they change."""
        if isinstance(pl_module, HasTrainedFeatures):
            self._batch = batch
            if not self.starts:
                found = pl_module.trained_features(batch)
                for name in choose(found, self.layers, key="frozen_subspace.layers"):
                    self.starts[name] = found[name][1].detach().cpu().clone()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures, and clears the collected inputs."""
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            row: dict[str, float] = {"step": trainer.global_step}
            for name, (moment, count, weight) in self._gathered(trainer, pl_module).items():
                row |= self._look(name, moment, count, weight)
            self.rows.append(row)
            for name, value in row.items():
                if name != "step":
                    pl_module.log(f"frozen/{name}", value, rank_zero_only=True)
        self.moments, self.counts = {}, {}

    def _gathered(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, tuple[Tensor, int, Tensor]]:
        """Returns H Hᵀ, the number of examples and the weights (…, M, N) of each layer."""
        if isinstance(pl_module, HasTrainedFeatures):
            found = pl_module.trained_features(self._batch)
            chosen = {name: (found[name][0].detach().double(), found[name][1].detach()) for name in self.starts}
            return {name: (h @ h.mT, h.shape[-1], w[..., None, :]) for name, (h, w) in chosen.items()}
        gathered = {}
        for name, module in self._modules.items():
            if name in self.moments:
                moment = trainer.strategy.reduce(self.moments[name], reduce_op="sum")
                gathered[name] = (moment, self.counts[name] * trainer.world_size, module.weight.detach())
        return gathered

    def _look(self, name: str, moment: Tensor, count: int, weight: Tensor) -> dict[str, float]:
        space = frozen_subspace(moment.cpu(), self.tolerance)
        start = self.starts[name]
        change = weight.cpu().double() - start.double().view(weight.shape)
        moved, total = space.moved(change), change.norm(dim=(-2, -1))
        smallest = space.eigenvalues.masked_fill(space.frozen, torch.inf).amin(-1) / count
        self.spectra[name] = space.eigenvalues.reshape(-1, space.eigenvalues.shape[-1])[0] / count
        found = {
            "rank": (~space.frozen).sum(-1),
            "dimension": space.frozen.sum(-1),
            "smallest": smallest,
            "largest": space.eigenvalues[..., 0] / count,
            "moved": moved,
            "moved_share": torch.where(total > 0, moved / total.clamp(min=1e-300), 0.0),
        }
        return {f"{name}/{key}": float(value.double().mean()) for key, value in found.items()}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Removes the hooks, and draws the figure."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._batch = [], None
        if self.rows and self.spectra:
            log_figure(trainer, "frozen_subspace", subspace_figure(self.spectra, self.rows))

    def state_dict(self) -> dict[str, Any]:
        """Returns the measurements so far, the collected inputs, and the weights at the start."""
        names = ("rows", "spectra", "moments", "counts", "starts")
        return {name: dict(v) if isinstance(v := getattr(self, name), dict) else list(v) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        for name, value in state_dict.items():
            setattr(self, name, value)
