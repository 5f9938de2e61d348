"""A penalty beside a module that adds the same term itself; the wrapper; random draws; resumes; what is refused."""

from __future__ import annotations

import copy
import functools
import os
import pickle
from types import SimpleNamespace
from typing import Any

import editing_toys
import lightning.pytorch as pl
import pytest
import torch
from editing_toys import Widen, trainer_of
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from resume_harness import assert_same_end, fit, in_child, in_two_ranks, same
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from framework.editing import Captured, Penalty
from framework.editing.engine import check_run
from framework.errors import UserError


class InputGradient(Penalty):
    """The squared gradient of the loss by the input."""

    captures = "inputs"

    def penalty(self, module: Any, batch: Any, outputs: Any, captured: Captured) -> torch.Tensor:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        return captured.gradient(loss).square().sum()


class Confidence(Penalty):
    """The squared outputs."""

    captures = "outputs"

    def penalty(self, module: Any, batch: Any, outputs: Any, captured: Captured) -> torch.Tensor:
        return captured.output.square().mean()


class Drawn(Penalty):
    """A random direction of each batch, by which the first parameter is pulled."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.draws: list[torch.Tensor] = []

    def penalty(self, module: Any, batch: Any, outputs: Any, captured: Captured) -> torch.Tensor:
        parameter = next(module.parameters())
        self.draws.append(torch.randn(parameter.shape, generator=captured.generator))
        return (parameter * self.draws[-1]).sum()


class Net(pl.LightningModule):
    """Batch norm and dropout; with ``own`` it adds the two terms itself."""

    def __init__(self, form: str = "tensor", own: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Dropout(0.3), nn.Linear(12, 3))
        self.form, self.own = form, own

    def training_step(self, batch: Any) -> Any:  # without batch_idx, which Lightning finds out from the signature
        x, y = batch
        if self.own:
            x = x.detach().requires_grad_()
        logits = self.net(x)
        loss = nn.functional.cross_entropy(logits, y)
        self.log("train/loss", loss)
        if self.form == "none" and y[0] == 0:
            return None
        if self.own:
            (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
            loss = loss + 0.5 * gradient.square().sum()
            loss = loss + 0.1 * logits.square().mean()
        return {"loss": loss, "logits": logits.detach()} if self.form == "dict" else loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.05)


def data() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(7)
    x, y = torch.randn(28, 5, generator=generator), torch.randint(0, 3, (28,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=4)


def both() -> list[Penalty]:
    return [InputGradient(0.5, net="net"), Confidence(0.1, net="net")]


def train(folder: Any, *callbacks: Callback, module: Any = None, **options: Any) -> pl.LightningModule:
    torch.manual_seed(3)
    module = module or Net()
    torch.manual_seed(4)
    trainer_of(folder, *callbacks, **options).fit(module, data())
    return module


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("tensor", {"gradient_clip_val": 0.1}),
        ("dict", {"accumulate_grad_batches": 2}),
        ("none", {}),
        ("tensor", {"precision": "bf16-mixed", "accumulate_grad_batches": 2}),
    ],
)
def test_as_if_the_module_added_the_terms_itself(tmp_path, form, options):
    torch.manual_seed(3)
    ours = train(tmp_path, *both(), module=Net(form), **options)
    torch.manual_seed(3)
    own = train(tmp_path, module=Net(form, own=True), **options)
    torch.manual_seed(3)
    plain = train(tmp_path, module=Net(form), **options)
    assert same(ours.state_dict(), own.state_dict())
    assert not same(ours.net[4].state_dict(), plain.net[4].state_dict())
    assert float(ours.net[1].num_batches_tracked) == 14, "batch norm ran twice"


def test_on_two_ranks(tmp_path):
    """Equal sums on both, and a rank's draws are its own."""

    def rank() -> None:
        options = {"strategy": "ddp", "devices": 2, "accumulate_grad_batches": 2}
        ends, drawn = [], Drawn(0.1)
        for own in (False, True):
            torch.manual_seed(3)
            ends.append(train(tmp_path, *([] if own else both()), module=Net(own=own), **options).state_dict())
        assert same(*ends)
        train(tmp_path, drawn, **options)
        torch.save(drawn.draws, tmp_path / f"draws{os.environ['LOCAL_RANK']}.pt")

    assert in_two_ranks(rank) == [0, 0]
    draws = [torch.load(tmp_path / f"draws{number}.pt", weights_only=True) for number in (0, 1)]
    assert len(draws[0]) == 8
    assert not torch.equal(draws[0][0], draws[1][0])


class Look(Callback):
    """What stands on the module and is logged in a step."""

    def __init__(self) -> None:
        self.wrapped: list[int] = []
        self.logged: dict[str, float] = {}

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        function, depth = module.training_step, 0
        while hasattr(function, "__wrapped__"):
            function, depth = function.__wrapped__, depth + 1
        self.wrapped.append(depth)
        self.logged = {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_one_wrapper_for_all_and_none_afterwards(tmp_path):
    look = Look()
    module = train(tmp_path, *both(), look, max_steps=2)
    assert look.wrapped == [1, 1]
    assert not {"training_step", "backward"} & set(vars(module))
    assert look.logged.keys() == {"train/loss", "train/input_gradient", "train/confidence"}


def test_what_is_logged_is_what_is_added(tmp_path):
    class Keeps(Look):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *args: Any) -> None:
            super().on_train_batch_end(trainer, module)
            self.total = float(outputs["loss"])

    keeps = Keeps()
    train(tmp_path, *both(), keeps, max_steps=1)
    logged = keeps.logged
    assert keeps.total == pytest.approx(sum(logged.values()), rel=1e-6)
    assert all(value > 0 for value in logged.values())


def test_with_weight_0_nothing_is_there(tmp_path):
    plain, look = train(tmp_path), Look()
    unweighted = train(tmp_path, InputGradient(0.0, net="net"), Drawn(0), look)
    assert set(look.wrapped) == {0}
    assert look.logged.keys() == {"train/loss"}
    assert same(plain.state_dict(), unweighted.state_dict())


def test_the_wrapper_goes_when_training_fails(tmp_path):
    class Fails(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise ValueError("on purpose")

    module = Net()
    with pytest.raises(ValueError, match="on purpose"):
        train(tmp_path, *both(), Fails(), module=module)
    assert not {"training_step", "backward"} & set(vars(module))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_a_wrapper_from_before_comes_back(tmp_path):
    """And below two wrappers Lightning still finds the signature, which has no batch_idx."""
    module = Net()
    step = module.training_step
    before = module.training_step = functools.wraps(step)(lambda *args: step(*args))
    train(tmp_path, *both(), module=module, max_steps=1)
    assert vars(module)["training_step"] is before


def test_a_wrapper_that_came_later_stays_and_ours_below_it_adds_nothing_any_more(tmp_path):
    class WithIndex(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch)

    class Later(Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            inner = module.training_step
            module.training_step = functools.wraps(inner)(lambda *args: inner(*args))

    module = WithIndex()
    train(tmp_path, *both(), Later(), module=module, max_steps=1)
    assert "training_step" in vars(module)
    module.log = lambda *args, **kwargs: None
    batch = next(iter(data()))
    torch.manual_seed(0)
    loss = module.training_step(batch, 0)
    torch.manual_seed(0)
    assert torch.equal(loss, Net.training_step(module, batch))


def test_draws_leave_the_training_alone(tmp_path):
    class Nothing(Drawn):
        def penalty(self, *args: Any) -> torch.Tensor:
            return 0 * super().penalty(*args)

    drawn = Nothing()
    module = train(tmp_path, drawn)
    assert same(module.state_dict(), train(tmp_path).state_dict())
    assert len({float(draw.sum()) for draw in drawn.draws}) == 14, "each batch has a draw of its own"
    again = Nothing()
    train(tmp_path, again)
    assert same(drawn.draws, again.draws)
    twin = Nothing()
    twin.name = "twin"
    train(tmp_path, twin)
    assert not same(drawn.draws, twin.draws)


def test_where_a_loss_is_computed_several_times_for_a_step_the_draw_stays(tmp_path):
    class Searched(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)

    drawn = Drawn(1e-3)
    train(tmp_path, drawn, module=Searched(), max_epochs=1)
    assert len(drawn.draws) > 7
    assert len({float(draw.sum()) for draw in drawn.draws}) == 7


def test_killed_and_resumed_it_ends_the_same(tmp_path):
    def go(name: str, **options: Any) -> None:
        penalties = [Drawn(0.01), InputGradient(0.5, net="net")]
        fit(tmp_path / name, callbacks=penalties, max_epochs=2, accumulate_grad_batches=2, **options)

    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    assert in_child(lambda: go("whole")) == 0
    assert in_child(lambda: go("stopped", kill=("on_before_optimizer_step", 7))) == 137
    assert in_child(lambda: go("stopped", resume=True)) == 0
    assert_same_end(tmp_path / "whole", tmp_path / "stopped")


def test_after_an_edit_in_mid_training_the_modules_are_found_again(tmp_path):
    class ByLayer(InputGradient):
        widths = ()

        def look_up(self, module: Any) -> None:
            self.widths = (*self.widths, module.first.out_features)

    penalty = ByLayer(0.1, net="last")
    trainer_of(tmp_path, penalty, Widen(to=9, epoch=1)).fit(editing_toys.Net(), data())
    assert penalty.widths == (6, 9)
    layer = ByLayer(0.1, net="first")  # it is replaced, and hooks on the old one would never be called
    trainer_of(tmp_path, layer, Widen(to=9, epoch=1)).fit(editing_toys.Net(), data())


def test_checkpointed_attention(tmp_path):
    """What is computed again in the backward pass is computed by the same kernel."""

    class Attends(Net):
        def __init__(self, own: bool) -> None:
            super().__init__()
            self.net = nn.Linear(5, 3)
            self.again = own

        def mixed(self, x: torch.Tensor) -> torch.Tensor:
            heads = self.net(x)[None, None]
            return nn.functional.scaled_dot_product_attention(heads, heads, heads)[0, 0]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return checkpoint(self.mixed, x, use_reentrant=False) if self.again else self.mixed(x)

        def training_step(self, batch: Any) -> Any:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

    ends = []
    for own in (True, False):
        torch.manual_seed(0)
        ends.append(train(tmp_path, InputGradient(0.5), module=Attends(own), max_epochs=1).state_dict())
    assert same(*ends)


def test_an_operation_without_a_second_derivative_is_a_mistake(tmp_path):
    class Fused(Net):
        def training_step(self, batch: Any) -> Any:
            packed = nn.functional.fused(self.net(batch[0]))
            return nn.functional.cross_entropy(packed, batch[1])

    def fused(x: torch.Tensor) -> torch.Tensor:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # by a kernel that the module insists on
            return nn.functional.scaled_dot_product_attention(*[x[None, None]] * 3)[0, 0]

    nn.functional.fused = fused
    try:
        with pytest.raises(UserError, match=r"techniques.input_gradient needs second derivatives, and aten::"):
            train(tmp_path, InputGradient(0.5, net="net"), module=Fused())
    finally:
        del nn.functional.fused


class ByHand(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


def test_what_is_refused_before_training(tmp_path):
    with pytest.raises(UserError, match=r"^weight: -1 is not accepted; at least 0"):
        Drawn(-1)
    with pytest.raises(UserError, match=r"techniques.drawn and manual optimisation cannot be combined: ByHand calls"):
        train(tmp_path, Drawn(), module=ByHand())
    compiled = Net()
    compiled.net.compile(backend="eager")
    with pytest.raises(UserError, match=r"techniques.input_gradient and torch.compile .*: net is compiled"):
        train(tmp_path, InputGradient(1.0), module=compiled)
    with pytest.raises(UserError, match=r"techniques.input_gradient.net: 'nett' names nothing in the model; near"):
        train(tmp_path, InputGradient(1.0, net="nett"))
    with pytest.raises(UserError, match=r"techniques.d and trainer.strategy fsdp cannot be combined"):
        check_run(SimpleNamespace(strategy=FSDPStrategy()), Net(), {"d": Drawn()})  # type: ignore[arg-type]
    ddp = SimpleNamespace(strategy=DDPStrategy(process_group_backend="gloo"))
    check_run(ddp, Net(), {"d": Drawn()})  # type: ignore[arg-type]


def test_a_network_that_the_step_does_not_call_is_a_mistake_in_the_first_step(tmp_path):
    with pytest.raises(
        UserError, match=r"techniques.input_gradient.net: the module itself was not called .*calls net;"
    ):
        train(tmp_path, InputGradient(1.0))


@pytest.mark.parametrize(("term", "shown"), [(torch.ones(2, 3), r"\(2, 3\)"), (0.5, "float"), (None, "NoneType")])
def test_a_term_that_is_no_scalar_is_a_bug(tmp_path, term, shown):
    class Wrong(Drawn):
        def penalty(self, *args: Any) -> Any:
            return term

    with pytest.raises(ValueError, match=f"Wrong.penalty must return a scalar tensor, not {shown}"):
        train(tmp_path, Wrong())


def test_a_network_that_the_module_makes_in_setup_is_looked_up_when_training_starts(tmp_path):
    class Builds(Net):
        def __init__(self) -> None:
            super().__init__()
            del self.net

        def setup(self, stage: str) -> None:
            self.net = Net().net

    logged = Look()
    train(tmp_path, InputGradient(1.0, net="net"), logged, module=Builds(), max_steps=1)
    assert logged.logged["train/input_gradient"] > 0
    with pytest.raises(UserError, match=r"techniques.input_gradient.net: 'nett' names nothing in the model; near"):
        train(tmp_path, InputGradient(1.0, net="nett"), module=Builds())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_made_in_mid_training_has_its_own_step_and_no_penalty(tmp_path, copied):
    class Copies(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            module._trainer = None  # a Trainer cannot be copied
            self.copy = copied(module)
            module._trainer = trainer

    copies = Copies()
    original = train(tmp_path, *both(), copies, max_steps=1)
    before = {name: value.clone() for name, value in original.state_dict().items()}
    look = Look()
    train(tmp_path, look, module=copies.copy, max_steps=1)
    assert look.logged.keys() == {"train/loss"}
    assert same(original.state_dict(), before)
    assert not same(copies.copy.state_dict(), before)


def test_another_weight_on_a_resume_is_reported(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("framework.editing.penalty.rank_zero_info", said.append)
    saved = Confidence(0.1).state_dict()
    Confidence(0.1).load_state_dict(saved)
    assert said == []
    Confidence(0.2).load_state_dict(saved)
    assert said == ["techniques.confidence.weight: 0.2 now, 0.1 in the checkpoint"]
