"""The claims: what is made of checkpoints, and that each can fail."""

from dataclasses import replace

import pytest

from modules.robustness.dp_rgmi.claims import curves_of, gaps, over_budgets
from modules.robustness.dp_rgmi.study import Checkpoint

# Network's AUROC, gap and effective dimension of each budget.
LIKE_THE_PAPER = {
    "none": (0.98, 0.001, 4.0),
    "clipped": (0.96, 0.005, 3.9),
    "8": (0.88, 0.04, 3.0),
    "2": (0.85, 0.05, 3.4),
    "0.5": (0.80, 0.08, 3.2),
}


def made(start="photographs", seeds=(0, 1)):
    found = []
    for privacy, (end, gap, dimension) in LIKE_THE_PAPER.items():
        for seed in seeds:
            own = (end - 0.001 * seed, end - 0.001 * seed + gap, gap, gap - 0.01, gap + 0.01)
            epsilon = float(privacy) if privacy[0].isdigit() else float("inf")
            found.append(Checkpoint(start, privacy, epsilon, seed, *own, 0.8, 0.5, dimension + seed, 2.0, (), "a"))
    return found


def verdicts(found):
    rows = [*gaps(found, "photographs", "small"), *over_budgets(found, "photographs", "small")]
    return [claim.holds for claim in rows]


def changed(found, privacy, **values):
    return [replace(c, **values) if c.privacy == privacy else c for c in found]


def test_what_the_paper_says_holds():
    assert verdicts(made()) == [True] * 10


def test_turns_of_single_runs_stand_beside_those_of_their_mean():
    """Each seed falls and rises elsewhere, so that their mean only falls."""
    found = made(seeds=(0, 1))
    found = changed(found, "none", effective_dimension=9.0)
    rising = {("8", 0): 5.0, ("2", 0): 5.5, ("0.5", 0): 1.0, ("8", 1): 6.0, ("2", 1): 2.0, ("0.5", 1): 2.5}
    found = [replace(c, effective_dimension=rising.get((c.privacy, c.seed), c.effective_dimension)) for c in found]
    single, mean = list(over_budgets(found, "photographs", "small"))[2:4]
    assert single.values == pytest.approx((0.5, 0.5))
    assert mean.measured == pytest.approx(-1.75)
    assert single.holds
    assert mean.bound.text == "reported"


@pytest.mark.parametrize(
    ("place", "privacy", "values"),
    [
        (0, "none", {"gap": -0.02}),
        (1, "2", {"gap": 0.02}),
        (2, "0.5", {"gap": 0.03}),
        (3, "0.5", {"probe": 0.82}),
        (5, "8", {"gap_low": -0.001}),
        (6, "none", {"end_to_end": 0.5}),
        (7, "0.5", {"effective_dimension": 0.0}),
        (9, "2", {"resamples": "b"}),
    ],
)
def test_each_claim_can_fail(place, privacy, values):
    found = changed(made(), privacy, **values)
    if place == 6:
        found = changed(found, "8", end_to_end=0.6)
    if place == 7:
        found = changed(found, "2", effective_dimension=1.0)
    assert not verdicts(found)[place]


def test_curves_are_of_seeds_that_have_all_budgets():
    found = [c for c in made(seeds=(0, 1, 2)) if (c.privacy, c.seed) != ("8", 1)]
    curves = curves_of([c for c in found if c.privacy != "clipped"], "photographs")
    assert curves == {0: [4.0, 3.0, 3.4, 3.2], 2: [6.0, 5.0, 5.4, 5.2]}
