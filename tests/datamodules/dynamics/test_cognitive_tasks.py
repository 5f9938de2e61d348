"""Trials of the three tasks: frequencies, noise, what is shown and when; the user's trials."""

import numpy as np
import pytest
import torch

from datamodules.dynamics.cognitive_tasks import (
    TASKS,
    CognitiveTasks,
    context_choice,
    match_to_sample,
    two_alternatives,
)
from framework.errors import UserError

N = 4000


def drawn(task, sigma=0.1, seed=0):
    return TASKS[task](N, torch.Generator().manual_seed(seed), sigma)


def batch_of(**options):
    data = CognitiveTasks(**{"trials": 50, "test_trials": 20, "probes": 10, **options})
    data.setup("fit")
    return data.train_set.batch


@pytest.mark.parametrize(("task", "inputs"), [("2af", 3), ("dms", 3), ("cxt", 7)])
def test_shapes_and_labels(task, inputs):
    x, y = drawn(task)
    assert x.shape == (N, 8, inputs)
    assert x.dtype == torch.float32
    assert not y[:, :-1].any()  # fixation
    assert set(y[:, -1].tolist()) == {1, 2}
    assert float((y[:, -1] == 1).double().mean()) == pytest.approx(0.5, abs=0.03)
    assert torch.equal(x[:, :7, 0].mean(1).round(), torch.ones(N))
    assert not x[:, 7, 0].any()


@pytest.mark.parametrize(("task", "times"), [("2af", range(7)), ("dms", (0, 6)), ("cxt", range(2))])
def test_noise_of_a_tenth_where_something_is_shown_and_nowhere_else(task, times):
    (noisy, _), (clean, _) = drawn(task), drawn(task, sigma=0.0)
    shown = {"2af": slice(1, 3), "dms": slice(1, 3), "cxt": slice(0, 7)}[task]
    # the draws of a trial do not depend on sigma
    difference = noisy - clean
    for t in range(8):
        part = difference[:, t, shown]
        if t in times:
            assert float(part.std()) == pytest.approx(0.1, rel=0.03)
            assert float(part.mean()) == pytest.approx(0, abs=0.005)
        else:
            assert not part.any()


def test_what_is_shown_of_two_alternatives():
    x, y = two_alternatives(N, torch.Generator().manual_seed(0), 0.0)
    assert not x[:, 7].any()
    assert torch.equal(x[:, 1:7], x[:, :1].expand(-1, 6, -1))
    tilt = x[:, 0, 1] - 0.5
    torch.testing.assert_close(x[:, 0, 2] - 0.5, -tilt)
    coherence = (200 * tilt.abs()).round(decimals=2)
    values, counts = coherence.unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([0.0, 6.4, 12.8, 25.6, 51.2]))
    assert float((counts / N - 0.2).abs().max()) < 0.03
    assert torch.equal((tilt > 0)[coherence > 0], (y[:, -1] == 1)[coherence > 0])


def test_what_is_shown_of_sample_and_test():
    x, y = match_to_sample(N, torch.Generator().manual_seed(0), 0.0)
    assert not x[:, 1:6, 1:].any()
    for t in (0, 6):
        assert torch.equal(x[:, t, 1:].sort(1).values, torch.tensor([0.0, 1.0]).expand(N, 2))
    assert torch.equal((x[:, 0] == x[:, 6]).all(1), y[:, -1] == 1)
    assert float(x[:, 0, 1].mean()) == pytest.approx(0.5, abs=0.03)


def test_what_is_shown_of_two_modalities_and_a_context():
    x, y = context_choice(N, torch.Generator().manual_seed(0), 0.0)
    cue = x[:, 0, 5:]
    assert torch.equal(x[:, :, 5:], cue[:, None].expand(-1, 8, -1))
    assert torch.equal(cue.sum(1), torch.ones(N))
    assert not x[:, 2:, 1:5].any()
    both = x[:, 0, 1:5].unflatten(1, (2, 2))
    torch.testing.assert_close(both.sum(2), torch.ones(N, 2))
    values = (100 * (both[..., 0] - both[..., 1]).abs()).round().unique()
    assert values.tolist() == [5, 15, 50]
    cued = both[torch.arange(N), cue.argmax(1)]
    assert torch.equal(cued.argmax(1) + 1, y[:, -1].long())
    assert float((both[:, 0].argmax(1) == both[:, 1].argmax(1)).double().mean()) == pytest.approx(0.5, abs=0.03)


def test_two_alternatives_are_those_of_neurogym_without_noise(monkeypatch):
    """But for the fixation channel, which its versions set in different periods."""
    for name in ("PYGAME_HIDE_SUPPORT_PROMPT", "SDL_AUDIODRIVER"):  # pygame, which it imports, sets them
        monkeypatch.setenv(name, "dummy")
    native = pytest.importorskip("neurogym.envs.native.perceptualdecisionmaking")
    timing = {"fixation": 0, "stimulus": 700, "delay": 0, "decision": 100}
    peer = native.PerceptualDecisionMaking(dt=100, timing=timing, sigma=0, dim_ring=2)
    x, y = two_alternatives(N, torch.Generator().manual_seed(0), 0.0)
    tilt, seen = x[:, 0, 1] - 0.5, set()
    for _ in range(60):
        trial = peer.new_trial()
        choice, coherence = int(trial["ground_truth"]), float(trial["coh"])
        same = (y[:, -1] == 1 + choice) & ((200 * tilt.abs() - coherence).abs() < 0.01)
        own = int(same.nonzero()[0])
        np.testing.assert_allclose(x[own, :, 1:], peer.ob[:, 1:], atol=1e-6)
        np.testing.assert_array_equal(y[own], peer.gt)
        seen.add((choice, coherence))
    assert len(seen) == 10


def test_a_batch_holds_all_of_them_and_the_probe_does_not_depend_on_their_number():
    found, more = batch_of(), batch_of(trials=80)
    assert {name: len(value) for name, value in found.items()} == {
        "x": 50,
        "y": 50,
        "probe": 10,
        "test_x": 20,
        "test_y": 20,
    }
    assert torch.equal(found["probe"], more["probe"])
    assert torch.equal(found["test_x"], more["test_x"])
    assert not torch.equal(found["x"], batch_of(seed=1)["x"])


def test_trials_of_a_file(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 5, 2)), rng.integers(0, 3, (20, 5))
    np.savez(tmp_path / "trials.npz", x=x, y=y)
    found = batch_of(path=str(tmp_path / "trials.npz"))
    np.testing.assert_allclose(found["x"], x[:16].astype(np.float32))
    np.testing.assert_array_equal(found["test_y"], y[16:])
    np.testing.assert_array_equal(found["probe"], found["x"][:10])
    assert torch.equal(batch_of(path=str(tmp_path))["x"], found["x"])  # the folder's trials.npz
    np.savez(tmp_path / "last.npz", x=x, y=y[:, -1])
    assert batch_of(path=str(tmp_path / "last.npz"))["y"].shape == (16,)


def test_files_with_something_else_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.npz: not found"):
        batch_of(path=str(tmp_path / "none.npz"))
    x, y = np.zeros((6, 4, 2)), np.zeros((6, 4), dtype=int)
    bad = [{"x": x}, {"x": x[0], "y": y}, {"x": x, "y": y[:5]}, {"x": x, "y": y + 0.5}, {"x": x, "y": y - 1}]
    for arrays in [*bad, {"x": x * np.nan, "y": y}]:
        np.savez(tmp_path / "bad.npz", **arrays)
        with pytest.raises(UserError, match=r"bad\.npz: "):
            batch_of(path=str(tmp_path / "bad.npz"))
    (tmp_path / "broken.npz").write_bytes(b"no array")
    with pytest.raises(UserError, match=r"broken\.npz: cannot be read"):
        batch_of(path=str(tmp_path / "broken.npz"))
    np.savez(tmp_path / "one.npz", x=x[:1], y=y[:1])
    with pytest.raises(UserError, match="one trial is not enough"):
        batch_of(path=str(tmp_path / "one.npz"))


@pytest.mark.parametrize(
    ("options", "key"),
    [({"task": "go"}, "task"), ({"trials": 0}, "trials"), ({"sigma": -1.0}, "sigma"), ({"passes": 0}, "passes")],
)
def test_bad_settings_are_named(options, key):
    with pytest.raises(UserError, match=f"^{key}:"):
        CognitiveTasks(**options)
