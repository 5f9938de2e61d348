"""The engine on a plain LightningModule in a plain Trainer: edits in training, resumes, ways in, refusals."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from editing_toys import Branch, EarlyBranch, Freeze, Net, Widen
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from resume_harness import Data, Kill, in_child, in_two_ranks, same

import framework
from framework.checkpoints.writing import AtomicCheckpointIO
from framework.editing import Editing, Plan, Writer, edit, fold, ledger_of, undo
from framework.editing.engine import check_run, contradictions, in_order
from framework.editing.ledger import read_plans, trainable_names
from framework.editing.plan import KEY, SCHEMA
from framework.editing.registry import find_technique
from framework.editing.technique import IMPORTED
from framework.errors import UserError
from framework.resume import ResumePoint
from framework.tracking.metrics_log import MetricsLog


def fit(
    folder: Path,
    techniques: list[Any],
    kill: tuple[str, int] | None = None,
    resume: bool = False,
    model: Any = None,
    **kwargs: Any,
) -> pl.Trainer:
    pl.seed_everything(5, verbose=False)
    trainer = pl.Trainer(
        **{
            "max_epochs": 3,
            "accelerator": "cpu",
            "devices": 1,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "use_distributed_sampler": False,
            "default_root_dir": folder,
            "logger": [MetricsLog(folder)],
            **kwargs,
        },
        callbacks=[ResumePoint(folder, every_n_seconds=0.0), *techniques, *([Kill(*kill)] if kill else [])],
        plugins=[AtomicCheckpointIO()],
    )
    path = folder / "last.ckpt"
    trainer.fit(model or Net(), datamodule=Data(), ckpt_path=str(path) if resume and path.exists() else None)
    module = trainer.lightning_module
    torch.save(
        {
            "weights": module.state_dict(),
            "trainable": trainable_names(module),
            "optimizer": trainer.optimizers[0].state_dict(),
            "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
            "step": trainer.global_step,
        },
        folder / f"end{trainer.global_rank}.pt",
    )
    return trainer


class Pull(Writer):
    """Writes to the weights outside of edits."""

    technique = "toy_pull"


CASES = {
    "widen at an epoch": lambda: [Widen()],
    "widen at a step": lambda: [Widen(epoch=None, step=13)],
    "branch": lambda: [Branch()],
    "branch, the rest frozen": lambda: [Branch(freeze=True)],
    "branch, optimiser reset": lambda: [Branch(optimizer="reset")],
    "freeze, then branch": lambda: [Freeze(), Branch()],
    "widen, then branch": lambda: [Widen(), Branch(epoch=2)],
}


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The end of the run of each case, made once."""

    @cache
    def get(case: str) -> Path:
        folder = tmp_path_factory.mktemp("whole")
        assert in_child(lambda: fit(folder, CASES[case]())) == 0
        return folder

    return get


@pytest.mark.parametrize("at", [(6, 11), (17, 24)], ids=lambda at: f"{at[0]} and {at[1]}")
@pytest.mark.parametrize("case", CASES)
def test_killed_before_or_after_an_edit_equals_never_stopped(
    case: str, at: tuple[int, int], tmp_path: Path, never_stopped: Callable[[str], Path]
) -> None:
    """Killed twice, at these steps: the edit comes in the first process, in one that goes on, or between two."""
    a, b, make = never_stopped(case), tmp_path, CASES[case]
    assert in_child(lambda: fit(b, make(), kill=("on_train_batch_end", at[0]))) == 137
    assert in_child(lambda: fit(b, make(), kill=("on_train_batch_end", at[1] - at[0] + 1), resume=True)) == 137
    assert not (b / "end0.pt").exists()
    assert in_child(lambda: fit(b, make(), resume=True)) == 0
    left, right = torch.load(a / "end0.pt"), torch.load(b / "end0.pt")
    for key in left:
        assert same(left[key], right[key]), key
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    base = Net().state_dict()
    assert left["weights"].keys() != base.keys() or left["weights"]["first.weight"].shape != base["first.weight"].shape


def test_an_edit_in_training_in_two_processes(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir(), b.mkdir()
    options: dict[str, Any] = {"devices": 2, "strategy": "ddp"}

    def make() -> list[Any]:
        return [Widen(), Branch(epoch=2)]

    assert in_two_ranks(lambda: fit(a, make(), **options)) == [0, 0]
    assert in_two_ranks(lambda: fit(b, make(), kill=("on_train_batch_end", 8), **options)) == [137, 137]
    assert in_two_ranks(lambda: fit(b, make(), resume=True, **options)) == [0, 0]
    ends = [torch.load(folder / f"end{rank}.pt") for folder in (a, b) for rank in (0, 1)]
    for end in ends[1:]:
        assert same(ends[0]["weights"], end["weights"]), "the ranks, or the resumed run, went apart"
        assert same(ends[0]["optimizer"], end["optimizer"])
    assert "branch.0.weight" in ends[0]["weights"]
    assert ends[0]["weights"]["first.weight"].shape == (9, 5)


def test_growing_keeps_the_function_the_moments_and_the_place_of_the_schedule(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    class Look(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
            if trainer.current_epoch == 0:
                optimizer = trainer.optimizers[0]
                seen["lr"] = [group["lr"] for group in optimizer.param_groups]
                seen["moment"] = optimizer.state[pl_module.first.weight]["exp_avg"].clone()
                seen["step"] = optimizer.state[pl_module.first.weight]["step"].clone()
                seen["out"] = pl_module(torch.ones(2, 5)).detach()

        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == 1 and batch_idx == 0:
                optimizer = trainer.optimizers[0]
                state = optimizer.state[pl_module.first.weight]
                assert [group["lr"] for group in optimizer.param_groups] == seen["lr"]
                assert same(state["exp_avg"][:6], seen["moment"])
                assert not state["exp_avg"][6:].any()
                assert same(state["step"], seen["step"])
                torch.testing.assert_close(pl_module(torch.ones(2, 5)), seen["out"])
                assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == trainer.global_step
                seen["checked"] = True

    fit(tmp_path, [Widen(), Look()], max_epochs=2)
    assert seen["checked"]


def test_a_reset_starts_the_optimiser_and_the_schedule_anew(tmp_path: Path) -> None:
    class Look(pl.Callback):
        checked = False

        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == 1 and batch_idx == 0:
                assert not trainer.optimizers[0].state
                assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 0
                self.checked = True

    look = Look()
    fit(tmp_path, [Branch(optimizer="reset"), look], max_epochs=2)
    assert look.checked


def saved(tmp_path: Path, techniques: list[Any], weights_only: bool = False) -> Path:
    trainer = fit(tmp_path, techniques, max_epochs=2)
    path = tmp_path / "saved.ckpt"
    trainer.save_checkpoint(path, weights_only=weights_only)
    return path


@pytest.mark.parametrize("weights_only", [False, True])
def test_a_plain_module_opens_in_every_way(tmp_path: Path, weights_only: bool) -> None:
    path = saved(tmp_path, [Widen(), EarlyBranch(freeze=True)], weights_only)
    checkpoint = torch.load(path, weights_only=True)
    by_function = framework.open_model(path, Net)
    by_hand = Net()
    framework.replay(by_hand, checkpoint)
    by_hand.load_state_dict(checkpoint["state_dict"])
    by_trainer = Net()
    trainer = pl.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    trainer.callbacks.append(Editing())  # what the command line does
    trainer.validate(by_trainer, datamodule=Data(), ckpt_path=str(path), verbose=False)
    for module in (by_function, by_hand, by_trainer):
        assert same(module.state_dict(), checkpoint["state_dict"])
        assert trainable_names(module) == checkpoint[KEY]["plans"][-1]["trainable"]
        assert module.first.out_features == 9
        assert module.branch[0].out_features == 2


def test_a_plain_trainer_that_decided_otherwise_is_taken_back(tmp_path: Path) -> None:
    path = saved(tmp_path, [EarlyBranch(rank=2)])
    trainer = pl.Trainer(
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        callbacks=[EarlyBranch(rank=4)],
    )
    model = Net()
    trainer.validate(model, datamodule=Data(), ckpt_path=str(path), verbose=False)
    assert model.branch[0].out_features == 2
    assert [plan.decision["rank"] for plan in ledger_of(model).plans] == [2]


def test_fit_then_test_then_fit_edits_once(tmp_path: Path) -> None:
    technique = EarlyBranch()
    model = Net()
    trainer = fit(tmp_path, [technique], model=model, max_epochs=1)
    trainer.validate(model, datamodule=Data(), verbose=False)
    (tmp_path / "again").mkdir()
    fit(tmp_path / "again", [EarlyBranch()], model=model, max_epochs=1)
    assert len(ledger_of(model).plans) == 1
    (tmp_path / "other").mkdir()
    model = Net()
    edit(model, Freeze())
    with pytest.raises(UserError, match=r"toy_freeze.keep: the checkpoint has 'last', the config 'first'"):
        fit(tmp_path / "other", [Freeze("first")], model=model, max_epochs=1)


def test_nothing_of_an_edit_touches_the_global_generators(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    first, second = Net(), Net()
    torch.set_rng_state(state)
    edit(first, EarlyBranch())
    assert same(torch.get_rng_state(), state)
    torch.rand(3)
    edit(second, EarlyBranch())
    assert same(first.branch.state_dict(), second.branch.state_dict()), "an edit depends on what was drawn before"


def test_undo_and_fold() -> None:
    model = Net()
    before = model(torch.ones(1, 5))
    model.first.bias.requires_grad_(False)
    edit(model, EarlyBranch(freeze=True))
    assert trainable_names(model) == ["branch.0.weight", "branch.1.weight", "branch.1.bias"]
    assert not same(model(torch.ones(1, 5)), before)
    undo(model, "toy_early_branch")
    assert same(model(torch.ones(1, 5)), before)
    assert trainable_names(model) == ["first.weight", "last.weight", "last.bias"]
    edit(model, Freeze())
    edit(model, EarlyBranch())
    with pytest.raises(UserError, match="'toy_early_branch' depends on it"):
        undo(model, "toy_freeze")
    with pytest.raises(UserError, match="no edit 'lora' to undo; edits: toy_freeze, toy_early_branch"):
        undo(model, "lora")
    with pytest.raises(UserError, match="cannot be folded"):
        fold(model)


def test_an_edit_that_unties_is_refused() -> None:
    class Untie(EarlyBranch):
        technique = "toy_untie"

        @classmethod
        def apply(cls, model: Any, decision: Any) -> None:
            model.last = torch.nn.Linear(5, 6)

    model = Net()
    model.other = torch.nn.Linear(5, 6)
    model.last.weight = model.other.weight = model.first.weight
    with pytest.raises(UserError, match=r"untie first.weight and last.weight and other.weight"):
        edit(model, Untie())


def plain(plan: Plan) -> dict[str, Any]:
    return {KEY: {"schema": SCHEMA, "plans": [plan.to_plain()]}}


def test_a_ledger_that_cannot_be_read_is_refused_by_name() -> None:
    good = Plan("toy_freeze", "f", {"keep": []})
    assert read_plans(plain(good)) == [good]
    with pytest.raises(UserError, match=r"'os.system', which is not a registered technique; known: .*lora"):
        read_plans(plain(Plan("os.system", "x")))
    with pytest.raises(UserError, match="'kernel_plot', which is not a registered technique"):
        read_plans(plain(Plan("kernel_plot", "an observer, not an edit")))
    with pytest.raises(UserError, match="schema 99; this program reads 1"):
        read_plans({KEY: {"schema": 99, "plans": []}})
    with pytest.raises(UserError, match="version 7, this program reads version 1"):
        read_plans(plain(Plan("toy_freeze", "f", version=7)))
    for broken, message in (
        ({"technique": "toy_freeze"}, "no 'name'"),
        ({**good.to_plain(), "extra": 1}, "unknown parts: extra"),
        ({**good.to_plain(), "epoch": "1"}, "epoch '1'"),
        ({**good.to_plain(), "trainable": "all"}, "not a list of names"),
        ("plan", "is a str"),
    ):
        with pytest.raises(UserError, match=message):
            read_plans({KEY: {"schema": SCHEMA, "plans": [broken]}})
    with pytest.raises(UserError, match=r"'frist.weight' names nothing in the model; nearest: first.weight"):
        framework.replay(Net(), plain(Plan("toy_freeze", "f", {"keep": []}, trainable=["frist.weight"])))


def test_a_registered_name_cannot_be_taken_over() -> None:
    from callbacks.lora import LoRA

    class Impostor(Freeze):
        technique = "lora"

    assert find_technique("lora") is LoRA
    assert IMPORTED.pop("lora") is Impostor
    IMPORTED["lora"] = LoRA


def test_an_older_plan_is_migrated() -> None:
    class Newer(Freeze):
        technique = "toy_newer"
        version = 2

        @classmethod
        def migrate(cls, decision: dict[str, Any], version: int) -> dict[str, Any]:
            return {"keep": decision["only"]}

    model = Net()
    framework.replay(model, plain(Plan("toy_newer", "n", {"only": ["last.bias"]}, version=1)))
    assert trainable_names(model) == ["last.bias"]
    assert ledger_of(model).plans[0].version == 2


class Bomb:
    def __reduce__(self) -> Any:
        return (Path("/nowhere/executed").touch, ())


def test_a_hostile_checkpoint_executes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = tmp_path / "hostile.ckpt"
    checkpoint = {"state_dict": Net().state_dict(), "pytorch-lightning_version": "2.6.0", KEY: {"plans": [Bomb()]}}
    torch.save(checkpoint, path, pickle_module=pickle)
    trainer = pl.Trainer(
        logger=False, accelerator="cpu", plugins=[AtomicCheckpointIO()], enable_progress_bar=False, max_epochs=1
    )
    for way in (
        lambda: framework.open_model(path, Net),
        lambda: framework.open_checkpoint(path),
        lambda: trainer.fit(Net(), datamodule=Data(), ckpt_path=str(path)),
        lambda: trainer.validate(Net(), datamodule=Data(), ckpt_path=str(path)),
    ):
        with pytest.raises(UserError, match="more than plain data"):
            way()


def test_what_a_strategy_would_lose_is_refused_before_training() -> None:
    def trainer(strategy: Any, launcher: Any = None) -> Any:
        strategy._launcher = launcher
        return SimpleNamespace(strategy=strategy)

    from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher, _SubprocessScriptLauncher

    model = Net()
    named = {"w": Widen()}
    fork = DDPStrategy(start_method="fork")
    for technique in (Widen(), Branch()):
        with pytest.raises(UserError, match=r"techniques.w and trainer.strategy ddp_fork cannot be combined"):
            check_run(trainer(fork, _MultiProcessingLauncher(fork, "fork")), model, {"w": technique})
    check_run(trainer(fork, _MultiProcessingLauncher(fork, "fork")), model, {"f": Freeze()})
    popen = DDPStrategy()
    check_run(trainer(popen, _SubprocessScriptLauncher(SimpleNamespace(), 1, 1)), model, named)  # type: ignore
    with pytest.raises(UserError, match=r"techniques.f and trainer.strategy fsdp"):
        check_run(trainer(FSDPStrategy()), model, {"f": Freeze()})
    with pytest.raises(UserError, match=r"techniques\.w and trainer\.strategy fsdp cannot be combined"):
        check_run(trainer(FSDPStrategy()), model, {"w": Pull()})
    check_run(trainer(DDPStrategy(process_group_backend="gloo")), model, {"w": Pull()})
    compiled = Net()
    compiled._compiler_ctx = {"compiler": "dynamo"}
    with pytest.raises(UserError, match=r"techniques.w and torch.compile cannot be combined"):
        check_run(pl.Trainer(logger=False, accelerator="cpu"), compiled, named)


def test_two_of_one_name_are_refused() -> None:
    second = Freeze("first")
    with pytest.raises(UserError, match="two techniques are named 'toy_freeze'"):
        in_order([Freeze(), second])
    second.name = "other"
    assert [*in_order([Freeze(), second])] == ["toy_freeze", "other"]


def test_contradictions_name_both_values() -> None:
    model = Net()
    edit(model, Freeze())
    checkpoint = {KEY: ledger_of(model).to_plain()}
    assert contradictions(checkpoint, {"toy_freeze": Freeze()}) == []
    assert contradictions(checkpoint, {}) == [
        "techniques.toy_freeze: the checkpoint has toy_freeze, the config has none"
    ]
    assert contradictions(checkpoint, {"toy_freeze": Freeze("first")}) == [
        "techniques.toy_freeze.keep: the checkpoint has 'last', the config 'first'"
    ]
    extra = {"toy_freeze": Freeze(), "toy_early_branch": EarlyBranch(), "toy_widen": Widen()}
    assert contradictions(checkpoint, extra) == [
        "techniques.toy_early_branch: the checkpoint was made without it, the config has toy_early_branch"
    ]


def test_bf16_mixed_resumes_exactly(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir(), b.mkdir()
    for technique in (Widen, Branch):
        assert in_child(lambda t=technique: fit(a, [t()], precision="bf16-mixed")) == 0
        assert (
            in_child(lambda t=technique: fit(b, [t()], kill=("on_train_batch_end", 14), precision="bf16-mixed")) == 137
        )
        assert in_child(lambda t=technique: fit(b, [t()], resume=True, precision="bf16-mixed")) == 0
        left, right = torch.load(a / "end0.pt"), torch.load(b / "end0.pt")
        assert all(same(left[key], right[key]) for key in left)
        for folder in (a, b):
            for path in folder.iterdir():
                path.unlink()


def test_model_checkpoints_hold_the_ledger(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path / "best", save_weights_only=True, filename="best")
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        max_epochs=1,
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[EarlyBranch(), best],
    )
    trainer.fit(Net(), datamodule=Data())
    stored = torch.load(best.best_model_path, weights_only=True)
    assert json.loads(json.dumps(stored[KEY]))["plans"][0]["technique"] == "toy_early_branch"
    assert framework.open_model(best.best_model_path, Net).branch[0].out_features == 2
