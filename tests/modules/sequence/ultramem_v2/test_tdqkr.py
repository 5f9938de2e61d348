"""TDQKR against exhaustive scoring; the sign of the singular vectors; product keys; gradients of the scores."""

import pytest
import torch

from modules.sequence.ultramem_v2.keys import KeyScores
from modules.sequence.ultramem_v2.layers import MemoryConfig, UltraMemV2Layer, refresh
from modules.sequence.ultramem_v2.tdqkr import exhaustive, leading_pairs, product_keys, slot_scores, tdqkr


def random_scores(rank, tokens, size, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rank, tokens, size, generator=generator, dtype=dtype) for _ in range(2)]


def pairs(core):
    zero = torch.zeros(1, len(core), dtype=core.dtype)
    u, t, values = leading_pairs(core[None], zero, zero)
    return u[0], t[0], values[0]


def core_of(ratio, rank=2, seed=0):
    """A core with singular values 1 and ``ratio``."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn(rank, rank, generator=generator, dtype=torch.float64))[0] for _ in "ab")
    values = torch.full((rank,), ratio, dtype=torch.float64)
    values[0] = 1
    return left @ torch.diag(values) @ right


def recall(found, expected, size):
    """Share of the expected slots (those with a finite score) that were found."""
    ids = found.rows * size + found.columns
    wanted = expected.rows * size + expected.columns
    return (wanted[:, :, None] == ids[:, None, :]).any(-1).float()


@pytest.mark.parametrize("cores", [1, 2])
def test_all_candidates_is_exhaustive(cores):
    rows, columns = random_scores(2, 7, 6)
    core = torch.rand(cores, 2, 2, dtype=torch.float64)
    u, t, _ = pairs(core.sum(0))
    found, expected = tdqkr(rows, columns, core, u, t, 36), exhaustive(rows, columns, core, 36)
    assert torch.equal(found.rows, expected.rows)
    assert torch.equal(found.columns, expected.columns)
    assert torch.allclose(found.scores, expected.scores, atol=1e-12)
    table = torch.einsum("pti,cpq,qtj->tcij", rows, core, columns)
    picked = torch.stack([table[k, :, found.rows[k], found.columns[k]].T for k in range(7)])
    assert torch.allclose(found.scores, picked, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_a_rank_one_core_finds_all_of_the_best_positive_slots(seed):
    rows, columns = random_scores(2, 80, 64, seed)
    core = core_of(0.0, seed=seed)
    u, t, _ = pairs(core)
    found = tdqkr(rows, columns, core[None], u, t, 16)
    positive = exhaustive(rows, columns, core[None], 16, u, t)
    assert recall(found, positive, 64).mean() == 1.0
    # without the restriction pairs of two negative scores take half of the places, and are never candidates
    everything = exhaustive(rows, columns, core[None], 16)
    assert 0.35 < recall(found, everything, 64).mean() < 0.65


def test_flipping_both_vectors_selects_the_mirror():
    rows, columns = random_scores(2, 20, 16)
    core = core_of(0.2)
    u, t, _ = pairs(core)
    flipped = tdqkr(rows, columns, core[None], -u, -t, 5)
    mirrored = tdqkr(-rows, -columns, core[None], u, t, 5)
    assert torch.equal(flipped.rows, mirrored.rows)
    assert torch.equal(flipped.columns, mirrored.columns)
    assert not torch.equal(flipped.rows, tdqkr(rows, columns, core[None], u, t, 5).rows)


def test_the_sign_never_flips_while_the_core_drifts():
    generator = torch.Generator().manual_seed(0)
    # four layers; singular vectors with entries of both signs, so that no rule on one matrix alone keeps the sign
    cores = torch.stack([core_of(0.2, rank=3, seed=seed) for seed in range(4)])
    u, t, values = leading_pairs(cores, torch.zeros(4, 3), torch.zeros(4, 3))
    flips = 0
    for _ in range(200):
        cores = cores + 0.03 * torch.randn(4, 3, 3, generator=generator, dtype=torch.float64)
        before = u, t
        u, t, values = leading_pairs(cores, u, t)
        assert ((u * before[0]).sum(-1) > 0).all()
        assert ((t * before[1]).sum(-1) > 0).all()
        assert torch.allclose((u[:, :, None] * cores * t[:, None]).sum((1, 2)), values[:, 0])
        flips += int(((torch.linalg.svd(cores)[0][..., 0] * u).sum(-1) < 0).sum())
    assert flips > 20  # what untracked vectors would have done


def test_without_a_pair_before_the_sum_is_positive():
    zero = torch.zeros(1, 2, dtype=torch.float64)
    core = torch.rand(1, 2, 2, dtype=torch.float64)
    u, t, _ = leading_pairs(core, zero, zero)
    assert (u > 0).all()
    assert (t > 0).all()
    for pair in ((u, t), (-u, -t)):
        again = leading_pairs(core, *pair)
        assert torch.equal(again[0], pair[0])
        assert torch.equal(again[1], pair[1])


def test_gradients_of_the_scores():
    torch.manual_seed(0)
    rows, columns = random_scores(2, 3, 5)
    core = torch.rand(2, 2, 2, dtype=torch.float64)
    u, t, _ = pairs(core.sum(0))
    chosen = tdqkr(rows, columns, core, u, t, 4)
    inputs = [part.requires_grad_() for part in (rows, columns, core)]
    assert torch.autograd.gradcheck(lambda *args: slot_scores(*args, chosen.rows, chosen.columns), inputs)

    keys = KeyScores(6, 4, 5, rank=2).double()
    z = torch.randn(3, 6, dtype=torch.float64)

    def scores(weight, rows_and_columns, gain, core):
        state = {"query.weight": weight, "keys": rows_and_columns, "key_gain": gain}
        found = torch.func.functional_call(keys, state, (z,))
        return slot_scores(*found, core, chosen.rows, chosen.columns)

    inputs = [part.detach().clone().requires_grad_() for part in (keys.query.weight, keys.keys, keys.key_gain, core)]
    assert torch.autograd.gradcheck(scores, inputs)


def test_the_gradient_through_retrieval_is_that_of_exhaustive_scoring():
    core = torch.rand(1, 2, 2, dtype=torch.float64)
    u, t, _ = pairs(core[0])
    gradients = []
    for retrieve in (lambda *a: tdqkr(*a, u, t, 36), lambda *a: exhaustive(*a, 36)):
        inputs = [part.requires_grad_() for part in (*random_scores(2, 4, 6), core.clone())]
        retrieve(*inputs).scores.square().sum().backward()
        gradients.append([part.grad for part in inputs])
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_product_keys_are_exact():
    rows, columns = random_scores(1, 30, 12)
    found = product_keys(rows, columns, 9)
    table = (rows[0][:, :, None] + columns[0][:, None]).flatten(1)
    best = table.topk(9)
    assert torch.equal(found.rows * 12 + found.columns, best.indices)
    assert torch.allclose(found.scores[..., 0], best.values)


@pytest.mark.parametrize(("shared_query", "shared_keys", "heads"), [(0, 0, 1), (1, 0, 1), (0, 0, 3), (0, 1, 3)])
def test_keys_against_loops(shared_query, shared_keys, heads):
    torch.manual_seed(0)
    layer = KeyScores(8, 5, 7, rank=2, heads=heads, shared_query=bool(shared_query), shared_keys=bool(shared_keys))
    with torch.no_grad():
        layer.query_gain.uniform_(0.5, 1.5)
        layer.key_gain.uniform_(0.5, 1.5)
    z = torch.randn(4, 8)
    rows, columns = layer(z)

    def norm(x, gain):
        return x / x.square().mean(-1, keepdim=True).add(1e-6).sqrt() * gain

    query = layer.query(z).view(4, 2, 1 if shared_query else 2, heads, 5)
    for side, found in enumerate((rows, columns)):
        for rank in range(2):
            for head in range(heads):
                q = norm(query[:, side, 0 if shared_query else rank, head], layer.query_gain)
                k = norm(layer.keys[side, rank, 0 if shared_keys else head], layer.key_gain)
                assert torch.allclose(found[rank, head::heads], q @ k.T, atol=1e-5)


def test_the_first_forward_uses_the_singular_vectors():
    torch.manual_seed(0)
    layer = UltraMemV2Layer(MemoryConfig(n_keys=16, top=4, d_key=8), 24)
    z = torch.randn(10, 24)
    first = layer(z)
    u, t = layer.u.clone(), layer.t.clone()
    refresh([layer])
    assert torch.equal(u, layer.u)
    assert torch.equal(t, layer.t)
    assert torch.equal(first, layer(z))
    layer.u.zero_()
    layer.t.zero_()
    assert not torch.allclose(first, layer(z))
