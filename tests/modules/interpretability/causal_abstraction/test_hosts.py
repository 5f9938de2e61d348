"""Hosts: the recipe keeps the best weights; a foreign network, a checkpoint, transformers; the hash."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_files import write_language_model
from torch import nn

from framework.errors import UserError
from modules.interpretability.causal_abstraction import BlockMLP, HostConfig, LastToken, network_hash, train_host
from modules.interpretability.causal_abstraction.hosts import build_host


def two_classes(n):
    x = torch.randn(n, 4)
    return x, (x[:, 0] > 0).long()


def test_the_recipe_keeps_the_best_weights_and_waits():
    torch.manual_seed(0)
    train, val = two_classes(2000), two_classes(500)
    net = BlockMLP(4, 1)
    assert train_host(net, train, val, HostConfig(epochs=3, lr=0.01, batch_size=50, check_every=5)) > 0.95
    assert not net.training
    kept = copy.deepcopy(net.state_dict())
    # labels of validation that training only makes worse: the best are the first that were seen
    wrong = (val[0], 1 - val[1])
    config = HostConfig(epochs=50, lr=0.01, batch_size=50, check_every=1, patience=3)
    stopped = copy.deepcopy(net)
    train_host(stopped, train, wrong, config)
    moved = [float((stopped.state_dict()[name] - value).abs().max()) for name, value in kept.items()]
    assert max(moved) < 0.15  # few steps of 0.01, not 2,000
    short = BlockMLP(4, 1)
    before = network_hash(short)  # fewer batches than between two evaluations: the last one is evaluated
    train_host(short, train, val, HostConfig(epochs=1, lr=0.01, batch_size=1000, check_every=16))
    assert network_hash(short) != before
    trial = BlockMLP(4, 1)
    train_host(trial, train, val, HostConfig(), trial=True)


def test_a_network_of_your_own(tmp_path):
    path = f"{Own.__module__}.{Own.__qualname__}"
    torch.save(Own(3).state_dict(), tmp_path / "own.pt")
    found = build_host(HostConfig(network=path, args={"width": 3}, weights=tmp_path / "own.pt"), may_import=False)
    assert isinstance(found, Own)
    with pytest.raises(UserError, match=r"host\.weights: .* does not fit"):
        build_host(HostConfig(network=path, args={"width": 4}, weights=tmp_path / "own.pt"), may_import=False)
    with pytest.raises(UserError, match=r"host\.network: .*no module"):
        build_host(HostConfig(network="nowhere.Net"))
    for wrong in ({"random": True}, {"weights": "a.pt"}, {"args": {"width": 3}}):
        with pytest.raises(UserError, match=r"has no effect without host\."):
            HostConfig(**wrong)
    with pytest.raises(UserError, match=r"at most one of host\.checkpoint"):
        HostConfig(network=path, path="a")


class Own(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(2, width)


def test_a_language_model_at_its_last_token(tmp_path):
    write_language_model(tmp_path, "gpt_neox")
    host = build_host(HostConfig(path=tmp_path)).eval()
    assert isinstance(host, LastToken)
    rows = [[5, 6, 7], [8, 9, 10, 11, 12]]
    padded = torch.tensor([[-1, -1, *rows[0]], rows[1]])
    with torch.no_grad():
        alone = torch.cat([host.lm(input_ids=torch.tensor([row])).logits[:, -1] for row in rows])
        torch.testing.assert_close(host(padded), alone, atol=1e-4, rtol=1e-4)
    torch.manual_seed(1)
    fresh = build_host(HostConfig(path=tmp_path, random=True))
    assert network_hash(fresh) != network_hash(host)
    small = {"model_type": "gpt_neox", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    small |= {"intermediate_size": 8, "vocab_size": 20}
    assert build_host(HostConfig(config=small)).lm.config.hidden_size == 8
    labels = [HostConfig(path=tmp_path).label, HostConfig(path=tmp_path, random=True).label, HostConfig().label]
    assert [*labels, HostConfig(epochs=0).label, HostConfig(config=small).label] == [
        "trained",
        "random",
        "trained",
        "random",
        "random",
    ]
    with pytest.raises(UserError, match=r"config\.json not found"):
        build_host(HostConfig(path=tmp_path / "none", random=True))


def test_the_hash_is_of_names_shapes_and_values():
    torch.manual_seed(0)
    net = BlockMLP(4)
    other = copy.deepcopy(net)
    assert network_hash(net) == network_hash(other) == network_hash(other.double())
    with torch.no_grad():
        other.head.bias[0] += 1e-12
    assert network_hash(net) != network_hash(other)
