from __future__ import annotations

import pytest

from framework.sweep.labels import (
    distinct_texts,
    duration,
    fitting_label,
    last_attempts,
    one_line,
    short_labels,
    value_text,
)
from framework.sweep.trial import Trial


@pytest.mark.parametrize(
    ("labels", "short"),
    [
        (["model.lr", "techniques.kappa_tune.budget"], ["lr", "budget"]),
        (["model.lr", "data.lr", "x.rank"], ["model.lr", "data.lr", "rank"]),
        (["lr", "model.lr"], ["lr", "model.lr"]),
        (["a.b.c", "x.b.c", "b.c"], ["a.b.c", "x.b.c", "b.c"]),
        (["seed_everything"], ["seed_everything"]),
    ],
)
def test_short_labels_are_different(labels, short):
    assert short_labels(labels) == dict(zip(labels, short, strict=True))


def test_a_label_gets_the_names_that_fit():
    label = "techniques.kappa_tune.budget"
    assert fitting_label(label, "budget", 40) == label
    assert fitting_label(label, "budget", 20) == "kappa_tune.budget"
    assert fitting_label(label, "budget", 3) == "budget"
    assert fitting_label(label, "kappa_tune.budget", 3) == "kappa_tune.budget"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.000123456, "0.0001235"),
        (20000.0, "20000"),
        (1e9, "1e+09"),
        (3, "3"),
        (True, "true"),
        (None, "null"),
        ("a\nb", "a b"),
        ({"a": [1, "x"]}, "{a: [1, x]}"),
    ],
)
def test_values_in_few_characters(value, text):
    assert value_text(value) == text


def test_a_long_value_is_cut():
    assert value_text("abcdefgh", 5) == "abcd…"
    assert value_text("abcde", 5) == "abcde"


def test_cut_values_stay_different():
    assert distinct_texts(["abcdef", "abcxyz"], 5) == ["abcd…", "abcx…"]
    assert distinct_texts(["a common start 1", "a common start 2"], 6) == ["…art 1", "…art 2"]
    assert distinct_texts(["long start 1 long end", "long start 2 long end"], 6) == ["1: lo…", "2: lo…"]


def test_nothing_moves_the_cursor():
    assert one_line("\x1b[31mred\x1b[0m\r\n\x07 a\u2028b \x1b[2K") == "red    a b"
    assert one_line("größe κ") == "größe κ"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 00 min"),
        (3600 * 26 + 300, "26 h 05 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_last_attempt_of_a_point_counts():
    trials = [Trial(2, "interrupted"), Trial(0, "finished"), Trial(2, "failed"), Trial(1, "running")]
    assert [(t.point, t.state) for t in last_attempts(trials)] == [(0, "finished"), (1, "running"), (2, "failed")]
