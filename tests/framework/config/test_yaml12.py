from __future__ import annotations

import math

import pytest
import yaml

from framework.config import yaml12
from framework.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-3", -3),
        ("0x10", 16),
        ("012", 12),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("null", None),
        ("~", None),
        ("True", True),
        (".inf", math.inf),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text, value):
    loaded = yaml12.load(f"a: {text}")["a"]
    assert loaded == value
    assert type(loaded) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        "1e-4",
        "no",
        "1:30",
        "null",
        "~",
        "",
        "0x10",
        "true",
        "<<",
        "#x",
        "a: b",
        "'",
        "1_000",
        "é",
        1e-4,
        1e22,
        -0.0,
        3,
        True,
        None,
        math.inf,
        -math.inf,
        [1, {"a": "2"}],
        {"x": []},
    ],
)
def test_what_is_dumped_loads_as_the_same_value(value):
    loaded = yaml12.load(yaml12.dump({"key": value}))["key"]
    assert loaded == value
    assert type(loaded) is type(value)
    assert yaml12.dump({"key": loaded}) == yaml12.dump({"key": value})


def test_nan_survives_a_dump():
    assert math.isnan(yaml12.load(yaml12.dump({"a": math.nan}))["a"])


def test_merge_keys_work_and_lines_are_known(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("base: &b\n  x: 1\nmodel:\n  <<: *b\n  y: 1e-3\n")
    sourced = yaml12.Sourced(path)
    assert sourced.tree["model"] == {"x": 1, "y": 1e-3}
    assert sourced.lines[("model", "y")] == 5
    assert sourced.twice == []


def test_a_key_that_stands_twice_is_known_with_both_lines(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("model:\n  lr: 1\n  wd: 2\n  lr: 3\n  steps:\n    - {a: 1, a: 2}\n")
    sourced = yaml12.Sourced(path)
    assert sourced.twice == [(("model", "lr"), 4, 2), (("model", "steps", 0, "a"), 6, 6)]
    assert sourced.lines[("model", "steps", 0)] == 6


def test_a_merge_that_is_used_again_is_no_key_that_stands_twice(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: *b\n")
    sourced = yaml12.Sourced(path)
    assert sourced.twice == []
    assert sourced.tree == {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 2}}
    assert sourced.tree["b"] is not sourced.tree["c"]  # overrides of one are not the other's


def test_keys_and_values_of_either_yaml(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("2: 1e-4\non: {yes: no}\n")
    assert yaml12.Sourced(path).tree == {"2": 1e-4, "on": {"yes": "no"}}
    older = yaml12.Sourced(path, yaml.SafeLoader, text_keys=False)
    assert older.tree == {2: "1e-4", True: {True: False}}
    assert older.lines == {(2,): 1, (True,): 2, (True, True): 2}


BOMB = b"a0: &a0 [x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 10)) for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [1\nb: 2\n", ":2: not valid YAML"),
        (b"\xff\xfe\x00\x01", "not a YAML or JSON file"),
        (b"a: &x [*x]\n", "an alias that contains itself"),
        (b"a: 1\nb: \0\n", ":2: not valid YAML"),
        (BOMB, "its aliases expand to 2.35e+09 values"),
        (b"a: !!python/object:os.system {}\n", "the tag tag:yaml.org,2002:python/object:os.system is not accepted"),
        (b"a: !!int x\n", "not valid YAML: invalid literal"),
    ],
)
def test_a_file_that_is_no_config_is_refused_with_its_name(tmp_path, content, said):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        yaml12.Sourced(path)
    assert str(path) in str(error.value)
    assert said in str(error.value)


def test_an_empty_file_has_no_value(tmp_path):
    (tmp_path / "a.yaml").write_text("# nothing\n")
    assert yaml12.Sourced(tmp_path / "a.yaml").tree is None
