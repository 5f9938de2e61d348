from __future__ import annotations

from pathlib import Path

import pytest

from framework.config.compose import compose, parse_value, read_command_line, read_inputs
from framework.config.interpolate import interpolate

REGISTERED = {"lora": "callbacks.lora.LoRA", "kappa_tune": "callbacks.kappa_tune.KappaTune"}


def composed(*arguments, subcommand="fit"):
    return compose(read_command_line(arguments), subcommand, REGISTERED)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", "1e-4"),
        ("null", None),
        ("None", None),
        ("~", None),
        ("'None'", "None"),
        ('"a b"', "a b"),
        ("it's", "it's"),
        ("[1, 2]", [1, 2]),
        ("['q', 'v']", ["q", "v"]),
        ("[q, v]", ["q", "v"]),
        ("{'a': None, 'b': True}", {"a": None, "b": True}),
        ('{"a": null, "b": true}', {"a": None, "b": True}),
        ("{a: 1e-4}", {"a": 1e-4}),
        ("True", "True"),
        ("", ""),
        ("[", "["),
    ],
)
def test_values_as_a_shell_or_an_agent_writes_them(text, value):
    assert parse_value(text) == value


def test_both_spellings_of_an_argument_are_one_key():
    tree = composed(
        "--model=a.B",
        "--model.lr=1",
        "--model.init_args.lr=2",
        "--techniques.lora.rank=3",
        "--techniques.lora.init_args.rank=4",
    ).tree
    assert tree["model"] == {"class_path": "a.B", "init_args": {"lr": "2"}}
    assert tree["techniques"] == {"lora": {"class_path": "callbacks.lora.LoRA", "init_args": {"rank": "4"}}}


def test_every_form_of_an_override():
    tree = composed(
        "--trainer.max_epochs", "2", "trainer.devices=1", '{"model.lr": 0.1, "model": "a.B"}', "--trainer.fast_dev_run"
    ).tree
    assert tree["trainer"] == {"max_epochs": "2", "devices": "1", "fast_dev_run": "true"}
    assert tree["model"] == {"class_path": "a.B", "init_args": {"lr": 0.1}}


def test_later_files_win_and_mappings_merge(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "model: {class_path: a.B, lr: 1, opt: {name: adam, lr: 1}}\ntechniques: {lora: {rank: 2}, kappa_tune: }\n"
    )
    (tmp_path / "b.yaml").write_text("model.opt.lr: 5\ntechniques: {lora: {alpha: 4}, es: {class_path: x.Y}}\n")
    result = composed("--config", "a.yaml", "--config=b.yaml", "--techniques.es=null")
    assert result.problems == []
    assert result.tree["model"]["init_args"] == {"lr": 1, "opt": {"name": "adam", "lr": 5}}
    assert result.tree["techniques"] == {
        "lora": {"class_path": "callbacks.lora.LoRA", "init_args": {"rank": 2, "alpha": 4}}
    }
    assert result.method == "a"
    assert result.origins[("model", "init_args", "lr")] == "a.yaml:1"


def test_another_class_drops_the_former_ones_arguments():
    assert composed("--model=a.B", "--model.lr=1", "--model=c.D", "--model.wd=2").tree["model"] == {
        "class_path": "c.D",
        "init_args": {"wd": "2"},
    }
    assert composed("--model=a.B", "--model.lr=1", "--model=B").tree["model"]["init_args"] == {"lr": "1"}


def test_a_technique_can_be_switched_on_and_off_by_name():
    assert composed("--techniques.lora=true").tree["techniques"] == {"lora": {"class_path": "callbacks.lora.LoRA"}}
    assert composed("--techniques.lora=true", "--techniques.lora=null").tree["techniques"] == {}
    assert list(composed("--techniques.kappa_tune", "--techniques.lora").tree["techniques"]) == ["kappa_tune", "lora"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--techniques.lra=true"], "did you mean lora?"),
        (["--techniques.my-cb.class_path=a.B"], "identifier"),
        (["--modle.lr=1"], "did you mean model?"),
        (["--verbose=true"], "fit does not take it"),
        (["--config", "nowhere.yaml"], "no file nowhere.yaml"),
        (["stray"], "unexpected argument"),
        (["--trainer=3"], "trainer: a mapping is needed"),
        (["--techniques=3"], "techniques: a mapping of names"),
        (["--model=[1]"], "model: a class path or a mapping is needed"),
        (["--config"], "--config: a file"),
    ],
)
def test_mistakes_are_collected_with_the_nearest_match(arguments, said):
    (problem,) = composed(*arguments).problems
    assert said in problem


def test_several_mistakes_are_all_reported():
    assert len(composed("--foo=1", "--techniques.lra=true", "--config=nowhere").problems) == 3


def test_interpolation_sees_overrides_defaults_and_both_spellings():
    defaults = {"data": {"init_args": {"num_classes": 10, "size": 28}}, "trainer": {"max_epochs": None}}
    result = compose(
        read_inputs(
            {
                "model": {
                    "class_path": "a.B",
                    "n": "${data.num_classes}",
                    "s": "${data.init_args.size}",
                    "l": ["${trainer.max_epochs}", 1],
                    "t": "x${data.size}",
                },
                "data": "c.D",
            },
            {"data.num_classes": 7, "trainer.max_epochs": 3},
        ),
        "fit",
        REGISTERED,
    )
    interpolate(result, lambda: defaults)
    assert result.problems == []
    assert result.tree["model"]["init_args"] == {"n": 7, "s": 28, "l": [3, 1], "t": "x28"}
    assert result.tree["data"] == {"class_path": "c.D", "init_args": {"num_classes": 7}}


def test_failing_interpolations_are_mistakes_too():
    result = compose(
        read_inputs({"model": {"class_path": "a.B", "a": "${data.nothing}", "b": "${model.c}", "c": "${model.b}"}}),
        "fit",
        {},
    )
    interpolate(result, dict)
    assert [problem.split(":")[0] for problem in result.problems] == ["model.a", "model.b", "model.c"]


def test_true_and_false_switch_a_technique():
    tree = composed("--techniques.lora=true", "--techniques.kappa_tune=true", "--techniques.lora=false").tree
    assert tree["techniques"] == {"kappa_tune": {"class_path": "callbacks.kappa_tune.KappaTune"}}


def test_the_method_is_the_file_that_has_a_model():
    assert composed("--config", "callbacks/lora", "--config", "sequence/s4d").method == "s4d"
    assert composed("--config", "callbacks/lora").method == "lora"


def test_what_is_typed_wins_over_a_file_that_is_named_after_it():
    Path("file.yaml").write_text("trainer: {max_epochs: 5, max_steps: 7}\n")
    request = read_command_line(["--trainer.max_epochs=3", "--config", "file.yaml"])
    tree = compose(request, "fit", {}).tree
    assert tree["trainer"] == {"max_epochs": "3", "max_steps": 7}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("- 1\n", "file.yaml: a mapping of settings is needed, found a list"),
        ("hello\n", "file.yaml: a mapping of settings is needed, found the text 'hello'"),
        ("model:\n  lr: 1\n  wd: 2\n  lr: 3\n", "file.yaml:4: model.lr is given twice (first on line 2)"),
        ("", None),
    ],
)
def test_what_a_file_may_hold(content, said):
    Path("file.yaml").write_text(content)
    request = read_command_line(["--config", "file.yaml"])
    assert request.problems == ([said] if said else [])
