"""Distillation against its formula, the two stages in a Trainer, their files, and what is refused."""

import csv

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import framework
from callbacks.learngene import Learngene
from callbacks.lora import LoRA
from datamodules.vision.small_images import SmallImages
from framework.checkpoints.learngene_file import read_learngene
from framework.editing import ledger_of
from framework.errors import UserError
from framework.functional.learngene import extract_learngene
from framework.optim import OptimizerConfig, parameter_groups
from modules.finetuning.tleg import DescendantViT, LearngeneAux
from modules.finetuning.tleg.distillation import TeacherConfig, build_teacher, distillation_loss
from modules.finetuning.tleg.module import AuxiliaryConfig, accuracy_at, distil
from modules.finetuning.tleg.plots import first_component
from modules.finetuning.tleg.tables import storage_rows
from modules.vision.image_classifier import ImageClassifier
from modules.vision.mlp import MLP

SIZES = {"image_size": 8, "in_chans": 1, "backbone_args": {"patch_size": 4, "embed_dim": 16, "num_heads": 2}}
TEACHER = {"args": {"width": 16, "depth": 1}, "epochs": 1}


class Few(SmallImages):
    """64 of the digits."""

    def __init__(self, **changed):
        super().__init__("digits", val_fraction=0.0, batch_size=16, eval_batch_size=64, **changed)

    def setup(self, stage=None):
        super().setup(stage)
        for part in (self.train_set, self.test_set):
            part.tensors = tuple(tensor[:64] for tensor in part.tensors)


def aux(**changed):
    torch.manual_seed(0)
    return LearngeneAux(**{**SIZES, "depth": 2, "teacher": TEACHER, "zero_shot_depths": [1, 3], **changed})


def descendant(depth=3, **changed):
    torch.manual_seed(0)
    first = AuxiliaryConfig(depth=2, epochs=1)
    return DescendantViT(**{**SIZES, "depth": depth, "auxiliary": first, "teacher": TEACHER, **changed})


def fit(module, *techniques, folder=None, epochs=1, checkpoint=None):
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(techniques),
        default_root_dir=folder,
    )
    trainer.fit(module, datamodule=Few(), ckpt_path=checkpoint)
    return trainer


class TestDistillation:
    def test_it_is_the_divergence_of_softened_predictions(self):
        student, teacher = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        for tau in (1.0, 3.0):
            p, q = (teacher / tau).softmax(-1), (student / tau).softmax(-1)
            expected = tau**2 * (p * (p / q).log()).sum(-1).mean()
            found = distillation_loss(student, teacher, tau)
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(5 * distillation_loss(student, teacher, tau, "numel"), found, rtol=1e-6, atol=0)

    def test_of_the_teachers_own_predictions_it_is_0(self):
        logits = torch.randn(6, 5)
        for form in ("batchmean", "numel"):
            assert float(distillation_loss(logits, logits.clone(), 2.0, form)) == pytest.approx(0, abs=1e-7)

    def test_its_gradient_at_temperature_1_is_the_difference_of_predictions(self):
        student, teacher = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5)
        distillation_loss(student, teacher).backward()
        torch.testing.assert_close(student.grad, (student.softmax(-1) - teacher.softmax(-1)).detach() / 4)

    def test_the_objective_weighs_it_against_cross_entropy(self):
        x, y = torch.randn(6, 1, 8, 8), torch.arange(6)
        kd, ce = aux(alpha=1.0), aux(alpha=0.0, label_smoothing=0.1)
        both = aux(alpha=0.3, label_smoothing=0.1)
        teacher = MLP(8, 1, 10, 16, 1)
        for module in (kd, ce, both):
            module._teacher.append(teacher)
        logits = both(x)
        losses = [module.objective(x, logits, y) for module in (kd, ce, both)]
        torch.testing.assert_close(losses[1], F.cross_entropy(logits, y, label_smoothing=0.1))
        torch.testing.assert_close(losses[2], 0.3 * losses[0] + 0.7 * losses[1])
        mixed = F.one_hot(y, 10).float()
        torch.testing.assert_close(ce.objective(x, logits, mixed), F.cross_entropy(logits, y))


class TestTeachers:
    def test_trained_in_place_the_seed_decides(self):
        data = Few()
        data.setup()
        sizes = {"num_classes": 10, "image_size": 8, "in_chans": 1}
        a, b, c = (build_teacher(TeacherConfig(args={"width": 8}, epochs=2), data, sizes, seed) for seed in (0, 0, 1))
        assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
        assert not torch.equal(a.head.weight, c.head.weight)
        assert not a.training
        assert not any(p.requires_grad for p in a.parameters())

    def test_of_weights_or_of_a_run(self, tmp_path):
        data, sizes = Few(), {"num_classes": 10, "image_size": 8, "in_chans": 1}
        own = MLP(8, 1, 10, 16, 1)
        save_file(own.state_dict(), tmp_path / "w.safetensors")
        config = TeacherConfig(weights=str(tmp_path / "w.safetensors"), args={"width": 16, "depth": 1})
        assert torch.equal(build_teacher(config, data, sizes, 0).head.weight, own.head.weight)
        experiment = framework.build(
            "vision/image_classifier_digits",
            [
                *("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu"),
                *("--trainer.enable_progress_bar=false", "--wandb.mode=disabled", "--run.name=one"),
            ],
        )
        experiment.fit()
        teacher = build_teacher(TeacherConfig(checkpoint=str(experiment.folder)), data, sizes, 0)
        assert isinstance(teacher, ImageClassifier)
        assert torch.equal(teacher.backbone.head.weight, experiment.model.backbone.head.weight)
        with pytest.raises(UserError, match=r"teacher.checkpoint: .* has 10 classes, not 3"):
            build_teacher(TeacherConfig(checkpoint=str(experiment.folder)), data, {**sizes, "num_classes": 3}, 0)

    def test_missing_files_are_named(self):
        sizes = {"num_classes": 10, "image_size": 8, "in_chans": 1}
        with pytest.raises(UserError, match=r"nowhere.ckpt"):
            build_teacher(TeacherConfig(checkpoint="nowhere.ckpt"), Few(), sizes, 0)
        with pytest.raises(UserError, match=r"nowhere.pth"):
            build_teacher(TeacherConfig(weights="nowhere.pth"), Few(), sizes, 0)

    def test_outputs_of_another_shape_are_refused(self):
        module = aux()
        module._teacher.append(MLP(8, 1, 7, 16, 1))
        x = torch.randn(2, 1, 8, 8)
        with pytest.raises(UserError, match=r"teacher: gives outputs of shape \(2, 7\), the student \(2, 10\)"):
            module.objective(x, module(x), torch.zeros(2).long())


class TestStageOne:
    def test_a_run_leaves_the_learngene_and_tables(self, tmp_path):
        module = aux()
        trainer = fit(module, folder=tmp_path, epochs=2)
        own, found = extract_learngene(module), read_learngene(tmp_path)
        assert all(torch.equal(value, found.base[name]) for name, value in own.base.items())
        rows = list(csv.DictReader((tmp_path / "zero_shot.csv").open()))
        assert [(row["depth"], row["trained"]) for row in rows] == [("1", "0"), ("3", "0")]
        for row in rows:
            depth = int(row["depth"])
            measured = accuracy_at(module.eval(), trainer.datamodule.val_set, depth)
            assert float(row["val_accuracy"]) == pytest.approx(measured)
            assert float(trainer.callback_metrics[f"val/accuracy_depth_{depth}"]) == pytest.approx(measured)
        (first, last) = csv.DictReader((tmp_path / "storage.csv").open())
        block, shared = 12 * 16**2 + 13 * 16, 16 * 16 + 16 + 4 * 16 + 2 * 16 + 16 * 10 + 10
        assert int(first["model"]) == block + shared
        assert int(last["models"]) == 4 * block + 2 * shared
        assert int(last["learngene"]) == 2 * block + shared
        assert float(last["ratio"]) == pytest.approx((4 * block + 2 * shared) / (2 * block + shared))
        assert (tmp_path / "figures" / "depths.png").is_file()

    def test_the_teacher_is_no_part_of_it(self, tmp_path):
        module = aux()
        before = set(module.state_dict())
        fit(module, folder=tmp_path)
        assert module._teacher
        assert set(module.state_dict()) == before
        assert len(list(module.backbone.parameters())) == len([p for p in module.parameters() if p.requires_grad])

    def test_the_loop_in_place_trains_as_fit_does(self, tmp_path):
        fitted, looped = aux(), aux()
        fit(fitted, folder=tmp_path, epochs=2)
        data = Few()
        data.setup()
        looped.find_teacher(data, 0)
        distil(looped, data, 2, 0)
        for name, value in fitted.backbone.state_dict().items():
            torch.testing.assert_close(looped.backbone.state_dict()[name], value, atol=1e-6, rtol=0)

    def test_going_on_is_as_if_never_stopped(self, tmp_path):
        straight, stopped, resumed = (aux(alpha=0.5) for _ in range(3))
        fit(straight, folder=tmp_path, epochs=2)
        fit(stopped, folder=tmp_path).save_checkpoint(tmp_path / "a.ckpt")
        fit(resumed, folder=tmp_path, epochs=2, checkpoint=tmp_path / "a.ckpt")
        assert not torch.equal(stopped.backbone.head.weight, straight.backbone.head.weight)
        assert all(
            torch.equal(v, straight.state_dict()[k]) for k, v in resumed.backbone.state_dict(prefix="backbone.").items()
        )

    def test_norms_and_biases_of_the_slope_have_no_decay(self):
        groups = parameter_groups(aux().backbone, OptimizerConfig(weight_decay=0.05, decay_1d=False))
        plain = {name for group in groups if group["weight_decay"] == 0 for name in group["names"]}
        assert {"blocks.slope.norm1.weight", "blocks.slope.norm1.bias", "blocks.slope.mlp.fc1.bias"} <= plain
        assert "blocks.slope.mlp.fc1.weight" not in plain

    def test_a_technique_that_changes_the_structure_of_the_blocks_is_refused(self, tmp_path):
        with pytest.raises(UserError, match=r"techniques: blocks.*was edited.*edit the structure of a descendant"):
            fit(aux(), LoRA(rank=2), folder=tmp_path)

    def test_a_checkpoint_opens(self, tmp_path):
        module = aux()
        trainer = fit(module, folder=tmp_path)
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        again = LearngeneAux.load_from_checkpoint(tmp_path / "a.ckpt")
        assert (again.teacher_config, again.backbone.blocks.depth) == (module.teacher_config, 2)
        x = torch.randn(3, 1, 8, 8)
        assert torch.equal(again.eval()(x), module.eval()(x))


class TestStageTwo:
    def test_without_a_file_it_starts_from_one_of_its_own(self, tmp_path):
        module = descendant(3)
        fit(module, Learngene(), folder=tmp_path)
        assert read_learngene(tmp_path).depth == 2
        assert (tmp_path / "figures" / "layers.png").is_file()
        (plan,) = ledger_of(module).plans
        assert plan.decision["path"] is None
        assert len(plan.decision["tensors"]) == len(module.backbone.state_dict())

    def test_of_a_file_it_starts_there(self, tmp_path):
        fit(aux(), folder=tmp_path)
        learngene, seen = read_learngene(tmp_path), {}

        class See(pl.Callback):
            def on_train_start(self, trainer, module):
                seen.update({name: value.clone() for name, value in module.backbone.state_dict().items()})

        module = descendant(5)
        fit(module, Learngene(str(tmp_path)), See(), folder=tmp_path / "two")
        assert torch.equal(seen["blocks.0.mlp.fc1.weight"], learngene.base["mlp.fc1.weight"])
        last = learngene.base["mlp.fc1.weight"] + 4 / 5 * learngene.slope["mlp.fc1.weight"]
        torch.testing.assert_close(seen["blocks.4.mlp.fc1.weight"], last)
        assert not (tmp_path / "two" / "learngene.safetensors").exists()
        ends = module.backbone.state_dict()
        assert not torch.equal(ends["blocks.1.mlp.fc1.weight"], seen["blocks.1.mlp.fc1.weight"])

    def test_the_first_component_is_numpys_and_of_a_line_it_is_all(self):
        stack = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
        coordinate, share = first_component(stack)
        rows = (stack - stack.mean(0)).flatten(1).double()
        values, vectors = torch.linalg.eigh(rows @ rows.T)
        torch.testing.assert_close(coordinate.abs(), (vectors[:, -1] * values[-1].sqrt()).abs())
        assert share == pytest.approx(float(values[-1] / values.sum()))
        assert coordinate[-1] > coordinate[0]
        line = torch.arange(4.0)[:, None] * torch.tensor([1.0, -2.0])
        coordinate, share = first_component(line)
        assert share == pytest.approx(1)
        torch.testing.assert_close(coordinate.diff(), torch.full((3,), 5.0**0.5, dtype=torch.float64))


def test_what_is_stored_adds_up():
    model = nn.ModuleDict({"net": aux().backbone})
    learngene = extract_learngene(model)
    rows = storage_rows(learngene, [2, 4])
    assert [row["depth"] for row in rows] == [2, 4]
    assert rows[1]["models"] == rows[0]["model"] + rows[1]["model"]
    assert rows[1]["ratio"] == rows[1]["models"] / learngene.parameters


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"depth": 0}, "depth: 0 is not accepted"),
        ({"alpha": 1.5}, "alpha: 1.5 is not accepted"),
        ({"tau": 0.0}, "tau: 0.0 is not accepted"),
        ({"form": "mean"}, "form: 'mean' is not one of batchmean, numel"),
        ({"zero_shot_depths": [3, 0]}, r"zero_shot_depths: \[3, 0\]"),
        ({"backbone_args": {"depth": 3}}, "backbone_args.depth: 3 is not accepted here; give depth"),
        ({"weights": "w.pth"}, "weights: w.pth is not accepted, the layers of this network are not its own"),
        ({"drop_path_rate": 0.1}, "drop_path_rate: 0.1 is not accepted"),
        ({"teacher": {"epochs": 0}}, "teacher.epochs: 0"),
        (
            {"teacher": {"checkpoint": "a", "weights": "b"}},
            "at most one of teacher.checkpoint, teacher.weights is accepted",
        ),
        ({"backbone": "resnet10t", "backbone_args": {}}, "backbone"),
    ],
)
def test_bad_settings_are_named(changed, message):
    with pytest.raises(UserError, match=message):
        aux(**changed)


def test_data_of_other_classes_is_said_before_the_first_stage(tmp_path):
    for module, techniques in ((aux(num_classes=3), ()), (descendant(num_classes=3), (Learngene(),))):
        with pytest.raises(UserError, match=r"model.init_args.num_classes: 3, but num_classes of Few is 10"):
            fit(module, *techniques, folder=tmp_path)


def test_bad_settings_of_the_second_stage_are_named():
    with pytest.raises(UserError, match="depth: 0 is not accepted"):
        descendant(0)
    with pytest.raises(UserError, match=r"auxiliary.epochs: 0"):
        descendant(auxiliary={"epochs": 0})
    with pytest.raises(UserError, match=r"form: 'sum' is not one of"):
        distillation_loss(torch.zeros(1, 2), torch.zeros(1, 2), form="sum")
