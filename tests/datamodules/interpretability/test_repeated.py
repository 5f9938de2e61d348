"""Batches in a fixed order, again and again; validation on both parts."""

import pytest
import torch

from datamodules.interpretability.few_images import FewImages
from datamodules.interpretability.modular_addition import ModularAddition
from datamodules.interpretability.repeated import RepeatedData
from datamodules.interpretability.xor_clusters import XORClusters, xor_clusters
from framework.errors import UserError


class Numbers(RepeatedData):
    def setup(self, stage=None):
        x = torch.arange(10.0)[:, None]
        self.hold((x, x[:, 0]), (x[:3], x[:3, 0]))


def test_an_epoch_has_all_passes_in_order_without_copies():
    data = Numbers(batch_size=4, passes=3)
    data.setup()
    batches = list(data.train_dataloader())
    assert [len(y) for _, y in batches] == [4, 4, 2] * 3
    assert torch.cat([y for _, y in batches]).tolist() == list(range(10)) * 3
    assert batches[0][0].data_ptr() == batches[3][0].data_ptr()
    test, train = data.val_dataloader()
    assert [len(y) for _, y in test] == [3]
    assert [len(y) for _, y in train] == [10]
    assert data.val_metrics == ("val/accuracy", "train/accuracy")
    whole = Numbers()
    whole.setup()
    assert [len(y) for _, y in whole.train_dataloader()] == [10]


def test_shuffled_batches_differ_from_epoch_to_epoch():
    data = Numbers(batch_size=4, shuffle=True)
    data.setup()
    loader = data.train_dataloader()
    first, second = ([y.tolist() for _, y in loader] for _ in range(2))
    assert first != second
    assert sorted(value for batch in first for value in batch) == list(range(10))
    with pytest.raises(UserError, match="passes: 2 is not accepted with shuffle; 1"):
        Numbers(shuffle=True, passes=2)


def test_xor_clusters_are_the_papers():
    x, y = xor_clusters(500, 12, 0.05, torch.Generator().manual_seed(0))
    assert torch.equal(x[:, :2].abs(), torch.ones(500, 2))
    torch.testing.assert_close(x[:, 2:].abs(), torch.full((500, 10), 0.05))
    assert torch.equal(y, x[:, 0] * x[:, 1])
    assert (x.sign().mean(0).abs() < 0.15).all()
    counts = torch.unique(x[:, :2], dim=0, return_counts=True)[1]
    assert len(counts) == 4


def test_noise_is_one_draw_scaled_and_leaves_the_informative_coordinates():
    data = XORClusters(6, 50, amplitudes=[0.5, 1.0], dtype="float64")
    data.setup()
    test, train, half, full = [next(iter(loader)) for loader in data.val_dataloader()]
    assert data.val_metrics[2:] == ("val/accuracy_noise_0.5", "val/accuracy_noise_1")
    assert train[0].dtype == train[1].dtype == torch.float64
    assert not torch.equal(train[0], test[0])
    for noisy in (half, full):
        assert torch.equal(noisy[0][:, :2], test[0][:, :2])
        assert torch.equal(noisy[1], test[1])
    torch.testing.assert_close(2 * (half[0] - test[0]), full[0] - test[0])
    assert (full[0] - test[0])[:, 2:].std() == pytest.approx(1, abs=0.15)


def test_modular_addition_has_every_pair_once():
    data = ModularAddition(7, 0.3)
    data.setup()
    (train,), (test,) = list(data.train_dataloader())[:1], list(data.val_dataloader()[0])
    assert len(train[1]) == 14
    tokens, y = (torch.cat([a, b]) for a, b in zip(train, test, strict=True))
    assert torch.equal(tokens[:, 2], torch.full((49,), 7))
    assert torch.equal((tokens[:, 0] + tokens[:, 1]) % 7, y)
    assert len({tuple(pair) for pair in tokens[:, :2].tolist()}) == 49


def test_bad_settings_are_refused():
    for make, message in (
        (lambda: XORClusters(2), "inputs: 2 is not accepted; at least 3"),
        (lambda: XORClusters(eps=0.0), "eps: 0.0 is not accepted; above 0"),
        (lambda: ModularAddition(3, 0.01), "train_fraction: 0.01 leaves no pairs of 9"),
        (lambda: FewImages("idx"), "path: source 'idx' needs a folder"),
        (lambda: FewImages(path="here"), "path: source 'digits' ships with a package and accepts none"),
        (lambda: FewImages(classes=[1]), r"classes: \[1\] is not accepted; two or more"),
        (lambda: FewImages(num_classes=3), "num_classes: 3 declared, the data has 10"),
        (lambda: FewImages(mean=[0.1, 0.2]), "mean: 2 values are not accepted; 1"),
    ):
        with pytest.raises(UserError, match=message):
            make()
    data = FewImages(train=1700)
    with pytest.raises(
        UserError, match="train and test: 2212 images are wanted, and there are 1797 of source 'digits'"
    ):
        data.setup()
