from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
import scipy.stats as stats
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from framework.sweep.distributions import EDGE, NUMBERS, Parameter

HERE = Path(__file__).parent / "wandb"
QUANTILES = json.loads((HERE / "quantiles.json").read_text())
GRIDS = json.loads((HERE / "grids.json").read_text())
SCHEMA = json.loads((HERE / "schema.json").read_text())
"""W&B's answers (``wandb/make.py`` wrote them) and its schema."""


def parameter(kind: str = "", values=(), probabilities=(), **numbers) -> Parameter:
    defaults = {key: value for key, value in NUMBERS[kind].items() if value is not None}
    return Parameter(("p",), kind, {**defaults, **numbers}, tuple(values), tuple(probabilities))


def from_file(section: dict) -> Parameter:
    """The kinds as W&B infers them; the reading of files is tested elsewhere."""
    section = dict(section)
    if "value" in section:
        return parameter("constant", [section["value"]])
    if "values" in section:
        kind = "categorical_w_probabilities" if "probabilities" in section else "categorical"
        return parameter(kind, section["values"], section.get("probabilities", ()))
    whole = isinstance(section["min"], int) and isinstance(section["max"], int) if "min" in section else False
    return parameter(section.pop("distribution", "int_uniform" if whole else "uniform"), **section)


@pytest.mark.parametrize("row", QUANTILES["parameters"], ids=lambda row: json.dumps(row["parameter"]))
def test_quantiles_are_those_of_wandb(row):
    found = [from_file(row["parameter"]).ppf(u) for u in QUANTILES["u"]]
    for ours, theirs in zip(found, row["values"], strict=True):
        assert type(ours) is type(theirs)
        assert json.dumps(ours) == json.dumps(theirs) or ours == pytest.approx(theirs, rel=1e-13, abs=0)


def test_the_quantiles_hold_every_kind():
    assert {from_file(row["parameter"]).kind for row in QUANTILES["parameters"]} == set(NUMBERS)


def test_the_kinds_and_their_numbers_are_those_of_the_schema():
    theirs = {}
    for name, definition in SCHEMA["definitions"].items():
        for option in definition.get("anyOf", [definition])[:1]:
            properties = option.get("properties", {})
            if name.startswith("param_") and "distribution" in properties:
                (kind,) = properties.pop("distribution")["enum"]
                theirs[kind] = {
                    key: None if key in option["required"] else properties[key]["default"]
                    for key in properties
                    if key not in ("value", "values", "probabilities")
                }
    assert theirs == NUMBERS


CLOSED_FORMS = [
    (parameter("uniform", min=-2, max=6.5), stats.uniform(-2, 8.5)),
    (parameter("log_uniform", min=-5, max=1), stats.loguniform(math.exp(-5), math.exp(1))),
    (parameter("inv_log_uniform", min=-5, max=1), stats.loguniform(math.exp(-1), math.exp(5))),
    (parameter("log_uniform_values", min=1e-4, max=10), stats.loguniform(1e-4, 10)),
    (parameter("inv_log_uniform_values", min=1e-4, max=10), stats.loguniform(1e-4, 10)),
    (parameter("normal", mu=3, sigma=0.5), stats.norm(3, 0.5)),
    (parameter("log_normal", mu=-1, sigma=2), stats.lognorm(2, scale=math.exp(-1))),
    (parameter("beta", a=2, b=0.7), stats.beta(2, 0.7)),
    (parameter("int_uniform", min=-4, max=9), stats.randint(-4, 10)),
]


@pytest.mark.parametrize(("ours", "theirs"), CLOSED_FORMS, ids=lambda item: getattr(item, "kind", ""))
def test_quantiles_are_the_inverse_distribution_function(ours, theirs):
    u = np.linspace(0.0005, 0.9995, 1001)
    np.testing.assert_allclose([ours.ppf(one) for one in u], theirs.ppf(u), rtol=1e-12)


def test_optuna_draws_every_kind_from_its_own_distribution():
    varied = [Parameter((str(index), p.kind), p.kind, p.numbers, p.values) for index, (p, _) in enumerate(CLOSED_FORMS)]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = {p.label: p.optuna() for p in varied}
    drawn = [study.ask(space).params for _ in range(400)]
    for p, (_, theirs) in zip(varied, CLOSED_FORMS, strict=True):
        values = [p.value(params[p.label]) for params in drawn]
        assert {type(value) for value in values} == {int if p.kind == "int_uniform" else float}
        if p.kind == "int_uniform":
            counts = [values.count(value) for value in range(-4, 10)]
            assert stats.chisquare(counts).pvalue > 0.01
        else:
            assert stats.kstest(values, theirs.cdf).pvalue > 0.01, p.kind


def test_probabilities():
    weighted = parameter("categorical_w_probabilities", ["a", "never", "b", "also never"], [0.2, 0, 0.8, 0])
    values = [weighted.ppf(u) for u in np.linspace(0.0005, 0.9995, 1000)]
    assert [values.count(value) for value in ("a", "never", "b")] == [200, 0, 800]
    assert weighted.ppf(1.0) == "b"
    assert parameter("categorical_w_probabilities", [1, 2], [0.3333, 0.666691]).ppf(1.0) == 2  # a sum just below 1
    assert weighted.optuna() == FloatDistribution(EDGE, 1 - EDGE)


def test_values_keep_their_types():
    values = [1, True, 1.0, "1", None, [1, [2]], {"a": {"b": None}}, False, 0]
    choice = parameter("categorical", values)
    assert choice.optuna() == CategoricalDistribution(range(9))
    for index, value in enumerate(values):
        assert type(choice.value(index)) is type(value)
        assert choice.value(index) == value
        assert choice.suggested(value) == index
    choice.value(5).append("of one trial only")
    assert choice.value(5) == [1, [2]]
    with pytest.raises(ValueError, match="not among its values"):
        choice.suggested("2")


def test_what_optuna_draws():
    assert parameter("constant", [3]).optuna() is None
    assert parameter("int_uniform", min=2, max=9).optuna() == IntDistribution(2, 9)
    assert parameter("uniform", min=0, max=2).optuna() == FloatDistribution(0.0, 2.0)
    assert parameter("log_uniform_values", min=0.1, max=2).optuna() == FloatDistribution(0.1, 2.0, log=True)
    exponents = parameter("log_uniform", min=-2, max=1).optuna()
    assert exponents == FloatDistribution(math.exp(-2), math.exp(1), log=True)
    direct = {"constant", "categorical", "int_uniform", "uniform", "log_uniform", "log_uniform_values"}
    rows = [from_file(row["parameter"]) for row in QUANTILES["parameters"]]
    for p in (p for p in rows if p.kind not in direct):
        assert p.optuna() == FloatDistribution(EDGE, 1 - EDGE), p.kind
        assert p.value(0.3) == p.ppf(0.3)
        with pytest.raises(ValueError, match="nothing to suggest"):
            p.suggested(1.0)


def test_numpy_scalars_never_leak():
    for row in QUANTILES["parameters"]:
        p = from_file(row["parameter"])
        suggested = np.float64(0.4) if isinstance(p.optuna(), FloatDistribution) else np.int64(0)
        for value in (p.value(suggested), p.ppf(np.float64(0.4))):
            assert type(value).__module__ == "builtins"
            assert json.loads(json.dumps(value)) == value


def test_rounding_oversteps_the_bounds_as_with_wandb():
    coarse = parameter("q_uniform", min=1, max=10, q=4)
    assert {coarse.ppf(u) for u in np.linspace(0, 1, 101)} == {0, 4, 8}
    assert type(coarse.ppf(0.5)) is int
    assert type(parameter("q_uniform", min=1, max=10).ppf(0.5)) is float  # the default q is 1.0


def test_the_ends_are_finite():
    for row in QUANTILES["parameters"]:
        p = from_file(row["parameter"])
        for u in (0.0, 1.0):
            value = p.ppf(u)
            assert not isinstance(value, float) or math.isfinite(value)
    assert parameter("normal").ppf(1.0) == pytest.approx(stats.norm.ppf(1 - 1e-6))


@pytest.mark.parametrize("row", GRIDS, ids=lambda row: ",".join(row["parameters"]))
def test_grid_values_are_those_of_wandb(row):
    for name, section in row["parameters"].items():
        if "parameters" in section:
            continue
        p = from_file(section)
        theirs = list({json.dumps(point[name]): point[name] for point in row["points"]}.values())
        assert [p.grid_value(index) for index in range(p.grid_size())] == theirs
        assert list(map(type, p.grid() or theirs)) == list(map(type, theirs))
    assert parameter("normal").grid() is None


def test_a_grid_is_not_made():
    fine = parameter("q_uniform", min=0, max=1, q=1e-15)
    assert fine.grid_size() == 10**15
    assert fine.grid_value(5 * 10**14) == pytest.approx(0.5)
    whole = parameter("int_uniform", min=-(10**15), max=10**15)
    assert whole.grid_value(whole.grid_size() - 1) == 10**15
    with pytest.raises(IndexError):
        fine.grid_value(10**15)


def test_axes():
    assert parameter("inv_log_uniform_values", min=1, max=2).is_log
    assert parameter("log_normal").is_log
    assert not parameter("normal").is_log
    assert parameter("categorical", ["a", "b"]).choices == ("a", "b")
    assert parameter("categorical_w_probabilities", ["a", "b"], [0.5, 0.5]).choices == ("a", "b")
    assert parameter("uniform", min=0, max=1).choices is None
    assert Parameter(("model.a", "b"), "constant", values=(1,)).label == "model.a.b"


def test_simple_kinds_need_no_scipy():
    code = (
        "import sys\n"
        "import framework.sweep.spec\n"
        "from framework.sweep.distributions import Parameter\n"
        "n = {'min': 1, 'max': 5}\n"
        "for kind in ('uniform', 'int_uniform', 'log_uniform', 'log_uniform_values', 'inv_log_uniform'):\n"
        "    Parameter(('p',), kind, n).ppf(0.3)\n"
        "Parameter(('p',), 'q_uniform', {**n, 'q': 2}).ppf(0.3)\n"
        "print([m for m in ('scipy', 'numpy', 'optuna', 'torch', 'lightning', 'wandb') if m in sys.modules])\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
