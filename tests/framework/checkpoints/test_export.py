"""Exports: what comes back, in every way in, what is left out, and files that are damaged."""

import os
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

import framework
from callbacks.lora import LoRA
from framework import Module, UserError
from framework.__main__ import main
from framework.checkpoints.weights_file import read_weights_file
from framework.commands.export import command_line
from framework.editing import edit, ledger_of
from framework.functional.compression.rate import STEP, bits_per_weight
from framework.functional.compression.rf8 import round_to_rf8


class Net(Module):
    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Linear(30, width), nn.BatchNorm1d(width), nn.Linear(width, 20))
        self.tied = self.layers[2].weight
        self.register_buffer("table", torch.randn(7, 7))
        self.register_buffer("count", torch.arange(6).view(2, 3))

    def training_step(self, batch, batch_idx):
        return self.layers(batch).square().mean()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = Net(width=50)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(model, torch.utils.data.DataLoader(torch.randn(40, 30), batch_size=8))
    trainer.save_checkpoint(folder / "last.ckpt")
    return model, folder / "last.ckpt"


COMPRESSED = {
    "rf8": round_to_rf8,
    "entropy": lambda w: (w / STEP).round() * STEP,
    "exp_golomb": lambda w: (w / STEP).round() * STEP,
    "plain": lambda w: w,
}
WEIGHTS = ["layers.0.weight", "layers.2.weight", "tied"]


@pytest.mark.parametrize("format", COMPRESSED)
def test_every_way_in_gives_the_rounded_weights(trained, tmp_path, format):
    model, path = trained
    file = tmp_path / "small.ckpt"
    report = framework.export(path, file, format, cls=Net)
    expected = {n: COMPRESSED[format](v) if n in WEIGHTS else v for n, v in model.state_dict().items()}
    if format != "plain":
        assert not torch.equal(expected["tied"], model.state_dict()["tied"])
    opened = framework.open_model(file, Net)
    assert opened.hparams.width == 50
    assert opened.tied is opened.layers[2].weight
    states = [
        opened.state_dict(),
        Net.load_from_checkpoint(file).state_dict(),
        framework.open_checkpoint(file)["state_dict"],
        read_weights_file(file)[0],
    ]
    for state in states:
        assert list(state) == list(expected)
        for name, value in expected.items():
            if format == "rf8" and name in WEIGHTS:  # within 18 binades of the largest
                inside = value.abs() >= value.abs().max() * 2.0**-17
                assert torch.equal(state[name][inside], value[inside]), name
            else:
                assert torch.equal(state[name], value), name
    content = framework.open_checkpoint(file)
    assert not {"optimizer_states", "lr_schedulers", "loops", "callbacks"} & content.keys()
    assert content["global_step"] == 5
    assert report.weights == 30 * 50 + 50 * 20
    assert report.bytes_after == file.stat().st_size < report.bytes_before == path.stat().st_size
    assert report.rate == bits_per_weight([model.layers[0].weight, model.layers[2].weight])
    least, most = {"rf8": (8, 8), "plain": (32, 32)}.get(format, (report.rate.entropy, 32))
    assert least <= report.bits <= most


def test_from_a_model_in_memory_with_an_adapter(tmp_path):
    torch.manual_seed(0)
    model = Net()
    with pytest.raises(UserError, match="a file to be written to"):
        framework.export(model)
    edit(model, LoRA(rank=2, target_modules=["layers.0"]))
    framework.export(model, tmp_path / "a.ckpt", "entropy", step=2**-10, exclude=["*lora_A*"])
    opened = framework.open_model(tmp_path / "a.ckpt", Net)
    assert [plan.technique for plan in ledger_of(opened).plans] == ["lora"]
    for name, value in model.state_dict().items():
        parameter = dict(model.named_parameters(remove_duplicate=False)).get(name)
        rounded = parameter is not None and parameter.ndim > 1 and "lora_A" not in name
        expected = (value / 2**-10).round() * 2**-10 if rounded else value
        assert torch.equal(opened.state_dict()[name], expected), name


def test_without_a_class_the_report_says_what_was_taken_for_weights(trained, tmp_path):
    _, path = trained
    report = framework.export(path, tmp_path / "a.ckpt")
    assert "buffers of two and more dimensions were taken as weights" in report.table()
    assert report.weights == 30 * 50 + 50 * 20 + 49
    report = framework.export(path, tmp_path / "b.ckpt", exclude=["table"])
    assert report.weights == 30 * 50 + 50 * 20


def test_types_other_than_float32(tmp_path):
    model = nn.ModuleDict(
        {str(d).replace(".", "_"): nn.Linear(9, 8, dtype=d) for d in (torch.float16, torch.bfloat16, torch.float64)}
    )
    framework.export(model, tmp_path / "a.ckpt", "entropy")
    state = framework.open_checkpoint(tmp_path / "a.ckpt")["state_dict"]
    for name, value in model.state_dict().items():
        exact = value.double()
        expected = (exact * 2**13).round() / 2**13 if value.ndim > 1 else exact
        assert torch.equal(state[name], expected.to(value.dtype))


def test_deep_shape_leaves_the_model_alone(trained, tmp_path):
    model, _ = trained
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = framework.export(model, tmp_path / "a.ckpt", "plain", deep_shape=True)
    assert report.notes[0].startswith("deep_shape: ")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    state = framework.open_checkpoint(tmp_path / "a.ckpt")["state_dict"]
    assert {name for name in before if not torch.equal(before[name], state[name])} == set(WEIGHTS)
    assert torch.equal(state["tied"], state["layers.2.weight"])


@pytest.mark.parametrize("format", ["rf8", "entropy", "exp_golomb"])
def test_damaged_files_are_named(trained, tmp_path, format):
    _, path = trained
    file = tmp_path / "a.ckpt"
    framework.export(path, file, format)
    raw = file.read_bytes()
    file.write_bytes(raw[: len(raw) // 2])
    for read in (framework.open_checkpoint, read_weights_file):
        with pytest.raises(UserError, match=r"a\.ckpt"):
            read(file)
    file.write_bytes(raw)
    content = torch.load(file, weights_only=True)

    def spoil(change):
        broken = torch.load(file, weights_only=True)
        change(broken["compressed"])
        torch.save(broken, tmp_path / "b.ckpt")
        with pytest.raises(UserError, match=r"b\.ckpt: .*compressed weights"):
            framework.open_checkpoint(tmp_path / "b.ckpt")

    key = {"rf8": "codes", "entropy": "words", "exp_golomb": "bits"}[format]

    def flip(packed):
        place = packed["tensors"]["layers.0.weight"] if format == "rf8" else packed["code"]
        place[key].view(-1)[3] ^= 1

    spoil(flip)
    spoil(lambda packed: packed.update(schema=2))
    spoil(lambda packed: packed.update(format="zip"))
    spoil(lambda packed: packed.pop("tensors"))
    spoil(lambda packed: packed.update(order=[*packed["order"], "more"]))
    assert content["compressed"]["schema"] == 1


def test_what_is_not_finite_is_refused_by_name(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight.data[1, 1] = float("inf")
    for format in ("rf8", "entropy"):
        with pytest.raises(UserError, match=r"1\.weight"):
            framework.export(model, tmp_path / "a.ckpt", format)
    assert not list(tmp_path.iterdir())


def test_the_command(trained, tmp_path, capsys):
    _, path = trained
    out = tmp_path / "out.ckpt"
    assert main(["export", str(path), "--format=entropy", "--step", "2^-10", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "bits a weight" in said
    assert "SQNR" in said
    assert framework.open_checkpoint(out)["state_dict"].keys() == Net(50).state_dict().keys()
    assert main(["export", "--help"]) == 0
    capsys.readouterr()
    for arguments, message in (
        ([], "one checkpoint or run folder is needed; none was given"),
        ([str(path), "--format", "zip"], "format: 'zip' is not one of rf8"),
        ([str(path), "--step=-1"], "--step -1 is not accepted"),
        ([str(path), "--size=3"], "export: --size=3 is not accepted; accepted: --format"),
        ([str(path), "--include=head"], "include: 'head' names nothing in the model; nearest"),
        ([str(path), "--out", str(path)], "is the checkpoint that is read"),
        (["nowhere.ckpt"], "nowhere.ckpt: no such checkpoint file"),
        ([str(path), "--exclude=*"], "no matrix is left to write as rf8"),
        ([str(path), "--out", str(tmp_path)], "is a folder; give a file"),
    ):
        assert main(["export", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_the_newest_run_goes_by_last(trained, capsys):
    _, path = trained
    for name, age in (("older", 100.0), ("newer", 0.0)):
        copy = Path("runs/net") / name / "checkpoints" / "last.ckpt"
        copy.parent.mkdir(parents=True)
        copy.write_bytes(path.read_bytes())
        os.utime(copy, (1e9 - age, 1e9 - age))
    assert main(["export", "last"]) == 0
    assert [str(file) for file in Path("runs").rglob("*.rf8.ckpt")] == ["runs/net/newer/checkpoints/last.rf8.ckpt"]
    assert main(["export", "best"]) == 2
    assert "holds no best checkpoint" in capsys.readouterr().err


def test_steps_as_text():
    read = command_line().read
    steps = [read(["--step", text]).step for text in ("2^-13", "2**-13", "0.001", "1e-3")]
    assert steps == [2**-13, 2**-13, 0.001, 0.001]
    for text in ("0", "x", "2^", "nan", "inf", "0^-1", "9^9999", "-1"):
        with pytest.raises(UserError) as error:
            read(["--step", text])
        said = f"export: --step {text} is not accepted; a number above 0, such as 2^-13 or 0.001"
        assert str(error.value) == said


def test_no_training_goes_on_from_an_export(trained, tmp_path):
    file = tmp_path / "small.ckpt"
    framework.export(trained[1], file, "rf8", cls=Net)
    boring = "lightning.pytorch.demos.boring_classes"
    config = {"model": f"{boring}.BoringModel", "data": f"{boring}.BoringDataModule", "run": {"root": str(tmp_path)}}
    with pytest.raises(UserError, match=r"small\.ckpt holds only weights, .*--techniques\.warm_start\.checkpoint="):
        framework.build(config, [f"--ckpt_path={file}"])
    assert [*tmp_path.iterdir()] == [file]
