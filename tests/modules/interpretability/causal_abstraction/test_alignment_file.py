"""A map saved alone: the same logits bit for bit, on its own host only."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from framework.errors import UserError
from modules.interpretability.causal_abstraction import (
    BlockMLP,
    Interchange,
    InterchangeModel,
    MapConfig,
    build_map,
    load_alignment,
    save_alignment,
)

CONFIGS = [MapConfig("identity"), MapConfig("orthogonal"), MapConfig("revnet", 3, 5)]


def fitted(config, dtype=torch.float32):
    torch.manual_seed(0)
    phi = build_map(config, 16)
    net = InterchangeModel(BlockMLP(16), phi, Interchange("blocks.1", ((1, 2), (5, 0)), "blocks.0")).to(dtype)
    x, sources, nodes = torch.randn(40, 16, dtype=dtype), torch.randn(40, 2, 16, dtype=dtype), torch.ones(40, 2)
    optimizer = torch.optim.Adam(phi.parameters(), lr=0.01)
    for _ in range(3):
        net(x, sources, nodes).square().sum().backward() if config.name != "identity" else None
        optimizer.step()
    return net, (x, sources, nodes)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_round_trip(config, dtype, tmp_path):
    net, batch = fitted(config, dtype)
    save_alignment(net, config, tmp_path / "a")
    found = load_alignment(tmp_path / "a", net.network)
    assert torch.equal(found(*batch), net(*batch))
    assert found.partition == net.partition
    assert found.interchange.source_layer == "blocks.0"
    facts = json.loads((tmp_path / "a" / "alignment.json").read_text())
    assert facts["interchange"]["layer"] == "blocks.1"
    assert facts["map"]["name"] == config.name
    size = sum(path.stat().st_size for path in (tmp_path / "a").iterdir())
    assert size < 20_000  # the host is not in it


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("dtype", "nn", r"\('nn'\)"),
        ("dtype", "float16", r"first\.0\.0\.weight is not finite float16"),
        ("features", float("inf"), "features is inf, expected int"),
        ("features", 8, "does not fit revnet 3x5"),
        ("host_sha256", None, "host_sha256 is None, expected str"),
        ("version", 2, "version 2, not 1"),
        ("map.depth", 3.0, "depth is 3.0, expected int"),
        ("map.name", "../../etc", "which imports nothing"),
        ("interchange.partition", [[0.5], [1]], "partition: 0.5 is not accepted; int"),
        ("interchange.layer", "../x", "names nothing in the model"),
        ("interchange.source_layer", 5, "layer: 5 is not accepted; str"),
        ("interchange.units", "abcdefghijklmnop", "units: 'a' is not accepted"),
    ],
)
def test_values_that_no_saved_map_has_are_refused(place, value, message, tmp_path):
    net, _ = fitted(CONFIGS[2])
    save_alignment(net, CONFIGS[2], tmp_path)
    facts = json.loads((tmp_path / "alignment.json").read_text())
    *parents, last = place.split(".")
    (facts[parents[0]] if parents else facts)[last] = value
    (tmp_path / "alignment.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=message):
        load_alignment(tmp_path, net.network)


@pytest.mark.parametrize("change", [lambda v: v * float("nan"), lambda v: v.half(), lambda v: v.int()])
def test_tensors_that_are_not_those_of_the_json_are_refused(change, tmp_path):
    net, _ = fitted(CONFIGS[2])
    save_alignment(net, CONFIGS[2], tmp_path)
    file = tmp_path / "alignment.safetensors"
    save_file({name: change(value) for name, value in load_file(file).items()}, file)
    with pytest.raises(UserError, match=r"first\.0\.0\.weight is not finite float32"):
        load_alignment(tmp_path, net.network)


def test_another_host_and_broken_files_are_refused(tmp_path):
    net, _ = fitted(CONFIGS[1])
    save_alignment(net, CONFIGS[1], tmp_path)
    with pytest.raises(UserError, match=r"alignment\.json: belongs to a host with SHA-256"):
        load_alignment(tmp_path, BlockMLP(16))
    with pytest.raises(UserError, match=r"none/alignment\.json"):
        load_alignment(tmp_path / "none", net.network)
    facts = json.loads((tmp_path / "alignment.json").read_text())
    facts["map"]["name"] = "antigravity.Map"
    (tmp_path / "alignment.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="which imports nothing"):
        load_alignment(tmp_path, net.network)
    (tmp_path / "alignment.json").write_text('{"map": 3}')
    with pytest.raises(UserError, match="not what save_alignment writes"):
        load_alignment(tmp_path, net.network)
