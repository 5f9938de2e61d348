"""Functions of theory refuse numbers outside their domain by name; none ends in an error of math or linear algebra.

A row has a function, arguments that it accepts, and the kind of each number: what that kind does not accept is tried in
its place. Below are the arguments at the ends of a domain, where mathematics has a value.
"""

import math

import numpy as np
import pytest
import torch

from framework.errors import UserError
from framework.functional import calibration, generalized_gaussian, low_rank, spectra, structured_weights
from framework.functional.compression import rate
from framework.functional.dependency import sparsity
from framework.functional.identifiability import active_units, mean_corr_coef, split_mcc
from framework.functional.linear_factors import effective_ranks, fit_probes, probe_basis, recover_factors, whitened_r2
from framework.functional.linear_heads.gaussian import ClassStatistics
from framework.functional.linear_heads.logistic import fit_logistic
from framework.functional.linear_heads.mixture import MixtureLaw
from framework.functional.ntk import KernelPredictor, infinite_kernels
from framework.functional.regression_prompts import PromptLaw
from framework.functional.spectral_centroid import grid_coordinates
from modules.dynamics.deep_linear import initialisation, isometry, network
from modules.dynamics.deep_linear import theory as deep_linear
from modules.dynamics.gamp_rie import denoiser, spectrum, state_evolution
from modules.dynamics.generalization_dynamics import students
from modules.dynamics.generalization_dynamics import theory as generalization
from modules.dynamics.matrix_sensing import rates
from modules.dynamics.matrix_sensing import theory as sensing
from modules.dynamics.rich_lazy_rnn import linear
from modules.in_context import predictors
from modules.in_context.icl_linear_models import theory as icl_linear
from modules.in_context.icl_softmax_demystified import theory as icl_softmax
from modules.in_context.yq_lsa import theory as yq_lsa
from modules.interpretability.compositional_linear import theory as compositional
from modules.representation import manifold_clustering as mlc

NAN = math.nan
BAD = {
    "size": (NAN, 0, -1),  # 1, 2, …
    "count": (NAN, -1),  # 0, 1, …
    "above": (NAN, math.inf, 0.0, -1.0),
    "from_0": (NAN, -1.0),
    "share": (NAN, -0.1, 1.1),
    "finite": (NAN, math.inf),
    "entries": (),  # of a tensor or an array: one of them NaN, see broken()
}


def eye(n=3):
    return torch.eye(n, dtype=torch.float64)


def ones(*shape):
    return torch.ones(*shape, dtype=torch.float64)


def generator():
    return torch.Generator().manual_seed(0)


def broken(values):
    """A copy with one NaN."""
    copied = values.clone() if isinstance(values, torch.Tensor) else np.array(values, dtype=float)
    copied.reshape(-1)[0] = NAN
    return copied


def row(function, kinds, **arguments):
    return pytest.param(
        function, kinds, arguments, id=f"{function.__module__.split('.', 1)[1]}.{function.__qualname__}"
    )


LAW = {"dim": 3, "length": 5, "noise": 0.1}
LAW_KINDS = {"dim": "size", "length": "size", "noise": "from_0"}
ERRORS = {"alpha": 0.5, "snr": 1.0, "inr": 0.0}
ERROR_KINDS = {"alpha": "above", "snr": "from_0", "inr": "from_0"}
HEADS = {"omega": ones(2) * 0.1, "mu": ones(2)}
COV = {"cov": eye(), "length": 5}
TASKS = {"cov": eye(), "task_cov": eye(), "length": 5, "noise": 0.1}
WIDTHS = {"widths": [3, 4, 3], "generator": generator()}
SEMICIRCLE = {"t": 1.0, "kappa": 0.5}
SEMICIRCLE_KINDS = {"t": "above", "kappa": "above"}

ROWS = [
    row(mlc.coding_rate, {"eps_squared": "above"}, z=ones(3, 2), eps_squared=0.2),
    row(mlc.membership_rate, {"eps_squared": "above"}, z=ones(3, 2), memberships=eye(), eps_squared=0.2),
    row(mlc.cluster_rate, {"eps_squared": "above"}, z=ones(3, 2), clusters=eye(), eps_squared=0.2),
    row(mlc.memberships, {"eta": "above"}, c=ones(3, 2), eta=0.2),
    row(sensing.redundant_error, {"step": "count", "rate": "above", "rank": "count"}, step=9, rate=0.1, k=4, rank=2),
    row(
        sensing.predicted_rate,
        {"rank": "size", "rate": "above"},
        delta=eye()[None],
        f=eye()[None],
        g=eye()[None],
        rank=2,
        rate=0.1,
    ),
    row(rates.exponential_rate, {"low": "from_0"}, t=[1, 2, 3], y=[3, 2, 1], low=0.0),
    row(rates.power_exponent, {"low": "from_0"}, t=[1, 2, 3], y=[3, 2, 1], low=0.0),
    row(deep_linear.strength, {"tau": "above"}, t=1.0, s=1.0, u0=0.1, tau=1.0),
    row(deep_linear.learning_time, {"tau": "above"}, s=1.0, u0=0.1, uf=0.5, tau=1.0),
    row(
        deep_linear.unequal_time,
        dict.fromkeys(("s", "a0", "b0", "uf", "tau"), "above"),
        s=1.0,
        a0=0.1,
        b0=0.2,
        uf=0.5,
        tau=1.0,
    ),
    row(
        deep_linear.depth_time,
        {**dict.fromkeys(("s", "u0", "uf", "tau"), "above"), "layers": "size"},
        s=1.0,
        u0=0.1,
        uf=0.5,
        layers=3,
        tau=1.0,
    ),
    row(
        deep_linear.infinite_depth_time,
        dict.fromkeys(("s", "u0", "uf", "tau"), "above"),
        s=1.0,
        u0=0.1,
        uf=0.5,
        tau=1.0,
    ),
    row(deep_linear.largest_step, {"s": "above", "layers": "size"}, s=1.0, layers=3),
    row(
        deep_linear.tree_strengths,
        {"depth": "count", "flip": "share", "features": "size"},
        depth=2,
        flip=0.1,
        features=9,
    ),
    row(deep_linear.tanh_variance, {"gain": "from_0"}, gain=1.5),
    row(initialisation.orthonormal, {"rows": "size", "columns": "size"}, rows=3, columns=2, generator=generator()),
    row(initialisation.decoupled, {"u0": "above", "s31": "entries"}, s31=eye(), u0=0.1, **WIDTHS),
    row(
        initialisation.draw,
        {"u0": "above", "std": "above", "gain": "above"},
        kind="gaussian",
        s31=eye(),
        s11=eye(),
        u0=0.1,
        std=0.1,
        gain=1.0,
        **WIDTHS,
    ),
    row(initialisation.pretrained, {"s11": "entries"}, s11=eye(), **WIDTHS),
    row(initialisation.consistency, {"s31": "entries", "s11": "entries"}, s31=eye(), s11=eye()),
    row(network.modes, {"s31": "entries"}, s31=eye()),
    row(network.best_loss, {"s31": "entries", "s11": "entries"}, s31=eye(), s11=eye(), syy=ones(())),
    row(
        isometry.product_spectrum,
        {"size": "size", "factors": "count"},
        size=3,
        factors=2,
        orthogonal=False,
        generator=generator(),
    ),
    row(
        isometry.tanh_network,
        {"gain": "finite", "size": "size", "depth": "size", "start": "from_0"},
        gain=1.0,
        size=3,
        depth=2,
        start=1.0,
        generator=generator(),
    ),
    row(spectrum.roots, {**SEMICIRCLE_KINDS, "x": "entries"}, x=np.ones(2), **SEMICIRCLE),
    row(spectrum.stieltjes, {**SEMICIRCLE_KINDS, "x": "entries"}, x=np.ones(2), **SEMICIRCLE),
    row(spectrum.density, {**SEMICIRCLE_KINDS, "x": "entries"}, x=np.ones(2), **SEMICIRCLE),
    row(spectrum.edges, SEMICIRCLE_KINDS, **SEMICIRCLE),
    row(spectrum.moment, {**SEMICIRCLE_KINDS, "power": "count", "nodes": "size"}, power=3, nodes=40, **SEMICIRCLE),
    row(denoiser.denoise, {**SEMICIRCLE_KINDS, "r": "entries"}, r=eye(), **SEMICIRCLE),
    row(denoiser.error, SEMICIRCLE_KINDS, **SEMICIRCLE),
    row(state_evolution.perfect_recovery, {"kappa": "above"}, kappa=0.5),
    row(state_evolution.mmse, {"alpha": "above", "kappa": "above", "noise": "from_0"}, alpha=0.3, kappa=0.5, noise=0.1),
    row(state_evolution.curve, {"kappa": "above", "noise": "from_0", "points": "size"}, kappa=0.5, noise=0.0, points=3),
    row(generalization.bulk, {"alpha": "above", "nodes": "size"}, alpha=0.5, nodes=9),
    row(generalization.density, {"alpha": "above"}, lam=1.0, alpha=0.5),
    row(generalization.generalization_error, ERROR_KINDS, t=1.0, **ERRORS),
    row(generalization.training_error, ERROR_KINDS, t=1.0, **ERRORS),
    row(generalization.final_error, {**ERROR_KINDS, "alpha": "from_0"}, **ERRORS),
    row(generalization.optimal_stop, ERROR_KINDS, **ERRORS),
    row(generalization.mode_stop, {"snr": "from_0", "inr": "from_0"}, lam=1.0, snr=1.0, inr=0.0),
    row(
        generalization.ridge_error,
        {"alpha": "above", "snr": "from_0", "penalty": "from_0"},
        alpha=0.5,
        snr=1.0,
        penalty=1.0,
    ),
    row(students.flow, {"h": "entries", "y": "entries"}, h=eye(), y=ones(3)),
    row(students.bulk_eigenvalues, {"h": "entries", "large": "count"}, h=eye(4), large=1),
    row(students.decompose, {"h": "entries", "y": "entries"}, h=eye(), y=ones(3), h_test=eye(), y_test=ones(3)),
    row(linear.sphere, {"tasks": "size", "dimension": "size"}, tasks=2, dimension=3, generator=generator()),
    row(linear.anisotropic, {"dimension": "size", "kappa": "from_0"}, dimension=3, kappa=2.0, generator=generator()),
    row(
        linear.evenly_ranked,
        {**dict.fromkeys(("tasks", "hidden", "dimension", "rank"), "size"), "sigma": "from_0"},
        tasks=2,
        hidden=4,
        dimension=3,
        rank=2,
        sigma=1.0,
        generator=generator(),
    ),
    row(
        linear.aligned,
        {"hidden": "size", "sigma": "from_0"},
        directions=eye()[None],
        hidden=4,
        sigma=1.0,
        generator=generator(),
    ),
    row(
        linear.train,
        {"rate": "above", "steps": "count"},
        w1=ones(1, 4, 3),
        w2=ones(1, 1, 4),
        beta=ones(1, 3),
        rate=0.1,
        steps=2,
    ),
    row(
        linear.predicted_alignment,
        dict.fromkeys(("w1", "w2", "beta"), "entries"),
        w1=ones(1, 4, 3),
        w2=ones(1, 1, 4),
        beta=ones(1, 3),
    ),
    row(linear.expected_alignment, {"eigenvalues": "entries", "b": "from_0"}, eigenvalues=ones(3), b=0.1),
    row(linear.expected_alignment_of_rank, {"dimension": "size", "rank": "size"}, dimension=3, rank=2),
    row(
        yq_lsa.best_preconditioner,
        {"cov": "entries", "task_cov": "entries", "length": "size", "noise": "from_0"},
        **TASKS,
    ),
    row(yq_lsa.gradient_step_risk, {"length": "size", "noise": "from_0"}, preconditioner=eye(), **TASKS),
    row(yq_lsa.best_gradient_step_risk, {"length": "size", "noise": "from_0"}, **TASKS),
    row(yq_lsa.isotropic_rates, {"dim": "size", "length": "size"}, dim=3, length=5),
    row(yq_lsa.multi_head_gap, {"length": "size"}, mean=ones(3), length=5),
    row(icl_softmax.mean_field_loss, LAW_KINDS, **HEADS, **LAW),
    row(icl_softmax.mean_field_gradient, LAW_KINDS, **HEADS, **LAW),
    row(icl_softmax.best_mu, {**LAW_KINDS, "omega": "entries"}, omega=HEADS["omega"], **LAW),
    row(icl_softmax.single_head, LAW_KINDS, **LAW),
    row(icl_softmax.many_heads_infimum, LAW_KINDS, **LAW),
    row(
        icl_softmax.mean_field_flow,
        {**LAW_KINDS, "omega": "entries", "mu": "entries", "end": "above"},
        **HEADS,
        **LAW,
        end=1.0,
        points=3,
    ),
    row(icl_softmax.debiased_step_risk, {**LAW_KINDS, "rate": "finite"}, rate=1.0, **LAW),
    row(icl_softmax.best_debiased_rate, LAW_KINDS, **LAW),
    row(icl_softmax.gradient_step_risk, {**LAW_KINDS, "rate": "finite"}, rate=1.0, **LAW),
    row(icl_softmax.best_gradient_rate, LAW_KINDS, **LAW),
    row(icl_softmax.proportional_limit, {"ratio": "above", "noise": "from_0"}, ratio=0.5, noise=0.1),
    row(icl_linear.gamma, {"length": "size"}, **COV),
    row(icl_linear.balanced_start, {"dim": "size", "sigma": "above"}, dim=3, sigma=0.1, generator=generator()),
    row(
        icl_linear.gradient_flow,
        {"cov": "entries", "start": "entries", "length": "size", "u0": "finite", "end": "above"},
        start=0.1 * eye(),
        u0=0.1,
        end=1.0,
        points=3,
        **COV,
    ),
    row(icl_linear.limit, {"cov": "entries", "length": "size"}, **COV),
    row(icl_linear.limit_loss, {"cov": "entries", "length": "size"}, **COV),
    row(icl_linear.readout_risk, {"length": "size", "noise": "from_0"}, readout=eye(), noise=0.0, **COV),
    row(
        icl_linear.theorem_risk,
        {"cov": "entries", "length": "size", "test_length": "size"},
        test_length=4,
        w=ones(3),
        **COV,
    ),
    row(icl_linear.random_spectrum_gain, {"dim": "size", "length": "size"}, dim=3, length=5, moments=[1.0, 2.0, 6.0]),
    row(
        icl_linear.random_spectrum_risk,
        {"gain": "finite", "dim": "size", "length": "size"},
        gain=0.5,
        dim=3,
        length=5,
        moments=[1.0, 2.0, 6.0],
    ),
    row(icl_linear.best_readout, {"rows": "entries", "length": "size"}, rows=np.eye(3), length=5),
    row(predictors.ridge, {"penalty": "from_0"}, x=eye()[None], y=ones(1, 3, 1), query=ones(1, 3), penalty=0.1),
    row(
        predictors.bayes,
        {"covariance": "entries", "noise": "from_0"},
        x=eye()[None],
        y=ones(1, 3, 1),
        query=ones(1, 3),
        mean=ones(1, 3),
        covariance=eye(),
        noise=0.1,
    ),
    row(predictors.debiased_step, {"rate": "finite"}, x=eye()[None], y=ones(1, 3, 1), query=ones(1, 3), rate=1.0),
    row(calibration.fit_temperature, {"logits": "entries"}, logits=eye(), labels=torch.arange(3)),
    row(
        calibration.calibration,
        {"temperature": "above", "bins": "size"},
        logits=eye(),
        labels=torch.arange(3),
        temperature=1.0,
        bins=5,
    ),
    row(
        calibration.reliability,
        {"temperature": "above", "bins": "size"},
        logits=eye(),
        labels=torch.arange(3),
        temperature=1.0,
        bins=5,
    ),
    row(generalized_gaussian.variance, {"alpha": "from_0", "shape": "above"}, alpha=1.0, shape=1.5),
    row(generalized_gaussian.entropy, {"alpha": "above", "shape": "above"}, alpha=1.0, shape=1.5),
    row(generalized_gaussian.ratio, {"shape": "above"}, shape=1.5),
    row(generalized_gaussian.scale_of_std, {"std": "from_0", "shape": "above"}, std=1.0, shape=1.5),
    row(
        generalized_gaussian.log_density,
        {"alpha": "above", "shape": "above", "mean": "finite"},
        w=ones(2),
        alpha=1.0,
        shape=1.5,
        mean=0.0,
    ),
    row(
        generalized_gaussian.density,
        {"alpha": "above", "shape": "above", "mean": "finite"},
        w=ones(2),
        alpha=1.0,
        shape=1.5,
        mean=0.0,
    ),
    row(
        generalized_gaussian.fill_, {"shape": "above", "alpha": "from_0"}, tensor=ones(2), shape=1.5, alpha=1.0, seed=0
    ),
    row(generalized_gaussian.sample, {"shape": "above", "std": "from_0"}, size=(2,), shape=1.5, std=1.0),
    row(spectra.marchenko_pastur, {"rows": "size", "columns": "size"}, rows=3, columns=3),
    row(spectra.isotropy_bound, {"kappa": "from_0"}, kappa=2.0),
    row(low_rank.rebalance, {"f": "entries", "beta": "above"}, f=eye(), g=eye(), beta=1.0),
    row(structured_weights.low_rank_part, {"matrix": "entries", "rank": "size"}, matrix=eye(), rank=2),
    row(
        structured_weights.dale,
        {"rows": "size", "excitatory": "share"},
        rows=3,
        columns=3,
        excitatory=0.8,
        balanced=True,
        generator=generator(),
    ),
    row(
        structured_weights.chain,
        {"rows": "size", "columns": "size", "p": "share", "correlation": "finite"},
        rows=3,
        columns=3,
        p=0.1,
        correlation=0.5,
        generator=generator(),
    ),
    row(recover_factors, {"z": "entries"}, z=np.eye(4), labels=np.arange(4)),
    row(whitened_r2, {"z": "entries", "rank": "above"}, z=np.eye(4), labels=np.arange(4), rank=1e-10),
    row(effective_ranks, {"share": "above"}, factors=recover_factors(np.eye(4), np.arange(4)), share=0.5),
    row(probe_basis, {"weights": "entries", "least": "above"}, weights=np.eye(3), least=1e-6),
    row(
        fit_probes, {"z": "entries", "steps": "size", "lr": "above"}, z=np.eye(4), labels=np.arange(4), steps=2, lr=0.1
    ),
    row(compositional.most_cells, {"hyperplanes": "count", "dimension": "count"}, hyperplanes=3, dimension=2),
    row(rate.quantise, {"step": "above"}, weights=ones(2), step=0.1),
    row(rate.bits_per_weight, {"step": "above", "order": "count"}, weights=ones(2), step=0.1, order=0),
    row(rate.exp_golomb_lengths, {"order": "count"}, ranks=np.arange(3), order=0),
    row(rate.rate_of_counts, {"order": "count", "zeros": "count"}, counts=np.arange(3), order=0, zeros=0),
    row(ClassStatistics.zeros, {"classes": "size", "features": "size"}, classes=2, features=3),
    row(
        fit_logistic,
        {"classes": "size", "c": "above", "max_iter": "size", "tolerance": "from_0"},
        x=eye(),
        y=torch.arange(3),
        classes=3,
        c=1.0,
        max_iter=3,
        tolerance=1e-6,
    ),
    row(MixtureLaw, {"classes": "size", "dimension": "size"}, classes=2, dimension=4),
    row(infinite_kernels, {"depth": "size", "beta": "finite"}, x=eye(), depth=2, beta=0.1),
    row(KernelPredictor, {"kernel": "entries", "rate": "finite"}, kernel=eye(), rate=0.1),
    row(
        PromptLaw,
        {"noise": "from_0", "scale": "finite"},
        x_cov=eye(),
        task_mean=ones(1, 3),
        task_cov=eye(),
        noise=0.0,
        scale=1.0,
    ),
    row(sparsity, {"latents": "size", "epsilon": "above"}, columns=ones(2, 3, 4), latents=2, norm="log", epsilon=0.1),
    row(active_units, {"means": "entries", "threshold": "above"}, means=eye(), threshold=0.01),
    row(mean_corr_coef, {"z_true": "entries", "z_hat": "entries"}, z_true=eye(), z_hat=eye()),
    row(
        split_mcc,
        {"z_true": "entries", "z_hat": "entries", "splits": "size"},
        z_true=eye(5),
        z_hat=eye(5),
        splits=2,
    ),
    row(grid_coordinates, {"shape": "size"}, shape=[3]),
]


@pytest.mark.parametrize(("function", "kinds", "arguments"), ROWS)
def test_numbers_outside_the_domain_are_refused_by_name(function, kinds, arguments):
    function(**arguments)
    for name, kind in kinds.items():
        good = arguments[name]
        bad = (
            [broken(good)]
            if kind == "entries"
            else [[value] if isinstance(good, list) else value for value in BAD[kind]]
        )
        for value in bad:
            with pytest.raises(UserError) as caught:
                function(**{**arguments, name: value})
            assert name in str(caught.value).split(":")[0], (name, value)


@pytest.mark.filterwarnings("error")
def test_at_the_ends_of_a_domain_is_what_mathematics_says():
    assert sensing.redundant_error(0, 0.1, 3, 2) == math.inf
    assert deep_linear.learning_time(1.0, 0.0, 0.5) == math.inf
    assert deep_linear.learning_time(1.0, 0.1, 1.0) == math.inf
    assert math.isnan(deep_linear.learning_time(1.0, 0.1, 1.5))
    assert deep_linear.strength(3.0, 0.0, 0.1) == pytest.approx(0.1 / (1 + 2 * 0.1 * 3.0))  # u' = −2 u²
    assert deep_linear.strength([1.0, math.inf], [2.0, 2.0], 0.0).tolist() == [0, 0]
    assert generalization.final_error(0.0, 2.0) == 3
    assert generalization.final_error(1.0, 2.0) == math.inf
    assert generalization.optimal_stop(0.5, 0.0) == (0, 1)
    assert generalization.ridge_error(0.5, 0.0) == 1
    assert generalization.mode_stop([0.0, 1.0], 2.0).tolist() == pytest.approx([2, math.log(3)])
    assert math.isnan(linear.expected_alignment(torch.zeros(3), 0.0))
    assert generalized_gaussian.variance(0.0, 1.0) == 0
    assert generalized_gaussian.ratio(1e-4) == math.inf
    assert math.isnan(generalized_gaussian.fit(torch.tensor([1.0, NAN])).shape)
    assert spectra.isotropy_bound(math.inf) == -math.inf
    assert spectra.isotropy_bound(1e200) == pytest.approx(math.log(2) - 200 * math.log(10))
    assert icl_linear.random_spectrum_risk(0.5, 3, math.inf, [1.0, 2.0, 6.0]) == pytest.approx(3 * (1.5 - 2 + 1))


def test_singular_matrices_have_the_solution_of_least_norm():
    x, y = torch.tensor([[[1.0, 1.0], [1.0, 1.0], [2.0, 2.0]]]).double(), torch.tensor([[[1.0], [1.0], [2.0]]]).double()
    found = predictors.least_squares(x, y, torch.tensor([[1.0, 0.0]]).double())
    torch.testing.assert_close(found, torch.tensor([[0.5]]).double())
    covariance = torch.diag(torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64))
    part = yq_lsa.best_preconditioner(covariance[:2, :2], eye(2), 5)
    torch.testing.assert_close(yq_lsa.best_preconditioner(covariance, eye(), 5)[:2, :2], part)
    readout = icl_linear.best_readout([[1.0, 0.0], [-1.0, 0.0]], 5)
    torch.testing.assert_close(readout, torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double())
