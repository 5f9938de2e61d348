"""Settings with which every shipped config runs in a short time: few steps, little data, smaller models, tiny files."""

from __future__ import annotations

import torch
from tiny_files import (
    write_bidmc,
    write_cifar,
    write_clip,
    write_embeddings,
    write_faces,
    write_feature_tables,
    write_film_reviews,
    write_idx,
    write_images,
    write_instructions,
    write_labelled_texts,
    write_latents,
    write_mnist_npz,
    write_name_sentences,
    write_phantom_parts,
    write_picture,
    write_prompts,
    write_radiographs,
    write_review_sets,
    write_small_texts,
    write_speech,
    write_token_arrow,
    write_token_files,
    write_token_npy,
    write_trials,
    write_tsv,
    write_tweets,
)

from framework import paths
from framework.checkpoints.learngene_file import FILE, save_learngene
from framework.functional.learngene import extract_learngene
from modules.finetuning.tleg import DescendantViT

METHODS = [name for name in paths.shipped_configs() if not name.startswith(("callbacks/", "sweeps/"))]
FRAGMENTS = [name for name in paths.shipped_configs() if name.startswith("callbacks/")]
# Data of the paper that is generated: no files.
GENERATED = [f"interpretability/causal_abstraction{end}_paper" for end in ("", "_host", "_distributive")]
OFFLINE = [
    name
    for name in METHODS
    if name in GENERATED
    or not (
        name.endswith(("_paper", "_fashion", "_onet", "_phantom"))
        or "_smollm2" in name
        or name == "finetuning/lp_ft_text"
    )
]
WHOLE = ("dynamics/", "interpretability/compositional_linear_free")  # where a batch is all of the data
PROMPTS = "in_context/"  # where a batch is drawn on the device, for many steps
FAST = ["--trainer.fast_dev_run=true", "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false"]


def write_cifar100(folder):
    write_cifar(folder, classes=100)


def write_learngene_and_images(folder):
    torch.manual_seed(0)
    sizes = {"backbone_args": {"embed_dim": 16, "num_heads": 2}, "image_size": 32, "num_classes": 2}
    save_learngene(extract_learngene(DescendantViT(depth=3, **sizes)), folder / FILE)
    write_split_images(folder)


def write_digits(folder):
    write_idx(folder, size=(28, 28), classes=10)


def write_split_images(folder):
    for part in ("train", "val"):
        write_images(folder / part, n=4)


def small_steps(name):
    """Few steps in a training batch, on few samples."""
    if name.startswith("interpretability/causal_abstraction"):
        few = ["--data.batch_size=4", "--data.train_samples=20", "--data.val_samples=8", "--data.test_samples=8"]
        own = ["--data.prompts=40"] if "_ioi" in name else [] if "_host" in name else ["--data.host_samples=50"]
        return [*few, *own]
    if name == "finetuning/tleg_descendant":
        return ["--data.batch_size=4", "--model.auxiliary.epochs=1", "--model.teacher.epochs=1"]
    inner = ["--model.inner_steps=2"] if name.startswith((*WHOLE, PROMPTS)) and "similarity" not in name else []
    if name.startswith(WHOLE):
        return inner
    if name.startswith("representation/"):
        return ["--data.batch_size=4", "--techniques.copied_head.epoch=0"]
    return ["--data.batch_size=4", *inner, *(["--data.inner_steps=2"] if inner and name.startswith(PROMPTS) else [])]


SMALL_INR = ["--model.width=8", "--model.hidden_layers=2"]
SMALL_S4D = ["--model.d_model=8", "--model.n_layers=2"]
SMALL_LM = ["--model.d_model=16", "--model.n_layers=2", "--model.n_heads=2", "--data.length=32"]
SMALL_VIT = ["--model.backbone_args={embed_dim: 16, depth: 2, num_heads: 2}", "--data.image_size=32"]
TINY_VIT = ["--model.backbone_args={embed_dim: 16, num_heads: 2}", "--data.image_size=32"]
LOCAL_MODEL = ["--model.path=data/model", "--trainer.precision=32-true", "--model.dtype=float32"]
RETENTION = "--data.retention=data/wikitext"
ENCODER = [
    "--model.path=data/model",
    "--data.ood=null",
    "--data.label_names=null",
    "--data.num_classes=2",
    "--techniques.lp_ft.cv=2",
]
LANGUAGE = ("finetuning/causal_lm", "finetuning/lp_ft_", "initialization/gg_prior")  # configs that read a model too
WRITERS = {
    "dynamics/deep_linear_paper": (
        write_mnist_npz,
        ["--model.hidden=12", "--model.layers=3", "--model.inner_steps=2"],
    ),
    "dynamics/generalization_dynamics_paper": (
        write_mnist_npz,
        ["--model.widths=[5, 20]", "--data.examples=20", "--data.draws=2", "--data.inputs=784"],
    ),
    "dynamics/ntk_paper": (
        write_idx,
        ["--model.inputs=36", "--model.width=8", "--data.samples=9", "--model.inner_steps=2"],
    ),
    "dynamics/rich_lazy_rnn_paper": (
        write_trials,
        ["--model.hidden=8", "--model.ranks=[1, 8]", "--model.inner_steps=2", "--model.kernel_trials=4"],
    ),
    "interpretability/diverse_dictionary_paper": (
        write_latents,
        ["--data.dimension=3", "--data.val_samples=20", "--data.test_samples=20"],
    ),
    "interpretability/causal_abstraction_ioi_paper": (
        write_name_sentences,
        [
            "--data.path=data/sentences.parquet",
            "--model.host.path=null",
            "--model.host.config={model_type: gpt_neox, vocab_size: 257, hidden_size: 8, num_attention_heads: 2}",
            "--model.host.config.num_hidden_layers=2",
            "--model.features=8",
            "--model.size=4",
            "--model.layer=lm.gpt_neox.layers.0",
        ],
    ),
    "interpretability/linear_scope_onet": (write_faces, ["--model.weights=null", "--data.test_fraction=0.5"]),
    "interpretability/linear_scope_paper": (
        write_split_images,
        [
            "--model.backbone=resnet10t",
            "--model.backbone_args={channels: [8, 8, 8, 8], stem_width: 8}",
            "--model.weights=null",
            "--data.image_size=32",
            "--data.num_classes=2",
        ],
    ),
    "in_context/icl_linear_models_paper": (write_prompts, ["--data.dim=3"]),
    "in_context/icl_linear_models_gpt2_paper": (
        write_prompts,
        ["--data.dim=3", "--model.width=8", "--model.layers=1", "--model.heads=2"],
    ),
    "in_context/icl_softmax_demystified_paper": (write_prompts, ["--data.dim=3"]),
    "finetuning/discriminative_generative_paper": (
        write_feature_tables,
        ["--data.features=5", "--data.num_classes=4"],
    ),
    "finetuning/lp_ft_paper": (write_review_sets, ENCODER),
    "finetuning/lp_ft_text": (write_review_sets, [*ENCODER, "--data.train_rows=40"]),
    "finetuning/warm_start_paper": (write_cifar, ["--model.width=4", "--data.per_round=4", "--data.max_rounds=2"]),
    "interpretability/grok_align_paper": (write_digits, ["--data.train=20", "--data.test=10", "--model.hidden=[8, 8]"]),
    "interpretability/grok_align_cifar_paper": (
        write_cifar,
        ["--data.train=20", "--data.test=10", "--model.width=2", "--model.hidden=4"],
    ),
    "initialization/logah_paper": (
        write_cifar,
        [
            "--model.architectures={family: vit, layers: [1, 2], widths: [12, 24], step: 12, heads: [2], patch_size: [8]}",
            "--model.size=256",
            "--model.meta_batch=2",
            "--model.eval_networks=1",
        ],
    ),
    "initialization/logah_gpt2_paper": (
        write_token_npy,
        [
            "--model.architectures={family: gpt2, layers: [1, 2], widths: [16, 24]}",
            "--model.size=256",
            "--model.eval_networks=1",
            "--data.length=32",
        ],
    ),
    "initialization/mixture_growth_paper": (write_cifar100, ["--model.net=wrn-10-1"]),
    "initialization/winner_audio_paper": (write_clip, SMALL_INR),
    "initialization/winner_image_paper": (write_picture, SMALL_INR),
    "initialization/gg_prior_paper": (write_labelled_texts, [*LOCAL_MODEL, "--data.length=64"]),
    "sequence/lightning_attention_paper": (write_token_files, SMALL_LM),
    "sequence/mom_paper": (
        write_token_arrow,
        [*SMALL_LM, "--model.head_dim=8", "--model.hidden=16", "--trainer.devices=1", "--trainer.strategy=auto"],
    ),
    "sequence/ultramem_v2_paper": (
        write_token_npy,
        [*SMALL_LM, "--model.hidden=16", "--model.memory.n_keys=12", "--model.memory.d_key=8"],
    ),
    "sequence/s4d_paper": (write_cifar, SMALL_S4D),
    "sequence/s4d_listops_paper": (write_tsv, SMALL_S4D),
    "sequence/s4d_speech_paper": (write_speech, [*SMALL_S4D, "--data.num_classes=3"]),
    "sequence/s4d_bidmc_paper": (write_bidmc, SMALL_S4D),
    "finetuning/tleg_paper": (
        write_split_images,
        [
            *TINY_VIT,
            "--model.depth=3",
            "--model.teacher={backbone: mlp, weights: null, args: {width: 8}}",
            "--data.num_classes=2",
        ],
    ),
    "finetuning/tleg_descendant_paper": (
        write_learngene_and_images,
        [*TINY_VIT, "--data.num_classes=2", "--techniques.learngene.path=data"],
    ),
    "interpretability/compositional_linear_paper": (
        write_embeddings,
        [
            "--model.sizes=[4, 5, 3]",
            "--model.image_size=16",
            "--data.train_fraction=0.5",
            "--techniques.concept_geometry.fraction=0.5",
            "--techniques.concept_geometry.steps=5",
        ],
    ),
    "representation/manifold_clustering_fashion": (write_idx, ["--data.image_size=28"]),
    "representation/manifold_clustering_paper": (
        write_cifar,
        [
            "--model.encoder.args={channels: [4, 4, 8, 8], stem_width: 4}",
            "--model.encoder.hidden=[16]",
            "--model.features=8",
        ],
    ),
    "interpretability/hash_encoder_paper": (write_mnist_npz, ["--model.width=5"]),
    "robustness/dp_rgmi_fashion": (
        write_digits,
        ["--data.public_path=data", "--model.pretrain_epochs=1", "--techniques.utilization_gap.resamples=2"],
    ),
    "robustness/dp_rgmi_paper": (
        write_radiographs,
        ["--model.backbone=group_norm_cnn", "--data.image_size=224", "--techniques.utilization_gap.resamples=2"],
    ),
    "robustness/dp_rgmi_phantom": (
        write_phantom_parts,
        [
            "--data.train_samples=40",
            "--data.val_samples=10",
            "--data.test_samples=40",
            "--data.public_samples=20",
            "--model.pretrain_epochs=1",
            "--techniques.utilization_gap.resamples=2",
        ],
    ),
    "robustness/ibp_fashion": (write_idx, ["--data.num_classes=4", "--model.width=2"]),
    "robustness/ibp_paper": (write_idx, ["--data.num_classes=4", "--model.width=2", "--model.hidden=[4]"]),
    "robustness/ibp_cifar_paper": (write_cifar, ["--model.width=2", "--model.hidden=[4]"]),
    "vision/image_classifier_fashion": (write_idx, ["--data.num_classes=4"]),
    "vision/image_classifier_paper": (write_split_images, [*SMALL_VIT, "--data.num_classes=2"]),
    "finetuning/causal_lm_smollm2": (write_small_texts, LOCAL_MODEL),
    "finetuning/causal_lm_smollm2_lora": (write_small_texts, LOCAL_MODEL),
    "finetuning/causal_lm_smollm2_kappa_tune": (write_small_texts, LOCAL_MODEL),
    "finetuning/causal_lm_liger_paper": (write_instructions, [*LOCAL_MODEL, "--data.length=64", "--data.val_rows=10"]),
    "finetuning/causal_lm_olmoe_paper": (
        write_tweets,
        [*LOCAL_MODEL, RETENTION, "--techniques.kappa_tune.num_tensors=3"],
    ),
    "finetuning/causal_lm_deepseek_paper": (write_film_reviews, [*LOCAL_MODEL, RETENTION, "--techniques.lora.rank=2"]),
}
