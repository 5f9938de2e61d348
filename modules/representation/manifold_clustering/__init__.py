"""MLC: clusters of unlabelled images, with a representation in which each cluster is a linear subspace.

Paper: Ding, Tong, Chan, Dai, Ma, Haeffele, 2023, "Unsupervised Manifold Linearizing and Clustering", ICCV, arXiv
2301.01805.
"""

from modules.representation.manifold_clustering.module import ManifoldClustering, mlc_terms
from modules.representation.manifold_clustering.rates import cluster_rate, coding_rate, membership_rate
from modules.representation.manifold_clustering.sinkhorn import SinkhornConfig, memberships, sinkhorn_projection

__all__ = [
    "ManifoldClustering",
    "SinkhornConfig",
    "cluster_rate",
    "coding_rate",
    "membership_rate",
    "memberships",
    "mlc_terms",
    "sinkhorn_projection",
]
