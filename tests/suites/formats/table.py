"""Every format that a datamodule reads, one row each; a new datamodule adds its rows here.

A row writes a small but whole data set, names the file in it that the faults damage, and reads it by its datamodule.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.io import wavfile
from tiny_files import (
    name_sentences,
    token_splits,
    write_bidmc,
    write_cifar,
    write_feature_tables,
    write_features_npz,
    write_idx,
    write_images,
    write_latents,
    write_mnist_npz,
    write_pairs,
    write_phantom_parts,
    write_prompts,
    write_pug,
    write_radiographs,
    write_speech,
    write_token_arrow,
    write_token_files,
    write_token_npy,
    write_trials,
    write_tsv,
)

from datamodules.dynamics.circle import Circle
from datamodules.dynamics.cognitive_tasks import CognitiveTasks
from datamodules.dynamics.correlations import Correlations
from datamodules.dynamics.digits_component import DigitsComponent
from datamodules.dynamics.few_examples import FewExamples
from datamodules.dynamics.noisy_teacher import NoisyTeacher
from datamodules.dynamics.quadratic_teacher import QuadraticTeacher
from datamodules.dynamics.sensing import MatrixSensing
from datamodules.dynamics.sequential_rows import SequentialRows
from datamodules.finetuning.frozen_features import FrozenFeatures
from datamodules.finetuning.instructions import InstructionData
from datamodules.finetuning.labelled_text import LabelledText
from datamodules.finetuning.text import TextData
from datamodules.finetuning.transfer_digits import TransferDigits
from datamodules.finetuning.two_task import TwoTask
from datamodules.in_context.prompts import Prompts
from datamodules.in_context.sentence_pairs import SentencePairs
from datamodules.initialization.audio import AudioSignal
from datamodules.initialization.field import FieldSignal
from datamodules.initialization.image import ImageSignal
from datamodules.interpretability.faces import Faces
from datamodules.interpretability.factor_embeddings import FactorEmbeddings
from datamodules.interpretability.factor_images import FactorImages
from datamodules.interpretability.few_images import FewImages
from datamodules.interpretability.first_samples import FirstSamples
from datamodules.interpretability.indirect_objects import IndirectObjects
from datamodules.interpretability.paired_pictures import PairedPictures
from datamodules.interpretability.structured_mixing import StructuredMixing
from datamodules.interpretability.super_resolution import SuperResolutionPatches
from datamodules.representation.two_views import TwoViews
from datamodules.robustness.chest_phantom import ChestPhantom
from datamodules.robustness.chest_xrays import ChestXrays
from datamodules.robustness.digit_attributes import DigitAttributes
from datamodules.sequence.bidmc import Bidmc
from datamodules.sequence.fact_table import FactTable
from datamodules.sequence.images import SequentialImages
from datamodules.sequence.listops import ListOps
from datamodules.sequence.mnist1d import Mnist1D
from datamodules.sequence.speech import SpeechCommands
from datamodules.sequence.tokens import TokenData
from datamodules.vision.image_folder import ImageFolderData
from datamodules.vision.small_images import SmallImages
from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from modules.initialization.logah.shapes import read_shapes

Write = Callable[[Path], Any]
FAULTS = {
    "empty": "the file has no bytes",
    "truncated": "the file ends in the middle",
    "magic": "the file begins as no file of the format does",
    "shapes": "arrays, rows or pictures do not fit together",
    "numbers": "a number is NaN, infinite or none",
    "encoding": "the text is in Latin-1, and nobody said so",
    "capitals": "the suffix is in capitals",
    "mark": "the text begins with a byte order mark",
    "hidden": "hidden files, and folders of notebooks and archives, lie beside the file",
    "link": "the file is a link to one outside of the folder",
    "dangling": "the file is a link to nothing",
    "pickle": "the file holds a pickle that would run a command",
}
HARMLESS = ("capitals", "mark", "hidden", "link")
"""Faults with which the data is read as without them; the others are refused with the file's name."""

# Why a format does not have a fault.
NOT_TEXT = {"encoding": "not text", "mark": "not text"}
NUMBERS_ONLY = {"encoding": "numbers are ASCII"}
WHOLE_NUMBERS = {"numbers": "whole numbers are finite"}
NO_PICKLES = {"pickle": "no pickles in it"}
STILL_WHOLE = {"truncated": "what is left is a whole file of the format"}
NO_MAGIC = {"magic": "no file of the format begins in one way"}
FIXED_NAME = {"capitals": "the name is part of the format"}


@dataclass(frozen=True)
class Format:
    """One format of one datamodule.

    Attributes:
        name: The datamodule and the suffix.
        file: The file that the faults damage, under the folder of the data set.
        write: Writes the data set into a folder.
        read: Makes the datamodule of a path, and of an encoding where it takes one.
        folder: Whether the path is the folder; otherwise it is the file.
        faults: Writes the file with the fault ``shapes`` or ``numbers``.
        exempt: The faults that the format cannot have, each with the reason.
    """

    name: str
    file: str
    write: Write
    read: Callable[[str, str | None], DataModule]
    folder: bool = False
    faults: Mapping[str, Write] = field(default_factory=dict)
    exempt: Mapping[str, str] = field(default_factory=dict)


RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
SENTENCES = [f'Un café numéro {i}, s\'il vous plaît; a "quoted" word' for i in range(24)]
LABELS = ["très bon" if i % 2 else "mauvais" for i in range(24)]


def with_nan(array: np.ndarray) -> np.ndarray:
    """A copy with one NaN."""
    array = array.astype(np.float64)
    array.flat[1] = np.nan
    return array


def npz(**arrays: np.ndarray) -> Write:
    """Writes an ``.npz`` under any name."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **arrays)

    return write


def npy(array: np.ndarray) -> Write:
    """Writes an ``.npy`` under any name."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, array)

    return write


def content(data: bytes) -> Write:
    """Writes bytes."""
    return lambda path: path.write_bytes(data)


def inside(name: str, write: Write) -> Write:
    """Writes the one file of a data set."""
    return lambda folder: write(folder / name)


def fresh(write: Write) -> Write:
    """For writers that make the folder themselves."""

    def written(folder: Path) -> None:
        folder.rmdir()
        write(folder)

    return written


def arrays_format(
    name: str, read: Callable[[str], DataModule], arrays: dict[str, np.ndarray], wrong: dict[str, np.ndarray], nan: str
) -> Format:
    """A row of an ``.npz``: with arrays of another shape, and with a NaN in the array ``nan``."""
    faults = {"shapes": npz(**{**arrays, **wrong}), "numbers": npz(**{**arrays, nan: with_nan(arrays[nan])})}
    return Format(f"{name}.npz", "a.npz", inside("a.npz", npz(**arrays)), lambda p, _: read(p), False, faults, NOT_TEXT)


def named_npz(
    name: str, file: str, write: Write, read: Callable[[str], DataModule], shapes: Write, numbers: Write
) -> Format:
    """A row of an ``.npz`` that is found in a folder by its name."""
    faults = {"shapes": shapes, "numbers": numbers}
    return Format(f"{name}-{file}", file, write, lambda p, _: read(p), True, faults, {**NOT_TEXT, **FIXED_NAME})


def table(columns: Mapping[str, list[Any]], suffix: str, header: bool = True) -> bytes:
    """A table in the format of ``suffix``."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if suffix in (".csv", ".tsv"):
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter="," if suffix == ".csv" else "\t", lineterminator="\n")
        writer.writerows([*([list(columns)] if header else []), *(row.values() for row in rows)])
        return text.getvalue().encode()
    if suffix in (".jsonl", ".ndjson"):
        return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    if suffix == ".json":
        return json.dumps(rows, ensure_ascii=False, indent=1).encode()
    import pyarrow
    from pyarrow import parquet

    sink = io.BytesIO()
    found = pyarrow.table(dict(columns))
    if suffix == ".parquet":
        parquet.write_table(found, sink)
    else:
        with pyarrow.ipc.new_stream(sink, found.schema) as stream:
            stream.write_table(found)
    return sink.getvalue()


def ragged(good: bytes, suffix: str) -> bytes:
    """A table of text with one row that does not fit the others."""
    lines = good.decode().split("\n")
    if suffix in (".csv", ".tsv"):
        lines[2] += {".csv": ",more", ".tsv": "\tmore"}[suffix]
    elif suffix == ".json":
        return b'["not an object", ' + good.lstrip()[1:]
    else:
        lines[2] = '"not an object"'
    return "\n".join(lines).encode()


def table_formats(
    name: str,
    read: Callable[[str, str | None], DataModule],
    columns: dict[str, list[Any]],
    suffixes: tuple[str, ...] = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow"),
    header: bool = True,
) -> list[Format]:
    """Rows of one table in each of the formats."""
    found = []
    for suffix in suffixes:
        good = table(columns, suffix, header)
        exempt = {"numbers": "texts", **NO_PICKLES}
        faults: dict[str, Write] = {}
        if suffix in (".parquet", ".arrow"):
            exempt |= {"shapes": "the columns of the format are of one length", **NOT_TEXT}
        else:
            exempt |= NO_MAGIC
            faults["shapes"] = content(ragged(good, suffix))
        if suffix in (".csv", ".tsv"):
            exempt |= STILL_WHOLE
        file = f"a{suffix}"
        found.append(Format(f"{name}{suffix}", file, inside(file, content(good)), read, False, faults, exempt))
    return found


def idx_format(name: str, read: Callable[[str], DataModule], write: Write = write_idx) -> Format:
    """A row of MNIST's files."""
    faults = {"shapes": content(gzip.compress(b"\0\0\x08\x01\0\0\0\x02\1\2"))}
    exempt = {**NOT_TEXT, **NO_PICKLES, **WHOLE_NUMBERS}
    return Format(f"{name}-idx", "train-images-idx3-ubyte.gz", write, lambda p, _: read(p), True, faults, exempt)


def cifar_format(name: str, classes: int, read: Callable[[str], DataModule]) -> Format:
    """A row of CIFAR's python batches."""
    file = "cifar-10-batches-py/data_batch_2" if classes == 10 else "cifar-100-python/train"
    key = b"labels" if classes == 10 else b"fine_labels"
    wrong = pickle.dumps({b"data": np.zeros((2, 9), np.uint8), key: [0, 1]}, protocol=2)
    exempt = {**NOT_TEXT, **WHOLE_NUMBERS, **FIXED_NAME}
    return Format(
        f"{name}-cifar{classes}",
        file,
        lambda folder: write_cifar(folder, classes),
        lambda p, _: read(p),
        True,
        {"shapes": content(wrong)},
        exempt,
    )


def wav(samples: np.ndarray, rate: int = 16_000) -> Write:
    """Writes a WAV file."""
    return lambda path: wavfile.write(path, rate, samples)


def picture(values: np.ndarray, form: str) -> Write:
    """Writes a picture under any name."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            Image.fromarray(values).save(file, form)

    return write


def token_format(name: str, file: str, write: Write, **exempt: str) -> Format:
    """A row of a stream of tokens: splits of 32,000 tokens in a folder, or a file of bytes."""
    splits = file.startswith("train")

    def read(path: str, _: str | None) -> DataModule:
        size = 32_000 if splits else 256
        return TokenData(path, vocab_size=size, length=16, val_fraction=0.2, test_fraction=0.2)

    exempt = {"shapes": "a stream has none", **NOT_TEXT, **WHOLE_NUMBERS, **exempt}
    return Format(f"tokens-{name}", file, write, read, splits, {}, exempt)


def _zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("corpus.txt", _CORPUS)


def _npy_splits(folder: Path) -> None:
    for split, tokens in token_splits(folder).items():
        npy(tokens)(folder / f"{split}.npy")


_CORPUS = "".join(SENTENCES).encode() * 4
_ANY_BYTES = {**STILL_WHOLE, **NO_MAGIC, **NO_PICKLES}
_GREY = RNG.integers(0, 256, (12, 10), dtype=np.uint8)
_DEEP = RNG.integers(0, 65_536, (12, 10), dtype=np.uint16)
_LIGHT = RNG.random((12, 10)).astype(np.float32)
_TASK = {"x": X, "y": np.arange(40) % 4, "x_test": X[:8], "y_test": np.arange(8) % 4}
_TASK_TABLE: dict[str, list[Any]] = {
    **{f"column {i}": X[:, i].tolist() for i in range(3)},
    "label": (np.arange(40) % 4).tolist(),
}
_SIGNALS = {
    "x": RNG.normal(size=(30, 40)),
    "y": np.arange(30) % 10,
    "x_test": RNG.normal(size=(10, 40)),
    "y_test": np.arange(10),
}
_FACTS: dict[str, list[Any]] = {
    "subject": [f"Zoé {i}" for i in range(12)],
    "relation": ["née à"] * 12,
    "object": ["Orléans" if i % 2 else "Besançon" for i in range(12)],
}


def _small(data: type[DataModule], source: str, **settings: Any) -> Callable[[str], DataModule]:
    return lambda path: data(source=source, path=path, **settings)  # type: ignore[call-arg]


def _task_table(suffix: str) -> Format:
    good = table(_TASK_TABLE, suffix)
    faults = {
        "shapes": content(ragged(good, suffix)),
        "numbers": content(good.replace(str(X[2, 1]).encode(), b"nan")),
    }
    exempt = {**STILL_WHOLE, **NO_MAGIC, **NUMBERS_ONLY, **NO_PICKLES}
    file = f"a{suffix}"
    return Format(
        f"two_task{suffix}", file, inside(file, content(good)), lambda p, _: TwoTask(p), False, faults, exempt
    )


def _pictures(suffix: str, **exempt: str) -> Format:
    settings: dict[str, Any] = {"image_size": 8, "augment": "none", "crop_ratio": 1.0}
    wrong = picture(np.full((4, 4), 70_000, np.int32), "TIFF")
    return Format(
        f"folders.{suffix}",
        f"cat/0.{suffix}",
        lambda folder: write_images(folder, suffix=suffix),
        lambda path, _: ImageFolderData(path, **settings),
        True,
        {"shapes": wrong, "numbers": picture(with_nan(_LIGHT).astype(np.float32), "TIFF")},
        {**NOT_TEXT, **NO_PICKLES, **exempt},
    )


_WRONG_PICTURES: dict[str, Write] = {
    "shapes": picture(np.full((40, 44), 70_000, np.int32), "TIFF"),
    "numbers": picture(with_nan(np.ones((40, 44))).astype(np.float32), "TIFF"),
}


def _plain_pictures(folder: Path) -> None:
    """Four pictures without classes."""
    for number in range(4):
        picture(RNG.integers(0, 256, (40, 44), dtype=np.uint8), "PNG")(folder / f"{number}.png")


_COMBINATIONS = np.indices((1, 3, 2, 2, 2, 1)).reshape(6, -1).T
_DSPRITES = {
    "imgs": RNG.integers(0, 2, (24, 6, 6), dtype=np.uint8),
    "latents_classes": _COMBINATIONS,
    "latents_values": _COMBINATIONS.astype(np.float64),
}
_MPI3D = {
    "images": RNG.integers(0, 256, (16, 6, 6, 3), dtype=np.uint8),
    "labels": np.indices((2, 2, 1, 1, 1, 2, 2)).reshape(7, -1).T,
}
_EMBEDDINGS = {"image_embeds": X, "y_color": np.arange(40) % 4, "y_shape": np.arange(40) // 4 % 5}


def _radiographs(source: str, file: str, write_fault: dict[str, Write], **exempt: str) -> Format:
    """A row of a table of radiographs, or of one of its pictures."""
    return Format(
        f"{source}-{Path(file).suffix[1:]}",
        file,
        lambda folder: write_radiographs(folder, source),
        lambda path, encoding: ChestXrays(path, source=source, image_size=224, encoding=encoding),  # type: ignore[arg-type]
        True,
        write_fault,
        exempt,
    )


def _findings(source: str) -> Format:
    """The table: with a row of another length, and with a finding that is no number."""
    name = {"chexpert": "CheXpert-v1.0", "mimic": "MIMIC", "chest_xray14": "NIH_ChestX-ray14", "padchest": "padchest"}
    faults = {
        "shapes": content(b"split,view\ntrain\n"),
        "numbers": content(
            b"split,view,jpg_rel_path,img_rel_path,ImageID,ImageDir,atelectasis\ntrain,PA,a,a,a,7,perhaps\n"
            b"train,Frontal,a,a,a,7,perhaps\n"
        ),
    }
    exempt = {**STILL_WHOLE, **NO_MAGIC, **NO_PICKLES, **FIXED_NAME, "encoding": "its texts are names of files"}
    return _radiographs(source, f"{name[source]}/masterlist.csv", faults, **exempt)


def _phantom(file: str, faults: dict[str, Write], **exempt: str) -> Format:
    """A row of what phantoms are drawn from."""
    sizes = {"train_samples": 8, "val_samples": 2, "test_samples": 4, "public_samples": 0, "image_size": 16}
    return Format(
        f"phantom-{Path(file).suffix[1:]}",
        file,
        write_phantom_parts,
        lambda path, _: ChestPhantom(path, **sizes),  # type: ignore[arg-type]
        True,
        faults,
        {**exempt, **FIXED_NAME, **NO_PICKLES},
    )


def _zip_of(write_picture: Write) -> Write:
    """Writes an archive with one picture."""

    def write(path: Path) -> None:
        write_picture(path)
        picture = path.read_bytes()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("masks/a.png", picture)

    return write


def _pug_table(change: Callable[[list[str]], None]) -> Write:
    """PUG's table with a change of its lines."""

    def write(path: Path) -> None:
        write_pug(path.parent)
        lines = path.read_text(encoding="utf-8").split("\n")
        change(lines)
        path.write_text("\n".join(lines), encoding="utf-8")

    return write


def _pug(path: str, encoding: str | None = None) -> FactorImages:
    return FactorImages("pug", path, image_size=6, encoding=encoding)


class Architectures(DataModule):
    """The networks of a table as a datamodule hands out samples: layers, width, heads and patch."""

    def __init__(self, path: str) -> None:
        super().__init__(batch_size=4)
        self.path = path

    def setup(self, stage: str | None = None) -> None:
        rows = [list(shape.values()) for shape in read_shapes(self.path, "vit")]
        self.train_set = ArrayDataset(torch.tensor(rows))


FORMATS: list[Format] = [
    # dynamics
    arrays_format("circle", lambda p: Circle(p, passes=1), {"x": X, "y": X[:, 0]}, {"y": X}, "x"),
    named_npz(
        "cognitive",
        "trials.npz",
        write_trials,
        lambda p: CognitiveTasks(p, passes=1),
        npz(x=np.ones((4, 8)), y=np.zeros((4, 8), int)),
        npz(x=with_nan(np.ones((4, 8, 3))), y=np.zeros((4, 8), int)),
    ),
    arrays_format(
        "correlations", lambda p: Correlations(p, passes=1), {"X": X.T, "Y": X.T[:2]}, {"Y": X.T[:2, 1:]}, "Y"
    ),
    named_npz(
        "correlations",
        "mnist.npz",
        write_mnist_npz,
        lambda p: Correlations(p, passes=1),
        npz(x_train=np.ones((4, 2, 2)), y_train=np.zeros(3, int)),
        npz(x_train=with_nan(np.ones((4, 2, 2))), y_train=np.zeros(4, int)),
    ),
    idx_format("correlations", lambda p: Correlations(p, passes=1)),
    idx_format("component", lambda p: DigitsComponent(p, samples=8, depth=1, passes=1)),
    arrays_format(
        "few_examples",
        lambda p: FewExamples(p, examples=5, tests=10, draws=2, passes=1),
        {"X": X.T, "Y": X.T[:1]},
        {"X": X.T[None]},
        "X",
    ),
    arrays_format("noisy_teacher", lambda p: NoisyTeacher(p, draws=2, passes=1), {"X": X}, {"X": X[0]}, "X"),
    arrays_format("quadratic", QuadraticTeacher, {"X": X, "y": X[:, 0]}, {"y": X}, "y"),
    arrays_format(
        "sensing",
        lambda p: MatrixSensing(p, passes=1),
        {"A": X.reshape(10, 3, 4), "y": X[:10, 0]},
        {"y": X[:9, 0]},
        "A",
    ),
    Format(
        "sensing.npy",
        "m.npy",
        inside("m.npy", npy(X[:4] @ X[:4].T)),
        lambda p, _: MatrixSensing(p, measurements=5, passes=1),
        False,
        {"shapes": npy(X[0]), "numbers": npy(with_nan(X[:4] @ X[:4].T))},
        NOT_TEXT,
    ),
    idx_format("rows", lambda p: SequentialRows(p, probes=4, passes=1)),
    arrays_format(
        "rows",
        lambda p: SequentialRows(p, probes=4, passes=1),
        {"images": RNG.random((20, 3, 3)), "labels": np.arange(20) % 2},
        {"images": RNG.random((20, 3, 2))},
        "images",
    ),
    # finetuning
    Format(
        "features.npz",
        "f.npz",
        inside("f.npz", write_features_npz),
        lambda p, _: FrozenFeatures(source="features", path=p),
        False,
        {
            "shapes": npz(X_train=X, y_train=np.zeros(39, int), X_test=X, y_test=np.zeros(40, int)),
            "numbers": npz(X_train=with_nan(X), y_train=np.zeros(40, int), X_test=X, y_test=np.zeros(40, int)),
        },
        NOT_TEXT,
    ),
    Format(
        "features.npy",
        "train.npy",
        write_feature_tables,
        lambda p, _: FrozenFeatures(source="features", path=p),
        True,
        {"shapes": npy(X[0]), "numbers": npy(with_nan(np.ones((8, 3))))},
        {**NOT_TEXT, **FIXED_NAME},
    ),
    *table_formats(
        "instructions",
        lambda p, encoding: InstructionData(p, length=32, encoding=encoding),
        {"instruction": SENTENCES, "input": [""] * 24, "output": LABELS},
    ),
    *table_formats(
        "labelled", lambda p, encoding: LabelledText(p, encoding=encoding), {"text": SENTENCES, "label": LABELS}
    ),
    Format(
        "labelled.txt",
        "a.txt",
        inside("a.txt", content("\n".join(f"{b}\t{a}" for a, b in zip(SENTENCES, LABELS, strict=True)).encode())),
        lambda p, encoding: LabelledText(p, encoding=encoding),
        False,
        {"shapes": content(b"label\ttext\nlabel\tmore\tthan\ttwo"), "numbers": content(b"id\tnan\tsentence")},
        {**STILL_WHOLE, **NO_MAGIC, **NO_PICKLES},
    ),
    *table_formats("text", lambda p, encoding: TextData(p, length=16, encoding=encoding), {"text": SENTENCES}),
    Format(
        "text.txt",
        "a.txt",
        inside("a.txt", content("\n\n".join(SENTENCES).encode())),
        lambda p, encoding: TextData(p, length=16, encoding=encoding),
        False,
        {},
        {**STILL_WHOLE, **NO_MAGIC, **NO_PICKLES, "shapes": "a text has none", "numbers": "a text"},
    ),
    arrays_format(
        "transfer",
        lambda p: TransferDigits(p, train_rows=20, val_rows=20),
        {"x": RNG.random((200, 4, 4)), "y": np.arange(200) % 10},
        {"x": RNG.random((200, 16))},
        "x",
    ),
    arrays_format("two_task", TwoTask, _TASK, {"y": np.zeros((40, 2))}, "x"),
    *map(_task_table, (".csv", ".tsv")),
    # in_context
    named_npz(
        "prompts",
        "prompts.npz",
        write_prompts,
        lambda p: Prompts(path=p, dim=3),
        npz(X=np.ones((4, 3, 2)), y=np.ones((4, 4))),
        npz(X=with_nan(np.ones((4, 3, 2))), y=np.ones((4, 3))),
    ),
    *table_formats(
        "pairs",
        lambda p, encoding: SentencePairs(p, encoding=encoding, guesses=("none",)),
        {"one": SENTENCES, "two": SENTENCES, "score": [i % 6 for i in range(24)]},
        (".csv", ".tsv"),
    ),
    *table_formats(
        "indirect objects",
        lambda p, encoding: IndirectObjects(
            p, "sentence", encoding, prompts=40, train_samples=30, val_samples=5, test_samples=5
        ),
        {"sentence": name_sentences(37)},
    ),
    # initialization
    Format(
        "sound.wav",
        "a.wav",
        inside("a.wav", wav(RNG.integers(-9_000, 9_000, (300, 2)).astype(np.int16))),
        lambda p, _: AudioSignal(p),
        False,
        {"shapes": wav(np.zeros(0, np.int16)), "numbers": wav(with_nan(np.ones(9)).astype(np.float32))},
        {**NOT_TEXT, **NO_PICKLES},
    ),
    Format(
        "field.npy",
        "a.npy",
        inside("a.npy", npy(X)),
        lambda p, _: FieldSignal(p),
        False,
        {"shapes": npy(np.zeros((0, 3))), "numbers": npy(with_nan(X))},
        NOT_TEXT,
    ),
    *(
        Format(
            f"picture-{name}",
            f"a.{name}",
            inside(f"a.{name}", picture(values, form)),
            lambda p, _: ImageSignal(p),
            False,
            {
                "shapes": picture(np.full((4, 4), 70_000, np.int32), "TIFF"),
                "numbers": picture(with_nan(_LIGHT).astype(np.float32), "TIFF"),
            },
            {**NOT_TEXT, **NO_PICKLES},
        )
        for name, values, form in (("png", _DEEP, "PNG"), ("tif", _LIGHT, "TIFF"), ("pgm", _GREY, "PPM"))
    ),
    # interpretability
    arrays_format(
        "faces",
        lambda p: Faces(p, image_size=8, test_fraction=0.5),
        {"x": RNG.random((12, 5, 5)), "y": np.arange(12) % 2},
        {"y": np.arange(11) % 2},
        "x",
    ),
    arrays_format(
        "dsprites",
        lambda p: FactorImages("dsprites", p, image_size=6, colours=2),
        _DSPRITES,
        {"imgs": _DSPRITES["imgs"][1:]},
        "latents_classes",
    ),
    arrays_format(
        "mpi3d", lambda p: FactorImages("mpi3d", p, image_size=6), _MPI3D, {"labels": _MPI3D["labels"][:, :6]}, "labels"
    ),
    arrays_format(
        "embeddings",
        lambda p: FactorEmbeddings(p, train_fraction=0.5),
        _EMBEDDINGS,
        {"y_shape": np.zeros(39, int)},
        "image_embeds",
    ),
    Format(
        "pug.csv",
        "labels.csv",
        write_pug,
        _pug,
        True,
        {
            "shapes": _pug_table(lambda lines: lines.__setitem__(2, f"{lines[2]},more")),
            "numbers": _pug_table(lambda lines: lines.__setitem__(2, lines[2].replace(",45,", ",nan,"))),
        },
        {**STILL_WHOLE, **NO_MAGIC, **NO_PICKLES},
    ),
    Format(
        "pug.png",
        "Cat/14.png",
        write_pug,
        _pug,
        True,
        {
            "shapes": picture(np.full((4, 4), 70_000, np.int32), "TIFF"),
            "numbers": picture(with_nan(_LIGHT).astype(np.float32), "TIFF"),
        },
        {**NOT_TEXT, **NO_PICKLES, "capitals": "the table names the file"},
    ),
    Format(
        "high-resolution.png",
        "0.png",
        _plain_pictures,
        lambda p, _: SuperResolutionPatches(p, size=8, patches=2),
        True,
        _WRONG_PICTURES,
        {**NOT_TEXT, **NO_PICKLES},
    ),
    Format(
        "pairs.png",
        "A/0.png",
        write_pairs,
        lambda p, _: PairedPictures(p, size=8, patches=2),
        True,
        _WRONG_PICTURES,
        {**NOT_TEXT, **NO_PICKLES},
    ),
    idx_format("samples", lambda p: FirstSamples("idx", p)),
    cifar_format("samples", 10, lambda p: FirstSamples("cifar10", p)),
    arrays_format(
        "samples",
        lambda p: FirstSamples("npz", p),
        {"x_train": X, "y_train": np.arange(40) % 3, "x_test": X[:9], "y_test": np.arange(9) % 3},
        {"x_test": X[:9, :2]},
        "x_train",
    ),
    named_npz(
        "samples",
        "mnist.npz",
        write_mnist_npz,
        lambda p: FirstSamples("npz", p),
        npz(x_train=np.ones((4, 2, 2)), y_train=np.zeros(3, int), x_test=np.ones((4, 2, 2)), y_test=np.zeros(4, int)),
        npz(
            x_train=with_nan(np.ones((4, 2, 2))),
            y_train=np.zeros(4, int),
            x_test=np.ones((4, 2, 2)),
            y_test=np.zeros(4, int),
        ),
    ),
    arrays_format(
        "mixing",
        lambda p: StructuredMixing(p, val_samples=5, test_samples=5),
        {"x": X, "z": X[:, :2], "support": np.ones((3, 2), int)},
        {"z": X[:9, :2]},
        "x",
    ),
    Format(
        "mixing.npy",
        "z.npy",
        fresh(write_latents),
        lambda p, _: StructuredMixing(p, val_samples=5, test_samples=5),
        True,
        {"shapes": npy(X[:9]), "numbers": npy(with_nan(np.ones((60, 3))))},
        {**NOT_TEXT, **FIXED_NAME},
    ),
    Format(
        "mixing-support.npy",
        "s.npy",
        inside("s.npy", npy(np.eye(3))),
        lambda p, _: StructuredMixing(support=p, samples=9, val_samples=5, test_samples=5),
        False,
        {"shapes": npy(np.ones(3)), "numbers": npy(with_nan(np.eye(3)))},
        NOT_TEXT,
    ),
    # initialization
    *(
        replace(row, exempt={**row.exempt, "encoding": "numbers are ASCII", "numbers": "tested with the reader"})
        for row in table_formats(
            "architectures",
            lambda p, _: Architectures(p),
            {
                "num_layers": [3] * 24,
                "hidden_dim": [384] * 24,
                "num_heads": [*range(1, 3)] * 12,
                "patch_size": [2] * 24,
            },
        )
    ),
    # representation
    idx_format("views", _small(TwoViews, "idx", batch_size=8)),
    cifar_format("views", 10, _small(TwoViews, "cifar10", batch_size=8)),
    arrays_format(
        "views",
        lambda p: TwoViews("vectors", p, batch_size=8),
        {"x": X, "y": np.arange(40) % 4},
        {"y": np.zeros(39, int)},
        "x",
    ),
    Format(
        "views.npy",
        "a.npy",
        inside("a.npy", npy(X)),
        lambda p, _: TwoViews("vectors", p, batch_size=8),
        False,
        {"shapes": npy(np.ones(3)), "numbers": npy(with_nan(X))},
        NOT_TEXT,
    ),
    Format(
        "views.png",
        "0.png",
        _plain_pictures,
        lambda p, _: TwoViews("folder", p, image_size=8, test_fraction=0.3, batch_size=2),
        True,
        _WRONG_PICTURES,
        {**NOT_TEXT, **NO_PICKLES},
    ),
    Format(
        "views-classes.png",
        "cat/0.png",
        write_images,
        lambda p, _: TwoViews("folder", p, image_size=8, test_fraction=0.3, batch_size=2),
        True,
        _WRONG_PICTURES,
        {**NOT_TEXT, **NO_PICKLES},
    ),
    # robustness
    idx_format(
        "attributes",
        lambda path: DigitAttributes(path, public="none"),
        lambda folder: write_idx(folder, classes=10),
    ),
    *(_findings(source) for source in ("chexpert", "mimic", "chest_xray14", "padchest")),
    _radiographs(
        "padchest",
        "padchest/preprocessed224/7/0.png",
        _WRONG_PICTURES,
        **NOT_TEXT,
        **NO_PICKLES,
        capitals="the table names the file",
    ),
    _phantom(
        "Data_Entry_2017_v2020.csv",
        {"shapes": content(b"Image Index,Finding Labels\na\n")},
        **STILL_WHOLE,
        **NO_MAGIC,
        encoding="the names of findings are English",
        numbers="it has no numbers that are read",
    ),
    _phantom(
        "semantic_masks_v7labs_lungs.zip",
        {name: _zip_of(write) for name, write in _WRONG_PICTURES.items()},
        **NOT_TEXT,
    ),
    # sequence
    Format(
        "bidmc.npy",
        "trainx.npy",
        write_bidmc,
        lambda p, _: Bidmc(p, target="HR"),
        True,
        {"shapes": npy(np.ones((6, 40))), "numbers": npy(with_nan(np.ones((6, 40, 2))))},
        {**NOT_TEXT, **FIXED_NAME},
    ),
    *table_formats("facts", lambda p, encoding: FactTable(p, encoding=encoding), _FACTS),
    idx_format("pixels", _small(SequentialImages, "idx")),
    cifar_format("pixels", 10, _small(SequentialImages, "cifar10")),
    Format(
        "listops.tsv",
        "basic_train.tsv",
        write_tsv,
        lambda p, _: ListOps(p),
        True,
        {"shapes": content(b"Source\tTarget\n5\t5\t5\n"), "numbers": content(b"Source\tTarget\n5\tnan\n")},
        {**STILL_WHOLE, **NO_MAGIC, **NUMBERS_ONLY, **NO_PICKLES, **FIXED_NAME},
    ),
    arrays_format("mnist1d", Mnist1D, _SIGNALS, {"y": np.zeros((30, 2), int)}, "x"),
    Format(
        "mnist1d.pkl",
        "mnist1d_data.pkl",
        inside("mnist1d_data.pkl", content(pickle.dumps(_SIGNALS))),
        lambda p, _: Mnist1D(p),
        False,
        {
            "shapes": content(pickle.dumps({**_SIGNALS, "y": np.zeros((30, 2), int)})),
            "numbers": content(pickle.dumps({**_SIGNALS, "x": with_nan(_SIGNALS["x"])})),
        },
        NOT_TEXT,
    ),
    Format(
        "speech.wav",
        "bed/0_nohash_0.wav",
        write_speech,
        lambda p, _: SpeechCommands(p),
        True,
        {"shapes": wav(np.zeros((9, 2), np.int16)), "numbers": wav(with_nan(np.ones(9)).astype(np.float32))},
        {**NOT_TEXT, **NO_PICKLES, "capitals": "the lists name the file"},
    ),
    token_format("txt", "corpus.txt", inside("corpus.txt", content(_CORPUS)), **_ANY_BYTES),
    token_format("gz", "corpus.gz", inside("corpus.gz", content(gzip.compress(_CORPUS))), **NO_PICKLES),
    token_format("zip", "corpus.zip", inside("corpus.zip", _zipped), **NO_PICKLES),
    token_format("bin", "train.bin", fresh(write_token_files), **_ANY_BYTES),
    token_format("npy", "train.npy", fresh(_npy_splits), **NO_MAGIC),
    token_format("headless", "train.npy", fresh(write_token_npy), **_ANY_BYTES),
    token_format("arrow", "train.arrow", fresh(write_token_arrow), **NO_PICKLES),
    # vision
    _pictures("png"),
    _pictures("webp"),
    _pictures("jpg", truncated="what is left of so small a JPEG is its header"),
    idx_format("small", _small(SmallImages, "idx")),
    idx_format("few", _small(FewImages, "idx", train=20, test=10)),
    cifar_format("few", 10, _small(FewImages, "cifar10", train=20, test=10)),
    cifar_format("small", 100, _small(SmallImages, "cifar100")),
]
