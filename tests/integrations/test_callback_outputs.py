"""What others can read of the callback, and how a run is resumed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from tests.integrations.fits import (
    Classifier,
    data,
    events,
    fit,
    monitor,
    seeded,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("nothing_fails")


# -- what others can read --------------------------------------------------------------------------------------------


class Reader(Callback):
    """Reads the metrics as ``ModelCheckpoint`` and ``EarlyStopping`` do."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})


@pytest.mark.parametrize("order", [1, -1])
def test_early_stopping_works_in_an_epoch_shorter_than_log_every_n_steps(order: int, tmp_path: Path) -> None:
    stopping = EarlyStopping(monitor="health/grad_norm", patience=0, min_delta=1e9)
    callbacks = [monitor(tmp_path), stopping][::order]
    fitted = fit(tmp_path, seeded(), *callbacks, max_epochs=9, log_every_n_steps=50)
    assert fitted.trainer.current_epoch == 2
    assert stopping.stopped_epoch == 1


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("validation", [False, True])
def test_model_checkpoint_works_in_an_epoch_shorter_than_log_every_n_steps(
    order: int, tmp_path: Path, *, validation: bool
) -> None:
    keep = ModelCheckpoint(tmp_path / "ckpt", monitor="health/grad_norm", mode="min", save_top_k=1)
    callbacks = [monitor(tmp_path), keep][::order]
    fit(tmp_path, seeded(), *callbacks, log_every_n_steps=50, validation=data(2) if validation else None)
    assert keep.best_model_score is not None
    assert float(keep.best_model_score) > 0


def test_model_checkpoint_by_steps_reads_the_value_of_its_step(tmp_path: Path) -> None:
    keep = ModelCheckpoint(
        tmp_path / "ckpt", monitor="health/grad_norm", every_n_train_steps=1, save_top_k=-1, filename="{step}"
    )
    fit(tmp_path, seeded(), monitor(tmp_path), keep, log_every_n_steps=50, max_epochs=1)
    assert len({float(score) for score in keep.best_k_models.values()}) == 5


def test_the_metrics_are_all_there_and_the_users_own_too(tmp_path: Path) -> None:
    class Logging(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.log("mine", float(batch_idx), on_step=False, on_epoch=True)
            return loss

    reader = Reader()
    fit(tmp_path, Logging, monitor(tmp_path, clip=0.01, on_nonfinite="skip"), reader, train=data(bad=1))
    for epoch, seen in enumerate(reader.seen):
        assert seen["mine"] == 2.0
        assert seen["health/skipped_steps"] == seen["health/nonfinite"] == epoch + 1
        assert 0 < seen["health/clip_coefficient"] < 1
        assert seen["health/grad_norm_clipped"] == pytest.approx(0.01, rel=1e-3)
        assert seen["health/clip_rate"] == pytest.approx(0.8)


def test_loggers_get_scalars_on_their_own_axis(tmp_path: Path) -> None:
    table, board = CSVLogger(tmp_path, name="csv"), TensorBoardLogger(tmp_path, name="board")
    fit(tmp_path, seeded(), monitor(tmp_path), logger=[table, board], log_every_n_steps=2)
    rows = (tmp_path / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    header = rows[0].split(",")
    steps = [int(row.split(",")[header.index("step")]) for row in rows[1:]]
    assert steps == [1, 3, 5, 7, 9]
    assert {"grad_norm/body", "weight_norm/head", "update_ratio/norm", "health/grad_norm"} <= set(header)
    assert list((tmp_path / "board" / "version_0").glob("events.out.tfevents*"))


def test_no_logger_is_fine(tmp_path: Path) -> None:
    fit(tmp_path, seeded(), monitor(), logger=False)
    assert len(events(tmp_path / "gradwatch", "step")) == 10


def test_the_place_is_the_loggers_folder_unless_told_otherwise(tmp_path: Path) -> None:
    fit(tmp_path, seeded(), monitor(), logger=CSVLogger(tmp_path, name="csv"), max_epochs=1)
    assert len(events(tmp_path / "csv" / "version_0" / "gradwatch", "step")) == 5


# -- resuming --------------------------------------------------------------------------------------------------------


def checkpointed(path: Path, *callbacks: Any, **arguments: Any) -> Path:
    """Fit for an epoch and save; return the checkpoint."""
    fitted = fit(path, seeded(), *callbacks, max_epochs=1, **arguments)
    fitted.trainer.save_checkpoint(path / "end.ckpt")
    return path / "end.ckpt"


def test_a_resumed_run_counts_on_and_names_the_run_before(tmp_path: Path) -> None:
    first = checkpointed(tmp_path / "a", monitor(tmp_path / "a", on_nonfinite="skip", clip=0.01), train=data(bad=1))
    fit(tmp_path / "b", seeded(), monitor(tmp_path / "b", clip=0.01), ckpt_path=first)
    start = events(tmp_path / "b", "run_start")[0]
    assert start["resumed_from"] == events(tmp_path / "a", "run_start")[0]["run_id"]
    assert (start["step"], start["epoch"]) == (5, 1)
    assert [event["step"] for event in events(tmp_path / "b", "step")] == [5, 6, 7, 8, 9]
    end = events(tmp_path / "b", "run_end")[0]
    assert (end["steps"], end["skipped_steps"], end["incidents"]) == (10, 1, 1)
    assert events(tmp_path / "b", "step")[-1]["clip"]["rate"] == pytest.approx(0.9)


def test_a_checkpoint_from_before_the_monitor_loads(tmp_path: Path) -> None:
    old = checkpointed(tmp_path / "a")
    fit(tmp_path / "b", seeded(), monitor(tmp_path / "b"), ckpt_path=old)
    start, end = events(tmp_path / "b", "run_start")[0], events(tmp_path / "b", "run_end")[0]
    assert (start["resumed_from"], start["step"], end["steps"]) == (None, 5, 5)


def test_a_checkpoint_opens_with_weights_only(tmp_path: Path) -> None:
    path = checkpointed(tmp_path, monitor(tmp_path, on_nonfinite="skip"), train=data(bad=1))
    loaded = torch.load(path, weights_only=True)
    assert loaded["callbacks"]["NumericalHealthMonitor"]["counters"]["skipped"] == 1


def test_the_key_of_the_state_is_fixed_whatever_the_arguments() -> None:
    keys = {monitor().state_key, monitor(clip=3.0, on_nonfinite="warn").state_key}
    assert keys == {"NumericalHealthMonitor"}


def test_a_checkpoint_of_the_twin_package_resumes_too() -> None:
    from gradwatch.integrations.pytorch_lightning import NumericalHealthMonitor as Twin  # noqa: PLC0415

    assert Twin().state_key == monitor().state_key


def test_a_second_fit_with_the_same_callback_is_a_run_of_its_own(tmp_path: Path) -> None:
    watch = monitor(tmp_path)
    fit(tmp_path, seeded(), watch, max_epochs=1)
    fit(tmp_path, seeded(), watch, max_epochs=1)
    starts, ends = events(tmp_path, "run_start"), events(tmp_path, "run_end")
    assert len({start["run_id"] for start in starts}) == 2
    assert sorted(end["steps"] for end in ends) == [5, 10]
    assert sorted(start["steps_before"] for start in starts) == [0, 5]
    assert [start["resumed_from"] for start in starts] == [None, None]
    assert len(events(tmp_path, "step")) == 10


# -- the start -------------------------------------------------------------------------------------------------------


def test_the_start_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="gradwatch")
    fit(tmp_path, seeded(), monitor(tmp_path, clip=0.5), max_epochs=1)
    assert len([message for message in caplog.messages if "gradients are clipped to L2 norm 0.5" in message]) == 1
    assert len([message for message in caplog.messages if "training finished" in message]) == 1


def test_two_monitors_in_one_trainer_are_refused_by_lightning(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="state_key"):
        Trainer(callbacks=[monitor(tmp_path), monitor(tmp_path)], accelerator="cpu", logger=False)
