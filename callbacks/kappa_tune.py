"""KappaTune: fine-tunes only the weight tensors with the lowest condition number, so that less is forgotten.

Paper: Ludwig 2025, "The Condition Number as a Scale-Invariant Proxy for Information Encoding in Neural Units", arXiv
2506.16289 (also in Hugging Face's ``peft`` as ``find_kappa_target_modules``).

For continual learning: a network that has learnt task A learns task B without A's data. Each weight W is ranked by

    κ(W) = σ_max / σ_min,    computed as σ_max / (σ_min + 1e-8), kernels of convolutions as (out, in·…);

tensors of low κ are trained, everything else is frozen, including biases, norms and vectors. The paper's reason: for y
= W x the entropy is h(y) = h(x) + Σ ln σ_i, which at a given norm is largest for equal σ_i. κ alone implies a deficit
of at least ln((1 + κ²) / 2κ) nats whatever the size, so the table also has the deficit itself, D = (n/2) ln(c/n) − Σ ln
σ_i with c = Σ σ_i². ``mode: lora`` passes the chosen layers to the technique ``lora`` instead, and changes nothing
itself.

κ depends on the shape: a random m x n matrix has κ near (1 + √r) / (1 − √r), r = n/m, and of order n if square. So in a
transformer the rule prefers MLP matrices to attention projections even before training. The table and the plot show κ /
κ_MP; ``normalise: mp`` ranks by it. The κ of a square matrix is mostly noise.

Expected (``reproduce kappa_tune``): on a tiny mixture of experts, training the third of the expert matrices with lowest
κ forgets 3.5 points of task A, the third with highest κ 6.2, at equal loss on task B (means of 10 seeds; ratio 0.57).
There the experts' first matrices have low κ and their second ones high κ, so part of the effect is due to the layer's
role. Training all experts, three times the parameters, reached that loss in a third of the epochs and forgot 2.9. On
small dense networks there is no effect, and none is claimed.

Cost: once at the start, about a quarter of one SVD per tensor (ViT-B: 3 to 6 s on one CPU core); embeddings can be
excluded with ``max_dim``. With a ``cache`` file, keyed by the tensors' contents, the cost is a hash.

It works with all techniques that do not draw fresh weights. It ranks the weights from ``warm_start`` or from the
model's constructor; with ``ckpt_path`` the run is resumed and keeps its choice.

Limits: quantised tensors cannot be ranked; full mode and LoRA on the same tensor are refused.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from framework.editing import Context, Once, Plan, choose, matches, nothing_matches, unique_parameters
from framework.editing.capabilities import ADAPTERS, FRESH_WEIGHTS, NOISE, RANKING, TRAINED_WEIGHTS
from framework.errors import UserError
from framework.figures import log_figure, new_figure
from framework.files import write_text, written
from framework.functional.spectra import WeightSpectrum, condition_numbers, marchenko_pastur
from framework.settings import above, at_least, between, exactly_one, one_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Mode = Literal["auto", "full", "lora"]
Order = Literal["lowest", "highest", "random"]
Normalise = Literal["none", "mp"]
BUDGETS = ("num_tensors", "num_parameters", "fraction", "threshold")
EXPERTS = ("gate_up_proj", "down_proj", "gate_proj", "up_proj")  # stacked expert weights, as peft names them
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_PRETRAINED = ("weights", "pretrained")  # arguments of a module that name a file of weights

Row = dict[str, Any]


def as_matrix(module: nn.Module, weight: Tensor) -> Tensor | None:
    """Returns a parameter of ``module`` as a matrix or a stack of matrices, or ``None`` if it is a vector.

    A convolution's kernel is the matrix (out, in·…). For other parameters of three or more dimensions, dimensions of
    size 1 are dropped (a position embedding (1, L, C) is a matrix, a class token (1, 1, C) a vector); if more than two
    dimensions remain, it is a stack of matrices of the last two. A matrix of one row or column is a vector.
    """
    if not weight.is_floating_point() or weight.ndim < 2 or not weight.numel():
        return None
    if isinstance(module, _CONVOLUTIONS):
        return weight.flatten(1)
    if weight.ndim > 2:
        weight = weight.squeeze()
    if weight.ndim < 2 or min(weight.shape[-2:]) == 1:  # κ of a row or a column is always 1
        return None
    return weight if weight.ndim == 2 else weight.flatten(0, -3)


def candidates(
    model: nn.Module,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    max_dim: int | None = None,
    key: str = "kappa_tune",
) -> dict[str, Tensor]:
    """Returns the trainable weights that can be ranked, each once, by parameter name.

    Args:
        model: Any module.
        include: Patterns of parameter or module names; all for ``None``.
        exclude: Patterns to leave out.
        max_dim: Matrices with a larger side are left out.
        key: Start of error messages.

    Raises:
        UserError: a pattern of ``include`` matches nothing, or nothing is left; the message lists the nearest names.
    """
    modules = dict(model.named_modules())
    parameters = unique_parameters(model)
    found = {}
    for name, parameter in parameters.items():
        matrix = as_matrix(modules[_owner(name)], parameter.detach()) if parameter.requires_grad else None
        if matrix is not None:
            found[name] = matrix
    names = [*found, *dict.fromkeys(_owner(name) for name in found)]
    kept = set(choose(names, include, (), f"{key}.include"))
    chosen = {
        name: matrix
        for name, matrix in found.items()
        if (name in kept or _owner(name) in kept)
        and not matches(name, exclude)
        and not matches(_owner(name), exclude)
        and (max_dim is None or max(matrix.shape[-2:]) <= max_dim)
    }
    if not chosen:
        raise nothing_matches(
            ", ".join(include or ("*",)), list(found) or list(parameters), f"{key}: no weight is left"
        )
    return chosen


def rank_by_condition(
    weights: Mapping[str, Tensor], normalise: Normalise = "none", cache: str | Path | None = None
) -> list[Row]:
    """Ranks weights by condition number, lowest first, ties by name.

    Args:
        weights: Matrices or stacks of matrices by name (:func:`candidates`); a stack is ranked by its mean κ.
        normalise: ``none``, or ``mp``: rank by κ over the κ of a random matrix of that shape.
        cache: JSON file with cached results, keyed by the tensors' contents.

    Returns:
        A row for each weight: ``name``, ``shape`` (of the matrix), ``matrices`` (in the stack), ``parameters``,
        ``kappa``, ``kappa_mp`` (of a random matrix), ``deficit`` (nats) and ``score`` (by which it is ranked).

    Raises:
        UserError: a weight is not finite, ``normalise`` is not known, or the cache cannot be read.
    """
    one_of(get_args(Normalise), normalise=normalise)
    known = _read_cache(cache)
    keys = {name: content_hash(weight) for name, weight in weights.items()} if cache is not None else {}
    spectra = condition_numbers({name: weight for name, weight in weights.items() if keys.get(name) not in known})
    for name, spectrum in spectra.items():
        if name in keys:
            known[keys[name]] = [spectrum.kappa, spectrum.exact, spectrum.deficit]
    if cache is not None and spectra:
        _write_cache(Path(cache), known)
    rows = []
    for name, weight in weights.items():
        rows_, columns = weight.shape[-2:]
        count = len(weight) if weight.ndim == 3 else 1
        found = spectra.get(name) or WeightSpectrum((rows_, columns), count, *known[keys[name]])
        random = marchenko_pastur(rows_, columns)
        rows.append(
            {
                "name": name,
                "shape": [rows_, columns],
                "matrices": count,
                "parameters": weight.numel(),
                "kappa": found.kappa,
                "kappa_mp": random,
                "deficit": found.deficit,
                "score": found.kappa / random if normalise == "mp" else found.kappa,
            }
        )
    return sorted(rows, key=lambda row: (row["score"], row["name"]))


def select(
    ranking: Sequence[Row],
    num_tensors: int | None = None,
    num_parameters: int | None = None,
    fraction: float | None = None,
    threshold: float | None = None,
    order: str = "lowest",
    seed: int = 0,
) -> list[str]:
    """Returns the names to train, best first.

    Args:
        ranking: The rows from :func:`rank_by_condition`.
        num_tensors: Number of tensors; all if there are fewer.
        num_parameters: Tensors in order, until the next would exceed this number of parameters.
        fraction: This share of the tensors, rounded down, at least one.
        threshold: All whose score is at most this.
        order: ``lowest``, or ``highest`` and ``random`` for comparison.
        seed: Seed of the random order, which depends only on it and the names.

    Raises:
        UserError: not exactly one budget is given, a value is not accepted, or nothing is selected.
    """
    check_budget(num_tensors, num_parameters, fraction, threshold)
    one_of(get_args(Order), order=order)
    rows = sorted(ranking, key=lambda row: (row["score"], row["name"]))
    if order == "highest":
        rows = sorted(ranking, key=lambda row: (-row["score"], row["name"]))
    elif order == "random":
        rows = sorted(ranking, key=lambda row: row["name"])
        rows = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    if num_tensors is not None:
        rows = rows[:num_tensors]
    elif fraction is not None:
        rows = rows[: max(1, int(len(rows) * fraction))]
    elif threshold is not None:
        kept = [row for row in rows if row["score"] <= threshold]
        if not kept:
            lowest = min(row["score"] for row in rows)
            raise UserError(f"kappa_tune.threshold: {threshold:g} selects nothing; the lowest score is {lowest:.4g}")
        rows = kept
    else:
        assert num_parameters is not None
        sums = np.cumsum([row["parameters"] for row in rows])
        kept = rows[: int(np.searchsorted(sums, num_parameters, side="right"))]
        if not kept:
            raise UserError(
                f"kappa_tune.num_parameters: {num_parameters} is too few for {rows[0]['name']}, which comes first "
                f"and has {rows[0]['parameters']}"
            )
        rows = kept
    return [row["name"] for row in rows]


def check_budget(
    num_tensors: int | None, num_parameters: int | None, fraction: float | None, threshold: float | None
) -> None:
    """Checks that exactly one budget is given, and its value.

    Args:
        num_tensors: Number of tensors, or ``None``.
        num_parameters: Number of parameters, or ``None``.
        fraction: Share, above 0 and at most 1, or ``None``.
        threshold: Largest score (κ, or κ / κ_MP), or ``None``.

    Raises:
        UserError: not exactly one budget is given, or its value is not accepted.
    """
    exactly_one(num_tensors=num_tensors, num_parameters=num_parameters, fraction=fraction, threshold=threshold)
    above(0, num_tensors=num_tensors, num_parameters=num_parameters, threshold=threshold)
    between(0, 1, "(]", fraction=fraction)


def freeze_all_but(model: nn.Module, names: Sequence[str]) -> None:
    """Makes the parameters ``names`` trainable and freezes all others; a tied one can be given by any of its names.

    Raises:
        UserError: there is no such parameter; the nearest names are listed.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name in names:
        if name not in parameters:
            raise nothing_matches(name, list(parameters), "kappa_tune")
    wanted = {id(parameters[name]) for name in names}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in wanted)


def frozen_batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Returns batch norms without trained parameters; in training mode their running statistics would still change."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [norm for norm in norms if not any(p.requires_grad for p in norm.parameters(recurse=False))]


def content_hash(weight: Tensor) -> str:
    """Returns a hash of a tensor's shape, dtype and values."""
    data = weight.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(data.shape)} {data.dtype} ".encode())
    digest.update(data.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_cache(path: str | Path | None) -> dict[str, list[float]]:
    if path is None or not Path(path).exists():
        return {}
    try:
        known = json.loads(Path(path).read_text(encoding="utf-8"))
        return {str(key): [float(value) for value in values] for key, values in known.items() if len(values) == 3}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"kappa_tune.cache: {path} is not a cache of condition numbers ({error}); remove it") from error


def _write_cache(path: Path, known: Mapping[str, list[float]]) -> None:
    write_text(path, json.dumps(known))


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__


def beside_selected(model: nn.Module, tensors: Sequence[str], norms: bool, biases: bool) -> list[str]:
    """Returns names of vectors that belong to selected tensors.

    Args:
        model: Any module.
        tensors: Names of the selected parameters.
        norms: Whether to include the norm layers in the innermost module around each tensor that has any.
        biases: Whether to include the vectors of the selected modules.
    """
    modules = dict(model.named_modules())
    owners = list(dict.fromkeys(_owner(name) for name in tensors))
    taken: list[nn.Module] = []
    for name in owners if norms else []:
        while name:
            name = _owner(name)
            if found := [module for module in modules[name].children() if _is_norm(module)]:
                taken += found
                break
    wanted = {id(p) for module in taken for p in module.parameters()}
    if biases:
        wanted |= {id(p) for name in owners for p in modules[name].parameters(recurse=False) if p.ndim == 1}
    return [name for name, parameter in unique_parameters(model).items() if id(parameter) in wanted]


def table_figure(rows: Sequence[Row], most: int = 40) -> Figure:
    """Draws bars of κ, chosen ones in colour, and of κ / κ_MP.

    Args:
        rows: Rows of the decision's table, ranked.
        most: Largest number of rows; for a longer table evenly spaced ones.
    """
    shown = rows
    if len(rows) > most:
        shown = [rows[i] for i in np.linspace(0, len(rows) - 1, most).round().astype(int)]
    names = _short_names([row["name"] for row in shown])
    figure = new_figure(1, 2, size=(9.5, 1.2 + 0.19 * len(shown)))
    left, right = figure.axes
    at = np.arange(len(shown))
    colours = ["C0" if row["selected"] else "0.75" for row in shown]
    for axes, values in (
        (left, [row["kappa"] for row in shown]),
        (right, [row["kappa"] / row["kappa_mp"] for row in shown]),
    ):
        finite = [value for value in values if math.isfinite(value)]
        cap = 3 * max(finite, default=1.0)
        axes.barh(at, [min(value, cap) for value in values], color=colours)
        axes.set_xscale("log")
        axes.invert_yaxis()
        axes.margins(y=0.01)
        for place, value in enumerate(values):
            if not math.isfinite(value):
                axes.text(cap, place, "∞", va="center", ha="left", size=7)
    left.set_yticks(at, names, size=7)
    right.set_yticks([])
    left.set_xlim(left=min(1.0, 0.9 * min((row["kappa"] for row in shown), default=1.0)))
    right.axvline(1.0, color="0.3", linewidth=0.8, linestyle="--")
    left.set(xlabel="condition number κ")
    right.set(xlabel="κ / κ of a random matrix of that shape")
    count = sum(row["selected"] for row in rows)
    which = f", {len(shown)} of them shown" if len(shown) < len(rows) else ""
    figure.suptitle(f"{count} of {len(rows)} weights chosen (in colour){which}", size=10)
    return figure


def _short_names(names: Sequence[str]) -> list[str]:
    """Returns names without their common start and end."""
    parts = [name.split(".") for name in names]
    while len(parts) > 1 and min(map(len, parts)) > 1 and len({part[0] for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    while len(parts) > 1 and min(map(len, parts)) > 1 and len({part[-1] for part in parts}) == 1:
        parts = [part[:-1] for part in parts]
    return [".".join(part) for part in parts]


class KappaTune(Once):
    """Trains only the weights with the lowest condition number, or puts LoRA's adapters on them.

    Args:
        mode: ``full`` trains the chosen tensors; ``lora`` passes their layers to the technique ``lora``; ``auto`` is
            ``lora`` if that is configured.
        num_tensors: Budget: number of tensors. Exactly one budget is needed.
        num_parameters: Budget: tensors in order, until the next would exceed this number of parameters.
        fraction: Budget: this share of the tensors; in mode ``lora`` of layers and of stacked experts separately.
        threshold: Budget: all whose κ (κ / κ_MP with ``normalise: mp``) is at most this.
        order: ``lowest``, or for comparison ``highest`` or ``random``.
        seed: Seed of the random order.
        include: Patterns of the parameters or modules that are ranked; all by default.
        exclude: Patterns to leave out.
        normalise: ``none``, or ``mp``: rank by κ over that of a random matrix of the same shape.
        train_norms: Whether the norm layers around chosen tensors are trained too.
        train_biases: Whether the biases of chosen layers are trained too.
        trainable_modules: Patterns of modules, such as new heads, that are fully trained and not ranked.
        max_dim: Weights with a larger side are neither ranked nor trained.
        freeze_bn_stats: Whether frozen batch norms stay in evaluation mode, so that their running statistics do not
            change.
        cache: JSON file with cached condition numbers, keyed by the tensors' contents.
        epoch: Epoch before which it is done. By default at the start, or when earlier techniques leave plain layers.

    Raises:
        UserError: a setting is not accepted; at the start, nothing matches, or mode ``lora`` is used without that
            technique.
    """

    technique: ClassVar[str] = "kappa_tune"
    changes: ClassVar[frozenset[str]] = frozenset({"trainability"})
    phase = "select"
    offers = frozenset({RANKING})

    def __init__(
        self,
        mode: Mode = "auto",
        num_tensors: int | None = None,
        num_parameters: int | None = None,
        fraction: float | None = None,
        threshold: float | None = None,
        order: Order = "lowest",
        seed: int = 0,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        normalise: Normalise = "none",
        train_norms: bool = False,
        train_biases: bool = False,
        trainable_modules: list[str] | None = None,
        max_dim: int | None = None,
        freeze_bn_stats: bool = False,
        cache: str | Path | None = None,
        epoch: int | None = None,
    ) -> None:
        one_of(get_args(Mode), mode=mode)
        one_of(get_args(Order), order=order)
        one_of(get_args(Normalise), normalise=normalise)
        check_budget(num_tensors, num_parameters, fraction, threshold)
        at_least(0, epoch=epoch, seed=seed)
        at_least(1, max_dim=max_dim)
        self.mode = mode
        self.num_tensors = num_tensors
        self.num_parameters = num_parameters
        self.fraction = fraction
        self.threshold = threshold
        self.order = order
        self.seed = seed
        self.include = include
        self.exclude = exclude or []
        self.normalise = normalise
        self.train_norms = train_norms
        self.train_biases = train_biases
        self.trainable_modules = trainable_modules or []
        self.max_dim = max_dim
        self.freeze_bn_stats = freeze_bn_stats
        self.cache = cache
        self.epoch = epoch
        self._frozen: list[_BatchNorm] | None = None

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """Ranks and chooses.

        Raises:
            UserError: mode ``lora`` is used without that technique, nothing is left to rank, or a pattern matches
                nothing.
        """
        adapter = next(iter(context.offering(ADAPTERS, self)), None)
        mode = self.mode if self.mode != "auto" else "lora" if adapter is not None else "full"
        if mode == "lora" and adapter is None:
            raise UserError(
                f"{self.name}.mode: 'lora' is not accepted without the technique lora; add --techniques.lora=true, or "
                "use mode full"
            )
        whole = self._whole(model, mode)
        self._warn_of_fresh_weights(model, context)
        inside = {id(parameter) for module in whole for parameter in module.parameters()}
        owned = [name for name, parameter in unique_parameters(model).items() if id(parameter) in inside]
        weights = candidates(model, self.include, self.exclude, self.max_dim, self.name)
        weights = {name: weight for name, weight in weights.items() if name not in set(owned)}
        if not weights:
            raise UserError(f"{self.name}.trainable_modules: {self.trainable_modules} leaves no weight to rank")
        if mode == "lora":
            weights = self._adaptable(model, weights, adapter)
        ranking = rank_by_condition(weights, self.normalise, self.cache)
        chosen = self._select(ranking, mode)
        also = beside_selected(model, chosen, self.train_norms, self.train_biases)
        table = [{**row, "selected": row["name"] in chosen} for row in ranking]
        stacks = [name for name in chosen if mode == "lora" and weights[name].ndim == 3]
        return {
            "mode": mode,
            "tensors": chosen,
            "trainable": list(dict.fromkeys([*owned, *also])),
            "target_modules": [_owner(n) for n in chosen if n not in stacks] if mode == "lora" else None,
            "target_parameters": stacks or None,
            "table": table,
        }

    def _whole(self, model: nn.Module, mode: str) -> list[nn.Module]:
        if mode == "lora" and (self.trainable_modules or self.train_norms or self.train_biases):
            raise UserError(
                f"{self.name}: trainable_modules, train_norms and train_biases are for mode full; in mode lora the "
                "technique lora decides what else is trained (techniques.lora.trainable_modules)"
            )
        modules = {name: module for name, module in model.named_modules() if name}
        names = choose(modules, self.trainable_modules, key=f"{self.name}.trainable_modules")
        return [modules[name] for name in names]

    def _adaptable(self, model: nn.Module, weights: dict[str, Tensor], adapter: Any) -> dict[str, Tensor]:
        """Returns the ``weights`` that can be adapted: the adapter's own candidates, and stacked experts."""
        known = {f"{layer}.weight" for layer in adapter.candidates(model)}
        stacks = {name for name, weight in weights.items() if weight.ndim == 3 and name.endswith(EXPERTS)}
        kept = {name: weight for name, weight in weights.items() if name in known or name in stacks}
        if not kept:
            raise nothing_matches("a layer for LoRA", list(weights), f"{self.name}: no weight is left")
        return kept

    def _select(self, ranking: list[Row], mode: str) -> list[str]:
        budget: dict[str, Any] = {name: getattr(self, name) for name in BUDGETS}
        if mode == "lora" and self.fraction is not None:  # as in peft: a share of the layers and of the experts
            groups = [[r for r in ranking if r["matrices"] == 1], [r for r in ranking if r["matrices"] > 1]]
        else:
            groups = [ranking]
        return [name for rows in groups if rows for name in select(rows, **budget, order=self.order, seed=self.seed)]

    def _warn_of_fresh_weights(self, model: nn.Module, context: Context) -> None:
        done = [context.techniques[plan.name] for plan in context.plans if plan.name in context.techniques]
        loaded = max((i for i, other in enumerate(done) if TRAINED_WEIGHTS in other.offers), default=-1)
        fresh = [other for other in done[loaded + 1 :] if other.offers & {FRESH_WEIGHTS, NOISE}]
        if context.epoch or not fresh:
            return  # trained meanwhile, or loaded
        given = getattr(model, "hparams", {})
        drawn = next((other for other in fresh if FRESH_WEIGHTS in other.offers), None)
        if drawn is None:
            what = f"{fresh[0].name} has added noise to weights"
        elif any(given.get(key) for key in _PRETRAINED):
            what = f"{drawn.name} has overwritten the weights that the model was given"
        else:
            what = f"{drawn.name} has drawn fresh weights"
        rank_zero_warn(f"{self.name}: {what}: they contain nothing learnt, so only their shapes decide the ranking")

    @classmethod
    def apply(cls, model: nn.Module, decision: Mapping[str, Any]) -> None:
        """Makes the chosen tensors trainable and freezes all others, in mode ``full``."""
        if decision["mode"] == "full":
            freeze_all_but(model, [*decision["tensors"], *decision["trainable"]])

    @classmethod
    def keeps_trained(cls, plan: Plan) -> list[str]:
        """In mode full, all that it chose."""
        decision = plan.decision
        return [*decision["tensors"], *decision.get("trainable", ())] if decision["mode"] == "full" else []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Sets frozen batch norms to evaluation mode, also if ``train()`` was called meanwhile."""
        if not self.freeze_bn_stats:
            return
        if self._frozen is None or batch_idx == 0:  # techniques may have changed the model between epochs
            self._frozen = frozen_batch_norms(pl_module)
        for norm in self._frozen:
            if norm.training:
                norm.eval()

    def on_model_edit(self, trainer: pl.Trainer, pl_module: pl.LightningModule, plan: Plan) -> None:
        """Finds the batch norms again."""
        self._frozen = None

    def report(self, model: nn.Module, plan: Plan, context: Context) -> None:
        """Prints the top of the table, and writes ``kappa_tune.csv`` and the plot to the run folder."""
        decision = plan.decision
        print(table_text(decision, self.name), file=sys.stderr)
        trainer = context.trainer
        if trainer is None or getattr(trainer, "fast_dev_run", False):
            return
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_table(decision["table"], folder / f"{self.name}.csv")
        log_figure(trainer, self.name, table_figure(decision["table"]))


def table_text(decision: Mapping[str, Any], name: str = "kappa_tune", most: int = 6) -> str:
    """Returns the choice as a few lines: the first of the chosen and of the other weights.

    Args:
        decision: The decision from :meth:`KappaTune.decide`.
        name: Name of the technique, with which the text starts.
        most: Largest number of rows of either.
    """
    table = decision["table"]
    chosen = [row for row in table if row["selected"]]
    rest = [row for row in table if not row["selected"]]
    total = sum(row["parameters"] for row in chosen)
    goes = "trained" if decision["mode"] == "full" else "given to lora"
    lines = [f"{name}: {len(chosen)} of {len(table)} weights {goes} ({total:,} parameters), the others frozen"]
    width = max(len(row["name"]) for row in table)
    lines.append(f"  {'':7} {'name':{width}} {'shape':>13} {'κ':>10} {'κ/κ_MP':>8} {'deficit':>8}")
    for label, rows in (("chosen", chosen), ("frozen", rest)):
        for row in rows[:most]:
            shape = "x".join(map(str, row["shape"])) + (f" ({row['matrices']})" if row["matrices"] > 1 else "")
            ratio = row["kappa"] / row["kappa_mp"]
            lines.append(
                f"  {label:7} {row['name']:{width}} {shape:>13} {row['kappa']:10.4g} {ratio:8.3g} {row['deficit']:8.4g}"
            )
        if len(rows) > most:
            lines.append(f"  {label:7} … and {len(rows) - most} more")
    return "\n".join(lines)


def write_table(table: Sequence[Row], path: Path) -> None:
    """Writes the ranking as CSV, with κ / κ_MP."""
    columns = ("name", "shape", "matrices", "parameters", "kappa", "kappa_mp", "kappa_over_mp", "deficit", "selected")
    with written(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in table:
            full = {
                **row,
                "shape": "x".join(map(str, row["shape"])),
                "kappa_over_mp": row["kappa"] / row["kappa_mp"],
                "selected": int(row["selected"]),
            }
            writer.writerow([full[column] for column in columns])
