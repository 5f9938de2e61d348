"""Protocols of models that explain observations by latents, and of data whose latents are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@runtime_checkable
class HasLatents(Protocol):
    """A module that infers d latents of each example."""

    def posterior(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Returns mean and standard deviation of the latents of each example, (B, d) each; 0 where nothing is drawn.

        Args:
            batch: A batch of the datamodule.
        """
        ...


@runtime_checkable
class HasDecoder(Protocol):
    """A module with a decoder from latents to observations, which ``training_step`` calls once."""

    def decoder_name(self) -> str:
        """Returns the name of the submodule that maps latents (B, d) to outputs (B, …)."""
        ...


@runtime_checkable
class HasTrueLatents(Protocol):
    """A datamodule that knows the latents behind its observations."""

    def true_latents(self, batch: Any) -> Tensor | None:
        """Returns the latents (B, d) of a batch; ``None`` if they are not known."""
        ...

    def true_support(self) -> np.ndarray | None:
        """Returns the truth values (D, d) of which observation depends on which latent, or ``None``.

        Known after ``setup``.
        """
        ...
