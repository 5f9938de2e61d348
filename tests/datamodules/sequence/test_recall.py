"""Recall of fused pairs: what a sequence holds, fresh samples, the same after a resume."""

import pytest
import torch

from datamodules.sequence.recall import Recall, recall_batch
from framework.errors import UserError

K, V, P = 12, 5, 7


def small(**settings):
    sizes = {"pairs": P, "keys": K, "values": V, "train_samples": 24, "eval_samples": 10, "batch_size": 8}
    data = Recall(**{**sizes, **settings})
    data.setup("fit")
    return data


def test_every_key_written_once_is_asked_for_once():
    tokens, targets = recall_batch(200, P, K, V, torch.Generator().manual_seed(0))
    assert tokens.shape == targets.shape == (200, 2 * P)
    assert tokens.dtype == targets.dtype == torch.int64
    assert (targets[:, :P] == -100).all()
    moved = 0
    for row, wanted in zip(tokens.tolist(), targets.tolist(), strict=True):
        written = {t // V: t % V for t in row[:P]}
        assert all(t < K * V for t in row[:P])
        assert len(written) == P
        asked = [t - K * V for t in row[P:]]
        assert sorted(asked) == sorted(written)
        assert [written[key] for key in asked] == wanted[P:]
        moved += asked != [t // V for t in row[:P]]
    assert moved > 190
    assert torch.bincount(tokens[:, :P].flatten() % V).min() > 200  # 280 expected of each value
    assert torch.bincount(tokens[:, P:].flatten() - K * V, minlength=K).min() > 80  # 117 expected of each key


def test_training_sequences_are_new_in_every_epoch_and_the_same_again():
    torch.manual_seed(3)
    loader = small().train_dataloader()
    first, second = ([batch["input_ids"] for batch in loader] for _ in range(2))
    assert [len(batch) for batch in first] == [8, 8, 8]
    assert len({tuple(row) for batch in [*first, *second] for row in batch.tolist()}) == 48
    torch.manual_seed(3)
    again = small().train_dataloader()
    assert all(torch.equal(batch["input_ids"], known) for batch, known in zip(again, first, strict=True))


def test_a_loader_goes_on_where_it_stopped():
    torch.manual_seed(3)
    whole = [batch["input_ids"] for batch in small().train_dataloader()]
    torch.manual_seed(3)
    loader = small().train_dataloader()
    next(iter(loader))
    state = loader.state_dict()
    other = small().train_dataloader()
    other.load_state_dict(state)
    rest = [batch["input_ids"] for batch in other]
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[1:], strict=True))


def test_evaluation_is_fixed_and_differs_between_parts():
    data, same, other = small(), small(train_samples=8), small(data_seed=1)
    read = lambda part: part.__getitems__(range(10))["input_ids"]  # noqa: E731
    assert torch.equal(read(data.val_set), read(same.val_set))
    assert not torch.equal(read(data.val_set), read(data.test_set))
    assert not torch.equal(read(data.val_set), read(other.val_set))


def test_tokens_as_text():
    assert small().decode([0, 3 * V + 2, K * V + 3]) == "0=0 3=2 3?"
    assert small().vocab_size == K * V + K


@pytest.mark.parametrize(
    ("settings", "message"), [({"pairs": 13}, "pairs: 13"), ({"pairs": 0}, "pairs: 0"), ({"values": 0}, "values: 0")]
)
def test_bad_settings_are_told(settings, message):
    with pytest.raises(UserError, match=message):
        small(**settings)
