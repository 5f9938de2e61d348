"""Memory layers against dense sums; tables and the ring; initialisation; gradients; sizes."""

import copy

import pytest
import torch
import torch.nn.functional as F

from framework.errors import UserError
from modules.sequence.ultramem_v2.initialisation import target_variance
from modules.sequence.ultramem_v2.layers import (
    LAYERS,
    MemoryConfig,
    PEERLayer,
    PKMLayer,
    UltraMemLayer,
    UltraMemV2Layer,
    balance_loss,
    build_memory,
    core_spectrum,
    tucker_penalty,
)
from modules.sequence.ultramem_v2.sizes import sizes, token_macs
from modules.sequence.ultramem_v2.tables import MemoryRows, Ring, read_dense, row_products, row_sum
from modules.sequence.ultramem_v2.tdqkr import Selection, tdqkr

SMALL = {"n_keys": 6, "d_key": 5, "top": 36, "d_value": 4, "d_pre": 3}


def double(layer):
    return layer.double().eval()


def test_all_slots_is_the_dense_layer():
    torch.manual_seed(0)
    layer = double(UltraMemV2Layer(MemoryConfig(**SMALL, cores=1), 8))
    z = torch.randn(10, 8, dtype=torch.float64)
    rows, columns = layer.scores(z)
    scores = torch.einsum("pti,pq,qtj->tij", rows, layer.cores[0], columns).flatten(1)  # (T, N²)
    place = layer.shuffle.long()  # slot s lies in row place[s]
    p, v = layer.table.pre_values.weight[place], layer.table.values.weight[place]
    dense = layer.out((scores * (layer.pre(z) @ p.T)) @ v)
    assert (layer(z) - dense).abs().max() < 1e-10


def test_two_cores_weight_a_part_of_the_value_each():
    torch.manual_seed(0)
    layer = double(UltraMemV2Layer(MemoryConfig(**SMALL, cores=2), 8))
    z = torch.randn(10, 8, dtype=torch.float64)
    rows, columns = layer.scores(z)
    scores = torch.einsum("pti,cpq,qtj->tcij", rows, layer.cores, columns).flatten(2)
    place = layer.shuffle.long()
    p, v = layer.table.pre_values.weight[place], layer.table.values.weight[place]
    weights = scores * (layer.pre(z) @ p.T)[:, None]
    dense = layer.out(torch.cat([weights[:, 0] @ v[:, :2], weights[:, 1] @ v[:, 2:]], 1))
    assert (layer(z) - dense).abs().max() < 1e-10


@pytest.mark.parametrize("heads", [1, 2])
def test_virtual_slots_share_the_table(heads):
    torch.manual_seed(0)
    config = MemoryConfig(n_keys=3, d_key=5, top=36, d_value=4, d_pre=3, key_expand=2, heads=heads, cores=1)
    layer = double(UltraMemV2Layer(config, 8))
    assert layer.scores.keys.shape[3] == 6
    assert layer.table.values.weight.shape == (9, 4)
    z = torch.randn(5, 8, dtype=torch.float64)
    rows, columns = layer.scores(z)
    scores = torch.einsum("pti,pq,qtj->tij", rows, layer.cores[0], columns).view(5, heads, 6, 6)
    total = torch.zeros(5, 9, dtype=torch.float64)
    for i in range(6):
        for j in range(6):
            block, slot = (i // 3) * 2 + j // 3, (i % 3) * 3 + j % 3
            total[:, layer.shuffle[block * 9 + slot] % 9] += scores[:, :, i, j].sum(1)
    dense = layer.out((total * (layer.pre(z) @ layer.table.pre_values.weight.T)) @ layer.table.values.weight)
    assert (layer(z) - dense).abs().max() < 1e-10


def test_ultramem_has_a_projector_for_each_block():
    torch.manual_seed(0)
    config = MemoryConfig("ultramem", n_keys=3, d_key=5, top=36, d_value=4, key_expand=2, heads=1, cores=1)
    layer = double(UltraMemLayer(config, 8))
    assert layer.scores.query.weight.shape == (2 * 5, 8)  # the ranks share a query
    z = torch.randn(5, 8, dtype=torch.float64)
    rows, columns = layer.scores(z)
    scores = torch.einsum("pti,pq,qtj->tij", rows, layer.cores[0], columns)
    expected = torch.zeros(5, 8, dtype=torch.float64)
    projectors = layer.out.weight.unflatten(1, (4, 4))
    for i in range(6):
        for j in range(6):
            virtual = int(layer.shuffle[((i // 3) * 2 + j // 3) * 9 + (i % 3) * 3 + j % 3])
            value = projectors[:, virtual // 9] @ layer.table.values.weight[virtual % 9]
            expected += scores[:, i, j, None] * value
    assert (layer(z) - expected).abs().max() < 1e-10


def test_pkm_and_peer_against_loops():
    torch.manual_seed(0)
    config = {"n_keys": 4, "d_key": 5, "top": 3, "d_value": 4, "heads": 2, "shuffle": False}
    z = torch.randn(5, 8, dtype=torch.float64)
    for kind, cls in (("pkm", PKMLayer), ("peer", PEERLayer)):
        layer = double(cls(MemoryConfig(kind, **config), 8))
        rows, columns = layer.scores(z)
        expected = torch.zeros(5, 8, dtype=torch.float64)
        for token in range(5):
            for head in range(2):
                at = token * 2 + head
                best = (rows[0, at][:, None] + columns[0, at]).flatten().topk(3)
                for share, slot in zip(best.values.softmax(0), best.indices, strict=True):
                    value = layer.table.values.weight[slot]
                    if kind == "pkm":
                        expected[token] += share * layer.out(value)
                    else:
                        expected[token] += share * F.gelu(layer.table.pre_values.weight[slot] @ z[token]) * value
        assert (layer(z) - expected).abs().max() < 1e-10


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("sparse", [False, True])
def test_reading_rows_against_gathering_them(parts, sparse):
    torch.manual_seed(0)
    values, pre = MemoryRows(20, 6, sparse).double(), MemoryRows(20, 4, sparse).double()
    ids = torch.randint(0, 9, (7, 5))
    results = []
    for fast in (True, False):
        values.zero_grad()
        pre.zero_grad()
        torch.manual_seed(1)
        x = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
        scores = torch.randn(7, 5, parts, dtype=torch.float64, requires_grad=True)
        if fast:
            out = row_sum(scores * row_products(x, pre, ids).unsqueeze(-1), values, ids)
        else:
            out = read_dense(scores, ids, values.weight, x, pre.weight)
        (out * torch.arange(42.0).view(7, 6).sin()).sum().backward()
        tables = [table.weight.grad.to_dense() for table in (values, pre)]
        assert values.weight.grad.is_sparse == (sparse and fast)
        results.append([out.detach(), x.grad, scores.grad, *tables])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_gradcheck_of_reading():
    torch.manual_seed(0)
    values, pre = MemoryRows(6, 4).double(), MemoryRows(6, 3).double()
    ids = torch.randint(0, 6, (3, 4))
    x = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    scores = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, scores, *_: row_sum(scores * row_products(x, pre, ids).unsqueeze(-1), values, ids),
        (x, scores, values.weight, pre.weight),
    )


@pytest.mark.parametrize("kind", list(LAYERS))
@pytest.mark.parametrize("sparse", [False, True])
def test_only_rows_that_were_read_have_a_gradient(kind, sparse):
    torch.manual_seed(0)
    config = MemoryConfig(kind, n_keys=12, d_key=8, top=3, heads=2, d_value=8, d_pre=4)
    table, layers = build_memory(config, 16, 64, 2, sparse=sparse)
    z = torch.randn(2, 3, 16)
    sum(layer(z).square().sum() for layer in layers).backward()
    read = torch.zeros(table.rows, dtype=torch.bool)
    for layer in layers:
        read[layer.ring.rows_of(layer.last_read.slots, layer.index)] = True
    assert 0 < read.sum() < table.rows / 2
    for part in (table.values, table.pre_values):
        if part is not None:
            touched = part.weight.grad.to_dense().abs().sum(1) > 0
            assert torch.equal(touched, read)
            assert part.weight.grad.is_sparse == sparse


def test_ring():
    for layers, size, shared in ((4, 6, 1), (4, 6, 2), (4, 6, 4), (3, 5, 2), (1, 7, 1)):
        ring = Ring(layers, size, shared)
        slots = torch.arange(ring.side**2)
        windows = [ring.rows_of(slots, layer) for layer in range(layers)]
        for window in windows:  # a bijection onto its window
            assert len(window.unique()) == ring.side**2
            assert 0 <= int(window.min()) <= int(window.max()) < ring.rows
        assert len(torch.cat(windows).unique()) == ring.rows
        if shared == 1:
            assert ring.side == size
            assert len(torch.cat(windows)) == ring.rows  # disjoint
    assert Ring(4, 6, 4).side ** 2 == Ring(4, 6, 4).rows  # all rows
    with pytest.raises(UserError, match="shared_tables: 5"):
        Ring(4, 6, 5)


@pytest.mark.parametrize("kind", list(LAYERS))
def test_state_dict_round_trip_is_bitwise(kind):
    config = MemoryConfig(kind, n_keys=8, d_key=8, top=4, d_value=8, d_pre=4)
    torch.manual_seed(0)
    layer = LAYERS[kind](config, 16)
    torch.manual_seed(1)
    other = LAYERS[kind](config, 16)
    z = torch.randn(9, 16)
    assert not torch.equal(layer(z), other(z))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(z), other(z))
    assert torch.equal(layer(z), copy.deepcopy(layer)(z))
    assert "shuffle" in layer.state_dict()
    assert kind not in ("ultramem", "ultramem_v2") or {"u", "t"} <= set(layer.state_dict())


CALIBRATED = [
    {},
    {"cores": 1},
    {"d_pre": 0, "top": 32},
    {"key_expand": 2, "n_keys": 32},
    {"d_key": 64, "n_keys": 100, "top": 48, "d_value": 64},
]


@pytest.mark.parametrize("options", CALIBRATED)
def test_calibrated_scores_and_output_variance(options):
    ratios, means = [], []
    for seed in range(4):
        torch.manual_seed(seed)
        config = MemoryConfig(**{"n_keys": 64, "d_key": 32, "top": 16, **options})
        layer = UltraMemV2Layer(config, 128, 512)
        with torch.no_grad():
            out = layer(torch.randn(400, 128))
        means.append(layer.last_read.scores.mean())
        ratios.append(out.var() / target_variance(512, 128, 1))
    assert torch.stack(means).mean().item() == pytest.approx(1.0, abs=0.05)
    assert 0.85 < torch.stack(ratios).mean() < 1.15


def test_constants_in_place_of_the_calibration_fail():
    torch.manual_seed(0)
    layer = UltraMemV2Layer(MemoryConfig(n_keys=64, top=16, init="released"), 128, 512)
    with torch.no_grad():
        out = layer(torch.randn(400, 128))
    assert not 0.85 < out.var() / target_variance(512, 128, 1) < 1.15
    assert not 0.9 < layer.last_read.scores.mean() < 1.1
    assert layer.table.values.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert layer.scores.query.weight.std().item() == pytest.approx(32**-0.5, rel=0.02)
    assert layer.pre.weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert layer.out.weight.std().item() == pytest.approx(32**-0.5, rel=0.05)


@pytest.mark.parametrize("layers", [1, 4])
def test_peer_starts_with_the_same_variance(layers):
    torch.manual_seed(0)
    config = MemoryConfig("peer", n_keys=32, d_key=16, top=16)
    _, made = build_memory(config, 64, 256, layers)
    with torch.no_grad():
        out = made[0](torch.randn(500, 64))
    assert out.var() / target_variance(256, 64, layers) == pytest.approx(1.0, abs=0.15)


def test_variance_of_a_stack_is_that_of_the_formula():
    torch.manual_seed(0)
    _, made = build_memory(MemoryConfig(n_keys=32, d_key=32, top=16), 64, 256, 4)
    z = torch.randn(500, 64)
    with torch.no_grad():
        ratio = torch.stack([layer(z).var() for layer in made]).mean() / target_variance(256, 64, 4)
    assert 0.85 < ratio < 1.15


def test_auxiliary_losses_against_their_formulas():
    torch.manual_seed(0)
    spectrum = torch.tensor([[2.0, 0.25, 0.1], [1.0, 0.5, 0.4]])
    expected = (0.1**2 + 0.35**2 + 0.25**2) / 2
    assert tucker_penalty(spectrum, 0.15).item() == pytest.approx(expected)
    layers = [UltraMemV2Layer(MemoryConfig(**SMALL), 8) for _ in range(2)]
    values = core_spectrum(layers)
    assert torch.allclose(values, torch.stack([torch.linalg.svdvals(layer.cores.sum(0)) for layer in layers]))

    rows, columns = (torch.randn(2, 5, 7) for _ in range(2))
    u, t = torch.tensor([0.8, 0.6]), torch.tensor([0.6, 0.8])
    chosen = tdqkr(rows, columns, torch.rand(1, 2, 2), u, t, 3)
    total = 0.0
    for scores, vector, ids in ((rows, u, chosen.rows), (columns, t, chosen.columns)):
        chance = (scores * vector[:, None, None]).sum(0).softmax(-1)
        for key in range(7):
            total += 7 * float((ids == key).sum()) / 15 * float(chance[:, key].mean()) / 2
    assert balance_loss(rows, columns, u, t, chosen).item() == pytest.approx(total, rel=1e-5)
    even = Selection(torch.arange(7)[None], torch.arange(7)[None], torch.ones(1, 7, 1))
    assert balance_loss(rows * 0, columns * 0, u, t, even).item() == pytest.approx(1.0)


@pytest.mark.parametrize("kind", LAYERS)
def test_one_token_without_a_batch_and_tokens_with_two(kind):
    torch.manual_seed(0)
    layer = double(LAYERS[kind](MemoryConfig(kind=kind, n_keys=4, top=4, d_key=8), 8))
    z = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(z)[1, 2, 3], layer(z[1, 2, 3]))
    assert layer(z[:, :0]).shape == (2, 0, 5, 8)


@pytest.mark.parametrize("kind", LAYERS)
def test_scores_of_bfloat16_weights_are_float32(kind):
    layer = LAYERS[kind](MemoryConfig(kind=kind, n_keys=4, top=4, d_key=8), 8).bfloat16()
    rows, columns = layer.scores(torch.randn(3, 8).bfloat16())
    assert rows.dtype == columns.dtype == torch.float32


def test_no_tokens_have_no_balance_loss():
    layer = UltraMemV2Layer(MemoryConfig(n_keys=4, top=4, d_key=8, balance=0.1), 8)
    layer(torch.randn(3, 8))
    assert layer.balance_loss() > 0
    layer(torch.randn(0, 8))
    assert layer.balance_loss() is None


def test_bf16_autocast_keeps_scores_in_float32():
    torch.manual_seed(0)
    layer = UltraMemV2Layer(MemoryConfig(n_keys=16, top=4, d_key=8), 24)
    z = torch.randn(10, 24)
    exact = layer(z)
    with torch.autocast("cpu", torch.bfloat16):
        rows, _ = layer.scores(z)
        out = layer(z)
    assert rows.dtype == torch.float32
    assert layer.last_read.scores.dtype == torch.float32
    assert F.cosine_similarity(out.float().flatten(), exact.flatten(), dim=0) > 0.9


def test_sizes_of_the_paper():
    config = MemoryConfig(n_keys=360, d_key=192, top=32, d_value=192, d_pre=192)
    found = sizes(50304, 768, 20, 2496, config)
    assert found.total == 1_180_753_920
    assert found.tables == 995_328_000
    assert found.activated == pytest.approx(225e6, rel=0.005)
    assert sizes(50304, 768, 20, 2496, MemoryConfig("none")).total == 20 * (4 * 768**2 + 3 * 768 * 2496)


def test_multiply_adds_against_torchs_count():
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    config = MemoryConfig(n_keys=32, d_key=16, top=8, d_value=32, d_pre=32, cores=1)
    layer = UltraMemV2Layer(config, 64, 128)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(torch.randn(100, 64))
    # the counter knows matrix products: not the weighted sum of values (m D_v) nor the aggregation of scores
    counted = counter.get_total_flops() / 2 / 100
    ours = token_macs(64, 0, config) - 8 * 32 - 2 * 2 * 32
    assert counted == pytest.approx(ours, rel=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "ultramemv2"}, "memory.kind: 'ultramemv2'.*did you mean 'ultramem_v2'"),
        ({"init": "papre"}, "memory.init: 'papre'"),
        ({"top": 37}, "memory.top: 37.*at most 36"),
        ({"d_value": 5}, "memory.d_value: 5.*multiple of 2"),
        ({"n_keys": 0}, "memory.n_keys: 0"),
        ({"balance": -1.0}, "memory.balance: -1.0"),
        ({"shared_tables": 3}, "shared_tables: 3.*at most 2 "),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(UserError, match=message):
        build_memory(MemoryConfig(**{**SMALL, **options}), 8, 32, 2)
