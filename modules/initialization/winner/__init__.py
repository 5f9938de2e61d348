"""WINNER: sine networks for one signal, initialised for the signal's frequencies.

Paper: Spectral Bottleneck in Deep Neural Networks: Noise is All You Need (Chandravamsi, Shenoy, Zinn, Pisnoy, Frankel
2025, arXiv 2509.09719; Sinusoidal Representation Networks in the title of its second version)

What it is for. Fitting a coordinate network to one signal (a long audio clip, a picture, a measured field) whose energy
is at high frequencies. A plain SIREN can stay at zero output there. Gaussian noise on its first two weight matrices,
with a scale from the signal's spectral centroid, makes it learn: SIREN². It has no additional parameters and the same
training.

Equations. h₁ = sin(ω₁ (W₀ x + b₀)), h_{l+1} = sin(ω₀ (W_l h_l + b_l)), linear output. W₀ ~ U(±1/d_in), every later
matrix U(±√(6/H)/ω₀), biases as torch draws them. Then the technique ``winner`` (``callbacks/winner.py``, with the
formulas of ψ, s₀ and s₁): W₀ += N(0, (s₀/ω₀)²), W₁ += N(0, (s₁/ω₀)²). Pre-activations: layer 1 at x has the variance
x² (ω₁²/3 + (ω₁ s₀/ω₀)²) + ω₁² Var b₀, layer 2 has 1 + H s₁²/2 (1 without noise). The tangent kernel of N points is
K = J Jᵀ/N², its spectrum Σ λ_i |FFT v_i|²/N.

Parts. :class:`INR` trains any of ``siren``, ``finer``, ``rff`` and ``relu_pe`` on the signals of
``datamodules.initialization`` (.wav files, pictures, .npy fields, synthetic bands). ``backbones``, ``metrics`` and
``ntk`` work without Lightning. PSNR is logged twice: ``psnr`` with peak 2, the range of [-1, 1], and ``psnr_peak1``,
the paper's, 6.02 dB lower. A test writes the reconstruction (best weights: ``--ckpt_path RUN/checkpoints/best.ckpt``).

Expected, PSNR of peak 1 in dB. N=2,048, 4 layers of 64, 400 steps, three seeds: noise in 0.6 to 0.9 of Nyquist's
frequency, zero output 10.6, 10.3, 10.5: SIREN the same, SIREN² 45.8, 43.2, 46.1, only s₀ 46.6, 45.3, 47.0, only s₁
81.0, 53.4, 61.6, ω₁ = 3000 without noise 45.7, 40.6, 46.5; in 0.2 to 0.4 SIREN² 45.5, 42.7, 46.2 against 11.0, 9.8,
11.6; in 0.005 to 0.05 43.3, 44.5, 43.4 against 43.0, 44.4, 42.1. N=8,192, 4 layers of 96, 200 steps, six seeds: SIREN²
after the last step 45.0, 54.9, 55.2, 47.0, 53.8, 54.5, ω₁ = 3000 38.9, 60.9, 49.6, 40.1, 48.8, 52.5: better by 3.2 on
average, with 70 to 100 steps to 30 dB instead of 110 to 150. The loss of ω₁ = 3000 fluctuates; compared at the best
step of each fit SIREN² is 0.9 worse. The paper at full size (not run here): audio 64.5 against 34.8, camera 44.9
against 38.9.

Cost: 6 N H² (layers - 1) operations a full-batch step, about 7 ms at N=2,048, H=64 on a quiet CPU core. At that size
the Trainer's work once an epoch matters: ``data.passes`` puts several passes into one epoch (``benchmarks/winner.py``).

Composes with every technique that edits linear layers. Weights and sines stay in float32 under bf16-mixed: arguments
reach thousands, where bfloat16 is too coarse (its steps are whole turns). GG initialisation skips networks of sines.

Limits. PSNR over the training samples measures memorisation; ``data.holdout`` holds some out and scores them separately
(``psnr_heldout``). s₀ is in radians per unit of the coordinate and tuned for 150,000 samples: below about 2,200 samples
3,500 is above the Nyquist frequency (see ``scale_with_n`` of the technique). A full batch must fit into memory.
"""

from modules.initialization.winner.module import INR

__all__ = ["INR"]
