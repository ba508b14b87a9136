"""Ways of stepping that are not "one loss, one step": loss scaling, closures, accumulation, sparse gradients."""

from __future__ import annotations

import math
import pickle
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.fabric import Fabric
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from gradwatch import HealthMonitor, NonFiniteError
from gradwatch.engine.context import RunContext
from tests.integrations.fits import Classifier, Manual, data, equal, events, fit, monitor, seeded, weights

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("nothing_fails")

NAN = math.nan


# -- a GradScaler ----------------------------------------------------------------------------------------------------


def scaled(scale: float = 1024.0) -> dict[str, Any]:
    """A Trainer's arguments for float16 autocast on the CPU."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return {"plugins": [MixedPrecision("16-mixed", device="cpu", scaler=scaler)], "max_epochs": 1}


def adam(*, fused: bool) -> Any:
    return partial(torch.optim.Adam, lr=1e-2, fused=fused)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", [Classifier, Manual], ids=["automatic", "manual"])
def test_a_bad_loss_under_a_scaler_is_skipped_by_the_scaler(
    kind: type[Classifier], tmp_path: Path, *, fused: bool
) -> None:
    def fault(_module: Any, loss: Tensor, batch: int) -> Tensor:
        return loss * NAN if batch == 2 else loss

    watch = monitor(tmp_path, on_nonfinite="skip")
    fitted = fit(tmp_path, seeded(kind, optimizer=adam(fused=fused), fault=fault), watch, **scaled())
    assert [(event["step"], event["first_seen"]) for event in events(tmp_path, "incident")] == [(2, "loss")]
    assert {int(state["step"]) for state in fitted.trainer.optimizers[0].state.values()} == {4}
    scales = [event["loss_scale"] for event in events(tmp_path, "step")]
    assert scales == [1024.0] * 3 + [512.0] * 2
    assert all(bool(tensor.isfinite().all()) for tensor in weights(fitted.module).values())


@pytest.mark.parametrize("fused", [False, True])
def test_a_scale_that_is_far_too_high_is_routine(tmp_path: Path, *, fused: bool) -> None:
    module = seeded(optimizer=adam(fused=fused))
    plain = fit(tmp_path / "plain", seeded(optimizer=adam(fused=fused)), **scaled(2.0**60))
    fitted = fit(tmp_path, module, monitor(tmp_path), **scaled(2.0**60))
    assert events(tmp_path, "incident") == []
    assert str(weights(fitted.module)) == str(weights(plain.module))
    assert events(tmp_path, "run_end")[0]["skipped_steps"] > 0


def test_losses_and_norms_are_without_the_scale(tmp_path: Path) -> None:
    fit(tmp_path / "plain", seeded(), monitor(tmp_path / "plain"), max_epochs=1)
    fit(tmp_path / "scaled", seeded(), monitor(tmp_path / "scaled"), **scaled())
    for plain, found in zip(events(tmp_path / "plain", "step"), events(tmp_path / "scaled", "step"), strict=True):
        assert found["loss"] == pytest.approx(plain["loss"], rel=0.02)
        assert found["grad_norm"] == pytest.approx(plain["grad_norm"], rel=0.05)


# -- manual optimization ---------------------------------------------------------------------------------------------


class Closure(Classifier):
    """Steps with a closure that it makes itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = Classifier.training_step(self, batch, batch_idx)
            self.manual_backward(loss)
            return loss

        optimizer.step(closure=closure)


class Accumulating(Classifier):
    """Steps in every third batch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        self.manual_backward(super().training_step(batch, batch_idx) / 3)
        if batch_idx % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()


class Twice(Classifier):
    """Two steps of one optimizer in each batch; the loss of one of them may be bad."""

    bad: tuple[int, int] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        for turn in range(2):
            loss = super().training_step(batch, batch_idx)
            optimizer.zero_grad()
            self.manual_backward(loss * NAN if self.bad == (batch_idx, turn) else loss)
            optimizer.step()


@pytest.mark.parametrize("kind", [Closure, Accumulating, Twice])
def test_training_is_the_same_and_watched(kind: type[Classifier], tmp_path: Path) -> None:
    plain = fit(tmp_path / "plain", seeded(kind), train=data(6), max_epochs=1)
    fitted = fit(tmp_path, seeded(kind), monitor(tmp_path), train=data(6), max_epochs=1)
    assert equal(weights(plain.module), weights(fitted.module))
    expected = {Closure: [0, 1, 2, 3, 4, 5], Accumulating: [0, 1], Twice: list(range(12))}[kind]
    assert [event["step"] for event in events(tmp_path, "step")] == expected
    assert all(event["loss"] > 0 and event["grad_norm"] > 0 for event in events(tmp_path, "step"))


def test_a_closure_with_a_bad_loss_is_skipped(tmp_path: Path) -> None:
    def fault(_module: Any, loss: Tensor, batch: int) -> Tensor:
        return loss * NAN if batch == 2 else loss

    fitted = fit(tmp_path, seeded(Closure, fault=fault), monitor(tmp_path, on_nonfinite="skip"), max_epochs=1)
    assert [event["step"] for event in events(tmp_path, "incident")] == [2]
    assert {int(state["step"]) for state in fitted.trainer.optimizers[0].state.values()} == {4}


@pytest.mark.parametrize("guilty", [3, 4, 5])
def test_accumulation_by_hand_names_the_batch(guilty: int, tmp_path: Path) -> None:
    def fault(_module: Any, loss: Tensor, batch: int) -> Tensor:
        return loss * NAN if batch == guilty else loss

    watch = monitor(tmp_path, on_nonfinite="skip")
    fit(tmp_path, seeded(Accumulating, fault=fault), watch, train=data(6), max_epochs=1)
    assert [(event["step"], event["batch_idx"]) for event in events(tmp_path, "incident")] == [(1, guilty)]


@pytest.mark.parametrize("turn", [0, 1])
def test_two_steps_in_a_batch(turn: int, tmp_path: Path) -> None:
    """The first turn's bad loss counts for the second too: same batch. One incident says so."""
    module = seeded(Twice)
    module.bad = (2, turn)
    fitted = fit(tmp_path, module, monitor(tmp_path, on_nonfinite="skip"), max_epochs=1)
    assert [event["batch_idx"] for event in events(tmp_path, "incident")] == [2]
    assert {int(state["step"]) for state in fitted.trainer.optimizers[0].state.values()} == {8 if turn == 0 else 9}


# -- an optimizer that evaluates its loss several times --------------------------------------------------------------


@pytest.mark.parametrize("mode", ["raise", "skip"])
@pytest.mark.parametrize("evaluation", [0, 2])
def test_lbfgs_goes_back_to_before_its_step(evaluation: int, mode: str, tmp_path: Path) -> None:
    calls = 0

    def fault(_module: Any, loss: Tensor, batch: int) -> Tensor:
        nonlocal calls
        calls = calls + 1 if batch == 2 else 0
        return loss * NAN if calls == evaluation + 1 else loss

    lbfgs = partial(torch.optim.LBFGS, lr=0.1, max_iter=4)
    short = fit(tmp_path / "short", seeded(optimizer=lbfgs), limit_train_batches=2, max_epochs=1)
    watch = monitor(tmp_path, on_nonfinite=mode)
    fitted = fit(tmp_path, seeded(optimizer=lbfgs, fault=fault), watch, max_epochs=1, expect=NonFiniteError)
    assert isinstance(fitted.error, NonFiniteError)
    before = weights(short.module)
    for name, tensor in weights(fitted.module).items():
        assert torch.equal(tensor, before[name]), name
    assert [event["step"] for event in events(tmp_path, "step")][:2] == [0, 1]


# -- steps that the user leaves out ----------------------------------------------------------------------------------


def test_a_step_that_the_module_leaves_out_is_accumulation(tmp_path: Path) -> None:
    class Sparing(Classifier):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            if batch_idx % 2:
                optimizer.step(closure=optimizer_closure)
            else:
                optimizer_closure()

        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
            if batch_idx % 2 == 0:
                optimizer.zero_grad()

    plain = fit(tmp_path / "plain", seeded(Sparing), train=data(6), max_epochs=1)
    fitted = fit(tmp_path, seeded(Sparing), monitor(tmp_path), train=data(6), max_epochs=1)
    assert equal(weights(plain.module), weights(fitted.module))
    assert len(events(tmp_path, "step")) == 3


# -- sparse gradients ------------------------------------------------------------------------------------------------


class Words(LightningModule):
    def __init__(self, optimizer: Any) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(20, 3, sparse=True, mode="sum")
        self.make_optimizer = optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return functional.cross_entropy(self.embed(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.parameters())


def words() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(20, (40, 4), generator=generator)
    return DataLoader(TensorDataset(x, torch.randint(3, (40,), generator=generator)), batch_size=8)


@pytest.mark.parametrize("optimizer", [partial(torch.optim.SparseAdam, lr=0.1), partial(torch.optim.SGD, lr=0.5)])
def test_sparse_gradients_are_clipped_and_dropped(optimizer: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    fit(tmp_path / "clip", Words(optimizer), monitor(tmp_path / "clip", clip=0.1), train=words())
    found = events(tmp_path / "clip", "step")
    assert {event["clip"]["clipped"] for event in found} == {True}
    if isinstance(optimizer.keywords["lr"], float) and optimizer.func is torch.optim.SGD:
        moved = [event["layers"]["embed"]["update_ratio"] * event["layers"]["embed"]["weight_norm"] for event in found]
        assert moved == pytest.approx([0.05] * len(moved), rel=1e-3)

    class Bad(Words):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            if self.trainer.global_step == 3:
                gradient: Any = self.embed.weight.grad
                gradient._values()[0] = NAN

    fitted = fit(tmp_path, Bad(optimizer), monitor(tmp_path, on_nonfinite="skip"), train=words(), max_epochs=1)
    incident = events(tmp_path, "incident")[0]
    assert (incident["step"], incident["affected"]) == (3, ["embed.weight"])
    assert bool(fitted.module.embed.weight.isfinite().all())


# -- log steps -------------------------------------------------------------------------------------------------------


def test_records_under_accumulation_fall_on_the_loggers_steps(tmp_path: Path) -> None:
    fit(
        tmp_path,
        seeded(),
        monitor(tmp_path),
        train=data(12),
        max_epochs=1,
        accumulate_grad_batches=2,
        log_every_n_steps=3,
    )
    assert [(event["step"], event["log_step"]) for event in events(tmp_path, "step")] == [(2, 2), (5, 5)]
    assert [event["batch_idx"] for event in events(tmp_path, "step")] == [5, 11]


# -- Fabric, and processes that are started from a copy --------------------------------------------------------------


@pytest.mark.parametrize("bad", [None, 2])
def test_a_loop_with_fabric(bad: int | None, tmp_path: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    torch.manual_seed(0)
    plain: Any = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model, optimizer = fabric.setup(plain, torch.optim.AdamW(plain.parameters(), lr=1e-2))
    watch = HealthMonitor(clip=0.1, on_nonfinite="skip")
    watch.start(plain, optimizer, RunContext(dirpath=str(tmp_path), log_every_n_steps=1))
    for index, (x, y) in enumerate(fabric.setup_dataloaders(data())):
        watch.begin_batch((x, y), index)
        loss = functional.cross_entropy(model(x), y)
        loss = loss * NAN if index == bad else loss
        watch.observe_loss(loss)
        fabric.backward(loss)
        watch.before_step(optimizer)
        optimizer.step()
        watch.after_step(optimizer)
        optimizer.zero_grad()
        watch.end_batch()
    watch.end("finished")
    assert len(events(tmp_path, "step")) == 5
    assert [event["step"] for event in events(tmp_path, "incident")] == ([] if bad is None else [bad])
    assert events(tmp_path, "run_start")[0]["optimizers"][0]["groups"][0]["lr"] == 0.01
    assert {row["layer"] for row in events(tmp_path, "run_start")[0]["parameters"]} == {"0", "1"}


def test_a_monitor_that_has_not_begun_can_be_sent_to_another_process(tmp_path: Path) -> None:
    """Spawning strategies pickle the Trainer with its callbacks."""
    watch = pickle.loads(pickle.dumps(monitor(tmp_path, clip=0.5, on_nonfinite="skip")))
    fit(tmp_path, seeded(), watch, max_epochs=1)
    assert len(events(tmp_path, "step")) == 5


def test_raise_reaches_the_user_through_every_precision(tmp_path: Path) -> None:
    def fault(_module: Any, loss: Tensor, batch: int) -> Tensor:
        return loss * NAN if batch == 2 else loss

    for precision in ("32-true", "bf16-mixed", "64-true", "bf16-true"):
        path = tmp_path / precision
        cast: Any = {"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(precision, torch.float32)
        x, y = data().dataset.tensors  # type: ignore[attr-defined]
        loader = DataLoader(TensorDataset(x.to(cast), y), batch_size=8)
        fitted = fit(path, seeded(fault=fault), monitor(path), train=loader, precision=precision, expect=NonFiniteError)
        assert isinstance(fitted.error, NonFiniteError), precision
        assert events(path, "run_start")[0]["precision"]["precision"] == precision
