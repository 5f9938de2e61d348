"""Speech Commands: one-second recordings of single words, as raw audio.

Data: Warden 2018, arXiv 1804.03209. The task on raw audio and its transfer to half the sampling rate: Gu et al. 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.images.labelled import LabelledImages, stratified_split
from datamodules.images.sources import check_declared
from framework.data import DataModule
from framework.errors import UserError
from framework.readers.listing import list_files, list_folders
from framework.readers.sound import read_wav
from framework.readers.text import read_lines
from framework.settings import at_least, divides

RATE = 16_000
LENGTH = 16_000
_SILENCE = "_background_noise_"
# The pitch contour of each synthetic word: low or high at its beginning, middle and end.
_CONTOURS = (
    "low low low",
    "low low high",
    "low high low",
    "low high high",
    "high low low",
    "high low high",
    "high high low",
    "high high high",
)
# Files, or recordings in memory; and the class of each.
Part = tuple[list[Path] | np.ndarray, np.ndarray]


def read_recording(path: Path) -> np.ndarray:
    """Reads a mono recording at 16 kHz.

    Returns:
        float32 in [-1, 1], shape ``(samples,)``.

    Raises:
        UserError: the file is missing or broken, has another rate, or more than one channel.
    """
    rate, samples = read_wav(path)
    if rate != RATE:
        raise UserError(f"{path}: sampled at {rate} Hz, {RATE} Hz expected")
    if samples.shape[1] != 1:
        raise UserError(f"{path}: {samples.shape[1]} channels, one expected")
    return samples[:, 0].astype(np.float32)


class SpeechDataset(Dataset):
    """Recordings cut or padded with zeros to one second, read when they are needed.

    Args:
        items: Files, or recordings in memory, int16 of shape ``(N, 16000)``.
        labels: Class of each recording.
        rate: Every ``rate``-th sample is kept.
    """

    draws_random_numbers = False

    def __init__(self, items: list[Path] | np.ndarray, labels: np.ndarray, rate: int) -> None:
        self.items = items
        self.labels = torch.from_numpy(labels)
        self.rate = rate

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.__getitems__([index])
        return x[0], y[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Audio float32 ``(B, L, 1)`` and classes ``(B,)``."""
        rows = [int(index) for index in indices]
        audio = np.zeros((len(rows), LENGTH), np.float32)
        if isinstance(self.items, np.ndarray):
            audio[:] = self.items[rows].astype(np.float32) / 32768
        else:
            for i, row in enumerate(rows):
                samples = read_recording(self.items[row])[:LENGTH]
                audio[i, : len(samples)] = samples
        kept = np.ascontiguousarray(audio[:, :: self.rate])
        return torch.from_numpy(kept)[..., None], self.labels[rows]


@lru_cache(maxsize=2)
def synthetic_words(per_word: int, seed: int) -> LabelledImages:
    """Synthetic "words": tones that glide between a low and a high pitch, eight contours of three points each.

    Pitch, loudness, onset and duration vary at random; noise is added. This is not speech but synthetic data of the
    same shape and rate. All frequencies are below 3 kHz, so half the sampling rate loses nothing.

    Args:
        per_word: Number of recordings of each of the eight words.
        seed: Seed of all recordings.

    Returns:
        Recordings in ``images``, as int16 of shape ``(8 * per_word, 16000)``, with their classes.
    """
    generator = np.random.default_rng(seed)
    names = tuple("synthetic_" + contour.replace(" ", "_") for contour in _CONTOURS)
    recordings = np.empty((len(names) * per_word, LENGTH), np.int16)
    time = np.arange(LENGTH) / RATE
    for row in range(len(recordings)):
        knots = [400.0 if level == "low" else 800.0 for level in _CONTOURS[row // per_word].split()]
        onset, duration = generator.uniform(0.0, 0.3), generator.uniform(0.4, 0.7)
        place = (time - onset) / duration
        pitch = np.interp(place, (0.0, 0.5, 1.0), knots) * 2 ** generator.uniform(-0.3, 0.3)
        phase = 2 * np.pi * (np.cumsum(pitch) / RATE + generator.random())
        envelope = np.where((place > 0) & (place < 1), np.sin(np.pi * np.clip(place, 0, 1)) ** 0.5, 0.0)
        tone = np.sin(phase) + 0.3 * np.sin(2 * phase)
        audio = generator.uniform(0.1, 0.5) * envelope * tone + 0.01 * generator.standard_normal(LENGTH)
        recordings[row] = np.rint(np.clip(audio, -1, 1) * 32767)
    return LabelledImages(recordings, np.repeat(np.arange(len(names)), per_word), names)


class SpeechCommands(DataModule):
    """Speech Commands from its folders, or small synthetic data of the same form.

    Batches are ``(x, y)``: ``x`` float32 in [-1, 1], ``(B, length, 1)``; ``y`` int64 ``(B,)``. The set has a folder of
    WAV files (16 kHz, mono) for each word, and ``validation_list.txt`` and ``testing_list.txt`` with lines
    ``<word>/<file>.wav``; all other files are for training. Files are read as they are needed.

    Reads: ``<word>/*.wav`` (16 kHz, mono, PCM or float; suffix in any case) with the official lists. Without a path:
        synthetic tone words.

    Args:
        path: The folder; by default eight synthetic words of gliding tones are generated, which are not speech.
        words: The words to use, in the order of class numbers; by default all folders by name, except
            ``_background_noise_``.
        rate: Every ``rate``-th sample is kept, without a filter: 2 is the paper's transfer to 8 kHz.
        synthetic_per_word: Recordings of each synthetic word.
        seed: Seed of the synthetic words and of their split.
        num_classes: If given, checked against the data; a config can pass it on to the model.
        batch_size: Recordings in a training batch, per process.
        eval_batch_size: Recordings in an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes.
        drop_last: Whether training drops an incomplete last batch.

    Attributes:
        length: Number of samples in a recording.
        d_input: 1.
        num_classes: Words (after ``setup``).
        class_names: Their names (after ``setup``).

    Raises:
        UserError: a setting is not accepted (in the constructor); a folder, a list, or a file in it is missing (in
            ``setup``); a recording cannot be read (when it is needed).
    """

    d_input = 1

    def __init__(
        self,
        path: str | Path | None = None,
        words: tuple[str, ...] | None = None,
        rate: int = 1,
        synthetic_per_word: int = 60,
        seed: int = 0,
        num_classes: int | None = None,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, drop_last)
        at_least(1, num_classes=num_classes)
        divides({"the samples of a recording": LENGTH}, rate=rate)
        at_least(10, synthetic_per_word=synthetic_per_word)
        self.path, self.words, self.rate, self.seed = path, words, rate, seed
        self.synthetic_per_word = synthetic_per_word
        self.length = LENGTH // rate
        self.num_classes = num_classes
        self.class_names: tuple[str, ...] = ()
        self._declared_classes = num_classes
        if path is None:
            rank_zero_info(f"{type(self).__name__}: no path given, making {len(_CONTOURS)} synthetic words of tones")

    def setup(self, stage: str | None = None) -> None:
        """Lists the files, or generates the synthetic words, once."""
        if self.train_set is not None:
            return
        parts = self._synthetic() if self.path is None else self._listed(Path(self.path).expanduser())
        self.num_classes = len(self.class_names)
        check_declared("num_classes", self._declared_classes, self.num_classes, str(self.path or "the synthetic set"))
        self.train_set, self.val_set, self.test_set = (
            SpeechDataset(items, labels, self.rate) for items, labels in parts
        )

    def _chosen(self, found: tuple[str, ...], where: str) -> tuple[str, ...]:
        for word in self.words or ():
            if word not in found:
                near = get_close_matches(word, found, n=1, cutoff=0.0)[0]
                raise UserError(f"words: {word!r} is not in {where}; nearest: {near!r}")
        return tuple(self.words or found)

    def _synthetic(self) -> list[Part]:
        whole = synthetic_words(self.synthetic_per_word, self.seed)
        self.class_names = self._chosen(whole.class_names, "the synthetic set")
        number = np.array([self.class_names.index(n) if n in self.class_names else -1 for n in whole.class_names])
        labels = number[whole.labels]
        audio, labels = whole.images[labels >= 0], labels[labels >= 0]
        rest, test = stratified_split(labels, 0.2, self.seed)
        first, second = stratified_split(labels[rest], 0.125, self.seed)
        return [(audio[rows], labels[rows]) for rows in (rest[first], rest[second], test)]

    def _listed(self, folder: Path) -> list[Part]:
        names = ("validation_list.txt", "testing_list.txt")
        lists = [read_lines(folder / name, expected="a list of <word>/<file>.wav") for name in names]
        folders = {name: path for name, path in list_folders(folder).items() if name != _SILENCE}
        found = tuple(folders)
        if not found:
            raise UserError(f"{folder}: has no folders; expected one for each word, with WAV files inside")
        self.class_names = self._chosen(found, str(folder))
        files = {
            f"{word}/{file.name}": file
            for word in self.class_names
            for file in list_files(folders[word], (".wav",), deep=False).files
        }
        parts: list[list[str]] = []
        for name, lines in zip(names, lists, strict=True):
            parts.append([])
            for number, line in lines:
                line = line.strip()
                word = line.partition("/")[0]
                if word in found and word not in self.class_names:
                    continue  # a word that was not chosen
                if line not in files:
                    raise UserError(f"{folder / name}, line {number}: {line!r} is not a file in {folder}")
                parts[-1].append(line)
        held_out = set(parts[0]) | set(parts[1])
        parts.insert(0, [name for name in files if name not in held_out])
        for name, part in zip(("training", "validation", "test"), parts, strict=True):
            if not part:
                raise UserError(f"{folder}: no file is left for {name}")
        number_of = {word: i for i, word in enumerate(self.class_names)}
        return [
            ([files[name] for name in part], np.array([number_of[name.partition("/")[0]] for name in part], np.int64))
            for part in parts
        ]
