"""WINNER: the claims that need no fit hold, a short fit behaves, and the curves are drawn."""

import math

import pytest

from framework.claims import Reproduction
from modules.initialization.winner.claims import _Fit, centroids_and_scales, fits, kernels, statistics_at_start
from modules.initialization.winner.plots import psnr_figure


def test_what_follows_from_the_equations_holds(tmp_path):
    run = Reproduction(tmp_path)
    measured = [*centroids_and_scales(), *statistics_at_start(), *kernels(run)]
    assert len(measured) == 19
    assert [claim.text for claim in measured if not claim.holds] == []
    assert run.figures == [tmp_path / "tangent_kernel.png"]
    assert run.figures[0].stat().st_size > 10_000


def test_the_plain_network_collapses_and_the_noisy_one_begins_to_fit():
    found = fits("high", ("SIREN", "SIREN²"), [0], 512, 32, 100)
    (plain,), (noisy,) = found.values()
    assert plain.loss == pytest.approx(plain.power, rel=0.01)
    assert noisy.loss < 0.5 * noisy.power


def test_a_fit_knows_its_last_and_its_best_step():
    fit = _Fit([(0, 12.0), (10, 30.5), (20, 29.0)], loss=1e-3, lowest=1e-4)
    assert (fit.psnr, fit.best, fit.reaches_30) == (pytest.approx(30), pytest.approx(40), 10)
    assert math.isnan(_Fit([(0, 12.0)]).reaches_30)


def test_curves_of_a_setting_share_a_colour():
    figure = psnr_figure({"a#0": [(0, 1.0), (1, 2.0)], "a#1": [(0, 2.0)], "b#0": [(0, 3.0)]}, {"zero": math.pi})
    (axes,) = figure.axes
    colours = [line.get_color() for line in axes.lines]
    assert colours[0] == colours[1] != colours[2]
    assert len(axes.get_legend().get_texts()) == 3
