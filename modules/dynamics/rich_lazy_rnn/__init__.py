"""Rich or lazy: how the structure of a recurrent network's initial weights decides how much learning changes it.

Paper: Liu, Baratin, Cornford, Mihalas, Shea-Brown, Lajoie, 2024, "How Connectivity Structure Shapes Rich and Lazy
Learning in Neural Circuits", ICLR, arXiv 2310.08513.

What it is for: measuring whether recurrent (or two-layer linear) networks keep their initial tangent kernel and
representation (lazy) or change them (rich), as a function of the structure of the initial recurrent weights, above all
their rank, at a fixed Frobenius norm. The networks are not linearised; laziness is measured after training.

    h_t = relu((1 − a) h_{t−1} + a (W_x x_t + W_h h_{t−1})),  o_t = W_o h_t        no biases, a = 1, all three trained
    W_h(0) = U_r S_r V_rᵀ · ‖G‖/‖U_r S_r V_rᵀ‖,  G = U S Vᵀ,  G_ij ~ N(0, g²/H), g = 1.25
    dW = ‖W_h − W_h(0)‖;  RA, KA = cosine with the start of R = A Aᵀ (A the last states of 320 probe trials) and of
    K = J Jᵀ (J = ∂o/∂W_h of 32 trials, 8 times, 3 outputs)

Other initial weights follow Dale's law, chain motifs or cell-type blocks, or are the user's matrices
(:mod:`framework.functional.structured_weights`). K is computed from the outputs' backward signals (24 passes;
:func:`network.recurrent_kernel`), without J. For two linear layers E[KA] has a closed form (Theorem 1; :mod:`linear`):
(d + 1)² / (d √((d + 3)(d + 2 + 1/r))) for rank r, and 1 for initial weights of rank 1 along the task (Proposition 1).

Expected numbers (``reproduce rich_lazy_rnn``; H = 100, 3,000 steps on 32 new trials, SGD 0.003 with momentum 0.9,
seeds 0 to 2): KA of ranks 1, 10, 100 is 0.16, 0.40, 0.47; 0.33, 0.77, 0.75; 0.11, 0.37, 0.69 on the choice (2AF) and
0.08, 0.56, 0.42; 0.06, 0.31, 0.47; 0.20, 0.27, 0.47 on delayed match (DMS). RA increases too, from 0.94-0.98 to
0.98-0.99 and from 0.65-0.87 to 0.97-1.00; dW decreases on average (1.4 and 1.9 times). With g = 0.5 the increase of KA
is a fifth of that. With outputs c (o − o(0)) and a rate divided by c² the smallest KA of six networks is 0.03, 0.58,
0.99 for c = 5, 50, 500 (full rank at c = 50: 0.97 to 0.98). Balanced Dale's law at H = 60 has a mean KA of 0.32 against
0.43 of the Gaussian.

Cost, one core: 3.5 ms for a step of nine members at H = 100 and 0.25 s for their kernels; 43 ms and 1 s for twenty
members at H = 300.

Composes with observers that do not call the module; members are not layers, so techniques that edit layers have no
effect. The techniques ``structured_init`` and ``laziness`` do the same for other models.

Limits: members share the data and their order. On 2AF the choice is an eighth of the loss, and a fifth of the trials
have no right answer; ``test_accuracy`` is that of the choice alone, 0.85 to 0.89. All members solve DMS, but the losses
of different ranks differ by up to a factor of two (0.001 to 0.003). The effect of chain motifs is not clear: at H = 60
weak ones (p = 0.02) have a mean KA of 0.52, strong ones (p = 0.08, ρ = 1) of 0.29, with a spread of 0.2 over seeds, and
two of five of the latter train less well. Unbalanced Dale's law diverges at g = 1.25 (its measurements are NaN
then). Ranks are those of the initial weights; the paper's definition of an effective rank is not known here, so two are
recorded. The config ``rich_lazy_rnn_paper`` has the paper's size; it was not run to its end.
"""

from modules.dynamics.rich_lazy_rnn.module import LeakyReluRNN

__all__ = ["LeakyReluRNN"]
