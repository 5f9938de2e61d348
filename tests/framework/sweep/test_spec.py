from __future__ import annotations

import json
import random
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from grids import grid_point

from framework.errors import UserError
from framework.sweep import spec
from framework.sweep.hyperband import Hyperband

HERE = Path(__file__).parent / "wandb"
SCHEMA = json.loads((HERE / "schema.json").read_text())
GRIDS = json.loads((HERE / "grids.json").read_text())
"""W&B's own grids; ``wandb/make.py`` wrote them."""


def violations(text: str) -> list[str]:
    """What W&B's schema has against a file, checked as its package does."""
    formats = jsonschema.FormatChecker(())
    formats.checks("float")(lambda value: isinstance(value, float))
    formats.checks("integer")(lambda value: isinstance(value, int))
    checker = jsonschema.Draft7Validator(SCHEMA, format_checker=formats)
    return [error.message for error in checker.iter_errors(yaml.safe_load(text))]


def read(text: str) -> spec.Sweep:
    Path("sweep.yaml").write_text(text, encoding="utf-8")
    return spec.read(Path("sweep.yaml"))


def refused(text: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        read(text)
    return str(caught.value).split("\n")


def one(body: str, method: str = "random") -> str:
    """A file with one parameter, on line 3."""
    return f"method: {method}\nparameters:\n  p: {body}\nprogram: t.py\nmetric: {{name: loss}}\n"


FULL = """
name: a name
description: what for
project: mine
entity: us
program: train.py
method: bayes
metric: {name: val/loss, goal: maximize, target: 0.9}
run_cap: 40
early_terminate: {type: hyperband, min_iter: 3, eta: 2, strict: false}
parameters:
  model.lr: {distribution: log_uniform_values, min: 1.0e-4, max: 0.1}
  techniques:
    parameters:
      lora: {parameters: {rank: {values: [1, 4]}, alpha: {value: 2.0}}}
      ema: {value: null}
  Batch: {min: 8, max: 64}
command: ['${env}', python, -u, 8, 0.5, '${program}', '${args}']
"""


def test_a_full_file():
    sweep = read(FULL)
    assert violations(FULL) == []
    assert (sweep.method, sweep.run_cap, sweep.path) == ("bayes", 40, Path("sweep.yaml"))
    assert (sweep.name, sweep.description, sweep.project, sweep.entity) == ("a name", "what for", "mine", "us")
    assert sweep.metric == spec.Metric("val/loss", "maximize", 0.9)
    assert sweep.hyperband == Hyperband.from_min_iter(3, 2, strict=False)
    assert sweep.command == ("${env}", "python", "-u", "8", "0.5", "${program}", "${args}")
    assert sweep.program == "train.py"
    assert [(p.label, p.kind) for p in sweep.parameters] == [
        ("Batch", "int_uniform"),
        ("model.lr", "log_uniform_values"),
        ("techniques.ema", "constant"),
        ("techniques.lora.alpha", "constant"),
        ("techniques.lora.rank", "categorical"),
    ]
    assert sweep.parameters[1].path == ("model.lr",)
    assert sweep.parameters[4].path == ("techniques", "lora", "rank")
    assert sweep.grid_size() is None
    with pytest.raises(IndexError):
        grid_point(sweep, 0)


def test_a_short_file():
    sweep = read("method: random\nparameters: {a: {value: 1}}\nprogram: t.py\n")
    assert sweep.command == ("${env}", "${interpreter}", "${program}", "${args}")
    assert (sweep.metric, sweep.hyperband, sweep.run_cap, sweep.name) == (None, None, None, None)


def test_nested_is_what_the_agent_is_given():
    sweep = read(FULL)
    values = {"Batch": 9, "model.lr": 0.01, "techniques.lora.rank": 4}
    expected = {"Batch": 9, "model.lr": 0.01, "techniques": {"ema": None, "lora": {"alpha": 2.0, "rank": 4}}}
    assert sweep.nested(values) == expected
    assert list(sweep.nested(values)) == list(expected)
    assert sweep.nested({**values, "techniques.ema": None, "techniques.lora.alpha": 2.0}) == expected
    with pytest.raises(KeyError, match=r"model\.lr"):
        sweep.nested({"Batch": 9, "techniques.lora.rank": 4})


@pytest.mark.parametrize("row", GRIDS, ids=lambda row: ",".join(row["parameters"]))
def test_the_grid_is_that_of_wandb(row):
    sweep = read(json.dumps({"method": "grid", "program": "t.py", "parameters": row["parameters"]}))
    points = [sweep.nested(grid_point(sweep, index)) for index in range(sweep.grid_size())]
    texts = [json.dumps(point, sort_keys=True) for point in points]
    assert texts == [json.dumps(point, sort_keys=True) for point in row["points"]]
    assert len(set(texts)) == len(texts)


def test_a_grid_of_ten_billion_points_is_not_made():
    parameters = {f"p{place:02d}": {"min": 0, "max": 9} for place in range(9)} | {
        "q": {"values": list("abcdefghij") * 2}
    }
    sweep = read(json.dumps({"method": "grid", "program": "t.py", "parameters": parameters, "run_cap": 3}))
    assert sweep.grid_size() == 10**10
    assert list(grid_point(sweep, 1234567890).values()) == [1, 2, 3, 4, 5, 6, 7, 8, 9, "a"]
    assert sweep.grid_indices(10**10 - 1) == {**{f"p{place:02d}": 9 for place in range(9)}, "q": 9}
    for index in (-1, 10**10):
        with pytest.raises(IndexError):
            grid_point(sweep, index)


def test_the_document_tells_points_apart():
    first = read(FULL).document()
    assert json.loads(json.dumps(first)) == first
    for old, new in (
        ("[1, 4]", "[1, 4.0]"),
        ("[1, 4]", "[true, 4]"),
        ("max: 64", "max: 65"),
        ("method: bayes", "method: random"),
        ("goal: maximize", "goal: minimize"),
        ("strict: false", "strict: true"),
        ("'${args}'", "'${args_no_hyphens}'"),
    ):
        assert json.dumps(read(FULL.replace(old, new)).document()) != json.dumps(first), new
    for old, new in (("run_cap: 40", "run_cap: 50"), ("target: 0.9", "target: 1.0"), ("name: a name", "name: b")):
        assert read(FULL.replace(old, new)).document() == first


def test_values_keep_their_types():
    text = one("{values: [1, true, 1.0, '1', null, [1, [2.0]], {a: {b: null}}, on, 1e-4]}")
    (parameter,) = read(text).parameters
    assert [repr(value) for value in parameter.values] == [
        "1", "True", "1.0", "'1'", "None", "[1, [2.0]]", "{'a': {'b': None}}", "True", "'1e-4'",
    ]  # fmt: skip
    assert [parameter.value(index) for index in range(9)] == list(yaml.safe_load(text)["parameters"]["p"]["values"])


ACCEPTED = [
    ("{value: [1, {a: b}]}", "constant"),
    ("{value: 1, distribution: constant}", "constant"),
    ("{values: [1]}", "categorical"),
    ("{values: [1, 2], probabilities: [0.25, 0.75]}", "categorical_w_probabilities"),
    ("{values: [1, 2, 3], probabilities: [0.333333, 0.333333, 0.333333]}", "categorical_w_probabilities"),
    ("{min: 1, max: 2}", "int_uniform"),
    ("{min: 1, max: 2.0}", "uniform"),
    ("{min: 1.0, max: 2}", "uniform"),
    ("{min: 1, max: 2, distribution: uniform}", "uniform"),
    ("{min: 1, max: 9, q: 4, distribution: q_uniform}", "q_uniform"),
    ("{min: -3, max: 2, distribution: log_uniform}", "log_uniform"),
    ("{min: -3, max: 2, distribution: inv_log_uniform}", "inv_log_uniform"),
    ("{min: -3, max: 2, distribution: q_log_uniform}", "q_log_uniform"),
    ("{min: 1.0e-3, max: 2, distribution: log_uniform_values}", "log_uniform_values"),
    ("{min: 0.1, max: 2, distribution: inv_log_uniform_values}", "inv_log_uniform_values"),
    ("{min: 0.1, max: 2, q: 0.5, distribution: q_log_uniform_values}", "q_log_uniform_values"),
    ("{distribution: normal}", "normal"),
    ("{distribution: normal, mu: 1, sigma: 2}", "normal"),
    ("{distribution: log_normal, sigma: 0.5}", "log_normal"),
    ("{distribution: q_normal, q: 2}", "q_normal"),
    ("{distribution: q_log_normal}", "q_log_normal"),
    ("{distribution: beta, a: 2}", "beta"),
    ("{distribution: q_beta, q: 0.1}", "q_beta"),
]


@pytest.mark.parametrize(("body", "kind"), ACCEPTED)
def test_every_distribution(body, kind):
    (parameter,) = read(one(body)).parameters
    assert violations(one(body)) == []
    assert parameter.kind == kind
    assert json.dumps(parameter.ppf(0.5))


def test_the_defaults_of_the_numbers():
    assert read(one("{distribution: q_normal}")).parameters[0].numbers == {"mu": 0.0, "sigma": 1.0, "q": 1.0}
    assert read(one("{distribution: q_beta, a: 3}")).parameters[0].numbers == {"a": 3, "b": 1, "q": 1.0}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("3", "p: a mapping is needed, found 3; one fixed value is written value: …"),
        ("{}", "p: value, values, min and max, distribution or parameters is needed to say what to try"),
        ("{vals: [1]}", "p.vals: unknown key; did you mean values?"),
        ("{value: 1, q: 2}", "p.q: only distributions q_… take it: say distribution: q_uniform, for one"),
        ("{value: 1, valeu: 2}", "p.valeu: not a setting of constant; did you mean value?"),
        ("{values: []}", "p.values: a list with at least one value is needed, found []"),
        ("{values: 3}", "p.values: a list with at least one value is needed, found 3"),
        ("{values: [1, 2], probabilities: [1]}", "p.probabilities: 2 values need 2 probabilities, found 1"),
        ("{values: [1, 2], probabilities: [0.5, 0.6]}", "p.probabilities: they must sum to 1, found 1.1"),
        ("{values: [1, 2], probabilities: [1.5, -0.5]}", "p.probabilities[1]: at least 0 is needed, found -0.5"),
        ("{values: [1], probabilities: [1e0]}", "p.probabilities[0]: a number is needed, found the text '1e0': YAML 1.1, as W&B reads it, needs it written 1.0e+0"),
        ("{values: [1], probabilities: [1], distribution: categorical}", "p.probabilities: with them, the distribution is categorical_w_probabilities"),
        ("{min: 1}", "p.max: missing; int_uniform needs it"),
        ("{min: 2, max: 2}", "p.min: min 2 must be less than max 2"),
        ("{min: 3.0, max: 2}", "p.min: min 3.0 must be less than max 2"),
        ("{min: 1e-4, max: 1.0}", "p.min: a number is needed, found the text '1e-4': YAML 1.1, as W&B reads it, needs it written 1.0e-4"),
        ("{min: 0, max: 1.5e3}", "p.max: a number is needed, found the text '1.5e3': YAML 1.1, as W&B reads it, needs it written 1.5e+3"),
        ("{min: 0, max: many}", "p.max: a number is needed, found the text 'many'"),
        ("{min: on, max: 2.0}", "p.min: a number is needed, found true"),
        ("{min: 0, max: .inf}", "p.max: a finite number is needed, found inf"),
        ("{min: 1.0, max: 2, distribution: int_uniform}", "p.min: int_uniform needs an integer up to 2^53, found 1.0"),
        ("{min: 1, max: 4, q: 2}", "p.q: only distributions q_… take it: say distribution: q_uniform, for one"),
        ("{min: 1, max: 4, q: 0, distribution: q_uniform}", "p.q: more than 0 is needed, found 0"),
        ("{min: 1, max: 4, q: 1.0e-20, distribution: q_uniform}", "p.q: 1e-20 is too fine for values up to 4"),
        ("{distribution: q_log_normal, mu: 30, q: 1.0e-6}", "p.q: 1e-06 is too fine for values up to 1.59e+15"),
        ("{distribution: q_normal, mu: 30, q: 1.0e-20}", "p.q: 1e-20 is too fine for values up to 35"),
        ("{distribution: q_beta, q: 1.0e-20}", "p.q: 1e-20 is too fine for values up to 1"),
        ("{distribution: q_log_uniform, min: 0, max: 9, q: 1.0e-20}", "p.q: 1e-20 is too fine for values up to 8.1e+03"),
        ("{min: 0, max: 4, distribution: log_uniform_values}", "p.min: log_uniform_values needs more than 0, found 0"),
        ("{min: 0, max: 4000, distribution: log_uniform}", "p.max: log_uniform takes base-e exponents, 4000 is too large; or use log_uniform_values"),
        ("{min: -1.0e+308, max: 1.0e+308}", "p.max: the range from min to max is too large for a number"),
        ("{distribution: normal, sigma: 0}", "p.sigma: more than 0 is needed, found 0"),
        ("{distribution: log_normal, mu: 1000}", "p: exp(mu ± 5 sigma) is too large for a number; mu 1000, sigma 1.0"),
        ("{distribution: beta, a: 0}", "p.a: more than 0 is needed, found 0"),
        ("{distribution: normal, min: 0}", "p.min: not a setting of normal; accepted: mu, sigma, distribution"),
        ("{distribution: loguniform, min: 1, max: 2}", "p.distribution: 'loguniform' is not a distribution of W&B; did you mean log_uniform?"),
        ("{distribution: 7}", "p.distribution: 7 is not a distribution of W&B; accepted: constant, categorical,"),
        ("{distribution: q_inv_log_uniform, min: 1, max: 2}", "p.distribution: 'q_inv_log_uniform' is not a distribution of W&B; did you mean inv_log_uniform?"),
        ("{values: [2020-01-01]}", "p.values[0]: values are saved as JSON, which has no date; put it in quotes"),
        ("{value: .nan}", "p.value: values are saved as JSON, which has no nan; write it as text: 'nan'"),
        ("{value: {1: 2}}", "p.value: the key 1 is not text: put it in quotes"),
        ("{parameters: {}}", "p.parameters: a mapping of names to what to try is needed, found {}"),
        ("{parameters: {a: {value: 1}}, value: 2}", "p.value: beside nested parameters nothing else is accepted"),
        ("{parameters: {3a: {value: 1}}}", "p.parameters.3a: not a name for a parameter: letters"),
        ("{parameters: {on: {value: 1}}}", "p.parameters: the key true is not text (YAML 1.1 reads on and yes as true, off and no as false): put it in quotes"),
    ],
)  # fmt: skip
def test_a_wrong_parameter(body, message):
    (found,) = refused(one(body))
    assert found.startswith(f"parameters.{message}")
    assert found.endswith(" (sweep.yaml:3)")


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("{min: 0.5, max: 2}", "uniform, as min and max that are not both integers are;"),
        ("{distribution: normal}", "normal;"),
        ("{values: [1, 2], probabilities: [0.5, 0.5]}", "categorical_w_probabilities"),
        ("{distribution: log_uniform_values, min: 1, max: 2}", "log_uniform_values;"),
    ],
)
def test_what_a_grid_cannot_have(body, what):
    (found,) = refused(one(body, "grid"))
    assert f"parameters.p: a grid cannot have {what}" in found
    assert found.endswith("accepted: value, values, int_uniform and q_uniform (sweep.yaml:3)")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("method: gird", "method: 'gird' is not a method; did you mean grid?"),
        ("method: custom", "method: custom needs a scheduler of W&B's launch; accepted here: grid, random, bayes"),
        ("method: 3", "method: 3 is not a method; accepted: grid, random, bayes"),
        ("parameter: {}", "parameter: unknown key; did you mean parameters?"),
        ("on: 3", "the file: the key true is not text"),
        ("run_cap: 0", "run_cap: an integer of at least 1 is needed, found 0"),
        ("run_cap: 1e3", "run_cap: an integer of at least 1 is needed, found '1e3': YAML 1.1, as W&B reads it, needs it written 1.0e+3"),
        ("run_cap: true", "run_cap: an integer of at least 1 is needed, found true"),
        ("name: 3", "name: text is needed, found 3; put it in quotes"),
        ("project: null", "project: text is needed, found nothing; put it in quotes"),
        ("command: python t.py", "command: a list with one item for each argument is needed, found 'python t.py'"),
        ("command: []", "command: empty; omit it for W&B's default, or give what to run"),
        ("command: [a, on]", "command[1]: text is needed, found true; put it in quotes"),
        ("command: ['${argz}']", "command[0]: '${argz}' is not a macro of W&B; did you mean ${args}?"),
        ("command: ['-a=${args}']", "command[0]: '-a=${args}': W&B replaces ${args} only if it is a whole item"),
        ("metric: loss", "metric: a mapping with name and goal is needed, found 'loss'"),
        ("metric: {goal: minimize}", "metric.name: missing; the name of a logged value is needed"),
        ("metric: {name: a, goal: max}", "metric.goal: 'max' is not a goal; did you mean maximize?"),
        ("metric: {name: a, goal: up}", "metric.goal: 'up' is not a goal; accepted: minimize, maximize"),
        ("metric: {name: a, target: 1e-3}", "metric.target: a number is needed, found the text '1e-3': YAML 1.1"),
        ("metric: {name: a, impute: worst}", "metric.impute: not supported"),
        ("metric: {name: a, gaol: minimize}", "metric.gaol: unknown key; did you mean goal?"),
        ("early_terminate: hyperband", "early_terminate: a mapping with type: hyperband is needed, found 'hyperband'"),
        ("early_terminate: {min_iter: 3}", "early_terminate.type: missing; accepted: hyperband"),
        ("early_terminate: {type: envelope, min_iter: 3}", "early_terminate.type: 'envelope' is not known; accepted: hyperband"),
        ("early_terminate: {type: hyperband}", "early_terminate: either min_iter, or max_iter and s, is needed"),
        ("early_terminate: {type: hyperband, max_iter: 9}", "early_terminate: either min_iter, or max_iter and s, is needed"),
        ("early_terminate: {type: hyperband, min_iter: 3, s: 2}", "early_terminate: either min_iter, or max_iter and s, is needed"),
        ("early_terminate: {type: hyperband, min_iter: 3, max_iter: 9, s: 2}", "early_terminate: either min_iter, or max_iter and s, is needed"),
        ("early_terminate: {type: hyperband, max_iter: 9, s: 1.5}", "early_terminate.s: an integer of at least 1 and at most 1000000000 is needed, found 1.5"),
        ("early_terminate: {type: hyperband, min_iter: 3, eta: 1}", "early_terminate.eta: more than 1 is needed, found 1"),
        ("early_terminate: {type: hyperband, min_iter: 3, strict: 1}", "early_terminate.strict: true or false is needed, found 1"),
        ("early_terminate: {type: hyperband, min_iter: 3, ita: 2}", "early_terminate.ita: unknown key; did you mean eta?"),
        ("early_terminate: {type: hyperband, max_iter: 2, s: 1}", "early_terminate: max_iter 2 divided by eta 3 is below 1"),
    ],
)  # fmt: skip
def test_a_wrong_key(line, message):
    given = {"method": "method: random", "metric": "metric: {name: loss}", "program": "program: t.py"}
    given |= {"parameters": "parameters: {a: {values: [1, 2]}}", line.partition(":")[0]: line}
    place = list(given.values()).index(line) + 1
    found = refused("\n".join(given.values()))
    assert any(one.startswith(message) and one.endswith(f"(sweep.yaml:{place})") for one in found), found
    assert len(found) == 1


def test_every_key_of_the_schema_is_accepted_or_refused_by_name():
    assert set(SCHEMA["properties"]) == {*spec.KEYS, *spec.REFUSED}
    metric = SCHEMA["definitions"]["metric"]["properties"]
    assert set(metric) == {"name", "goal", "target", *spec.REFUSED_IN_METRIC}
    for key in spec.REFUSED:
        (found,) = refused(one("{value: 1}") + f"{key}: x\n")
        assert found.startswith(f"{key}: not supported: ")
        assert found.endswith("(sweep.yaml:6)")
    for key in spec.REFUSED_IN_METRIC:
        (found,) = refused(one("{value: 1}").replace("loss}", f"loss, {key}: best}}"))
        assert found.startswith(f"metric.{key}: not supported: ")


def test_what_needs_a_metric():
    text = one("{values: [1, 2]}").replace("metric: {name: loss}\n", "")
    assert read(text).metric is None
    assert refused(text.replace("random", "bayes")) == [
        "metric: missing; method: bayes must know what to compare (sweep.yaml)"
    ]
    assert refused(text + "early_terminate: {type: hyperband, min_iter: 3}") == [
        "metric: missing; early_terminate must know what to compare (sweep.yaml)"
    ]


def test_bayes_needs_something_to_search():
    assert refused(one("{value: 1}", "bayes")) == [
        "parameters: method: bayes has nothing to search: every parameter has one value only (sweep.yaml:2)"
    ]


@pytest.mark.parametrize("command", ["", "command: [python, '${program}']\n"])
def test_a_command_with_program_needs_one(command):
    (found,) = refused("method: random\nparameters: {a: {value: 1}}\n" + command)
    assert found.startswith("program: missing;")
    assert read("method: random\nparameters: {a: {value: 1}}\ncommand: [x]\n").program is None


def test_a_dotted_and_a_nested_name_that_are_one():
    text = "method: random\nprogram: t\nparameters:\n  a: {parameters: {b: {value: 1}}}\n  a.b: {value: 2}\n"
    (found,) = refused(text)
    assert "two parameters of the one name a.b" in found
    assert found.endswith("(sweep.yaml:5)")


def test_a_name_and_a_name_inside_it_are_two():
    assert len(read(one("{value: modules.X}\n  p.lr: {values: [1, 2]}")).parameters) == 2


@pytest.mark.parametrize("name", ["a", "_", "a.b-c_d.9", "trainer.max_epochs", "A", "a.", "a--"])
def test_names(name):
    text = one("{value: 1}").replace("  p:", f"  {name}:")
    assert read(text).parameters[0].label == name
    assert violations(text) == []


@pytest.mark.parametrize(
    "name", ["9", "'9a'", ".a", "-a", "'a b'", "'a/b'", "é", "'a\\u0660'", "''", "'a=1'", '"a\\n"']
)
def test_no_names(name):
    (found,) = refused(one("{value: 1}").replace("  p:", f"  {name}:"))
    assert found.endswith("(sweep.yaml:3)")
    assert "not a name" in found or "not text" in found


def test_all_problems_at_once_in_the_order_of_the_file():
    text = """method: bayes
kind: sweep
parameters:
  a: {min: 1e-4, max: 1.0}
  a: {value: 2}
  b:
    parameters:
      c: {value: 1}
      d:
        values:
          - 1
          - 2021-01-01
run_cap: -1
command:
  - python
  - ${argz}
"""
    found = refused(text)
    lines = [int(re.search(r"\(sweep\.yaml(?::(\d+))?\)$", message).group(1) or 0) for message in found]
    assert lines == [0, 2, 5, 12, 13, 16]
    assert found[2] == "parameters.a: is given twice, first on line 4 (sweep.yaml:5)"


def test_merge_keys_and_anchors():
    sweep = read(
        "method: grid\nprogram: t\nparameters:\n  a: &a {values: [1, 2]}\n  b: *a\n  c: {<<: *a, values: [3]}\n"
    )
    assert [p.values for p in sweep.parameters] == [(1, 2), (1, 2), (3,)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is a mapping with method and parameters, found nothing"),
        ("- a\n", "is a mapping with method and parameters, found a list"),
        ("method", "is a mapping with method and parameters, found the text 'method'"),
        ("a: [1\nb: 2", r"sweep\.yaml:2: not valid YAML"),
        ("a: !!python/object:os.system x", r"sweep\.yaml:1: not valid YAML: could not determine a constructor"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a: &a [*a]", "an alias that contains itself"),
        (
            "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]\n" for i in range(9)),
            "aliases expand to 2.35e\\+09 values",
        ),
        ("a: 1\nb: \0", r"sweep\.yaml:2: not valid YAML"),
        ("a: 2020-13-45", "not valid YAML: month must be in 1..12"),
        ("? {a: 1}\n: 2", "not valid YAML"),
    ],
)
def test_what_is_no_sweep_file(text, message):
    with pytest.raises(UserError, match=message):
        read(text)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        spec.read(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not text"):
        spec.read(tmp_path / "bytes.yaml")


def test_metric():
    least, most = spec.Metric("a"), spec.Metric("a", "maximize", target=0.9)
    assert least.better(1, 2)
    assert not most.better(1, 2)
    assert not least.better(1, 1)
    assert least.best([3, float("nan"), 2, None, float("-inf")]) == 2
    assert most.best([3, True, 2, "9"]) == 3
    assert most.best([]) is None
    assert most.reached(0.9)
    assert not most.reached(0.89)
    assert not least.reached(-1e9)


def test_whatever_is_accepted_is_valid_for_wandb():
    """Right parameters with something changed at random: what is read here is never refused by W&B's schema."""
    generator = random.Random(0)
    odd = [0, 1, 2, -1, 0.5, 1.0, "x", True, None, [1], [0.5, 0.5], "normal", "uniform", "int_uniform"]
    keys = ["min", "max", "q", "mu", "a", "distribution", "values", "value", "probabilities"]
    outcomes = []
    for _ in range(400):
        section = yaml.safe_load(generator.choice(ACCEPTED)[0])
        for _ in range(generator.randrange(3)):
            key = generator.choice(keys)
            if generator.random() < 0.5:
                section.pop(key, None)
            else:
                section[key] = generator.choice(odd)
        method = generator.choice(["random", "grid"])
        text = json.dumps({"method": method, "program": "t", "parameters": {"p": section}})
        try:
            read(text)
        except UserError:
            outcomes.append(False)
        else:
            outcomes.append(True)
            assert violations(text) == [], text
    assert 0.2 < sum(outcomes) / len(outcomes) < 0.8
