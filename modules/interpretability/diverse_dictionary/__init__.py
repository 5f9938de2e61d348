"""Diverse dictionary learning: which latents of a nonlinear model can be recovered, and a penalty that recovers them.

Paper: Zheng, Li, Fan, Wilson, Zhang, 2026, "Diverse Dictionary Learning", ICLR, arXiv 2604.17568 (abstract and
summaries; it publishes no code, and no widths, optimiser or regressor: those here are ours).

What it is for: fitting x = g(z) without labels, and knowing which parts of z are recovered. From the support of the
Jacobian of g (which observation depends on which latent) follows what any two models that explain the data as sparsely
have in common; a penalty makes the decoder's Jacobian sparse.

    loss = mean_B Σ_i (x_i − ĝ_i(z))² / 2σ² + β KL(q(z|x) ‖ N(0, I)) + α Ω,  Ω = mean_B Σ_ij |∂ĝ_i/∂z_j|
    Def. 5: z_i is no function of ẑ_π(j) for i, j in different parts of I_K ∩ I_V, I_K \\ I_V, I_V \\ I_K
    Thm. 2: supports agree up to a permutation of columns; Thm. 3: with sufficient diversity ẑ is z up to a permutation
    and element-wise functions. Assumptions: a nonlinear g, p(z) > 0, and an estimate that is as sparse as the truth

:class:`SparseJacobianVAE` is the autoencoder; Ω is the technique ``dependency_sparsity``, for any decoder; the
technique ``identifiability`` measures what is recovered. On arrays, ``framework.functional.identifiability`` has
``diversity_report(support, groups).text()`` (Venn atoms, clauses of diversity, and which guarantee holds for which
latent), ``split_mcc(z, z_hat)``, ``set_r2`` and ``support_scores``. Data: ``StructuredMixing``, which generates
observations with a chosen support or reads your ``x``, ``z`` and ``support`` (``--data.path=FILE --model.inputs=D
--model.latents=d``; x alone is enough to train).

Expected numbers (``reproduce diverse_dictionary``: means over 3 seeds at d = 3, 4,000 steps, and 2 at d = 5, 2,000
steps; F1 of the support at a tenth of the largest mean |J|, beside that of an estimate with all entries):

    support           MCC without, with the penalty                F1 without, with it (all ones)
    ring, d = 3       0.79 (0.69 to 0.88), 0.87 (0.82 to 0.90)     0.74, 0.69 (0.80)
    full, d = 3       0.82 (0.75 to 0.86), 0.70 (0.64 to 0.76)     0.98, 0.57 (1.00)
    ring, d = 5       0.65 (0.64 to 0.67), 0.78 (0.76 to 0.80)     0.53, 0.81 (0.57)
    complement, d = 5 0.69 (0.62 to 0.75), 0.60 (0.56 to 0.64)     0.81, 0.54 (0.89)
    full, d = 5       0.71 (0.69 to 0.73), 0.61 (0.51 to 0.71)     0.94, 0.45 (1.00)

so the penalty helps where the truth is sparse, and hurts on the complement of the identity, which is diverse but dense
(one latent of one run collapses). On the ring the mean R² of the forbidden predictions is 0.10 of Ref at d = 3 (0.19
without the penalty) and 0.20 at d = 5 (0.21).

Cost: the quick config takes 2,000 steps, about half a minute of one busy core. At d = 10 the penalty took as much
processor time as 25 forward passes of the decoder (``benchmarks/dependency_sparsity.py`` measures wall-clock time). The
claims are 24 runs, 7 to 10 minutes of processor in all, as many at a time as there are cores.

Composes with other techniques as any module does. ``mixture_growth`` must be told both ends of both networks:
``input_layers: [encoder.0, decoder.0]``, ``output_layers: [encoder.4, decoder.4]``.

Limits: F1 of a dense truth is high for free, so read it beside that of all ones; where the truth is dense the penalty
finds a support that is too sparse, and can make a latent collapse (reported). With all latents in all observations
rotations cannot be told apart, and a high MCC is luck of a seed. LeakyReLU decoders have a Jacobian that is constant on
pieces; ``activation: gelu`` and ``softplus`` are smooth. For a linear g the theory says nothing. A plain β-VAE already
scores high on easy supports: always run ``--techniques.dependency_sparsity.weight=0`` too. Not built: the image
experiments (FactorVAE, DisCo, EncDiff hosts) and sparse autoencoders of language models.
"""

from modules.interpretability.diverse_dictionary.module import SparseJacobianVAE

__all__ = ["SparseJacobianVAE"]
