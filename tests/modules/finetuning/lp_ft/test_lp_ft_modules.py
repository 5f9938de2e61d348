"""The digits' network and the classifier of texts: features, pretraining, checkpoints, what is refused."""

from __future__ import annotations

import shutil

import pytest
import torch
from tiny_files import write_encoder, write_review_sets

import framework
from callbacks.ntk_split.split import ntk_split
from framework.editing import ledger_of
from framework.errors import UserError
from framework.functional.evaluating import evaluating
from framework.observing.linear_probe import find_head, see
from modules.finetuning.lp_ft import TextClassifier, TransferClassifier, TransferMLP

QUIET = ["--wandb.mode=disabled", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def fitted(root, *overrides, config="finetuning/lp_ft"):
    experiment = framework.build(config, [*QUIET, f"--run.root={root}", "--run.name=run", *overrides])
    experiment.fit()
    return experiment


def test_digits_are_pretrained_once_and_the_head_is_fresh(tmp_path):
    fast = ["--trainer.max_epochs=1", "--techniques.ntk_split=null", "--model.pretrain_epochs=3"]
    one = fitted(tmp_path / "a", *fast, "--techniques.lp_ft.strategy=ft", "--model.optimizer.lr=0.0").model
    two = fitted(tmp_path / "b", *fast, "--techniques.lp_ft=null", "--model.optimizer.lr=0.0").model
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    torch.manual_seed(0)
    fresh = TransferMLP()
    assert not torch.equal(one.net.backbone[0].weight, fresh.backbone[0].weight)
    assert one.net.head.out_features == 5
    bound = 64**-0.5
    assert float(one.net.head.weight.abs().max()) <= bound  # as drawn, not as pretrained
    path = tmp_path / "a" / "lp_ft" / "run"
    opened = TransferClassifier.load_from_checkpoint(path / "checkpoints" / "last.ckpt")
    assert torch.equal(opened.net.head.weight, one.net.head.weight)
    tested = framework.build(str(path / "config.yaml"), [*QUIET, f"--ckpt_path={path}"], "test")
    (found,) = [dict(part) for part in [{k: v for row in tested.run() for k, v in row.items()}]]
    x, y = tested.datamodule.shifted_set.tensors
    with torch.no_grad(), evaluating(one):
        right = float((one(x).argmax(1) == y).float().mean())
    assert found["test/ood_accuracy"] == pytest.approx(right)
    assert "test/accuracy" in found


def test_what_the_digits_refuse(tmp_path):
    data = {
        "class_path": "datamodules.vision.small_images.SmallImages",
        "init_args": {"source": "digits", "num_classes": 10, "image_size": 8, "channels": 1},
    }
    model = {"class_path": "modules.finetuning.lp_ft.TransferClassifier", "init_args": {"num_classes": 10}}
    with pytest.raises(UserError, match="SmallImages has no source to pretrain on"):
        framework.build({"model": model, "data": data}, [*QUIET, f"--run.root={tmp_path}"]).fit()
    with pytest.raises(UserError, match="pretrain_epochs: -1"):
        TransferClassifier(pretrain_epochs=-1)
    with pytest.raises(UserError, match=r"^widths: \[0\] is not accepted; each at least 1"):
        TransferMLP(widths=[0])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "model"
    write_encoder(folder)
    return str(folder)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_features_of_texts(encoder, pooling):
    model = TextClassifier(encoder, num_classes=3, pooling=pooling).eval()
    x = torch.tensor([[0, 10, 11, 12, 2, 1, 1], [0, 20, 21, 22, 23, 24, 2]])
    seen = see(model, find_head(model), [(x, torch.zeros(2).long())])
    for row, length in ((0, 5), (1, 7)):  # padding makes no difference
        hidden = model.net.encoder(input_ids=x[row : row + 1, :length]).last_hidden_state[0]
        expected = hidden[0] if pooling == "first" else hidden.mean(0)
        torch.testing.assert_close(seen.features[row], expected.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.logits, model.net.head(seen.features).detach())
    assert all(parameter.requires_grad for parameter in model.parameters())
    model(x).sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters()), "a weight that nothing reads"


def test_the_split_of_an_encoder(encoder):
    model = TextClassifier(encoder, num_classes=2).eval().double()
    x = torch.tensor([[0, 10, 11, 2, 1], [0, 20, 21, 22, 2], [0, 9, 8, 2, 1]])
    split = ntk_split(model, "net.head", x, chunk=2)
    rows = []
    backbone = [p for n, p in model.named_parameters() if not n.startswith("net.head.")]
    for point in x:
        for output in model(point[None])[0]:
            found = torch.autograd.grad(output, backbone, retain_graph=True, allow_unused=True)
            rows.append(
                torch.cat(
                    [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(found, backbone, strict=True)]
                )
            )
    jacobian = torch.stack(rows)
    expected = (jacobian @ jacobian.T).reshape(3, 2, 3, 2)
    torch.testing.assert_close(split.finetune, expected, rtol=1e-8, atol=1e-10)


def test_texts_through_fit_and_a_checkpoint_without_the_folder(tmp_path):
    write_review_sets(tmp_path)
    options = [
        f"--model.path={tmp_path / 'model'}",
        f"--data.path={tmp_path}",
        "--data.ood=null",
        "--data.num_classes=2",
        "--data.label_names=null",
        "--trainer.max_epochs=1",
        "--trainer.precision=32-true",
        "--trainer.accelerator=cpu",
    ]
    experiment = fitted(tmp_path / "runs", *options, config="finetuning/lp_ft_paper")
    (plan,) = ledger_of(experiment.model).plans
    assert plan.decision["head"] == "net.head"
    path = tmp_path / "runs" / "lp_ft_paper" / "run"
    assert (path / "temperature.json").is_file()
    x = next(iter(experiment.datamodule.val_dataloader()))[0]
    with torch.no_grad():
        expected = experiment.model.eval()(x)
    shutil.rmtree(tmp_path / "model")
    opened = TextClassifier.load_from_checkpoint(path / "checkpoints" / "last.ckpt").eval()
    with torch.no_grad():
        torch.testing.assert_close(opened(x), expected)


def test_what_texts_refuse(encoder, tmp_path):
    small = {"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    for options, message in (
        ({}, "path: exactly one of path, config is needed"),
        ({"path": encoder, "pooling": "last"}, "pooling: 'last' is not one of first, mean"),
        ({"path": encoder, "head_dropout": 1.0}, "head_dropout: 1.0"),
        ({"path": encoder, "num_classes": 1}, "num_classes: 1"),
        ({"path": str(tmp_path / "nowhere")}, "nowhere not found; nothing is downloaded"),
        ({"config": {"model_type": "brt"}}, "config.model_type: 'brt'"),
        ({"config": {**small, "num_attention_heads": 3}}, "config: bert cannot be built"),
    ):
        with pytest.raises(UserError, match=message):
            TextClassifier(**options)
    model = TextClassifier(config={**small, "vocab_size": 100, "intermediate_size": 8})
    assert model.net.encoder.pooler is None
    model.net.encoder.save_pretrained(tmp_path / "plain")  # the pooler that it lacks is none of its own
    model.net.encoder.register_parameter("extra", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(UserError, match="save_pretrained: extra and 0 more tensors differ from a plain BertModel"):
        model.net.encoder.save_pretrained(tmp_path / "edited")
    write_review_sets(tmp_path)
    options = [f"--data.path={tmp_path}", "--data.num_classes=2", "--data.ood=null", "--trainer.precision=32-true"]
    config = "--model.config={model_type: bert, hidden_size: 8, num_attention_heads: 2, num_hidden_layers: 1}"
    with pytest.raises(UserError, match=r"data.tokenizer: it pads with 256, the encoder with 0"):
        fitted(
            tmp_path, "--model.path=null", config, "--data.tokenizer=null", *options, config="finetuning/lp_ft_paper"
        )
