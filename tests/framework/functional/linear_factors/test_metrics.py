"""The metrics of batches are the functions of all."""

from __future__ import annotations

import numpy as np
import torch

from framework.functional.linear_factors import (
    ConceptOrthogonality,
    EffectiveRank95,
    LinearFactorisationR2,
    linearity_r2,
    measure_geometry,
    projected_r2,
    whitened_r2,
)


def test_batches_are_put_together():
    labels = np.indices((4, 5)).reshape(2, -1).T
    z = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.eye(6, dtype=torch.float64)[:3]
    metrics = [
        LinearFactorisationR2(),
        LinearFactorisationR2(weights),
        LinearFactorisationR2(weights, whiten=True),
        ConceptOrthogonality(),
        EffectiveRank95(),
    ]
    for metric in metrics:
        for rows in torch.arange(20).split(7):
            metric.update(z[rows], torch.from_numpy(labels)[rows])
    found = [metric.compute() for metric in metrics]
    geometry = measure_geometry(z, labels)
    expected = [linearity_r2(z, labels), projected_r2(z, labels, weights), whitened_r2(z, labels, weights)]
    torch.testing.assert_close(torch.stack(found[:3]), torch.tensor(expected, dtype=found[0].dtype))
    np.testing.assert_allclose(found[3].numpy(), geometry.orthogonality)
    assert found[4].tolist() == list(geometry.ranks)
