"""The training of a hypernetwork: its stream, its loss by hand, resume; what it predicts for models, and what not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from editing_toys import trainer_of
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from datamodules.sequence.tokens import TokenData
from datamodules.vision.small_images import SmallImages
from framework.errors import UserError
from modules.initialization.logah import GraphHyperNetwork, Space
from modules.initialization.logah.families import build
from modules.initialization.logah.module import HELD_OUT, apply
from modules.vision.image_classifier import ImageClassifier

TINY = {"dim": 8, "rank": 2, "layers": 1, "heads": 2, "size": 128}
MLPS = Space("mlp", layers=(1, 2), widths=(8, 16))


def model_of(**settings) -> GraphHyperNetwork:
    torch.manual_seed(0)
    return GraphHyperNetwork(**{"architectures": MLPS, **TINY, **settings})


def digits(**settings) -> SmallImages:
    return SmallImages("digits", num_classes=10, image_size=8, channels=1, **{"batch_size": 256, **settings})


def fit(folder, model, data=None, **options):
    torch.manual_seed(1)
    trainer = trainer_of(folder, *options.pop("callbacks", ()), **options)
    trainer.fit(model, datamodule=data or digits(), ckpt_path=options.pop("ckpt_path", None))
    return trainer


def test_the_loss_is_the_error_of_the_predicted_networks_and_the_norms():
    model = model_of(meta_batch=2, penalty=0.1, label_smoothing=0.1)
    model.log = lambda *args, **kwargs: None
    model.seeds = lambda batch_idx: [3, 4]
    x, y = torch.rand(6, 1, 8, 8), torch.arange(6)
    loss = model.training_step((x, y), 0)
    nets, graphs = zip(*(model.network(seed) for seed in (3, 4)), strict=True)
    found = model.hypernetwork(graphs)
    expected = 0
    for net, values in zip(nets, found, strict=True):
        h = x.flatten(1)
        *hidden, last = (values[name] for name, _ in net.named_parameters())
        for weight in hidden:
            h = torch.relu(h @ weight.T)
        expected = expected + F.cross_entropy(h @ last.T, y, label_smoothing=0.1) / 2
        expected = expected + 0.1 * sum(value.square().sum().sqrt() for value in values.values()) / 2
    torch.testing.assert_close(loss, expected)
    assert all(parameter.device.type == "meta" for net in nets for parameter in net.parameters())
    assert all(parameter.grad is None for net in nets for parameter in net.parameters())


def test_architectures_depend_on_seed_epoch_and_batch_alone():
    model, other = model_of(seed=1), model_of(seed=1)
    trainers = [type("Trainer", (), {"current_epoch": epoch}) for epoch in (0, 1)]
    model._trainer = other._trainer = trainers[0]
    first = [model.seeds(batch) for batch in range(4)]
    assert first == [other.seeds(batch) for batch in range(4)]
    other._trainer = trainers[1]
    assert first != [other.seeds(batch) for batch in range(4)]
    assert max(max(row) for row in first) < HELD_OUT, "those of evaluations are others"
    few = model_of(networks=3)
    few._trainer = trainers[0]
    assert {few.seeds(batch)[0] for batch in range(60)} == {0, 1, 2}


def test_a_few_steps_learn_and_unseen_networks_are_evaluated(tmp_path):
    model = model_of(dim=16, rank=8, size=128, optimizer={"name": "adamw", "lr": 0.003})
    trainer = fit(tmp_path, model, digits(batch_size=64), max_epochs=6, gradient_clip_val=5.0)
    assert float(trainer.callback_metrics["val/accuracy"]) > 0.5
    (found,) = trainer.test(model, datamodule=digits(), verbose=False)
    pairs = [model.network(HELD_OUT + number)[0] for number in range(model.eval_networks)]
    data = digits()
    data.setup()
    x, y = (torch.cat(parts) for parts in zip(*data.test_dataloader(), strict=True))
    values = [
        model.predict_weights(build("mlp", model.task, {"widths": widths_of(net), "bias": False})) for net in pairs
    ]
    with torch.no_grad():
        shares = [
            float((apply(net, each.values, (x, y)).argmax(1) == y).float().mean())
            for net, each in zip(pairs, values, strict=True)
        ]
    assert found["test/accuracy"] == pytest.approx(sum(shares) / len(shares), abs=1e-5)
    assert not model._predicted, "the evaluation's weights are let go"


def widths_of(net: nn.Module) -> list[int]:
    return [layer.out_features for layer in net if isinstance(layer, nn.Linear)][:-1]


def test_resumed_in_the_middle_it_draws_the_same_networks(tmp_path, monkeypatch):
    drawn: list[tuple[int, int, list[int]]] = []
    real = GraphHyperNetwork.seeds

    def seeds(self, batch_idx):
        found = real(self, batch_idx)
        drawn.append((self.current_epoch, batch_idx, found))
        return found

    monkeypatch.setattr(GraphHyperNetwork, "seeds", seeds)
    saver = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=4, filename="{step}")
    fit(tmp_path, model_of(), callbacks=[saver], max_epochs=3)
    whole, drawn[:] = list(drawn), []
    trainer_of(tmp_path, max_epochs=3).fit(model_of(), datamodule=digits(), ckpt_path=str(tmp_path / "step=8.ckpt"))
    assert drawn == whole[8:]
    assert len({tuple(found) for *_, found in whole}) == len(whole)


def test_class_tokens_depend_on_the_step_alone_and_evaluations_change_nothing(tmp_path):
    """Whatever the global generator has drawn in between: a resumed training ends with the same weights."""
    space = Space("vit", layers=(1, 1), widths=(8, 16), step=8, heads=(2,), patch_size=(4,))
    saver = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=2, filename="{step}")
    options = {"max_epochs": 1, "limit_train_batches": 4, "accumulate_grad_batches": 1}
    whole, resumed, watched = (model_of(architectures=space, meta_batch=2) for _ in range(3))
    fit(tmp_path, whole, callbacks=[saver], limit_val_batches=0, **options)
    torch.manual_seed(9)
    trainer = trainer_of(tmp_path, limit_val_batches=0, **options)
    trainer.fit(resumed, datamodule=digits(), ckpt_path=str(tmp_path / "step=2.ckpt"))
    fit(tmp_path, watched, limit_val_batches=1, val_check_interval=1, **options)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
        assert torch.equal(watched.state_dict()[name], value), name
    watched._predict()
    first = watched._predicted[0][1]["cls_token"]
    watched._predict()
    assert torch.equal(watched._predicted[0][1]["cls_token"], first)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("family", ["vit", "mlp"])
def test_with_numbers_of_16_bits(tmp_path, precision, family):
    space = Space(family, layers=(1, 1), widths=(8, 16), step=8, heads=(2,), patch_size=(4,), bias=True)
    model = model_of(architectures=space)
    kinds = set()
    real = model.hypernetwork.forward

    def seen(*args):
        found = real(*args)
        kinds.update(value.dtype for values in found for value in values.values())
        return found

    model.hypernetwork.forward = seen
    trainer = fit(tmp_path, model, precision=precision, max_epochs=1, limit_train_batches=2, limit_val_batches=1)
    assert kinds == {torch.float32 if precision == "bf16-mixed" else torch.bfloat16}
    assert 1 < float(trainer.callback_metrics["train/error"]) < 4


def test_what_was_met_is_noted_again_after_a_checkpoint_replaced_it(tmp_path):
    model = model_of()
    fit(tmp_path, model, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    met = model.operations.clone()
    assert int(met.sum()) == 1
    model.load_state_dict({**model.state_dict(), "operations": torch.zeros_like(met)})
    with pytest.raises(UserError, match="never trained: its checkpoint is from before the first step"):
        model.predict_weights(build("mlp", model.task, {"widths": [8], "bias": False}))
    fit(tmp_path, model, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    assert torch.equal(model.operations, met)


def test_tokens_for_gpt2(tmp_path):
    space = Space("gpt2", layers=(1, 2), widths=(16, 24))
    data = TokenData(length=16, batch_size=8)
    model = model_of(architectures=space, num_classes=256, length=16, size=256)
    trainer = fit(tmp_path, model, data, max_epochs=1, limit_train_batches=2, limit_val_batches=1)
    assert model.hypernetwork.normalise == "std"
    assert 0 < float(trainer.callback_metrics["val/loss"]) < 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 11}, "model.init_args.num_classes: 11, but the data has 10"),
        ({"image_size": 9}, "model.init_args.image_size: 9, but the data has 8"),
    ],
)
def test_data_that_does_not_fit(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        fit(tmp_path, model_of(**settings))


@pytest.mark.parametrize(
    ("family", "settings", "data", "message"),
    [
        ("gpt2", {"num_classes": 200}, "text", "num_classes: 200, but the data has 256"),
        ("gpt2", {"num_classes": 256, "length": 8}, "text", "length: 8, but the data has 16"),
        ("gpt2", {}, "images", "architectures.family: gpt2 takes tokens; SmallImages has none"),
        ("vit", {}, "text", "architectures.family: vit takes images; TokenData has none"),
    ],
)
def test_data_of_another_kind(tmp_path, family, settings, data, message):
    model = model_of(architectures=Space(family, layers=(1, 1), widths=(8, 8)), **settings)
    with pytest.raises(UserError, match=message):
        fit(tmp_path, model, TokenData(length=16, batch_size=8) if data == "text" else digits())


def test_patches_that_do_not_divide_the_images(tmp_path):
    with pytest.raises(UserError, match=r"architectures\.patch_size: patches of 3 do not divide images of 8"):
        fit(tmp_path, model_of(architectures=Space("vit", patch_size=(2, 3))))
    file = tmp_path / "shapes.csv"
    file.write_text("num_layers,hidden_dim,num_heads,patch_size\n1,8,2,2\n1,8,2,5\n")
    with pytest.raises(UserError, match=r"architectures\.file: patches of 5 do not divide images of 8"):
        fit(tmp_path, model_of(architectures=Space("vit", file=str(file)), eval_networks=1))


@pytest.mark.parametrize("settings", [{"meta_batch": 0}, {"networks": 0}, {"penalty": -1.0}, {"label_smoothing": 1.0}])
def test_settings_that_are_not_accepted(settings):
    (name,) = settings
    with pytest.raises(UserError, match=name):
        model_of(**settings)


def test_what_it_has_not_met_is_refused_by_name():
    model = model_of()
    model.operations[2, 0] = True
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    with pytest.raises(UserError, match=r"1\.weight: the weight of the operation linear was in no network"):
        model.predict_weights(net)
    model.operations[1, 0] = True
    with pytest.raises(UserError, match=r"1\.bias: the bias of .* training; train one with architectures\.bias: true"):
        model.predict_weights(net)
    with pytest.raises(UserError, match="holds no network of a known family; accepted: vision transformers"):
        model.predict_weights(nn.LSTM(3, 3))
    with pytest.raises(UserError, match="network: Sequential has no 'body'"):
        model.predict_weights(net, "body")
    with pytest.raises(UserError, match="network: 1 is a Linear, of no known family"):
        model.predict_weights(net, "1")
    vit = build("vit", model.task, {"depth": 1, "width": 12, "heads": 3, "patch_size": 2})
    with pytest.raises(UserError, match="is of the family vit; this hypernetwork was trained on mlp"):
        model.predict_weights(vit)


def test_the_backbone_of_the_shipped_classifier_is_known():
    model = model_of(architectures=Space("mlp", bias=True))
    model.operations[:] = True
    classifier = ImageClassifier(
        "mlp", num_classes=10, image_size=8, in_chans=1, backbone_args={"width": 16, "depth": 2}
    )
    found = model.predict_weights(classifier)
    assert found.network == "backbone"
    assert set(found.values) == {name for name, _ in classifier.named_parameters()}


def test_a_layer_of_a_larger_network_is_not_taken_for_a_perceptron():
    model = model_of()
    model.operations[:] = True
    inner = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    larger = nn.ModuleDict({"inner": inner, "rest": nn.LSTM(32, 32)})
    with pytest.raises(UserError, match="ModuleDict holds no network of a known family"):
        model.predict_weights(larger)
    assert set(model.predict_weights(larger, "inner").values) == {
        "inner.0.weight", "inner.0.bias", "inner.2.weight", "inner.2.bias",
    }  # fmt: skip


def test_a_model_without_values_is_refused():
    model = model_of()
    model.operations[:] = True
    with torch.device("meta"):
        net = build("mlp", model.task, {"widths": [8], "bias": False})
    with pytest.raises(UserError, match="Sequential is on the meta device, which holds no values"):
        model.predict_weights(net)


def test_a_diverged_hypernetwork_is_refused():
    model = model_of()
    model.operations[:] = True
    with torch.no_grad():
        model.hypernetwork.decoder.wide.bias[0] = float("nan")
    with pytest.raises(
        UserError, match=r"1\.weight: the prediction is not finite; the hypernetwork's training diverged"
    ):
        model.predict_weights(build("mlp", model.task, {"widths": [8], "bias": False}))


def test_what_shares_a_parameter_with_the_network_is_reported_as_copied():
    model = model_of()
    model.operations[:] = True
    net = build("mlp", model.task, {"widths": [8], "bias": False})
    outer = nn.ModuleDict({"net": net, "again": nn.Linear(8, 10)})
    outer["again"].weight = net[3].weight
    assert model.predict_weights(outer, "net").how == {
        "net.1.weight": "predicted", "net.3.weight": "predicted", "again.weight": "copied", "again.bias": "left alone",
    }  # fmt: skip


def test_a_bias_of_which_twice_its_size_is_beyond_ck_is_tiled():
    model = model_of(architectures=Space("mlp", bias=True))
    model.operations[:] = True
    how = model.predict_weights(build("mlp", model.task, {"widths": [80], "bias": True})).how
    assert how == {"1.weight": "predicted", "1.bias": "tiled", "3.weight": "predicted", "3.bias": "predicted"}


def test_every_parameter_is_reported():
    model = model_of(architectures=Space("gpt2", layers=(1, 1), widths=(16, 16)), num_classes=256, length=16, size=128)
    model.operations[:] = True
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=256, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lm, self.other = GPT2LMHeadModel(config), nn.Linear(2, 2)

    wrapped = Wrapped()
    found = model.predict_weights(wrapped)
    assert found.network == "lm"
    assert set(found.how) == {name for name, _ in wrapped.named_parameters(remove_duplicate=False)}
    assert found.how["lm.lm_head.weight"] == "copied"
    assert found.how["other.weight"] == "left alone"
    assert found.how["lm.transformer.wte.weight"] == "tiled", "256 rows, and ck is 128"
    assert found.how["lm.transformer.h.0.attn.c_attn.weight"] == "predicted"
    assert set(found.values) == {name for name, kind in found.how.items() if kind in ("predicted", "tiled")}
