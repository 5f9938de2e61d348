"""Rich or lazy: how the structure of a recurrent network's first weights decides how much learning changes it.

Paper: Liu, Baratin, Cornford, Mihalas, Shea-Brown, Lajoie, 2024, "How Connectivity Structure Shapes Rich and Lazy
Learning in Neural Circuits", ICLR, arXiv 2310.08513.

What it is for: measuring whether recurrent (or two-layer linear) networks keep their initial tangent kernel and
representation (lazy) or learn others (rich), as a function of the structure of the initial recurrent weights, above all
their rank, at a fixed Frobenius norm. Nothing is linearised; laziness is measured after training.

    h_t = relu((1 − a) h_{t−1} + a (W_x x_t + W_h h_{t−1})),  o_t = W_o h_t        no biases, a = 1, all three trained
    W_h(0) = U_r S_r V_rᵀ · ‖G‖/‖U_r S_r V_rᵀ‖,  G = U S Vᵀ,  G_ij ~ N(0, g²/H), g = 1.25
    dW = ‖W_h − W_h(0)‖;  RA, KA = cosine with the start of R = A Aᵀ (A the last states of 320 probe trials) and of
    K = J Jᵀ (J = ∂o/∂W_h of 32 trials, 8 times, 3 outputs)

Dale's law, chain motifs, cell-type blocks and the user's matrices are other starts
(:mod:`framework.functional.structured_weights`). K is summed from the signals that outputs send back (24 passes;
:func:`network.recurrent_kernel`), without J. For two linear layers E[KA] has a closed form (Theorem 1; :mod:`linear`):
(d + 1)² / (d √((d + 3)(d + 2 + 1/r))) for rank r, and 1 for a start of rank 1 along the task (Proposition 1).

Expected numbers (``reproduce rich_lazy_rnn``; H = 100, 3,000 steps on 32 new trials, SGD 0.003 with momentum 0.9,
seeds 0 to 2): KA of ranks 1, 10, 100 is 0.16, 0.40, 0.47; 0.33, 0.77, 0.75; 0.11, 0.37, 0.69 on the choice (2AF) and
0.08, 0.56, 0.42; 0.06, 0.31, 0.47; 0.20, 0.27, 0.47 on delayed match (DMS). RA rises too, from 0.94-0.98 to 0.98-0.99
and from 0.65-0.87 to 0.97-1.00; dW falls on average (1.4 and 1.9 times). From g = 0.5 the rise of KA is a fifth of
that. With outputs c (o − o(0)) at a rate over c² the smallest KA of six networks is 0.03, 0.58, 0.99 for c = 5, 50, 500
(full rank at c = 50: 0.97 to 0.98). Balanced Dale's law at H = 60 has a mean KA of 0.32 against 0.43 of the Gaussian.

Cost, one core: 3.5 ms a step for nine members at H = 100 and 0.25 s for their kernels; 43 ms and 1 s for twenty at
H = 300.

Composes with observers that do not call the module; members are not layers, so techniques that edit layers find none.
The same on other models: the techniques ``structured_init`` and ``laziness``.

Limits: members share data and its order. On 2AF an eighth of the loss is the choice, and a fifth of trials have no
answer: ``test_accuracy`` is of the choice alone, 0.85 to 0.89. DMS is solved by all, but losses of ranks differ up to
twofold (0.001 to 0.003). What chain motifs do is not clear: at H = 60 weak ones (p = 0.02) have a mean KA of 0.52,
strong ones (p = 0.08, ρ = 1) of 0.29, with a spread of 0.2 over seeds, and two of five of the latter are trained worse.
Unbalanced Dale's law explodes at g = 1.25 (its measures are NaN then). Ranks are of the start; the paper's own
definition of an effective rank is not known here, so two are recorded. The paper's size is
``rich_lazy_rnn_paper``, which was not run to its end.
"""

from modules.dynamics.rich_lazy_rnn.module import LeakyReluRNN

__all__ = ["LeakyReluRNN"]
