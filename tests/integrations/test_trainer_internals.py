"""The private members of Lightning that gradwatch leans on: these tests fail when Lightning changes them."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.precision import Precision

from gradwatch.integrations.trainer_internals import (
    around_clipping,
    batches_that_stepped,
    callback_metrics,
    checkpoint_periods,
)
from tests.integrations.fits import Classifier, Manual, data, fit, seeded

if TYPE_CHECKING:
    from pathlib import Path


class Order(Callback):
    """Writes down in which order things happen around an optimizer step."""

    def __init__(self, *, answer: bool = True) -> None:
        self.calls: list[str] = []
        self.answer = answer
        self.undo: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        def judge(optimizer: Any) -> bool:
            assert optimizer is trainer.optimizers[0]
            assert all(p.grad is not None for p in pl_module.parameters())
            self.calls.append("judge")
            return self.answer

        self.undo = around_clipping(trainer, judge, lambda _: self.calls.append("after"))
        trainer.optimizers[0].register_step_post_hook(lambda *_: self.calls.append("step"))

    def on_train_batch_start(self, *_: Any) -> None:
        self.calls.append("batch start")

    def on_before_backward(self, *_: Any) -> None:
        self.calls.append("before backward")

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.calls.append("callback")

    def on_train_batch_end(self, *_: Any) -> None:
        self.calls.append("batch end")


def module(kind: type[Classifier], order: Order, *, clips: bool = True) -> Any:
    """A module that writes down its own hook and its clipping too."""

    class Noting(kind):  # type: ignore[misc,valid-type]
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            order.calls.append("module")

    if clips and kind is Classifier:

        def configure(self: Any, *_: Any, **__: Any) -> None:
            order.calls.append("clip")

        Noting.configure_gradient_clipping = configure
    return seeded(Noting)


BEFORE = ["batch start", "before backward", "callback", "module", "judge"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Classifier, [*BEFORE, "clip", "after", "step", "batch end"]),
        (Manual, [*BEFORE, "after", "step", "batch end"]),
    ],
    ids=["automatic", "manual"],
)
def test_the_place_is_after_the_modules_hook_and_before_the_step(
    kind: type[Classifier], expected: list[str], tmp_path: Path
) -> None:
    order = Order()
    fit(tmp_path, module(kind, order), order, limit_train_batches=2, max_epochs=1)
    assert order.calls == expected * 2


@pytest.mark.parametrize("kind", [Classifier, Manual], ids=["automatic", "manual"])
def test_lightning_clips_only_when_told_that_it_may(kind: type[Classifier], tmp_path: Path) -> None:
    order = Order(answer=False)
    fit(tmp_path, module(kind, order), order, limit_train_batches=1, max_epochs=1)
    assert order.calls == [*BEFORE, "step", "batch end"]


def test_lightning_is_not_asked_where_it_has_nothing_to_clip(tmp_path: Path) -> None:
    judged: list[Any] = []

    def judge(optimizer: Any) -> bool:
        judged.append(optimizer)
        return True

    class Judging(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            around_clipping(trainer, judge, None)

    order = Order()
    fit(tmp_path, module(Classifier, order), Judging(), limit_train_batches=2, max_epochs=1)
    assert len(judged) == 2
    assert order.calls == ["module"] * 2


def test_undoing_leaves_the_plugin_as_it_was(tmp_path: Path) -> None:
    trainer = fit(tmp_path, seeded(), max_epochs=1).trainer
    before = dict(vars(trainer.precision_plugin))
    undo = around_clipping(trainer, lambda _: True, lambda _: None)
    assert "_clip_gradients" in vars(trainer.precision_plugin)
    undo()
    undo()
    assert vars(trainer.precision_plugin) == before


def test_undoing_respects_another_who_did_the_same(tmp_path: Path) -> None:
    trainer = fit(tmp_path, seeded(), max_epochs=1).trainer
    trainer.precision_plugin._clip_gradients = other = lambda *_args, **_kwargs: None  # type: ignore[method-assign]
    around_clipping(trainer, lambda _: True, lambda _: None)()
    assert trainer.precision_plugin._clip_gradients is other


@pytest.mark.parametrize("package", [lightning.pytorch, pytorch_lightning], ids=["lightning", "pytorch_lightning"])
def test_the_private_methods_are_there_with_the_arguments_that_are_used(package: Any) -> None:
    precision = package.plugins.precision.Precision
    assert list(inspect.signature(precision._clip_gradients).parameters)[:3] == ["self", "model", "optimizer"]
    assert "_clip_gradients" in inspect.getsource(precision._after_closure)
    assert "_after_closure" in inspect.getsource(precision._wrap_closure)
    mixed = package.plugins.precision.MixedPrecision
    assert "_after_closure" in inspect.getsource(mixed.optimizer_step)


def test_every_precision_plugin_comes_by_the_same_place() -> None:
    """A plugin that overrides either method may not call the other."""
    kinds: list[type[Any]] = [Precision, *Precision.__subclasses__()]
    overriding = {kind.__name__ for kind in kinds if "_clip_gradients" in vars(kind) and kind is not Precision}
    assert overriding == set()


def test_the_scalers_plugin_keeps_it_under_the_name_scaler() -> None:
    scaler = torch.amp.GradScaler("cpu")
    plugin = lightning.pytorch.plugins.precision.MixedPrecision("16-mixed", device="cpu", scaler=scaler)
    assert plugin.scaler is scaler


def test_batches_that_stepped_is_the_loggers_axis(tmp_path: Path) -> None:
    seen: list[int] = []
    steps: list[int] = []

    class Logger(lightning.pytorch.loggers.CSVLogger):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            steps.append(step if step is not None else -1)

    class Axis(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            pl_module.log("x", 1.0)
            seen.append(batches_that_stepped(trainer))

    fit(tmp_path, seeded(), Axis(), logger=Logger(tmp_path), max_epochs=2, limit_train_batches=3)
    assert seen == [0, 1, 2, 3, 4, 5]
    assert [step for step in steps if step >= 0][: len(seen)] == seen


def test_two_optimizers_step_once_on_that_axis(tmp_path: Path) -> None:
    class Two(Manual):
        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.body.parameters(), lr=0.1), torch.optim.SGD(self.head.parameters(), lr=0.1)]

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            for optimizer in self.optimizers():  # type: ignore[union-attr]
                optimizer.zero_grad()
                self.manual_backward(Classifier.training_step(self, batch, batch_idx))
                optimizer.step()

    seen: list[tuple[int, int]] = []

    class Axis(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            seen.append((batches_that_stepped(trainer), trainer.global_step))

    fit(tmp_path, Two, Axis(), max_epochs=1, limit_train_batches=3)
    assert seen == [(0, 0), (1, 2), (2, 4)]


def test_what_is_put_into_the_store_is_read_by_the_public_property(tmp_path: Path) -> None:
    class Putting(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            callback_metrics(trainer)["mine"] = torch.tensor(3.0)
            assert float(trainer.callback_metrics["mine"]) == 3.0

    trainer = fit(tmp_path, seeded(), Putting(), max_epochs=1).trainer
    assert float(trainer.callback_metrics["mine"]) == 3.0


def test_the_store_is_not_computed_by_looking_at_it(tmp_path: Path) -> None:
    """The public property would freeze the epoch's mean too early."""
    values: dict[str, float] = {}

    class Looking(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            callback_metrics(trainer)

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            values["mean"] = float(trainer.callback_metrics["number"])

    class Logging(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("number", float(batch_idx), on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

    fit(tmp_path, Logging, Looking(), max_epochs=1)
    assert values["mean"] == 2.0


@pytest.mark.parametrize("package", [lightning.pytorch, pytorch_lightning], ids=["lightning", "pytorch_lightning"])
def test_checkpoint_periods(package: Any, tmp_path: Path) -> None:
    checkpoint = package.callbacks.ModelCheckpoint
    callbacks = [
        checkpoint(tmp_path, every_n_train_steps=3, filename="a"),
        checkpoint(tmp_path, every_n_train_steps=2, filename="b"),
        checkpoint(tmp_path, every_n_train_steps=2, filename="c", monitor="x"),
        checkpoint(tmp_path, every_n_epochs=1, filename="d"),
        package.callbacks.OnExceptionCheckpoint(tmp_path),
    ]
    trainer = package.Trainer(callbacks=callbacks, logger=False, accelerator="cpu", default_root_dir=tmp_path)
    assert checkpoint_periods(trainer) == [2, 3]


def test_checkpoint_callbacks_save_after_every_other_callback(tmp_path: Path) -> None:
    saved: list[tuple[int, bool]] = []

    class Watching(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            saved.append((trainer.global_step, (tmp_path / f"{trainer.global_step}.ckpt").exists()))

    keep = ModelCheckpoint(
        tmp_path, every_n_train_steps=1, filename="{step}", save_top_k=-1, auto_insert_metric_name=False
    )
    fit(tmp_path, seeded(), keep, Watching(), max_epochs=1, train=data(3))
    assert saved == [(1, False), (2, False), (3, False)]
    assert len(list(tmp_path.glob("*.ckpt"))) == 3
