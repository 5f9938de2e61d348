"""Writers of tiny files in the formats that the papers' data comes in."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import zipfile

import numpy as np
from PIL import Image
from scipy.io import wavfile


def idx_bytes(array, code=0x08):
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder, n_train=40, n_test=20, size=(6, 6), zipped=True, classes=4):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    content = {}
    for prefix, n in (("train", n_train), ("t10k", n_test)):
        content[f"{prefix}-images-idx3-ubyte"] = rng.integers(0, 256, (n, *size), dtype=np.uint8)
        content[f"{prefix}-labels-idx1-ubyte"] = (np.arange(n) % classes).astype(np.uint8)
    for name, array in content.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
        else:
            (folder / name).write_bytes(idx_bytes(array))
    return content


def cifar_batch(rng, n, key, classes, extra=()):
    labels = [int(i) % classes for i in range(n)]
    return {b"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8), key.encode(): labels, **dict(extra)}


def write_cifar(root, classes=10, protocol=2):
    rng = np.random.default_rng(0)
    folder = root / ("cifar-10-batches-py" if classes == 10 else "cifar-100-python")
    folder.mkdir(parents=True)
    if classes == 10:
        files = {f"data_batch_{i}": 20 for i in range(1, 6)} | {"test_batch": 10}
        key, meta, meta_key = "labels", "batches.meta", b"label_names"
    else:
        files, key, meta, meta_key = {"train": 200, "test": 100}, "fine_labels", "meta", b"fine_label_names"
    batches = {}
    for name, n in files.items():
        extra = {b"batch_label": b"x", b"filenames": [b"a.png"] * n}
        batches[name] = cifar_batch(rng, n, key, classes, extra.items())
        (folder / name).write_bytes(pickle.dumps(batches[name], protocol=protocol))
    (folder / meta).write_bytes(pickle.dumps({meta_key: [b"class %d" % i for i in range(classes)]}, protocol=protocol))
    return folder, batches


def write_speech(folder, words=("bed", "cat", "dog"), n=6, rate=16_000):
    rng = np.random.default_rng(0)
    for word in (*words, "_background_noise_"):
        (folder / word).mkdir(parents=True)
        for i in range(n):
            length = 12_000 if i == 0 else 16_000 + 100 * i
            samples = rng.integers(-32768, 32768, length).astype(np.int16)
            wavfile.write(folder / word / f"{i}_nohash_0.wav", rate, samples)
    (folder / "validation_list.txt").write_text("".join(f"{word}/1_nohash_0.wav\n" for word in words))
    (folder / "testing_list.txt").write_text("".join(f"{word}/2_nohash_0.wav\n" for word in words))


def write_clip(folder, samples=300, rate=44_100):
    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(-20_000, 20_000, (samples, 2)).astype(np.int16)
    wavfile.write(folder / "tap.wav", rate, values)


def write_picture(folder, size=(9, 7)):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)).save(folder / "noise1.png")


def write_bidmc(folder, stems=("train", "valid", "test"), join="", n=(6, 3, 3), length=40):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    arrays = {}
    for stem, count in zip(stems, n, strict=True):
        arrays[stem] = (rng.standard_normal((count, length, 2)), rng.uniform(5, 30, count))
        for letter, array in zip("xy", arrays[stem], strict=True):
            np.save(folder / f"{stem}{join}{letter}.npy", array)
    return arrays


ROWS = ("( ( ( ( [MAX 4 ) 3 ) ( ( ( [MED 1 ) 4 ) ] ) ) ] )\t4", "( ( ( [SM 9 ) 8 ) ] )\t7", "5\t5")


def write_tsv(folder, rows=ROWS):
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "val", "test"):
        (folder / f"basic_{part}.tsv").write_text("\n".join(("Source\tTarget", *rows)) + "\n")


def write_mnist_npz(folder, samples=40):
    """Writes MNIST in Keras's format, with fewer images."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (samples, 28, 28), dtype=np.uint8)
    test = {"x_test": images[::2], "y_test": np.arange(0, samples, 2) % 10}
    np.savez(folder / "mnist.npz", x_train=images, y_train=np.arange(samples) % 10, **test)


def write_prompts(folder, n=20, length=4, dim=3):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, length + 1, dim)), rng.normal(size=(n, length + 1))
    np.savez(folder / "prompts.npz", X=x, y=y)


def write_trials(folder, samples=50):
    """Trials of a task with 3 inputs, 8 steps and 3 classes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(samples, 8, 3)), rng.integers(0, 3, (samples, 8))
    np.savez(folder / "trials.npz", x=x.astype(np.float32), y=y)


def write_latents(folder, samples=60):
    """Three observations of three latents, a ring."""
    folder.mkdir(parents=True, exist_ok=True)
    z = np.random.default_rng(0).normal(size=(samples, 3))
    support = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]])
    for name, array in (("x", np.tanh(z) @ support.T), ("z", z), ("support", support)):
        np.save(folder / f"{name}.npy", array)


def write_faces(folder, n=12):
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "faces.npz", x=rng.random((n, 25, 25)).astype(np.float32), y=np.arange(n) % 2)


def write_pairs(folder, n=4, size=(40, 44)):
    """Pictures of the same names in A and B."""
    rng = np.random.default_rng(0)
    for part in ("A", "B"):
        (folder / part).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / part / f"{i}.png")


def write_images(folder, classes=("cat", "dog"), n=10, size=(20, 30), suffix="png"):
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name / f"{i}.{suffix}")


def write_instructions(folder, n=60):
    """Alpaca's JSON list beside a model."""
    write_language_model(folder / "model")
    rows = [
        {
            "instruction": f"Say {i}.",
            "input": "twice" if i % 3 == 0 else "",
            "output": f"{i} " * (2 if i % 3 == 0 else 1),
        }
        for i in range(n)
    ]
    (folder / "alpaca_data_cleaned.json").write_text(json.dumps(rows, indent=4))


LANGUAGE_MODELS = {
    "gpt_neox": {"rotary_pct": 0.25},
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "olmoe": {"num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v2": {
        "num_key_value_heads": 2,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": 12,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 8,
        "q_lora_rank": None,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_group": 1,
        "topk_group": 1,
    },
}


def write_language_model(folder, kind="llama"):
    """A random model with a byte-level tokenizer, in the format of transformers."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    vocabulary = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab={**vocabulary, "<eos>": 256}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
    config = AutoConfig.for_model(
        kind,
        vocab_size=260,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=256,
        eos_token_id=256,
        pad_token_id=256,
        **LANGUAGE_MODELS[kind],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def write_parquet_splits(folder, columns, splits=("train", "test")):
    import pyarrow
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    for split in splits:
        parquet.write_table(pyarrow.table(columns), folder / f"{split}-00000-of-00001.parquet")


REVIEWS = {"text": [f"A film of {i} scenes, quite long.<br />" for i in range(8)], "label": [i % 2 for i in range(8)]}


def write_tweets(folder):
    write_language_model(folder / "model", "olmoe")
    write_parquet_splits(folder, REVIEWS, ("train", "validation", "test"))
    write_parquet_splits(folder / "wikitext", {"text": ["", " = Title = \n", " Some prose .\n"]}, ("test",))


def write_film_reviews(folder):
    write_language_model(folder / "model", "deepseek_v2")
    write_parquet_splits(folder, REVIEWS)
    write_parquet_splits(folder / "wikitext", {"text": ["", " = Title = \n", " Some prose .\n"]}, ("test",))


def write_labelled_texts(folder):
    import csv

    write_language_model(folder / "model")
    for split in ("train", "test"):
        with open(folder / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *zip(REVIEWS["text"], REVIEWS["label"], strict=True)])


def write_small_texts(folder):
    write_language_model(folder / "model")
    (folder / "notes.txt").write_text("\n\n".join(f"Paragraph {i} says little." * 12 for i in range(30)))


def token_splits(folder):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    return {split: rng.integers(0, 32000, size).astype(np.uint16) for split, size in {"train": 400, "val": 200}.items()}


def write_token_files(folder):
    """train.bin and val.bin, each with its JSON."""
    for split, tokens in token_splits(folder).items():
        tokens.tofile(folder / f"{split}.bin")
        (folder / f"{split}.json").write_text(json.dumps({"dtype": "uint16", "vocab_size": 32000}))


def write_token_npy(folder):
    """As OLMoE has it: numbers without a header."""
    for split, tokens in token_splits(folder).items():
        tokens.tofile(folder / f"{split}.npy")


def write_token_arrow(folder):
    """As datasets' save_to_disk has it: rows of tokens."""
    import pyarrow

    for split, tokens in token_splits(folder).items():
        table = pyarrow.table({"input_ids": tokens.reshape(-1, 50).tolist()})
        with (
            pyarrow.OSFile(str(folder / f"{split}.arrow"), "wb") as sink,
            pyarrow.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table)


def write_features_npz(path, n_train=40, n_test=12, features=5, classes=4):
    """Features of a frozen encoder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", n_train), ("test", n_test)):
        arrays |= {f"X_{part}": rng.normal(size=(count, features)), f"y_{part}": np.arange(count) % classes}
    np.savez(path, **arrays)
    return arrays


def write_feature_tables(folder, classes=4):
    """The same as two tables whose rows end with the label."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    tables = {}
    for part, count in (("train", 80), ("test", 12)):
        tables[part] = np.column_stack([rng.normal(size=(count, 5)), np.arange(count) % classes])
        np.save(folder / f"{part}.npy", tables[part])
    return tables


def write_encoder(folder):
    """A random RoBERTa with a tokenizer of single characters, in the format of transformers."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = {token: i for i, token in enumerate([*special, *map(chr, range(32, 127))])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>", continuing_subword_prefix=""))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "roberta", vocab_size=len(vocabulary), max_position_embeddings=140, pad_token_id=1, type_vocab_size=1, **sizes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(folder)


def write_review_sets(folder):
    write_encoder(folder / "model")
    for split, rows in (("train", 40), ("test", 12)):
        lines = [f"a {'good' if i % 2 else 'bad'} one, number {i}\t{i % 2}" for i in range(rows)]
        (folder / f"{split}.tsv").write_text("\n".join(["Text\tLabel", *lines]), encoding="utf-8")


def write_pug(folder):
    """PUG: Animals: a table of every combination, some of which the paper leaves out, and pictures by character."""
    import csv
    from itertools import product

    rng = np.random.default_rng(0)
    values = (("Désert", "Forêt"), ("Bear", "Cat", "Dog", "Goldfish"), (0.7, 1.0), ("Default", "Grass", "Sky"), (0, 45))
    rows = []
    for world, character, scale, texture, yaw in product(*values):
        name = f"{len(rows)}.png"
        rows.append([world, character, scale, yaw, texture, name])
        (folder / character).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 10, 3), dtype=np.uint8)).save(folder / character / name)
    header = ["world_name", "character_name", "character_scale", "camera_yaw", "character_texture", "filename"]
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def write_embeddings(path):
    """Embeddings as the official code of arXiv 2602.24264 writes them."""
    labels = np.indices((4, 5, 3)).reshape(3, -1).T
    rng = np.random.default_rng(0)
    z = sum(rng.normal(size=(n, 16))[labels[:, i]] for i, n in enumerate((4, 5, 3)))
    names = ("color", "shape", "size")
    columns = {f"y_{name}": labels[:, i] for i, name in enumerate(names)}
    columns |= {f"values_{name}": np.arange(n) for name, n in zip(names, (4, 5, 3), strict=True)}
    with path.open("wb") as file:
        np.savez(file, image_embeds=z.astype(np.float32), **columns)


def write_name_sentences(folder):
    """A random GPT-NeoX with a byte-level tokenizer, and sentences of the form of ``fahamu/ioi``."""
    import pyarrow
    from pyarrow import parquet

    write_language_model(folder / "model", "gpt_neox")
    parquet.write_table(pyarrow.table({"ioi_sentences": name_sentences(40)}), folder / "sentences.parquet")


def name_sentences(count):
    """Sentences with two names, of which one is repeated, that end with the other; half of them in each order."""
    names = ["Ann", "Bob", "Cid", "Dora", "Eve", "Finn", "Gus", "Hal"]
    found = []
    for i in range(count):
        a, b = names[i % 8], names[(i + 1 + i // 8) % 8]
        first, second = (a, b) if i % 2 else (b, a)
        found.append(f"Then, {first} and {second} went to the café. {b} gave a kiwi to {a}")
    return found


RADIOGRAPHS = {
    "chexpert": ("CheXpert-v1.0", "jpg_rel_path", "CheXpert-v1.0/train/patient{n:05d}/study1/view1_frontal.jpg"),
    "mimic": ("MIMIC", "jpg_rel_path", "files/p10/p{n:08d}/s5/{n}.jpg"),
    "chest_xray14": ("NIH_ChestX-ray14", "img_rel_path", "images_001/images/{n:08d}_000.png"),
    "padchest": ("padchest", "ImageID", "{n}.png"),
}


def write_radiographs(folder, source="padchest", size=224, pixels=8, n=24):
    """A table of radiographs with five findings, and their pictures in the folder of a size; a lateral view too."""
    name, column, form = RADIOGRAPHS[source]
    effusion = "effusion" if source == "chest_xray14" else "pleural_effusion"
    findings = ["atelectasis", "cardiomegaly", effusion, "pneumonia", "no_finding"]
    folder.mkdir(exist_ok=True)
    root, made = folder / name, f"preprocessed{size}"
    view = "Frontal" if source == "chexpert" else "PA"
    lines = [",".join(["split", "view", column, "ImageDir", *findings])]
    rng = np.random.default_rng(0)
    for number in range(n):
        picture = form.format(n=number)
        seen = "L" if number == 1 and source != "chest_xray14" else view
        split = ("train", "train", "valid", "test")[number // 2 % 4]
        values = [str(int((number >> k) % 2 == 0)) for k in range(4)] + [("1.0", "", "-1", "0")[number % 4]]
        lines.append(",".join([split, seen, picture, "7", *values]))
        path = {
            "chexpert": root / made / picture.removeprefix("CheXpert-v1.0/"),
            "mimic": root / picture.replace("files/", f"{made}/", 1),
            "chest_xray14": root / "CXR14" / made / picture,
            "padchest": root / made / "7" / picture,
        }[source]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (pixels, pixels), dtype=np.uint8)).save(path)
    (root / "masterlist.csv").write_text("\n".join(lines) + "\n")


def write_phantom_parts(folder, n=12, size=48):
    """Lung masks in a zip archive, one of them empty, and a table of findings."""
    folder.mkdir(exist_ok=True)
    rows, columns = np.mgrid[:size, : size + 8] / size
    with zipfile.ZipFile(folder / "semantic_masks_v7labs_lungs.zip", "w") as archive:
        for number in range(n):
            height = 0.25 + 0.01 * number
            lungs = [((columns - x) / 0.17) ** 2 + ((rows - 0.5) / height) ** 2 < 1 for x in (0.33, 0.78)]
            mask = np.zeros_like(rows) if number == 3 else 255 * (lungs[0] | lungs[1])
            content = io.BytesIO()
            Image.fromarray(mask.astype(np.uint8)).save(content, "PNG")
            archive.writestr(f"masks/{number:02}.png", content.getvalue())
    findings = ["No Finding"] * 6 + ["Effusion|Atelectasis", "Cardiomegaly", "Mass", "Pneumonia|Mass", "Effusion"]
    lines = ["Image Index,Finding Labels", *(f"{i}.png,{label}" for i, label in enumerate(findings))]
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join(lines) + "\n")
