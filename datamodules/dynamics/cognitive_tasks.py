"""Trials of small cognitive tasks: two-alternative choice, delayed match to sample, context-dependent choice.

Tasks and timings are those of neurogym, as Liu et al. 2024 (arXiv 2310.08513) use them: 8 steps of 100 ms, Gaussian
noise of standard deviation 0.1; the target is fixation (class 0) until the last step, which is the choice.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from framework.data.arrays import WholeBatch
from framework.data.whole import WholeData
from framework.errors import UserError
from framework.readers.arrays import check_arrays, float32, labels_of, read_arrays
from framework.settings import at_least, one_of

STEPS = 8
Trials = tuple[Tensor, Tensor]


def _pick(values: list[float], trials: int, generator: torch.Generator) -> Tensor:
    return torch.tensor(values)[torch.randint(len(values), (trials,), generator=generator)]


def _noise(sigma: float, *shape: int, generator: torch.Generator) -> Tensor:
    return sigma * torch.randn(*shape, generator=generator)


def _labels(choice: Tensor) -> Tensor:
    """Returns (N, 8): 0, and 1 + the choice in the last step."""
    y = torch.zeros(len(choice), STEPS, dtype=torch.uint8)
    y[:, -1] = 1 + choice
    return y


def two_alternatives(trials: int, generator: torch.Generator, sigma: float = 0.1) -> Trials:
    """Which of two directions is stronger (``2af``): 7 steps of stimulus, then the choice.

    Args:
        trials: N.
        generator: Source of randomness.
        sigma: Standard deviation of the noise.

    Returns:
        x (N, 8, 3) float32: fixation, then the channels of 0 and π, ½ + cos(θ − θ_c) coherence/200 + noise; y (N, 8).
    """
    choice = torch.randint(2, (trials,), generator=generator)
    coherence = _pick([0.0, 6.4, 12.8, 25.6, 51.2], trials, generator)
    x = torch.zeros(trials, STEPS, 3)
    x[:, :7, 0] = 1
    tilt = (1 - 2 * choice) * coherence / 200
    x[:, :7, 1:] = 0.5 + torch.stack([tilt, -tilt], 1)[:, None] + _noise(sigma, trials, 7, 2, generator=generator)
    return x, _labels(choice)


def match_to_sample(trials: int, generator: torch.Generator, sigma: float = 0.1) -> Trials:
    """Whether two directions are the same (``dms``): sample, 5 steps of delay, test, then the choice (1 match, 2 not).

    Args:
        trials: N.
        generator: Source of randomness.
        sigma: Standard deviation of the noise.

    Returns:
        x (N, 8, 3) float32: fixation, then the channels of 0 and π, ½ + ½ cos(θ − angle) + noise; y (N, 8).
    """
    sample = torch.randint(2, (trials,), generator=generator)
    differs = torch.randint(2, (trials,), generator=generator)
    x = torch.zeros(trials, STEPS, 3)
    x[:, :7, 0] = 1
    for step, angle in ((0, sample), (6, sample ^ differs)):
        shown = torch.nn.functional.one_hot(angle, 2).float()
        x[:, step, 1:] = shown + _noise(sigma, trials, 2, generator=generator)
    return x, _labels(differs)


def context_choice(trials: int, generator: torch.Generator, sigma: float = 0.1) -> Trials:
    """Which of two inputs is stronger in the modality that a cue names (``cxt``): 2 steps of stimulus, 5 of delay.

    Args:
        trials: N.
        generator: Source of randomness.
        sigma: Standard deviation of the noise, on all channels during the stimulus.

    Returns:
        x (N, 8, 7) float32: fixation, two channels of each modality, (1 ± coherence/100)/2, and the cue, present in all
        steps; y (N, 8).
    """
    context = torch.randint(2, (trials,), generator=generator)
    choices = torch.randint(2, (trials, 2), generator=generator)
    x = torch.zeros(trials, STEPS, 7)
    x[:, :7, 0] = 1
    for modality in range(2):
        tilt = (1 - 2 * choices[:, modality]) * _pick([5.0, 15.0, 50.0], trials, generator) / 100
        stimulus = torch.stack([1 + tilt, 1 - tilt], 1) / 2
        x[:, :2, 1 + 2 * modality : 3 + 2 * modality] = stimulus[:, None]
    x[:, :2] += _noise(sigma, trials, 2, 7, generator=generator)
    x[torch.arange(trials), :, 5 + context] += 1
    return x, _labels(choices[torch.arange(trials), context])


Task = Literal["2af", "dms", "cxt"]
TASKS: dict[Task, Callable[[int, torch.Generator, float], Trials]] = {
    "2af": two_alternatives,
    "dms": match_to_sample,
    "cxt": context_choice,
}


def read_trials(path: Path) -> Trials:
    """Reads ``.npz`` with ``x`` (N, T, I) and classes ``y`` (N, T), or (N,) if only the last step counts; in a folder
    it reads ``trials.npz``.

    Raises:
        UserError: there is no such file, or it has other contents.
    """
    expected = ".npz with x (N, T, I) and y, classes of 0 and more, (N, T) or (N,)"
    path = path / "trials.npz" if path.is_dir() else path
    arrays = read_arrays(path, expected)
    last_only = "y" in arrays and arrays["y"].ndim == 1
    check_arrays(arrays, {"x": "N T I", "y": "N" if last_only else "N T"}, path, expected)
    y = labels_of(arrays["y"].reshape(-1), "y", path).reshape(arrays["y"].shape)
    return torch.as_tensor(float32(arrays["x"], "x", path)), torch.as_tensor(y)


def held_out(x: Tensor, y: Tensor, probes: int) -> dict[str, Tensor]:
    """A batch of trials: ``x`` and ``y``; ``probe``, the first of them; ``test_x`` and ``test_y``, the last fifth.

    Args:
        x: (N, T, I).
        y: Classes (N, T).
        probes: Largest number of trials in ``probe``.

    Raises:
        UserError: there are fewer than two trials.
    """
    if len(x) < 2:
        raise UserError("path: one trial is not enough; two or more are needed, a fifth of them to test on")
    kept = len(x) - max(1, len(x) // 5)
    return {"x": x[:kept], "y": y[:kept], "probe": x[:kept][:probes], "test_x": x[kept:], "test_y": y[kept:]}


class CognitiveTasks(WholeData):
    """Trials x (N, T, I) with classes y (N, T), all in each batch; ``probe`` (P, T, I), ``test_x`` and ``test_y``.

    Reads: ``.npz`` of trials x (N, T, I) and classes y, finite numbers only. Without a path: 2AF, DMS, CXT, generated.

    Args:
        path: The user's ``.npz`` (:func:`read_trials`); its last fifth is for testing.
        task: Without a path: ``2af`` (3 inputs), ``dms`` (3 inputs) or ``cxt`` (7 inputs), all of 3 classes.
        trials: N; with N = batch size times number of steps, no trial is used twice.
        probes: Largest P; without a path these trials are drawn before the others.
        test_trials: Number of test trials without a path.
        sigma: Standard deviation of the noise.
        seed: Seed of the draws.
        passes: Batches in an epoch.

    Raises:
        UserError: a setting is not accepted; the file cannot be read or is something else (in ``setup``).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        task: Task = "2af",
        trials: int = 96_000,
        probes: int = 320,
        test_trials: int = 1000,
        sigma: float = 0.1,
        seed: int = 0,
        passes: int = 10,
    ) -> None:
        super().__init__(batch_size=1)
        at_least(0, sigma=sigma)
        one_of(get_args(Task), task=task)
        at_least(1, trials=trials, probes=probes, test_trials=test_trials, passes=passes)
        at_least(0, sigma=sigma)
        self.path, self.task, self.trials, self.probes, self.test_trials = path, task, trials, probes, test_trials
        self.sigma, self.seed, self.passes = sigma, seed, passes

    def setup(self, stage: str) -> None:
        """Reads or draws the trials."""
        if self.path is not None:
            batch = held_out(*read_trials(Path(self.path).expanduser()), self.probes)
        else:
            generator = torch.Generator().manual_seed(self.seed)
            draw = TASKS[self.task]
            probe, _ = draw(self.probes, generator, self.sigma)
            test_x, test_y = draw(self.test_trials, generator, self.sigma)
            x, y = draw(self.trials, generator, self.sigma)
            batch = {"x": x, "y": y, "probe": probe, "test_x": test_x, "test_y": test_y}
        self.train_set = WholeBatch(batch, self.passes)
