"""ListOps: the generator against an independent evaluator and the probabilities of its rules; LRA's files."""

import statistics

import numpy as np
import pytest
import torch
from tiny_files import write_tsv

from datamodules.sequence import listops
from datamodules.sequence.listops import (
    OPERATORS,
    TOKEN_IDS,
    VOCABULARY,
    ListOps,
    evaluate,
    generate_trees,
    read_listops_tsv,
    tokenize,
)
from framework.errors import UserError


def parse(words):
    """A recursive reading of the words: the tree as nested lists."""
    word = next(words)
    if word.isdigit():
        return int(word)
    node = [word]
    while (child := parse(words) if (peeked := words.peek()) != "]" else None) is not None:
        node.append(child)
        assert peeked != "]"
    next(words)
    return node


class Words:
    def __init__(self, words):
        self.words, self.at = words, 0

    def peek(self):
        return self.words[self.at]

    def __next__(self):
        self.at += 1
        return self.words[self.at - 1]


def value(tree):
    if isinstance(tree, int):
        return tree
    arguments = [value(child) for child in tree[1:]]
    return {"[MIN": min, "[MAX": max, "[MED": lambda a: int(statistics.median(a)), "[SM": lambda a: sum(a) % 10}[
        tree[0]
    ](arguments)


def length(tree):
    return 1 if isinstance(tree, int) else 2 + sum(map(length, tree[1:]))


def depth(tree):
    return 1 if isinstance(tree, int) else 1 + max(map(depth, tree[1:]))


def trees_of(count, **settings):
    generator = generate_trees(**settings)
    for _ in range(count):
        tokens, target = next(generator)
        words = Words([VOCABULARY[token] for token in tokens])
        tree = parse(words)
        assert words.at == len(tokens)
        yield tokens, target, tree


def test_targets_lengths_and_uniqueness():
    seen = set()
    for tokens, target, tree in trees_of(300, seed=0):
        assert value(tree) == target == evaluate(tokens)
        assert 500 < length(tree) == len(tokens) < 2000
        assert depth(tree) <= 10
        assert all(2 <= len(node) - 1 <= 10 for node in operators(tree))
        seen.add(tokens.tobytes())
    assert len(seen) == 300


def operators(tree):
    if isinstance(tree, list):
        yield tree
        for child in tree[1:]:
            yield from operators(child)


def test_probabilities_of_the_rules(monkeypatch):
    """Without a choice by length: an operator is a quarter of the nodes, each kind and each number of arguments equal."""
    nodes = operator_nodes = 0
    kinds, counts = dict.fromkeys(OPERATORS, 0), np.zeros(11)
    digits = np.zeros(10)
    generator = np.random.default_rng(0)
    levels = listops._grow(generator, 4000, -1, 10**9)
    for i, level in enumerate(levels[:9]):
        operator = level["kind"] < TOKEN_IDS["0"]
        nodes += len(operator)
        operator_nodes += operator.sum()
        for k, name in enumerate(OPERATORS):
            kinds[name] += (level["kind"] == k + 1).sum()
        children = np.bincount(levels[i + 1]["parent"], minlength=len(operator))
        assert (children[~operator] == 0).all()
        counts += np.bincount(children[operator], minlength=11)
        digits += np.bincount(level["kind"][~operator] - TOKEN_IDS["0"], minlength=10)
    assert (levels[9]["kind"] >= TOKEN_IDS["0"]).all()
    assert len(levels[0]["kind"]) == 4000
    assert nodes > 50_000
    assert abs(operator_nodes / nodes - 0.25) < 0.01
    assert np.allclose([n / operator_nodes for n in kinds.values()], 0.25, atol=0.02)
    assert counts[:2].sum() == 0
    assert np.allclose(counts[2:] / operator_nodes, 1 / 9, atol=0.01)
    assert np.allclose(digits / digits.sum(), 0.1, atol=0.01)


def test_length_choice_matches_a_plain_generator():
    """Share of trees with 20 < length < 60 and their mean length, against the rules written as a recursion."""
    rng = np.random.default_rng(1)

    def size(level):
        if level == 10 or rng.random() < 0.75:
            return 1
        return 2 + sum(size(level + 1) for _ in range(rng.integers(2, 11)))

    plain = np.array([size(1) for _ in range(4000)])
    plain = plain[(plain > 20) & (plain < 60)]
    fast = listops._grow(np.random.default_rng(0), 40_000, 20, 60)[0]["size"]
    assert abs(len(fast) / 40_000 - len(plain) / 4000) < 0.015
    assert abs(fast.mean() - plain.mean()) < 2.5


def test_same_seed_same_data_and_sizes_do_not_move_the_test_set():
    small, large, other = (
        ListOps(train_size=n, val_size=5, test_size=7, seed=seed, min_length=20, max_length=60)
        for n, seed in ((10, 0), (30, 0), (10, 1))
    )
    for data in (small, large, other):
        data.setup()
    assert torch.equal(small.test_set.tokens, large.test_set.tokens)
    assert torch.equal(small.val_set.tokens, large.val_set.tokens)
    assert not torch.equal(small.test_set.values[:7], other.test_set.values[:7]) or not torch.equal(
        small.test_set.starts, other.test_set.starts
    )
    assert [len(s) for s in (large.train_set, large.val_set, large.test_set)] == [30, 5, 7]


def test_batches_are_padded():
    data = ListOps(train_size=12, val_size=4, test_size=4, min_length=20, max_length=60, batch_size=4, num_classes=10)
    data.setup()
    for tokens, y, lengths in data.train_dataloader():
        assert tokens.dtype == y.dtype == lengths.dtype == torch.int64
        assert tokens.shape == (4, lengths.max())
        for row, target, n in zip(tokens, y, lengths, strict=True):
            assert (row[n:] == data.pad_id).all()
            assert (row[:n] != data.pad_id).all()
            assert evaluate(row) == target
    assert data.vocab_size == 16
    assert data.length == 59


def test_cache(tmp_path):
    settings = {
        "train_size": 6,
        "val_size": 2,
        "test_size": 2,
        "min_length": 10,
        "max_length": 40,
        "cache": str(tmp_path),
    }
    first = ListOps(**settings)
    first.setup()
    (file,) = tmp_path.iterdir()
    listops.generate_parts.cache_clear()
    second = ListOps(**settings)
    second.setup()
    assert torch.equal(first.train_set.tokens, second.train_set.tokens)
    file.write_bytes(b"nothing")
    with pytest.raises(UserError, match="expected a cache of ListOps"):
        ListOps(**settings).setup()


def test_lra_files(tmp_path):
    (tmp_path / "listops-1000").mkdir()
    write_tsv(tmp_path / "listops-1000")
    for path in (tmp_path, tmp_path / "listops-1000"):
        data = ListOps(path=str(path))
        data.setup()
        tokens, y, lengths = data.train_set.__getitems__([0, 1, 2])
        assert y.tolist() == [4, 7, 5] == [evaluate(row) for row in tokens]
        assert lengths.tolist() == [8, 4, 1]
        assert [VOCABULARY[t] for t in tokens[0]] == ["[MAX", "4", "3", "[MED", "1", "4", "]", "]"]
        assert data.length == 8


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("( [MIX 3 4 ] )\t3",), r"basic_train.tsv, line 2: unknown token '\[MIX'"),
        (("5\t5", "7\tx"), "line 3: Target 'x' is not a digit"),
        (("5",), "line 2: 1 fields, line 1 has 2"),
        (("\t5",), "line 2: Source is empty"),
        ((), "no rows"),
    ],
)
def test_broken_lra_files(tmp_path, rows, message):
    write_tsv(tmp_path, rows)
    with pytest.raises(UserError, match=message):
        ListOps(path=str(tmp_path)).setup()


def test_missing_and_headerless_files(tmp_path):
    with pytest.raises(UserError, match=r"basic_train\.tsv: not found"):
        ListOps(path=str(tmp_path)).setup()
    (tmp_path / "basic_train.tsv").write_text("5\t6\n7\t8\n")
    with pytest.raises(UserError, match="expected Source and Target"):
        read_listops_tsv(tmp_path / "basic_train.tsv")


@pytest.mark.parametrize("text", ["[MIN ]", "3 4", "[MIN 3", "]", ""])
def test_evaluate_refuses_what_is_no_expression(text):
    with pytest.raises(UserError, match="tokens"):
        evaluate(tokenize(text))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_length": 50, "max_length": 51}, "max_length: 51 is not accepted; at least 52"),
        ({"train_size": 0}, "train_size"),
        ({"num_classes": 2}, "ListOps has 10"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        ListOps(**settings)


def test_asking_for_more_than_there_are():
    with pytest.raises(UserError, match="no new expression"):
        ListOps(train_size=50, min_length=0, max_length=2).setup()
