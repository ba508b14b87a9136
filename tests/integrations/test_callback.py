"""The callback in Lightning: gradients, decisions, and the state before a checkpoint."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradwatch import NonFiniteError, NumericalHealthMonitor
from tests.integrations.fits import (
    Classifier,
    Manual,
    data,
    equal,
    events,
    fit,
    monitor,
    nan_loss,
    seeded,
    weights,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("nothing_fails")


NAN = math.nan
MODULES = pytest.mark.parametrize("kind", [Classifier, Manual], ids=["automatic", "manual"])


# -- gradients and clipping ------------------------------------------------------------------------------------------


@MODULES
def test_the_modules_own_hook_sees_unclipped_gradients_and_what_it_changes_is_clipped_after_it(
    kind: type[Classifier], tmp_path: Path
) -> None:
    seen: list[float] = []

    def double(module: Any, _: int) -> None:
        seen.append(float(torch.stack([p.grad.norm() for p in module.parameters()]).norm()))
        for parameter in module.parameters():
            parameter.grad.mul_(2)

    fitted = fit(tmp_path, seeded(kind, spoil=double), monitor(tmp_path, clip=0.01), max_epochs=1)
    assert fitted.error is None
    assert min(seen) > 0.02
    for event, own in zip(events(tmp_path, "step"), seen, strict=True):
        assert event["grad_norm"] == pytest.approx(2 * own, rel=1e-5)
        assert event["clip"]["clipped"]
        assert event["clip"]["coefficient"] == pytest.approx(0.01 / (2 * own), rel=1e-3)


@MODULES
@pytest.mark.parametrize("limit", [0.5, 0.1])
def test_clipping_ends_as_with_clip_grad_norm(limit: float, kind: type[Classifier], tmp_path: Path) -> None:
    def clip(module: Any, _: int) -> None:
        nn.utils.clip_grad_norm_(module.parameters(), limit)

    # Not Adam: the bias before a normalisation has a gradient of nothing but rounding, which Adam makes a full step of.
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    plain = fit(tmp_path / "plain", seeded(kind, optimizer=sgd, spoil=clip))
    ours = fit(tmp_path, seeded(kind, optimizer=sgd), monitor(tmp_path, clip=limit))
    assert events(tmp_path, "step")[-1]["clip"]["rate"] > 0
    for name, tensor in weights(ours.module).items():
        torch.testing.assert_close(tensor, weights(plain.module)[name], rtol=1e-5, atol=1e-6)


def test_the_trainers_own_clipping_wins_and_is_recorded(tmp_path: Path) -> None:
    plain = fit(tmp_path / "plain", seeded(), gradient_clip_val=0.1)
    ours = fit(tmp_path, seeded(), monitor(tmp_path, clip=1e-9), gradient_clip_val=0.1)
    assert equal(weights(plain.module), weights(ours.module))
    assert events(tmp_path, "run_start")[0]["clip"]["max_norm"] == 0.1
    for event in events(tmp_path, "step"):
        assert event["clip"]["clipped"] == (event["grad_norm"] > 0.1)


def test_clipping_by_value_is_measured(tmp_path: Path) -> None:
    plain = fit(tmp_path / "plain", seeded(), gradient_clip_val=0.001, gradient_clip_algorithm="value")
    ours = fit(
        tmp_path, seeded(), monitor(tmp_path, clip=1e-9), gradient_clip_val=0.001, gradient_clip_algorithm="value"
    )
    assert equal(weights(plain.module), weights(ours.module))
    for event in events(tmp_path, "step"):
        assert 0 < event["clip"]["coefficient"] < 0.5
        assert event["clip"]["max_norm"] is None
        assert event["grad_norm"] * event["clip"]["coefficient"] <= 0.001 * math.sqrt(66) * (1 + 1e-5)


def test_auto_clips_by_the_architecture(tmp_path: Path) -> None:
    class Recurrent(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(2, 2)

    fit(tmp_path, Recurrent, NumericalHealthMonitor(dirpath=tmp_path), max_epochs=1)
    assert events(tmp_path, "run_start")[0]["clip"]["max_norm"] == 0.25


# -- decisions -------------------------------------------------------------------------------------------------------


@MODULES
def test_raise_ends_the_fit_with_the_weights_of_before(kind: type[Classifier], tmp_path: Path) -> None:
    short = fit(tmp_path / "short", seeded(kind), limit_train_batches=3, max_epochs=1)
    fitted = fit(tmp_path, seeded(kind, fault=nan_loss(3)), monitor(tmp_path), expect=NonFiniteError)
    assert isinstance(fitted.error, NonFiniteError)
    assert equal(weights(fitted.module), weights(short.module))
    assert (fitted.error.incident.step, fitted.error.incident.batch_idx) == (3, 3)
    assert [event["status"] for event in events(tmp_path, "run_end")] == ["nonfinite"]


@MODULES
@pytest.mark.parametrize("bad", [0, 3])
def test_skip_is_as_if_the_batch_had_not_been_there(kind: type[Classifier], bad: int, tmp_path: Path) -> None:
    x, y = data().dataset.tensors  # type: ignore[attr-defined]
    keep = torch.ones(40, dtype=torch.bool)
    keep[8 * bad : 8 * bad + 8] = False
    without = DataLoader(TensorDataset(x[keep], y[keep]), batch_size=8)
    plain = fit(tmp_path / "plain", seeded(kind), train=without, max_epochs=1)
    fitted = fit(tmp_path, seeded(kind), monitor(tmp_path, on_nonfinite="skip"), train=data(bad=bad), max_epochs=1)
    assert equal(weights(fitted.module), weights(plain.module))
    assert [event["action"] for event in events(tmp_path, "incident")] == ["skipped"]
    assert events(tmp_path, "incident")[0]["first_seen"] == "batch"


def test_skip_gives_up_after_max_skips(tmp_path: Path) -> None:
    bad = monitor(tmp_path, on_nonfinite="skip", max_skips=2)
    fitted = fit(tmp_path, seeded(fault=nan_loss(1, 2, 3)), bad, expect=NonFiniteError)
    assert isinstance(fitted.error, NonFiniteError)
    assert [event["action"] for event in events(tmp_path, "incident")] == ["skipped", "skipped", "raised"]
    assert fitted.error.incident.batch_idx == 3


@MODULES
def test_stop_ends_the_fit_gracefully(kind: type[Classifier], tmp_path: Path) -> None:
    short = fit(tmp_path / "short", seeded(kind), limit_train_batches=2, max_epochs=1)
    fitted = fit(tmp_path, seeded(kind, fault=nan_loss(2)), monitor(tmp_path, on_nonfinite="stop"))
    assert fitted.trainer.global_step == 3
    assert equal(weights(fitted.module), weights(short.module))
    assert [event["status"] for event in events(tmp_path, "run_end")] == ["stopped"]


def test_stop_keeps_dropping_while_min_steps_keeps_the_loop_alive(tmp_path: Path) -> None:
    short = fit(tmp_path / "short", seeded(), limit_train_batches=2, max_epochs=1)
    bad = monitor(tmp_path, on_nonfinite="stop", max_skips=1)
    fitted = fit(tmp_path, seeded(fault=nan_loss(2, 3, 4)), bad, min_steps=5, max_epochs=1)
    assert fitted.trainer.global_step == 5
    assert equal(weights(fitted.module), weights(short.module))
    assert [event["action"] for event in events(tmp_path, "incident")] == ["stopped"]  # one for the streak
    assert [(event["status"], event["skipped_steps"]) for event in events(tmp_path, "run_end")] == [("stopped", 3)]


@MODULES
def test_warn_ends_as_without_the_monitor(kind: type[Classifier], tmp_path: Path) -> None:
    plain = fit(tmp_path / "plain", seeded(kind, fault=nan_loss(2)))
    fitted = fit(tmp_path, seeded(kind, fault=nan_loss(2)), monitor(tmp_path, on_nonfinite="warn"))
    a, b = weights(plain.module), weights(fitted.module)
    assert bool(a["head.weight"].isnan().all())
    assert str(a) == str(b)
    assert len(events(tmp_path, "incident")) == 1
    assert events(tmp_path, "run_end")[0]["status"] == "finished"


@pytest.mark.parametrize("guilty", [2, 3])
def test_accumulation_names_the_micro_batch(guilty: int, tmp_path: Path) -> None:
    fit(
        tmp_path,
        seeded(fault=nan_loss(guilty)),
        monitor(tmp_path, on_nonfinite="skip"),
        accumulate_grad_batches=2,
        max_epochs=1,
    )
    incident = events(tmp_path, "incident")[0]
    assert (incident["step"], incident["batch_idx"], incident["first_seen"]) == (1, guilty, "loss")
    assert [event["step"] for event in events(tmp_path, "step")] == [0, 1, 2]


def test_the_logged_loss_is_the_users_under_accumulation(tmp_path: Path) -> None:
    losses: list[float] = []

    def note(_module: Any, loss: Tensor, _: int) -> Tensor:
        losses.append(float(loss.detach()))
        return loss

    fit(tmp_path, seeded(fault=note), monitor(tmp_path), accumulate_grad_batches=2, max_epochs=1)
    expected = [sum(losses[:2]) / 2, sum(losses[2:4]) / 2, losses[4]]
    assert [event["loss"] for event in events(tmp_path, "step")] == pytest.approx(expected, rel=1e-6)


def test_what_adam_makes_in_float16_is_named_at_the_step_of_its_birth(tmp_path: Path) -> None:
    class Half(Classifier):
        def __init__(self) -> None:
            super().__init__(partial(torch.optim.Adam, lr=1e-3))
            self.scale = nn.Parameter(torch.ones(3, dtype=torch.float16))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) + (1e-4 * self.scale).float().sum()

    fitted = fit(tmp_path, Half, monitor(tmp_path), log_every_n_steps=50, expect=NonFiniteError)
    assert isinstance(fitted.error, NonFiniteError)
    incident = fitted.error.incident
    assert (incident.step, incident.batch_idx, incident.first_seen) == (0, 0, "optimizer")
    assert incident.origin.phase == "optimizer"
    assert incident.affected[0] == "scale"


# -- state before checkpoints ----------------------------------------------------------------------------------------


class Spoiler(Callback):
    """Writes a NaN into a weight after a batch, as a broken weight average does."""

    def __init__(self, batch_idx: int) -> None:
        self.batch_idx = batch_idx

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.batch_idx:
            with torch.no_grad():
                pl_module.head.bias[0] = NAN


@pytest.mark.parametrize("weights_only", [False, True])
@MODULES
def test_a_checkpoint_after_the_weights_turned_bad_is_preceded_by_a_scan(
    kind: type[Classifier], tmp_path: Path, *, weights_only: bool
) -> None:
    keep = ModelCheckpoint(
        tmp_path / "ckpt",
        every_n_train_steps=1,
        save_weights_only=weights_only,
        save_top_k=-1,
        filename="{step}",
        auto_insert_metric_name=False,
    )
    watch = monitor(tmp_path, log_every_n_steps=50)
    fitted = fit(tmp_path, seeded(kind), Spoiler(2), watch, keep, expect=NonFiniteError)
    assert isinstance(fitted.error, NonFiniteError)
    assert (fitted.error.incident.first_seen, fitted.error.incident.affected) == ("parameter", ["head.bias"])
    assert fitted.error.incident.step == 2
    saved = sorted(path.stem for path in (tmp_path / "ckpt").glob("*.ckpt"))
    assert saved == ["1", "2"]


@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize("weights_only", [False, True])
def test_the_checkpoint_of_an_epoch_is_preceded_by_a_scan(
    tmp_path: Path, *, validation: bool, weights_only: bool
) -> None:
    keep = ModelCheckpoint(tmp_path / "ckpt", save_weights_only=weights_only)
    watch = monitor(tmp_path, log_every_n_steps=50)
    fitted = fit(
        tmp_path,
        seeded(),
        Spoiler(4),
        watch,
        keep,
        validation=data(2) if validation else None,
        expect=NonFiniteError,
    )
    assert isinstance(fitted.error, NonFiniteError)
    assert not list((tmp_path / "ckpt").glob("*.ckpt"))


def test_a_checkpoint_that_the_user_saves_is_preceded_by_a_scan(tmp_path: Path) -> None:
    class Saver(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "mine.ckpt")

    watch = monitor(tmp_path, log_every_n_steps=50)
    fitted = fit(tmp_path, seeded(), Spoiler(2), Saver(), watch, expect=NonFiniteError)
    assert isinstance(fitted.error, NonFiniteError)
    assert not (tmp_path / "mine.ckpt").exists()


def test_weights_that_validation_spoils_are_found_before_training_goes_on(tmp_path: Path) -> None:
    class Average(Callback):
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            with torch.no_grad():
                pl_module.body.weight[0, 0] = math.inf

    watch = monitor(tmp_path, log_every_n_steps=50)
    fitted = fit(tmp_path, seeded(), Average(), watch, validation=data(2), expect=NonFiniteError)
    assert isinstance(fitted.error, NonFiniteError)
    assert fitted.error.incident.affected == ["body.weight"]
    assert fitted.error.incident.batch_idx is None


def test_weights_that_turn_bad_with_the_last_batch_are_found_at_the_end(tmp_path: Path) -> None:
    watch = monitor(tmp_path, log_every_n_steps=50, on_nonfinite="warn")
    fit(tmp_path, seeded(), Spoiler(4), watch, max_epochs=1)
    assert [event["affected"] for event in events(tmp_path, "incident")] == [["head.bias"]]
