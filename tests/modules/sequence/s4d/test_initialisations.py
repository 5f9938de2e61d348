"""S4D: the spectra, and the identities behind S4D-LegS."""

import math
from typing import get_args

import numpy as np
import pytest
import torch

from framework.errors import UserError
from modules.sequence.s4d.initialisations import (
    Init,
    hippo_legs,
    initial_modes,
    legendre_kernels,
    legs_frequencies,
    legs_modes,
)
from modules.sequence.s4d.memory import memory_r2


def test_closed_forms():
    n = np.arange(4)
    expected = {
        "lin": -0.5 + 1j * np.pi * n,
        "inv": -0.5 + 1j * 8 / np.pi * (8 / (2 * n + 1) - 1),
        "inv2": -0.5 + 1j * 8 / np.pi * (8 / (n + 1) - 1),
        "quad": -0.5 + 1j * (2 * n + 1) ** 2 / np.pi,
        "real": -(n + 1.0) + 0j,
    }
    for name, modes in expected.items():
        a, b = initial_modes(name, 8, copies=3)
        assert a.shape == b.shape == (3, 4)
        assert np.abs(a.numpy() - modes).max() < 1e-12
        assert (b == 1).all()
    scaled, _ = initial_modes("lin", 8, imag_scale=0.01)
    assert np.abs(scaled.numpy().imag - 0.01 * np.pi * n).max() < 1e-12


def test_random_spectra_differ_between_copies_and_follow_their_law():
    torch.manual_seed(0)
    a, _ = initial_modes("random_imag", 64, copies=200)
    logs = a.imag.log()
    assert (a.real == -0.5).all()
    assert abs(logs.mean()) < 0.05
    assert abs(logs.std() - 1) < 0.05
    normal, _ = initial_modes("random_normal", 64, copies=200)
    assert abs(normal.imag.std() - 1) < 0.05
    random_real, _ = initial_modes("lin", 64, copies=200, random_real=True)
    assert random_real.real.max() <= 0
    assert random_real.real.min() > -1
    assert abs(random_real.real.mean() + 0.5) < 0.02


@pytest.mark.parametrize("name", get_args(Init))
def test_all_are_stable_and_finite(name):
    a, b = initial_modes(name, 64)
    assert a.isfinite().all()
    assert b.isfinite().all()
    assert (a.real < 0).all()


def test_legs_is_normal_after_the_rank_one_correction():
    a, _, p = hippo_legs(256)
    skew = a + np.outer(p, p) + 0.5 * np.eye(256)
    assert np.abs(skew + skew.T).max() < 1e-10


@pytest.mark.parametrize("n", [4, 16, 64])
def test_legs_spectrum_solves_the_arctan_equation(n):
    modes, vectors, b = legs_modes(n)
    oracle = legs_frequencies(n)
    assert np.abs(modes.imag / oracle - 1).max() < 1e-9
    assert np.abs(vectors.conj().T @ vectors - np.eye(n // 2)).max() < 1e-12
    assert b.shape == (n // 2,)
    if n == 4:
        assert np.abs(oracle - [0.55650112, 4.60329301]).max() < 1e-8
    if n == 64:
        assert abs(oracle[-1] - 1303.27384) < 1e-4
        assert abs(oracle[-1] - (n * n / math.pi - math.pi / 6)) < 1e-3


def test_legs_modes_give_back_the_matrix():
    n = 16
    a, b, p = hippo_legs(n)
    modes, vectors, weights = legs_modes(n)
    full = 2 * ((vectors * modes) @ vectors.conj().T).real
    assert np.abs(full - (a + np.outer(p, p))).max() < 1e-11
    assert np.abs(2 * (vectors @ weights).real - b).max() < 1e-11


@pytest.mark.parametrize("n", [8, 32, 128])
@pytest.mark.parametrize("s", [0.3, 2j, 20j, 0.7 + 5j])
def test_theorem_3_as_a_ratio_of_resolvents(n, s):
    a, b, p = hippo_legs(n)
    eye = np.eye(n)
    diagonal = np.linalg.solve(s * eye - a - np.outer(p, p), b / 2)
    hippo = np.linalg.solve(s * eye - a, b)
    f = np.prod([(s - j) / (s + 1 + j) for j in range(n)])
    assert np.abs(diagonal - hippo / (1 + f)).max() < 1e-10 * np.abs(hippo).max()
    assert np.abs(np.linalg.solve(eye - a - np.outer(p, p), b / 2) - np.linalg.solve(eye - a, b)).max() < 1e-10


def test_legendre_kernels_are_the_hippo_basis():
    from scipy.linalg import expm

    a, b, _ = hippo_legs(16)
    times = np.array([0.0, 0.3, 1.7])
    closed = legendre_kernels(16, times)
    exact = np.stack([expm(t * a) @ b for t in times], axis=1)
    assert np.abs(closed - exact).max() < 1e-11


def test_clipping_bounds_the_imaginary_part_of_b():
    _, clipped = initial_modes("legs", 64)
    _, free = initial_modes("legs", 64, legs_clip=None)
    assert clipped.imag.abs().max() <= 2
    assert free.imag.abs().max() > 2


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("lin", 0.8, 1.0),
        ("inv", 0.8, 1.0),
        ("legs", 0.8, 1.0),
        ("real", -1.0, 0.3),
        ("random_normal", -1.0, 0.3),
        ("lin x 0.01", -1.0, 0.3),
        ("lin x 100", -1.0, 0.3),
    ],
)
def test_only_the_structured_spectra_remember(kind, low, high):
    torch.manual_seed(0)
    name, _, scale = kind.partition(" x ")
    modes, _ = initial_modes(name, 64, imag_scale=float(scale or 1))
    near, far = memory_r2(modes[0].numpy(), [16, 256])
    assert low <= far <= high
    assert near > far


def test_bad_choices_are_named():
    with pytest.raises(UserError, match=r"init: 'lag' is not one of lin, inv"):
        initial_modes("lag", 8)
    with pytest.raises(UserError, match=r"d_state: 7 .* a multiple of 2"):
        initial_modes("lin", 7)
