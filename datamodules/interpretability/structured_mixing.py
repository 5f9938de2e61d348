"""Observations that depend on chosen latents by a nonlinear map with a given support, or a user's x and z.

Paper: Zheng, Li, Fan, Wilson, Zhang, 2026, "Diverse Dictionary Learning", ICLR, arXiv 2604.17568 (which says of its
generator only that it is a LeakyReLU network that follows the support; what is not said there is ours).
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from framework.data import DataModule
from framework.data.arrays import NamedArrays
from framework.errors import UserError
from framework.functional.dependency import jacobian_columns
from framework.functional.identifiability.matching import match
from framework.functional.identifiability.sets import as_support
from framework.readers.arrays import check_arrays, float32, read_array, read_arrays, real, shapes_of
from framework.settings import at_least, at_most, between, one_of

Structure = Literal["ring", "complement", "lower", "blocks", "full", "random"]
Latents = Literal["normal", "laplace", "uniform"]
SMALLEST_DETERMINANT = 1e-3
CHECKED = 1000  # samples on which the determinant is looked at
HIDDEN = 10
SLOPE = 0.2
EXPECTED = "x (N, D), z (N, d) if it is known and support (D, d) if it is known: a .npz, or .npy files in a folder"
EXPECTED_SUPPORT = "a support of 0 and 1, (observations, latents), as .npy or as support of a .npz"


def support_matrix(
    structure: Structure, dimension: int, blocks: int = 2, density: float = 0.5, seed: int = 0
) -> np.ndarray:
    """Returns a support (d, d): true where an observation depends on a latent.

    - ``ring``: observation i on the latents i and i + 1, the last one on the last and the first;
    - ``complement``: on all latents but i;
    - ``lower``: on the latents up to i;
    - ``blocks``: on all latents of its own block, so that columns within a block are equal;
    - ``full``: on all latents;
    - ``random``: on latent i, and on each other one with a probability such that the mean density is ``density``.

    Args:
        structure: One of them.
        dimension: d.
        blocks: Number of blocks, of sizes that differ by 1 at most.
        density: Share of the entries of ``random``, from 1/d.
        seed: Of ``random``.

    Raises:
        UserError: a setting is not accepted.
    """
    one_of(get_args(Structure), structure=structure)
    at_least(2, dimension=dimension)
    at_least(1, blocks=blocks)
    at_most({"dimension": dimension}, blocks=blocks)
    between(0, 1, "(]", density=density)
    eye = np.eye(dimension, dtype=bool)
    if structure == "ring":
        return eye | np.roll(eye, 1, axis=1)
    if structure == "complement":
        return ~eye
    if structure == "lower":
        return np.tri(dimension, dtype=bool)
    if structure == "blocks":
        block = np.arange(dimension) * blocks // dimension
        return np.equal.outer(block, block)
    if structure == "full":
        return np.ones((dimension, dimension), bool)
    between(1 / dimension, 1, density=density)
    others = (density * dimension - 1) / (dimension - 1)
    return eye | (np.random.default_rng(seed).random((dimension, dimension)) < others)


class Mixing(nn.Module):
    """x_i = MLP_i(z_{I_i}) + Σ_{j ∈ I_i} w_ij z_j: for each observation a LeakyReLU network of its own latents.

    Each network has two hidden layers of 10 units with Gaussian weights and biases; the w_ij, of both signs, keep the
    map injective in most draws.

    Args:
        support: (D, d).
        generator: Source of the weights.
        nonlinearity: Factor of the networks beside the linear part.

    Raises:
        UserError: the nonlinearity is negative.
    """

    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor
    last: Tensor
    skip: Tensor

    def __init__(self, support: np.ndarray, generator: torch.Generator, nonlinearity: float = 1.0) -> None:
        super().__init__()
        at_least(0, nonlinearity=nonlinearity)
        self.nonlinearity = nonlinearity
        mask = torch.as_tensor(as_support(support)).double()
        rows, latents = mask.shape

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        gain = math.sqrt(2 / (1 + SLOPE**2))
        inputs = mask.sum(1).clamp(min=1).sqrt()[:, None, None]
        weights = {
            "first": gain * normal(rows, HIDDEN, latents) * mask[:, None] / inputs,
            "first_bias": 0.5 * normal(rows, HIDDEN),
            "second": gain * normal(rows, HIDDEN, HIDDEN) / math.sqrt(HIDDEN),
            "second_bias": 0.5 * normal(rows, HIDDEN),
            "last": normal(rows, HIDDEN) / math.sqrt(HIDDEN),
        }
        size = 0.5 + torch.rand(rows, latents, generator=generator, dtype=torch.float64)
        sign = 2.0 * torch.randint(2, (rows, latents), generator=generator) - 1
        for name, value in {**weights, "skip": size * sign * mask}.items():
            self.register_buffer(name, value)

    def forward(self, z: Tensor) -> Tensor:
        """Returns the observations (B, D) of latents (B, d), in float64."""
        z = z.double()
        h = torch.einsum("ihj,bj->bih", self.first, z) + self.first_bias
        h = torch.einsum("igh,bih->big", self.second, nn.functional.leaky_relu(h, SLOPE)) + self.second_bias
        bent = torch.einsum("ih,bih->bi", self.last, nn.functional.leaky_relu(h, SLOPE))
        return self.nonlinearity * bent + z @ self.skip.T

    def injective(self, z: Tensor) -> bool:
        """Whether the Jacobian at all samples (N, d) has a determinant of one sign that is not small.

        With more observations than latents: whether sqrt(det JᵀJ) is not small.
        """
        few = len(z) // 20  # most maps fail on some of them already
        return (not few or self._injective(z[:few])) and self._injective(z)

    @torch.no_grad()
    def _injective(self, z: Tensor) -> bool:
        jacobians = jacobian_columns(self, z.double()).permute(1, 2, 0)
        if jacobians.shape[1] == jacobians.shape[2]:
            found = torch.linalg.det(jacobians)
            return bool((found > SMALLEST_DETERMINANT).all() or (found < -SMALLEST_DETERMINANT).all())
        return bool((torch.linalg.svdvals(jacobians).prod(-1) > SMALLEST_DETERMINANT).all())


def draw_latents(kind: Latents, samples: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Draws independent latents of mean 0 and variance 1, (N, d), float64.

    Args:
        kind: ``normal``, ``laplace`` or ``uniform``.
        samples: N.
        dimension: d.
        generator: Source of randomness.

    Raises:
        UserError: a setting is not accepted.
    """
    one_of(get_args(Latents), latents=kind)
    at_least(1, samples=samples, dimension=dimension)
    shape = (samples, dimension)
    if kind == "normal":
        return torch.randn(shape, generator=generator, dtype=torch.float64)
    uniform = 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1
    if kind == "uniform":
        return math.sqrt(3) * uniform
    inside = uniform.abs().clamp(max=1 - 1e-12)  # 1 itself would be infinite
    return -uniform.sign() * torch.log1p(-inside) / math.sqrt(2)


def draw_mixing(
    support: np.ndarray,
    latents: Latents,
    generator: torch.Generator,
    nonlinearity: float = 1.0,
    redraws: int = 200,
) -> tuple[Mixing, int]:
    """Draws maps until one is injective on 1,000 samples; returns it and the number of draws.

    Args:
        support: (D, d).
        latents: Distribution of the samples.
        generator: Source of randomness.
        nonlinearity: See :class:`Mixing`.
        redraws: Largest number of draws.

    Raises:
        UserError: there are more latents than observations, a latent that no observation depends on, no map of the
            support is injective, or no draw was.
    """
    at_least(1, redraws=redraws)
    rows = as_support(support)
    if rows.shape[1] > rows.shape[0]:
        raise UserError(
            f"support: {rows.shape[0]} observations of {rows.shape[1]} latents are not accepted; a map to "
            "fewer numbers is not injective"
        )
    if not rows.any(0).all():
        raise UserError(f"support: no observation depends on latent {int(np.argmin(rows.any(0)))}")
    of_each = match(rows.T.astype(float))  # an observation for each latent
    if not rows[of_each, np.arange(rows.shape[1])].all():
        raise UserError(
            "support: no map of it is injective, whatever its weights; each latent needs an observation of its own "
            "among those that depend on it"
        )
    z = draw_latents(latents, CHECKED, rows.shape[1], generator)
    for number in range(1, redraws + 1):
        mixing = Mixing(rows, generator, nonlinearity)
        if mixing.injective(z):
            return mixing, number
    raise UserError(
        f"redraws: in {redraws} draws no map of this support ({rows.shape[0]} x {rows.shape[1]}, {int(rows.sum())} "
        f"entries) had a determinant of one sign and above {SMALLEST_DETERMINANT:g} on {CHECKED} samples; a smaller "
        f"nonlinearity than {nonlinearity:g}, another seed or more redraws are needed"
    )


def read_support(path: Path) -> np.ndarray:
    """Reads a support (D, d) from ``.npy``, or ``support`` of an ``.npz``.

    Raises:
        UserError: there is no such file, or it has something else than 0 and 1.
    """
    arrays = read_arrays(path, EXPECTED_SUPPORT)
    name = "support" if "support" in arrays else "array"
    check_arrays(arrays, {name: "D d"}, path, EXPECTED_SUPPORT)
    return _checked_support(arrays[name], path)


def _checked_support(array: np.ndarray, path: Path) -> np.ndarray:
    try:
        return as_support(real(array, "support", path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def read_observations(path: Path) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Reads ``x`` (N, D), and if they are there ``z`` (N, d) and ``support`` (D, d), from ``.npz``.

    A folder has ``x.npy``, ``z.npy`` and ``support.npy``; a ``.npy`` is ``x`` alone.

    Raises:
        UserError: there is no such file, the arrays do not fit together, or have values that are not finite.
    """
    where = path
    if path.is_dir():
        names = [name for name in ("x", "z", "support") if os.path.lexists(path / f"{name}.npy")]
        if "x" not in names:
            raise UserError(f"{path}: has no x.npy; expected {EXPECTED}")
        arrays = {}
        for name in names:
            where = path / f"{name}.npy"
            arrays[name] = read_array(where, EXPECTED)
            check_arrays(arrays, {name: "D d" if name == "support" else "N d"}, where, EXPECTED)
        where = path / "x.npy"
    else:
        arrays = read_arrays(path, EXPECTED)
        if "array" in arrays:
            arrays = {"x": arrays["array"]}
    if "x" not in arrays:
        raise UserError(f"{path}: holds {shapes_of(arrays)}; expected {EXPECTED}")
    shapes = {"x": "N D", "z": "N d", "support": "D d"}
    check_arrays(arrays, {name: shape for name, shape in shapes.items() if name in arrays}, where, EXPECTED)
    z = float32(arrays["z"], "z", where) if "z" in arrays else None
    support = _checked_support(arrays["support"], where) if "support" in arrays else None
    return float32(arrays["x"], "x", where), z, support


class StructuredMixing(DataModule):
    """Observations of a nonlinear map whose support is known; the latents are independent.

    A batch has ``x`` (B, D), and ``z`` (B, d) if the latents are known; float32. Observations are standardised by the
    mean and deviation of the training samples, which changes no support.

    Reads: ``.npz`` with ``x`` (N, D), ``z`` (N, d) and ``support`` (D, d), the last two if they are known; the same as
        ``.npy`` files of these names in a folder; ``.npy`` of x alone. A support alone: ``.npy``. Finite numbers only.
        Without a path: it is generated.

    Args:
        path: The user's observations (:func:`read_observations`).
        support: The user's support (:func:`read_support`), of the generated data or of ``path``.
        structure: Without one: ``ring``, ``complement``, ``lower``, ``blocks``, ``full`` or ``random``
            (:func:`support_matrix`).
        dimension: d, number of latents and observations of ``structure``.
        blocks: Blocks of ``blocks``.
        density: Share of the entries of ``random``.
        latents: ``normal``, ``laplace`` or ``uniform``, of variance 1.
        noise: Deviation of additive Gaussian noise, in deviations of each observation without it.
        nonlinearity: Factor of the networks beside the linear part.
        redraws: Largest number of draws until a map is injective.
        samples: Training samples that are generated; of a file all that are left.
        val_samples: Validation samples.
        test_samples: Test samples.
        standardise: Whether observations are standardised.
        seed: Of the support, the map, the latents and the noise, or of the file's split.
        batch_size: Number of samples in a training batch, per process.
        eval_batch_size: Number of samples in a validation or test batch.
        num_workers: Number of loader processes.

    Raises:
        UserError: a setting is not accepted (in the constructor); a file cannot be read or is something else, has too
            few samples, or no map is injective (in ``setup``).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        support: str | Path | None = None,
        structure: Structure = "ring",
        dimension: int = 3,
        blocks: int = 2,
        density: float = 0.5,
        latents: Latents = "normal",
        noise: float = 0.0,
        nonlinearity: float = 1.0,
        redraws: int = 200,
        samples: int = 10_000,
        val_samples: int = 2000,
        test_samples: int = 2000,
        standardise: bool = True,
        seed: int = 0,
        batch_size: int = 256,
        eval_batch_size: int | None = 2000,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers)
        support_matrix(structure, dimension, blocks, density)
        one_of(get_args(Latents), latents=latents)
        at_least(0, noise=noise, nonlinearity=nonlinearity)
        at_least(1, redraws=redraws, samples=samples, val_samples=val_samples, test_samples=test_samples)
        self.path, self.support, self.structure, self.dimension = path, support, structure, dimension
        self.blocks, self.density, self.latents, self.noise = blocks, density, latents, noise
        self.nonlinearity, self.redraws, self.samples = nonlinearity, redraws, samples
        self.val_samples, self.test_samples, self.standardise, self.seed = val_samples, test_samples, standardise, seed
        self.mixing: Mixing | None = None
        self.draws = 0
        self._support: np.ndarray | None = None
        self._inputs: int | None = None

    @property
    def inputs(self) -> int | None:
        """D, known after ``setup``."""
        return self._inputs

    def true_support(self) -> np.ndarray | None:
        """Returns the support (D, d); known after ``setup``, ``None`` for a file without one."""
        return self._support

    def true_latents(self, batch: Any) -> Tensor | None:
        """Returns ``z`` of a batch, or ``None``."""
        found: Tensor | None = batch.get("z")
        return found

    def setup(self, stage: str) -> None:
        """Reads or draws the samples, and divides them into parts."""
        x, z = self._read() if self.path is not None else self._generate()
        held = self.val_samples + self.test_samples
        train = x[held:]
        mean, std = train.mean(0), train.std(0, correction=0)
        if self.standardise:
            x = (x - mean) / torch.where(std > 0, std, 1.0)
        parts = {"x": x.float()} | ({} if z is None else {"z": z.float()})
        self._inputs = x.shape[1]
        self.train_set, self.val_set, self.test_set = (
            NamedArrays(**{name: part[rows] for name, part in parts.items()})
            for rows in (slice(held, None), slice(self.val_samples), slice(self.val_samples, held))
        )

    def _generate(self) -> tuple[Tensor, Tensor]:
        if self.support is not None:
            self._support = read_support(Path(self.support).expanduser())
        else:
            self._support = support_matrix(self.structure, self.dimension, self.blocks, self.density, self.seed)
        generator = torch.Generator().manual_seed(self.seed)
        try:
            self.mixing, self.draws = draw_mixing(
                self._support, self.latents, generator, self.nonlinearity, self.redraws
            )
        except UserError as error:
            raise UserError(str(error) if self.support is None else f"{self.support}: {error}") from None
        total = self.samples + self.val_samples + self.test_samples
        z = draw_latents(self.latents, total, self._support.shape[1], generator)
        with torch.no_grad():
            x: Tensor = self.mixing(z)
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)  # drawn always: samples do not depend on it
        return x + self.noise * x.std(0) * noise, z

    def _read(self) -> tuple[Tensor, Tensor | None]:
        assert self.path is not None
        path = Path(self.path).expanduser()
        x, z, support = read_observations(path)
        if self.support is not None:
            other = Path(self.support).expanduser()
            support = read_support(other)
            expected = {"D": x.shape[1], **({} if z is None else {"d": z.shape[1]})}
            found = dict(zip(("D", "d"), support.shape, strict=True))
            if any(found[name] != size for name, size in expected.items()):
                arrays = {"x": x} if z is None else {"x": x, "z": z}
                raise UserError(f"{other}: the support is {support.shape}; {path} has {shapes_of(arrays)}")
        held = self.val_samples + self.test_samples
        if len(x) <= held:
            raise UserError(
                f"{path}: has {len(x)} samples; val_samples and test_samples take {held}, and some must be left to "
                "train on"
            )
        self._support = support
        order = np.random.default_rng(self.seed).permutation(len(x))
        return torch.as_tensor(x[order]).double(), None if z is None else torch.as_tensor(z[order]).double()
