"""Structured init: gives chosen weight matrices a structure (rank, signs, motifs, cell types) and keeps their norm.

Paper: Liu, Baratin, Cornford, Mihalas, Shea-Brown, Lajoie, 2024, "How Connectivity Structure Shapes Rich and Lazy
Learning in Neural Circuits", ICLR, arXiv 2310.08513.

Each chosen matrix W (m, n) is replaced by one of a ``kind`` with the same Frobenius norm, so that only the structure is
compared:

- ``svd_lowrank``: its best approximation of ``rank``; at full rank it is not changed;
- ``dale``: columns of one sign, a share ``excitatory`` of them positive, ``balanced`` or not;
- ``chain``: chain motifs more frequent than by chance, ``chain`` and ``correlation``;
- ``blocks``: ``means`` (and ``probabilities``) for each pair of cell types, ``fractions`` of the units, ``noise``;
- ``from_file``: ``path``, an ``.npy`` or ``.csv`` of m x n numbers.

See :mod:`framework.functional.structured_weights` for the formulas. Chosen are the parameters that match ``include``;
by default all square ones. Each gate of a recurrent layer of torch is a separate matrix, a convolution is (out, in ·
taps), a three-dimensional tensor of another layer is a stack of matrices.

Expected (``reproduce rich_lazy_rnn``): recurrent weights of low rank, or with Dale's law, make networks learn richly:
the tangent kernel changes more than from the Gaussian initialisation. The same norm at a lower rank means a larger top
singular value; over long sequences rank 1 can explode. Cost: one SVD per matrix. It works with techniques that follow
an initialisation (it changes the weights of ``gg_init``); a later ``warm_start`` perturbs with the layers' own
initialisation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from framework.data.seeding import mix
from framework.editing import Context, Edit, choose, nothing_matches
from framework.errors import UserError
from framework.functional.structured_weights import Kind, Structure, structured
from framework.protocols import HasWeightParts

if TYPE_CHECKING:
    from framework.editing import Plan

_CONV = (nn.modules.conv._ConvNd,)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)


def matrices_of(owner: nn.Module, name: str, weight: Tensor) -> Tensor:
    """Returns a view of a parameter as a stack of matrices, (S, m, n).

    Args:
        owner: The layer.
        name: The parameter's name in it.
        weight: The parameter, of two dimensions or more.
    """
    if isinstance(owner, _RECURRENT) and name.startswith("weight_hh"):
        return weight.unflatten(0, (-1, owner.hidden_size if isinstance(owner.hidden_size, int) else weight.shape[1]))
    if weight.ndim == 2 or isinstance(owner, _CONV):
        return weight.flatten(1)[None]
    return weight.flatten(2)


def choose_matrices(model: nn.Module, include: Sequence[str] | None = None, exclude: Sequence[str] = ()) -> list[str]:
    """Returns the names of the parameters to rewrite: those that match a pattern, or all square ones.

    Args:
        model: Any module.
        include: Patterns of parameter names; ``None`` for all square ones.
        exclude: Patterns of parameter names to leave out.

    Raises:
        UserError: nothing is found, or a pattern matches nothing; the message lists the nearest names.
    """
    known = {
        name: weight
        for name, weight in model.named_parameters()
        if weight.ndim > 1
        and weight.is_floating_point()
        and not any(part.startswith("lora_") for part in name.split("."))
        and _own_weight(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
    }
    if include is None:
        chosen = [name for name in choose(known, None, exclude) if len({*_stack(model, name).shape[1:]}) == 1]
        if not chosen:
            raise nothing_matches("square weights", list(known), "structured_init.include")
        return chosen
    chosen = choose(known, include, exclude, "structured_init.include")
    if not chosen:
        raise nothing_matches(", ".join(include), list(known), "structured_init.exclude leaves nothing of include")
    return chosen


def _own_weight(owner: nn.Module, name: str) -> bool:
    """Returns whether a parameter is a weight, or a part from which a layer computes its weight."""
    return not isinstance(owner, HasWeightParts) or name in [part.name for part in owner.weight_parts()]


def _stack(model: nn.Module, name: str) -> Tensor:
    owner, _, own = name.rpartition(".")
    return matrices_of(model.get_submodule(owner), own, model.get_parameter(name))


@torch.no_grad()
def rewrite_(model: nn.Module, names: Sequence[str], structure: Structure, seed: int) -> None:
    """Rewrites parameters in place; values depend on the seed and on a matrix's index among them.

    Args:
        model: The model; changed in place.
        names: Names of the parameters, in the order in which they are drawn.
        structure: The structure of the matrices; their norms are kept.
        seed: Seed of the draw.

    Raises:
        UserError: the structure does not fit a matrix; the message names it.
    """
    place = 0
    for name in names:
        for matrix in _stack(model, name):
            generator = torch.Generator().manual_seed(mix(seed, place))
            place += 1
            try:
                matrix.copy_(structured(structure, matrix, generator))
            except UserError as error:
                raise UserError(f"structured_init.{error} ({name})") from None


def structured_init_(
    model: nn.Module,
    structure: Structure,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    seed: int | None = None,
) -> list[str]:
    """Gives chosen matrices of a model a structure, in place (see the module's docstring).

    Args:
        model: Any module.
        structure: A kind and its settings.
        include: Patterns of parameter names; all square matrices for ``None``.
        exclude: Patterns of parameter names to leave out.
        seed: Seed of the draws; ``None`` for one from torch's global generator.

    Returns:
        The names of the parameters.

    Raises:
        UserError: nothing is found, a pattern matches nothing, or the structure does not fit a matrix.
    """
    names = choose_matrices(model, include, exclude)
    rewrite_(model, names, structure, int(torch.randint(2**31, ())) if seed is None else seed)
    return names


class StructuredInit(Edit):
    """Gives chosen weight matrices a structure before training, and keeps their norm.

    Args:
        kind: ``svd_lowrank``, ``dale``, ``chain``, ``blocks`` or ``from_file``.
        rank: For ``svd_lowrank``: the rank.
        excitatory: For ``dale``: share of positive columns.
        balanced: For ``dale``: whether rows have mean 0.
        chain: For ``chain``: p, from 0 to ½.
        correlation: For ``chain``: correlation of a unit's in- and out-strength.
        means: For ``blocks``: types x types.
        probabilities: For ``blocks``: types x types; all entries are kept by default.
        fractions: For ``blocks``: each type's share of the units; equal by default.
        noise: For ``blocks``: standard deviation around the means.
        path: For ``from_file``: ``.npy`` or ``.csv``.
        include: Patterns of parameter names (``*`` and ``?`` as in a shell); all square matrices by default.
        exclude: Patterns of parameter names to leave out.
        seed: Seed of the draws; ``None`` for one derived from the run's seed.

    Raises:
        UserError: a setting is not accepted (in the constructor); nothing is found, a pattern matches nothing, or the
            structure does not fit (at the start).
    """

    technique = "structured_init"
    changes = frozenset({"values"})
    phase = "pattern"

    def __init__(
        self,
        kind: Kind = "svd_lowrank",
        rank: int = 1,
        excitatory: float = 0.8,
        balanced: bool = True,
        chain: float = 0.02,
        correlation: float = 0.8,
        means: list[list[float]] | None = None,
        probabilities: list[list[float]] | None = None,
        fractions: list[float] | None = None,
        noise: float = 1.0,
        path: str | Path | None = None,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        seed: int | None = None,
    ) -> None:
        self.kind, self.rank, self.excitatory, self.balanced = kind, rank, excitatory, balanced
        self.chain, self.correlation, self.means, self.probabilities = chain, correlation, means, probabilities
        self.fractions, self.noise, self.path = fractions, noise, path
        self.include, self.exclude, self.seed = include, exclude, seed
        self.structure = Structure(
            kind, rank, excitatory, balanced, chain, correlation, means, probabilities, fractions, noise, path
        )

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """Returns the parameters, the structure and the seed."""
        names = choose_matrices(model, self.include, self.exclude or ())
        seed = context.seed if self.seed is None else self.seed
        return {"weights": names, "structure": asdict(self.structure), "seed": seed}

    def initialise(self, model: nn.Module, decision: Mapping[str, Any], context: Context) -> None:
        """Writes the matrices."""
        rewrite_(model, decision["weights"], Structure(**decision["structure"]), decision["seed"])

    def report(self, model: nn.Module, plan: Plan, context: Context) -> None:
        """Prints a line on what was rewritten."""
        names = plan.decision["weights"]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        rank_zero_info(f"structured_init: {self.kind}, with the norm unchanged: {shown}")
