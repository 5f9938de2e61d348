"""MLC: clusters of unlabelled images, with a representation in which each cluster is a linear subspace.

Paper: Ding, Tong, Chan, Dai, Ma, Haeffele, 2023, "Unsupervised Manifold Linearizing and Clustering", ICCV, arXiv
2301.01805. Its appendix and code were not at hand: the first stage's settings are those of NMCE (Li et al. 2022, arXiv
2201.10000), whose first stage it is, and eta on CIFAR-10 that of the authors' later CPP (arXiv 2306.05272).

What it is for: labels for a folder of unlabelled images (or vectors on several curved manifolds), and features in which
each cluster spans few dimensions, orthogonal to the others and not collapsed; without a random cluster head.

    R(Z) = log det(I + d/(n ε²) Zᵀ Z),   R_c(Z, Γ) = (1/n) Σ_j log det(I + d/ε² Zᵀ diag(Γ_j) Z),  rows of length 1
    Γ = the doubly stochastic matrix nearest to C Cᵀ: diag(u) exp(C Cᵀ/η) diag(u), mean over two views
    stage 1 (TCR): maximise R(Z) + λ mean |z_iᵀ z_i'|;  the cluster head becomes a copy of the feature head;
    stage 2: maximise R(Z) - R_c(Z, Γ) over both heads and the backbone;  spectral clustering of Γ

The loss of stage 2 is R_c - R, which is below 0: ``R`` and ``R_c`` are logged as they are. :class:`ManifoldClustering`
is the module, the technique ``copied_head`` starts stage 2 with an optimiser of its own, ``TwoViews`` is the data: your
pictures by ``--data.source=folder --data.path=FOLDER --model.in_chans=3 --model.image_size=32``, with or without a
folder for each class; features by ``--data.source=vectors`` and ``encoder: {name: identity}``. The run folder has
``clusters.csv`` of all of them, a montage of each cluster, curves and the geometry; ``predict
--data.predict_path=FOLDER`` assigns new images, its ``index`` counting them by path. Accuracy, NMI and ARI are logged
only where there are labels.

η decides whether clusters break up or merge. Tune it without labels: ``train/perplexity`` right after the copy should
be 1 to 2.5 times batch / k (a warning says where it is not), and ``val/gap``, the gap of eigenvalues after the k-th,
should be large; ``sweeps/manifold_clustering_eta`` ranks by it, which found the range but not the best η in it. An
unknown k: ``num_clusters: null`` takes the one with the largest gap, and the figure ``geometry`` shows those of all k.

Expected numbers (scikit-learn's digits, 1,617 to cluster and 180 unseen; means and ranges over seeds 0 to 2): accuracy
0.962 (0.958 to 0.964), NMI 0.946, unseen digits 0.956; after stage 1 0.870 (0.837 to 0.922), k-means on pixels 0.80,
spectral clustering of their neighbours 0.88. Mean rank of a class 6.9 to 3.8, of all features 28 to 29 of 32; the gap
is largest at 10. With a random cluster head 0.88 (0.86, 0.91) for 0.96 after 30 epochs; η 0.1 and 0.3 0.69 and 0.54.
Odd classes of a tenth of the size: 0.956 (0.950, 0.963), the best on pixels 0.61. One claim fails: the gain over stage
1 is 0.092 (0.040 to 0.127) for 0.1, because spectral clusters after stage 1 are between 0.83 and 0.92 by luck.

Cost: the quick config takes 45 s of one core. R_c takes n² d² and n d³/3 multiplications for a batch of n; its memory
does not grow with n d². Clustering takes memory of n² for up to ``points`` examples; the others are assigned.

Composes with averages, adapters, penalties and initialisations as any module does; ``copied_head`` copies heads with
adapters too.

Limits: batches must hold several examples of each cluster, and all examples are in memory. k-means on the features can
be worse than the clusters, since subspaces are no blobs. SSC-OMP on the features did not gain as in the paper (three
points: +0.03, from -0.07 to 0.12). On two spirals with NMCE's toy settings it did not find them. Of several processes
each clusters its own share. Not built: MoCo-v2 as stage 1 (``encoder.weights`` reads a backbone's file), a rate of its
own for the cluster head, EnSC, Nyström clustering. The paper's CIFAR and TinyImageNet trainings were not run here.
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
