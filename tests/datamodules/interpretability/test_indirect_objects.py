"""Sentences with two names: what is read from them, tokens, answers, and names that are disjoint."""

from __future__ import annotations

import pyarrow
import pytest
import torch
from pyarrow import parquet
from tiny_files import name_sentences, write_name_sentences

from datamodules.finetuning.text import Codec
from datamodules.interpretability.indirect_objects import IndirectObjects
from datamodules.interpretability.name_sentences import ABBA, BABA, NAMES, Names, read_sentence
from framework.errors import UserError

SMALL = {"prompts": 400, "train_samples": 300, "val_samples": 40, "test_samples": 40}


def text_of(row):
    return bytes(row[row >= 0].tolist()).decode()


@pytest.mark.parametrize("options", [{}, {"disjoint_names": True}], ids=["shared", "disjoint"])
def test_answers_by_reading_the_prompts_again(options):
    data = IndirectObjects(**SMALL, **options)
    data.setup()
    names = []
    for part in (data.train_set, data.val_set, data.test_set):
        batch = part.__getitems__(list(range(len(part))))
        seen = set()
        for base, source, y, other, base_y in zip(
            batch["base"], batch["sources"][:, 0], batch["y"], batch["other"], batch["base_y"], strict=True
        ):
            # the repeated name is that which occurs twice; the pattern is that of the source
            found = {key: pattern(text_of(row)) for key, row in (("base", base), ("source", source))}
            first, second, _ = found["base"]
            seen |= {first, second}
            answer = first if found["source"][2] else second
            assert chr(int(y)) == answer[0]
            assert {chr(int(y)), chr(int(other))} == {first[0], second[0]}
            assert chr(int(base_y)) == (first if found["base"][2] else second)[0]
        names.append(seen)
        changed = float((batch["y"] != batch["base_y"]).double().mean())
        assert 0.2 < changed < 0.8
    if options:
        assert sum(map(len, names)) == len(set.union(*names))


def pattern(prompt):
    """(first, second, whether the second one is repeated), by counting words."""
    words = prompt.replace(",", " ").replace(".", " ").split()
    named = [word for word in words if word in NAMES]
    assert len(named) == 3
    first, second = dict.fromkeys(named)
    return first, second, named.count(second) == 2


def test_thirty_templates_of_our_own():
    assert (len(BABA), len(ABBA), len({*BABA, *ABBA}), len(set(NAMES))) == (15, 15, 30, 100)
    for kind, repeats in ((BABA, False), (ABBA, True)):
        for template in kind:
            read = read_sentence(template.format(A="Mary", B="John", place="farm", object="ring"))
            assert (read.answer, read.other, read.second_repeats) == ("Mary", "John", repeats)
            assert not read.prompt.endswith(" ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Then, Al and Bo went home. Bo gave a kiwi to Al", ("Al", "Bo", True)),
        ("Then, Bo and Al went home. Bo gave a kiwi to Al.", ("Bo", "Al", False)),
        ("Then, Bo and Al went home. Bo gave a kiwi to Cy", None),
        ("Then, Bo and Al went home. Al and Bo gave a kiwi to Al", None),
        ("Then, E\u0301l and Al went. E\u0301l gave a kiwi to Al", ("E\u0301l", "Al", False)),
        ("Then, Анна and Борис went. Борис gave a kiwi to Анна", ("Анна", "Борис", True)),
        ("", None),
        ("Word", None),
    ],
)
def test_what_is_read_from_a_sentence(text, expected):
    read = read_sentence(text)
    assert (read and (read.first, read.second, read.second_repeats)) == expected


def test_the_papers_table_with_a_tokenizer(tmp_path):
    write_name_sentences(tmp_path)
    data = IndirectObjects(tmp_path / "sentences.parquet", tokenizer=tmp_path / "model", **SMALL)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch["base"].ndim == 2
    assert batch["sources"].shape[1] == 1
    assert bool((batch["base"][:, -1] >= 0).all())  # padded in front
    assert data.vocab_size == 257
    few = IndirectObjects(tmp_path / "sentences.parquet", **{**SMALL, "prompts": 10})
    few.setup()
    assert len(few.train_set.bases) <= 8


def test_a_table_that_does_not_fit(tmp_path):
    file = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": name_sentences(20)}), file)
    with pytest.raises(UserError, match=r"a\.parquet: column 'ioi_sentences' not found once; it has text"):
        IndirectObjects(file, **SMALL).setup()
    IndirectObjects(file, "text", **SMALL).setup()
    parquet.write_table(pyarrow.table({"text": [*name_sentences(20), "no names here"]}), file)
    with pytest.raises(UserError, match=r"a\.parquet, row 21: 'no names here' is not of the form"):
        IndirectObjects(file, "text", **SMALL).setup()
    parquet.write_table(pyarrow.table({"text": ["Al and Ann met. Ann gave it to Al"] * 20}), file)
    with pytest.raises(UserError, match="no sentences for train whose names differ in their first token"):
        IndirectObjects(file, "text", **SMALL).setup()
    with pytest.raises(UserError, match="prompts: 3 is not accepted"):
        IndirectObjects(prompts=3)


def test_names_of_several_tokens_and_of_one_with_its_space(monkeypatch):
    """Cid has a token with its space, the others do not: their sentences with Cid are left out."""
    joined = {" Cid": [300], "Cid": [301]}
    monkeypatch.setattr(
        Codec, "encode", lambda self, texts: [joined.get(text) or list(text.encode()) for text in texts]
    )
    data = IndirectObjects(**SMALL)
    names = [Names(f"{a} and {b} met. {b} gave it to", a, b, True) for a, b in ("AB", ("Cid", "B"), "BA")]
    found = data._pairs(names, Codec(), "train")
    assert len(found.bases) == 2
    assert {text_of(row)[-1] for row in found.bases} == {" "}
    assert set(found.columns["y"].tolist()) <= {ord("A"), ord("B")}


def test_the_same_seed_gives_the_same_data():
    one, two = (IndirectObjects(**SMALL) for _ in range(2))
    one.setup()
    two.setup()
    assert torch.equal(one.train_set.bases, two.train_set.bases)
    assert torch.equal(one.train_set.columns["y"], two.train_set.columns["y"])
