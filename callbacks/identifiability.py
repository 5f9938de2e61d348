"""Identifiability: during training, how well the true latents and the true support are recovered.

Paper: Zheng, Li, Fan, Wilson, Zhang, 2026, "Diverse Dictionary Learning", ICLR, arXiv 2604.17568.

Measured on the first ``examples`` validation samples, at each validation:

- ``identifiability/active_units``, latents whose posterior mean varies (variance above 0.01), before all else. Latents
  that have collapsed make a Jacobian look sparse, so a run with fewer active ones than latents is reported once, at
  its second such validation in a row or its last;
- ``identifiability/mcc``, the mean correlation coefficient, matched on one half of the samples and measured on the
  other, mean over ``splits``; ``mcc_low`` and ``mcc_high``, the interval that has 95 % of the splits; ``mcc_spearman``;
- ``identifiability/support_f1`` and ``support_shd``, of the entries of mean |J_ij| above ``threshold`` of the largest,
  with the columns matched by the latents, and beside them ``support_f1_all_ones`` and ``support_shd_all_ones``, those
  of an estimate with all entries: on a dense truth that F1 is high for free;
- ``identifiability/r2_int``, ``r2_sym``, ``r2_comp_a``, ``r2_comp_b`` (lower is better) and ``r2_ref``, the set-wise R²
  of two groups of observations, at the last validation of a training, or at each with ``set_r2: always``. Where a
  training ends early they are in the file only.

At the end ``identifiability.json`` has all of it with the sweep over thresholds and what the true support guarantees
for which latent, and the figure ``identifiability`` the true support, the estimated one and the scores over training.

Works on modules with a posterior (:class:`framework.protocols.HasLatents`) and data that knows its latents
(:class:`framework.protocols.HasTrueLatents`); what is not known (the support, or the decoder) is left out. It changes
nothing. Cost: a pass of the encoder, a sort of the samples, and 0.2 to 1 s for the set-wise R².

Limits: of several processes the first one measures its own samples. Where the latents are independent and Gaussian and
every observation depends on all of them, rotations cannot be told apart, and a high MCC is luck.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from framework.editing import Context, Observer
from framework.editing.capture import submodule
from framework.errors import UserError
from framework.figures import log_figure
from framework.files import write_text
from framework.functional.dependency import dependency_strength
from framework.functional.identifiability import (
    active_units,
    correlations,
    diversity_report,
    match,
    set_r2,
    split_mcc,
    support_scores,
    two_groups,
)
from framework.functional.identifiability.figures import identifiability_figure
from framework.functional.identifiability.support import THRESHOLD, THRESHOLDS
from framework.protocols import HasDecoder, HasLatents, HasTrueLatents
from framework.settings import at_least, between, one_of

if TYPE_CHECKING:
    from framework.functional.identifiability import SetR2

When = Literal["end", "always", "never"]
R2_NAMES = {"intersection": "int", "symmetric": "sym", "only_k": "comp_a", "only_v": "comp_b", "reference": "ref"}


class Identifiability(Observer):
    """Logs, draws and writes how well latents and support are recovered (see the docstring of the file).

    Args:
        examples: Largest number of validation samples.
        splits: Random splits of the samples.
        set_r2: When the set-wise R² is measured: ``end``, ``always`` or ``never``.
        groups: Two groups of observations, K and V, of the set-wise R²; by default two runs of observations with a
            common latent, and each with latents of its own.
        threshold: Share of the largest mean |J_ij| from which an entry belongs to the estimated support.
        net: Name of the decoder; by default the module's own.

    Raises:
        UserError: a setting is not accepted (in the constructor); the module has no posterior (before training), or the
            data does not say what its latents are; a group names no observation (at the first measurement).
    """

    technique = "identifiability"

    def __init__(
        self,
        examples: int = 2000,
        splits: int = 10,
        set_r2: When = "end",
        groups: list[list[int]] | None = None,
        threshold: float = THRESHOLD,
        net: str | None = None,
    ) -> None:
        at_least(4, examples=examples)
        at_least(1, splits=splits)
        one_of(get_args(When), set_r2=set_r2)
        between(0, 1, "()", threshold=threshold)
        if groups is not None and (len(groups) != 2 or not all(groups)):
            raise UserError(f"groups: {groups} is not accepted; two groups of observations, neither of them empty")
        self.examples, self.splits, self.set_r2, self.groups = examples, splits, set_r2, groups
        self.threshold, self.net = threshold, net
        self.curve: list[dict[str, float]] = []
        self.found: dict[str, Any] = {}
        self._strength: np.ndarray | None = None  # mean |J|, columns in the order of the latents
        self._true: list[Tensor] = []
        self._mean: list[Tensor] = []
        self._alarmed = self._told = self._unsupported = False

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses modules without latents.

        Raises:
            UserError: the module has no posterior.
        """
        if not isinstance(model, HasLatents):
            raise UserError(
                f"techniques.{self.name}: {type(model).__name__} infers no latents (it has no posterior), so nothing "
                "can be identified"
            )

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Starts without a measurement; a checkpoint's come after it.

        Raises:
            UserError: the data does not say what its latents are.
        """
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self.curve, self.found, self._strength = [], {}, None
            self._alarmed = self._told = self._unsupported = False
        data = getattr(trainer, "datamodule", None)
        if data is not None and not isinstance(data, HasTrueLatents):
            raise UserError(
                f"techniques.{self.name}: {type(data).__name__} does not say what its latents are (it has "
                "no true_latents)"
            )

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets the last samples."""
        self._true, self._mean = [], []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Infers the latents of the samples."""
        seen = sum(map(len, self._mean))
        if trainer.sanity_checking or not trainer.is_global_zero or dataloader_idx or seen >= self.examples:
            return
        module: Any = pl_module
        data: Any = getattr(trainer, "datamodule", None)
        with torch.no_grad():
            mean = module.posterior(batch)[0]
        true = data.true_latents(batch) if data is not None else None
        rows = slice(self.examples - seen)
        with torch.inference_mode(False):
            self._mean.append(mean[rows].detach().flatten(1).float().cpu().clone())
            if true is not None:
                self._true.append(true[rows].detach().flatten(1).float().cpu().clone())

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures and logs."""
        if not self._mean or sum(map(len, self._mean)) < 4 or not all(bool(m.isfinite().all()) for m in self._mean):
            return
        values = self._measure(trainer, pl_module)
        for name, value in values.items():
            pl_module.log(f"{self.name}/{name}", value, rank_zero_only=True)
        if trainer.state.fn == "fit":
            self.curve.append({"step": trainer.global_step, **values})

    def _last(self, trainer: pl.Trainer) -> bool:
        following = trainer.current_epoch + 1 + (trainer.check_val_every_n_epoch or 1)  # the epoch it is after
        ends = trainer.max_epochs not in (None, -1) and following > trainer.max_epochs
        ends = ends or trainer.global_step == trainer.max_steps
        return trainer.state.fn != "fit" or trainer.should_stop or ends

    def _measure(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
        hat = torch.cat(self._mean).numpy()
        active = active_units(hat)
        values = {"active_units": float(active.sum())}
        self._alarm(active, trainer)
        self.found = {
            "step": trainer.global_step,
            "samples": len(hat),
            "latents": hat.shape[1],
            "active": active.tolist(),
        }
        data: Any = getattr(trainer, "datamodule", None)
        support = data.true_support() if data is not None else None
        self._strength = self._decoder_strength(module)
        if support is not None:
            self.found["guarantees"] = diversity_report(support, self.groups or ()).as_dict()
        if not self._true:
            if not self._told:
                self._told = True
                rank_zero_info(
                    f"techniques.{self.name}: the true latents are not known, so only active units are counted"
                )
            return values
        true = torch.cat(self._true).numpy()
        permutation = match(correlations(true, hat))
        mcc, ranks = (split_mcc(true, hat, kind, self.splits) for kind in ("pearson", "spearman"))
        values |= {"mcc": mcc.mean, "mcc_low": mcc.low, "mcc_high": mcc.high, "mcc_spearman": ranks.mean}
        self.found |= {"permutation": permutation.tolist(), "mcc": mcc.as_dict(), "mcc_spearman": ranks.as_dict()}
        if support is not None:
            values |= self._support(support, permutation)
            if self.set_r2 == "always" or (self.set_r2 == "end" and self._last(trainer)):
                values |= self._sets(true, hat, support)
        if self._strength is not None:
            self._strength = np.where(permutation >= 0, self._strength[:, permutation], 0.0)
        return values

    def _alarm(self, active: np.ndarray, trainer: pl.Trainer) -> None:
        before = bool(self.curve) and self.curve[-1]["active_units"] < len(active)
        if active.all() or self._alarmed or not (before or self._last(trainer)):  # early on none may be active yet
            return
        self._alarmed = True
        rank_zero_warn(
            f"techniques.{self.name}: {int((~active).sum())} of {len(active)} latents have collapsed "
            f"({', '.join(map(str, np.flatnonzero(~active)))}): they do not depend on the data, and their columns of "
            "the Jacobian look sparse; a smaller KL weight or penalty is needed before identifiability means anything"
        )

    def _decoder_strength(self, module: pl.LightningModule) -> np.ndarray | None:
        name = self.net or (module.decoder_name() if isinstance(module, HasDecoder) else None)
        if name is None:
            return None
        decoder = submodule(module, name, f"techniques.{self.name}.net")
        with torch.inference_mode(False):
            z = torch.cat(self._mean)[:500].to(module.device)
            kind = next((p.dtype for p in decoder.parameters() if p.is_floating_point()), z.dtype)
            try:
                found: np.ndarray = dependency_strength(decoder, z.to(kind)).float().cpu().numpy()
            except (RuntimeError, TypeError, NotImplementedError) as error:
                self._leave_support_out(name, error)
                return None
        return found if np.isfinite(found).all() else None

    def _leave_support_out(self, name: str, error: Exception) -> None:
        if not self._unsupported:
            self._unsupported = True
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            rank_zero_warn(
                f"techniques.{self.name}: {name} has no Jacobian by the latents alone, so the support is left out: "
                f"{first}"
            )

    def _support(self, support: np.ndarray, permutation: np.ndarray) -> dict[str, float]:
        if self._strength is None or len(self._strength) != len(support):
            return {}
        sweep = support_scores(support, self._strength, permutation, sorted({*THRESHOLDS, self.threshold}))
        self.found["support"] = [score.as_dict() for score in sweep]
        score = next(score for score in sweep if score.threshold == self.threshold)
        return {
            "support_f1": score.f1,
            "support_f1_all_ones": score.all_ones_f1,
            "support_shd": float(score.shd),
            "support_shd_all_ones": float(score.all_ones_shd),
        }

    def _sets(self, true: np.ndarray, hat: np.ndarray, support: np.ndarray) -> dict[str, float]:
        groups: Sequence[Sequence[int]] | None = self.groups or two_groups(support)
        if hat.shape[1] != support.shape[1]:
            return {}
        k, v = groups or ([0], [0])  # without two groups of different latents only Ref is defined
        try:
            scores: SetR2 = set_r2(true, hat, support, k, v)
        except UserError as error:
            raise UserError(f"techniques.{self.name}.{error}") from None
        self.found["set_r2"] = {"k": list(k), "v": list(v), **scores.as_dict()}
        parts = {R2_NAMES[name]: part for name, part in vars(scores).items() if part is not None}
        return {f"r2_{name}": part.mean for name, part in parts.items()}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws and writes the last measurement."""
        if not self.found or not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        data: Any = getattr(trainer, "datamodule", None)
        support = data.true_support() if data is not None else None
        if self.set_r2 == "end" and self._true and support is not None and "set_r2" not in self.found:
            # training ended before its last epoch: none of the validations could know that it was the last
            self._sets(torch.cat(self._true).numpy(), torch.cat(self._mean).numpy(), support)
        strength = None if self._strength is None else self._strength.round(6).tolist()
        report = {**self.found, "strength": strength, "curve": self.curve}
        write_text(Path(trainer.default_root_dir) / "identifiability.json", json.dumps(report, indent=1) + "\n")
        log_figure(trainer, self.technique, identifiability_figure(support, self._strength, self.curve))

    def state_dict(self) -> dict[str, Any]:
        """Returns the measurements, and what has been reported."""
        return {"curve": [dict(row) for row in self.curve], "alarmed": self._alarmed, "told": self._told}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self.curve = [dict(row) for row in state_dict["curve"]]
        self._alarmed, self._told = state_dict["alarmed"], state_dict["told"]
