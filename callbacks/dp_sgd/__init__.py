"""DP-SGD: trains with differential privacy: each sample's gradient is clipped, noise is added, and ε is accounted for.

Paper: Deep Learning with Differential Privacy (Abadi et al. 2016, arXiv 1607.00133); accountants of Gopi, Lee &
Wutschitz 2021 (arXiv 2106.02848) and Mironov, Talwar & Zhang 2019 (arXiv 1908.10530), in Opacus (arXiv 2109.12298).

What it is for: weights from which nobody can tell whether a given sample was in the training set, up to (ε, δ). Each
step draws a batch in which every sample is with probability q = batch_size/N (Poisson sampling), and steps with

    (Σ_i g_i min(1, C/‖g_i‖) + σ C z) / (q N), z ~ N(0, 1)

where g_i is the gradient of sample i by all trained parameters. Any optimiser can follow. Give ``epsilon``, and σ is
chosen for the whole training; or ``noise_multiplier``. With both, the training ends before it would spend more.

How: ``training_step`` of any LightningModule with automatic optimisation is called on batches of one sample, under
``torch.func.vmap`` (all samples at once); where the module does what vmap does not allow, by a loop over samples, and
the run says why. No layer is wrapped, hooked or replaced, so a state dict has its usual names. The step also runs once
on the whole batch without gradients, for what it logs. In a loop of your own: :func:`per_sample_gradients`,
:func:`clipped_sums`, :func:`write_gradients`, :func:`noise_multiplier_for`, :func:`epsilon_of`.

The training loader is replaced: an epoch has round(1/q) batches of varying size. An empty batch is a step of noise. A
batch is one step, whatever ``physical_batch_size`` is; under ``ddp`` the clipped sums are added over ranks, and all
draw one batch and one noise.

Seeds: sampling, noise and dropout come from a secret of 128 bits, by default from the operating system, because who
knows the seed can subtract the noise; ``seed_everything`` does not decide it. The secret is in the checkpoints, so that
a killed and resumed run repeats its draws, ends with the same bits and spends the same ε. Never release a checkpoint,
but the weights that ``python -m framework export`` writes. Two trainings continued from one checkpoint share noise:
release one.

Logged at the end of each epoch: ``dp_sgd/epsilon``, ``delta``, ``noise_multiplier``, ``sample_rate`` and ``steps``.
``privacy.md`` in the run folder says what is spent, what the guarantee covers and what it does not: logged losses,
``normalize`` and other statistics of the training data, settings tuned on it. ``noise_multiplier: 0`` only clips, as a
baseline, and says that it is not private. A checkpoint's σ is kept when a longer training continues; ε stays the limit.

Expected numbers (``vision/image_classifier_dp_sgd``, best validation accuracy, seeds 0 and 1): 0.910 and 0.917 with
ε = 8, 0.854 and 0.854 with ε = 2, 0.958 and 0.965 without privacy. They vary by the secret too.

Cost (``benchmarks/dp_sgd.py``, one CPU thread): a step of a small CNN takes 2.7 times a plain one, as long as Opacus'
own loop (1.00 and 1.07 times, two measurements) and a quarter of a loop over samples; of a ViT and a ConvNeXt about
three times a plain one and 0.6 to 0.7 times Opacus' (whose gradients are wrong for ConvNeXt). Memory grows with the
physical batch times the trained parameters: the gradients of 256 samples of the ViT need 339 MB at once, and 0.40 and
0.10 of it in physical batches of 64 and 16. PRV takes 0.1 to 0.5 s at each epoch's end, and a second or two to choose
σ; Opacus takes seconds to import.

It works with techniques that act on weights: averages, rounding, shrinking, initialisations, adapters (with ``lora``
only adapters and head have gradients, from the start or a later epoch). A penalty of each sample is part of its clipped
gradient. ``grokfast`` filters the private gradients. Refused: techniques that compute what they write from the training
data (a fitted ``lp_ft``, ``winner`` with measured scales, a ``learngene`` without a file).

A sample whose gradient is not finite counts as zero, with a warning.

Limits: refused are batch norm (use group or layer norm), modules that write buffers in training, losses and penalties
in which samples depend on each other or on their padding, values of a whole batch, parameters without a gradient,
manual optimisation, accumulation, the Trainer's clipping, 16-mixed, compiled models, LBFGS, data without an index,
samplers of one's own, early stopping by a training loss, checkpoints with steps that were not private. State that
``training_step`` keeps outside parameters and buffers is not seen. ε is for adding or removing one row. Nothing is done
against attacks on the rounding of noise. Needs ``pip install 'modular-framework[privacy]'``.
"""

from callbacks.dp_sgd.accounting import epsilon_of, noise_multiplier_for
from callbacks.dp_sgd.callback import DPSGD
from callbacks.dp_sgd.gradients import clipped_sums, per_sample_gradients, trainable, write_gradients

__all__ = [
    "DPSGD",
    "clipped_sums",
    "epsilon_of",
    "noise_multiplier_for",
    "per_sample_gradients",
    "trainable",
    "write_gradients",
]
