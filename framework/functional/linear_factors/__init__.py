"""How close embeddings of labelled data are to sums of one vector per concept, and probes on unseen combinations.

Paper: Uselis, Dittadi, Oh, 2026, "Compositional Generalization Requires Linear, Orthogonal Representations in Vision
Embedding Models", arXiv 2602.24264.

All of it takes bare arrays: embeddings ``z`` (N, d) and labels (N, k), the value of each of k concepts as a whole
number. Numbers may be missing: only the values that occur count.
"""

from framework.functional.linear_factors.factors import Factors, Recovery, one_hot, recover_factors
from framework.functional.linear_factors.geometry import (
    Geometry,
    concept_r2,
    effective_ranks,
    linearity_r2,
    measure_geometry,
    orthogonality,
    probe_basis,
    projected_r2,
    whitened_r2,
)
from framework.functional.linear_factors.metrics import (
    ConceptOrthogonality,
    EffectiveRank95,
    LinearFactorisationR2,
)
from framework.functional.linear_factors.probes import (
    PENALTIES,
    Probes,
    UnseenAccuracy,
    fit_probes,
    split_combinations,
    unseen_accuracy,
)
from framework.functional.linear_factors.study import EmbeddingStudy, study_embeddings

__all__ = [
    "PENALTIES",
    "ConceptOrthogonality",
    "EffectiveRank95",
    "EmbeddingStudy",
    "Factors",
    "Geometry",
    "LinearFactorisationR2",
    "Probes",
    "Recovery",
    "UnseenAccuracy",
    "concept_r2",
    "effective_ranks",
    "fit_probes",
    "linearity_r2",
    "measure_geometry",
    "one_hot",
    "orthogonality",
    "probe_basis",
    "projected_r2",
    "recover_factors",
    "split_combinations",
    "study_embeddings",
    "unseen_accuracy",
    "whitened_r2",
]
