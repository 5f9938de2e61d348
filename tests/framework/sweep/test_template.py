from __future__ import annotations

import re

import pytest

from framework.sweep import template


@pytest.mark.parametrize("item", [*(f"${{{name}}}" for name in template.MACROS), "${envvar:A_1}", "--x=${envvar:A}", "plain", "--lr=${oc.env:USER}", "--n=${data.init_args.num_classes}", "$HOME", "${", "a}"])  # fmt: skip
def test_accepted_items(item):
    assert template.mistakes(item) == []


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("${argz}", r"did you mean \$\{args\}\?"),
        ("${args_nohyphens}", r"did you mean \$\{args_no_hyphens\}\?"),
        ("${HOME}", r"accepted, each as an item of its own: \$\{env\}, .*\$\{envvar:NAME\}"),
        ("${}", "not a macro"),
        ("${args}${program}", "whole item"),
        ("${oc.env:A}/${oc.env:B}", "not a macro"),
        ("--all=${args}", r"\$\{args\} only if it is a whole item"),
        ("${program}:main", "whole item"),
        ("${envvar:HOST}${args}", "whole item"),
        ("${envvar:lower}", "in capitals"),
        ("x${envvar:}", "in capitals"),
    ],
)
def test_items_that_the_agent_would_drop_or_pass_on(item, message):
    (found,) = template.mistakes(item)
    assert re.search(message, found)
