"""Rated pairs of sentences as prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.in_context.sentence_pairs import SentencePairs, cosines, edited_pairs, read_pairs
from framework.errors import UserError


def prepared(**options):
    data = SentencePairs(**{"pairs": 40, "batch_size": 6, **options})
    data.setup("fit")
    return data


def test_made_pairs_are_rated_by_the_share_of_words_that_stayed():
    pairs = edited_pairs(200, 0)
    for first, second, score in pairs:
        same = [a == b for a, b in zip(first.split(), second.split(), strict=True)]
        assert score == pytest.approx(5 * sum(same) / len(same))
    assert {0.0, 5.0} <= {score for *_, score in pairs}
    assert np.corrcoef(cosines(pairs, None), [score for *_, score in pairs])[0, 1] > 0.8


def test_a_prompt_shows_examples_then_asks_and_its_label_is_the_answer():
    data = prepared(examples=2, guesses=("none", "mean", "cosine"))
    batch = data.val_set.__getitems__([0, 1, 2])
    texts = []
    for row in range(3):
        place = int(batch["place"][row])
        texts.append(data.codec.decode(batch["input_ids"][row, : place + 1].tolist()))
        assert batch["labels"][row].tolist().count(-100) == batch["labels"].shape[1] - 1
        answer = int(batch["labels"][row, place + 1])
        assert answer == data.level_tokens[round(float(batch["score"][row]))] == int(batch["input_ids"][row, place + 1])
    assert all(text.count("similarity:") == 3 and text.endswith("similarity: ") for text in texts)
    assert ["guess:" in text for text in texts] == [False, True, True]
    assert torch.isnan(batch["guess"]).tolist() == [True, False, False]
    assert batch["kind"].tolist() == [0, 1, 2]
    assert f"guess: {round(float(batch['guess'][2]))} | similarity: " in texts[2]


def test_too_long_prompts_lose_examples_not_the_question():
    data = prepared(examples=4, length=200)
    batch = data.train_set.__getitems__(list(range(12)))
    assert batch["input_ids"].shape[1] <= 200
    for row in range(12):
        text = data.codec.decode(batch["input_ids"][row, : int(batch["place"][row]) + 1].tolist())
        assert text.startswith("A: ")
        assert text.count("similarity:") < 5


def test_a_file_of_ratings_of_another_range(tmp_path):
    rows = [f"one sentence {i}\tanother {i}\t{i % 5 - 2}" for i in range(20)]
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join(["sentence1\tsentence2\tscore", *rows]))
    assert read_pairs(path)[0] == ("one sentence 0", "another 0", -2.0)
    data = prepared(path=str(path), score_range=(-2.0, 2.0))
    scores = torch.cat([batch["score"] for batch in data.train_dataloader()])
    assert sorted(set(scores.tolist())) == [0.0, 1.25, 2.5, 3.75, 5.0]
    with pytest.raises(UserError, match="score_range"):
        prepared(path=str(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a\tb\n" * 12, "line 1"),
        ("a\tb\t1\n" * 3 + "a\tb\tx\n", "line 4"),
        ("a\tb\tnan\n", "not finite"),
        ("a\tb\t1", "at least 10"),
    ],
)
def test_broken_files_are_named_with_their_line(tmp_path, content, said):
    (tmp_path / "pairs.tsv").write_text(content)
    with pytest.raises(UserError, match=said):
        prepared(path=str(tmp_path / "pairs.tsv"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"guesses": ("odd",)}, "guesses: 'odd'"),
        ({"guesses": ()}, "guesses"),
        ({"pairs": 3}, "pairs: 3"),
        ({"score_range": (1.0, 1.0)}, "score_range"),
        ({"path": "nowhere.tsv"}, "nowhere.tsv: not found"),
        ({"encoder": "nowhere"}, "encoder: nowhere"),
        ({"tokenizer": "nowhere"}, "tokenizer: nowhere"),
    ],
)
def test_bad_settings_are_named(options, said):
    with pytest.raises(UserError, match=said):
        prepared(**options)


def test_an_encoders_cosine(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    pairs = edited_pairs(10, 0)
    words = sorted({word for pair in pairs for side in pair[:2] for word in side.split()})
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(tmp_path)
    found = cosines([*pairs, (pairs[0][0], pairs[0][0], 5.0)], str(tmp_path))
    assert found[-1] == pytest.approx(1.0, abs=1e-5)
    assert found.shape == (11,)
    assert (found[:-1] < 1).any()


def test_columns_are_found_by_a_header(tmp_path):
    """GLUE's STS-B has ten columns."""
    lines = ["index\tgenre\tsentence1\tsentence2\tscore", "0\tnews\tA man walks.\tA man runs.\t3.0"]
    (tmp_path / "a.tsv").write_text("\n".join(lines))
    assert read_pairs(tmp_path / "a.tsv") == [("A man walks.", "A man runs.", 3.0)]
    (tmp_path / "b.tsv").write_text("A man walks.\tA man runs.\tn/a\nA man walks.\tA man runs.\t3.0\n")
    with pytest.raises(UserError, match=r"b\.tsv, line 1: 'A man walks"):
        read_pairs(tmp_path / "b.tsv")
