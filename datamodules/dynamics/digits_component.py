"""Pictures and one principal component of the limit tangent kernel on them, the direction to be learnt."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from datamodules.images.idx import find_idx, read_images
from framework.data.arrays import WholeBatch
from framework.data.whole import WholeData
from framework.functional.ntk import ActivationName, KernelPredictor, infinite_kernels
from framework.settings import at_least, at_most


class DigitsComponent(WholeData):
    """The first pictures x (N, d), pixels in [0, 1], and ``component`` (N,): √N times an eigenvector of K/N.

    Reads: MNIST's IDX files, pixels from 0 to 255 as [0, 1]. Without a path: scikit-learn's digits.

    Args:
        path: Folder with MNIST's ``train-images-idx3-ubyte[.gz]``; by default scikit-learn's digits, d = 64.
        samples: N.
        index: Number of the component; 1 has the largest eigenvalue.
        depth: L of the kernel.
        beta: β of the kernel.
        activation: σ of the kernel, one of ``framework.functional.ntk.ACTIVATIONS``.
        passes: Batches in an epoch.

    Raises:
        UserError: a setting is not accepted; the file cannot be read or is something else (in ``setup``).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        samples: int = 512,
        index: int = 2,
        depth: int = 4,
        beta: float = 0.1,
        activation: ActivationName = "relu",
        passes: int = 10,
    ) -> None:
        super().__init__(batch_size=1)
        at_least(1, depth=depth)
        at_least(0, beta=beta)
        at_least(1, samples=samples, passes=passes, index=index)
        at_most({"samples": samples}, index=index)
        self.path, self.samples, self.index, self.passes = path, samples, index, passes
        self.depth, self.beta, self.activation = depth, beta, activation

    def _pictures(self) -> Tensor:
        if self.path is None:
            from sklearn.datasets import load_digits

            return torch.as_tensor(load_digits().data / 16)
        images = read_images(find_idx(self.path, "train", "images"))
        return torch.as_tensor(images.reshape(len(images), -1)) / 255.0

    def setup(self, stage: str) -> None:
        """Reads the pictures and decomposes the kernel.

        Raises:
            UserError: the file is missing or broken, or there are too few pictures.
        """
        x = self._pictures().double()
        at_most({"the pictures": len(x)}, samples=self.samples)
        x = x[: self.samples]
        kernel = infinite_kernels(x, None, self.depth, self.beta, self.activation)[1]
        values, components = KernelPredictor(kernel).principal_components()
        batch = {"x": x, "component": components[:, self.index - 1].contiguous(), "eigenvalues": values}
        self.train_set = WholeBatch(batch, self.passes)
