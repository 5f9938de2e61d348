"""One vector for each value of each concept, whose sums are closest to given embeddings.

Paper: Uselis, Dittadi, Oh, 2026, "Compositional Generalization Requires Linear, Orthogonal Representations in Vision
Embedding Models", arXiv 2602.24264 (factor recovery).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from framework.errors import UserError
from framework.settings import finite_entries, one_of

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Recovery = Literal["auto", "means", "least_squares"]


@dataclass(frozen=True)
class Factors:
    """z ≈ mean + Σ_i u_{i, c_i}.

    Attributes:
        mean: (d,); of a balanced grid the mean of all embeddings.
        vectors: u_i (n_i, d) of each concept, which sum to 0 over its values.
        ids: The values (n_i,) that the rows belong to, in increasing order.
        identified: Whether the data determine the vectors; their sums are determined in any case.
    """

    mean: np.ndarray
    vectors: tuple[np.ndarray, ...]
    ids: tuple[np.ndarray, ...]
    identified: bool

    def sums(self, labels: Any) -> np.ndarray:
        """Returns mean + Σ_i u_{i, c_i} (N, d) for labels (N, k).

        Raises:
            UserError: a label is a value that had no embedding.
        """
        labels = np.asarray(labels)
        found = np.repeat(self.mean[None], len(labels), 0)
        for column, (vectors, ids) in enumerate(zip(self.vectors, self.ids, strict=True)):
            rows = np.minimum(np.searchsorted(ids, labels[:, column]), len(ids) - 1)
            if wrong := set(labels[ids[rows] != labels[:, column], column].tolist()):
                raise UserError(f"labels: concept {column} has the value {min(wrong)}, of which no embedding was seen")
            found += vectors[rows]
        return found


def as_array(values: Any) -> np.ndarray:
    """Returns an array of an array or a tensor; of a tensor in half precision, which numpy may not have, float32."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return values.float().numpy() if values.dtype in (torch.float16, torch.bfloat16) else values.numpy()
    return np.asarray(values)


def checked(z: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings as float64 (N, d) and labels as int64 (N, k).

    Args:
        z: An array, or a tensor of any device and type.
        labels: The same; (N,) is one concept.

    Raises:
        UserError: the shapes do not fit, or a number is not finite.
    """
    z, labels = as_array(z).astype(np.float64, copy=False), as_array(labels)
    labels = labels[:, None] if labels.ndim == 1 else labels
    if z.ndim != 2 or labels.ndim != 2 or len(z) != len(labels) or not z.size or not labels.size:
        raise UserError(f"z, labels: {z.shape} and {labels.shape} are not accepted; (N, d) and (N, k)")
    if labels.dtype.kind not in "iub":
        raise UserError(f"labels: {labels.dtype} is not accepted; whole numbers")
    finite_entries(z=z)
    return z, labels.astype(np.int64)


def index_values(labels: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Returns labels (N, k) as positions among the values that occur, and these values of each concept."""
    found = [np.unique(column, return_inverse=True) for column in labels.T]
    return np.stack([index.reshape(-1) for _, index in found], 1), tuple(ids for ids, _ in found)


def one_hot(labels: Any) -> csr_array:
    """Returns the design matrix A (N, Σ n_i), sparse: k ones in each row, for labels (N, k)."""
    from scipy.sparse import csr_array

    index, ids = index_values(np.asarray(labels))
    sizes = [len(values) for values in ids]
    columns = index + np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rows, concepts = index.shape
    pointers = np.arange(rows + 1) * concepts
    return csr_array((np.ones(columns.size), columns.ravel(), pointers), shape=(rows, sum(sizes)))


def recover_factors(z: Any, labels: Any, method: Recovery = "auto") -> Factors:
    """Returns the factors of embeddings.

    ``means`` are the paper's for complete grids, u_{i,j} = mean of centred z over the samples with c_i = j. They are
    biased if values do not occur together in proportion; least squares on the one-hot design are not, and are the same
    where they do.

    Args:
        z: Embeddings (N, d).
        labels: (N, k).
        method: ``means``, ``least_squares``, or ``auto``: means where each pair of values occurs in proportion.

    Raises:
        UserError: the shapes do not fit, or a number is not finite.
    """
    one_of(get_args(Recovery), method=method)
    z, labels = checked(z, labels)
    _, ids = index_values(labels)
    sizes = [len(values) for values in ids]
    design = one_hot(labels)
    first = z[0]
    z = z - first  # where all are equal the rest is 0, not what rounding leaves of it
    mean = z.mean(0)
    z -= mean
    sums = design.T @ z
    together = (design.T @ design).toarray()  # how often each pair of values occurs
    counts = np.diag(together)
    concept = np.repeat(np.arange(len(sizes)), sizes)
    apart = concept[:, None] != concept[None]
    if method == "auto":
        method = "means" if (together * len(z) == np.outer(counts, counts))[apart].all() else "least_squares"
    rank = np.linalg.matrix_rank(together, hermitian=True)
    if method == "means":
        found = sums / counts[:, None]
    else:
        found = np.linalg.lstsq(together, sums, rcond=1e-12 * len(together))[0]
    vectors = np.split(found, np.cumsum(sizes)[:-1])
    shifts = [part.mean(0) for part in vectors]  # which concept a constant belongs to is a convention
    centred = tuple(part - shift for part, shift in zip(vectors, shifts, strict=True))
    return Factors(first + mean + np.sum(shifts, 0), centred, ids, bool(rank == sum(sizes) - len(sizes) + 1))
