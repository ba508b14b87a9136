"""What a Trainer tells of its run."""

from __future__ import annotations

import os
import signal
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, Timer

from gradwatch.integrations.run_facts import validation_losses
from tests.integrations.fits import Classifier, Manual, data, events, fit, monitor, seeded

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

pytestmark = pytest.mark.usefixtures("nothing_fails")


class At(Callback):
    """Does something at the start of batch 2."""

    def __init__(self, what: Any) -> None:
        self.what = what

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            self.what(trainer)


def end_of(path: Path) -> tuple[str, str | None]:
    [end] = events(path, "run_end")
    return end["status"], end["reason"]


def start_of(path: Path) -> dict[str, Any]:
    return events(path, "run_start")[0]


def ask_to_stop(trainer: Any) -> None:
    trainer.should_stop = True


def test_a_fit_that_comes_to_its_end_needs_no_reason(tmp_path: Path) -> None:
    fit(tmp_path, seeded(), monitor(tmp_path))
    assert end_of(tmp_path) == ("finished", None)


def test_early_stopping_is_named_with_its_reason(tmp_path: Path) -> None:
    stopping = EarlyStopping("val_loss", patience=1, min_delta=1e9)
    fit(tmp_path, seeded(), monitor(tmp_path), stopping, validation=data(2), max_epochs=20)
    status, reason = end_of(tmp_path)
    assert status == "finished"
    assert reason is not None
    assert reason.startswith("EarlyStopping: Monitored metric val_loss did not improve")
    assert "\n" not in reason


def test_the_end_of_the_time_is_named(tmp_path: Path) -> None:
    fit(tmp_path, seeded(), monitor(tmp_path), Timer(timedelta(microseconds=1), interval="step"), max_epochs=20)
    assert end_of(tmp_path) == ("finished", "max_time is over")


def test_others_who_ask_to_stop_are_not_known(tmp_path: Path) -> None:
    fit(tmp_path, seeded(), monitor(tmp_path), At(ask_to_stop), Timer(timedelta(hours=1)))
    assert end_of(tmp_path) == ("finished", "trainer.should_stop was set")


def test_the_monitor_itself_is_named(tmp_path: Path) -> None:
    fit(tmp_path, seeded(), monitor(tmp_path, on_nonfinite="stop"), train=data(bad=1))
    assert end_of(tmp_path) == ("stopped", "on_nonfinite='stop'")


@pytest.mark.parametrize(
    ("what", "raised", "ending"),
    [
        (lambda _: sys.exit(3), SystemExit, ("interrupted", "SystemExit: 3")),
        (lambda _: os.kill(os.getpid(), signal.SIGTERM), SystemExit, ("interrupted", "SIGTERMException")),
        (lambda _: signal.raise_signal(signal.SIGINT), SystemExit, ("interrupted", "KeyboardInterrupt")),
    ],
    ids=["exit", "sigterm", "ctrl-c"],
)
def test_signals_and_exits_are_told(what: Any, raised: Any, ending: tuple[str, str], tmp_path: Path) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    try:
        fit(tmp_path, seeded(), monitor(tmp_path), At(what), expect=raised)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert end_of(tmp_path) == ending
    assert [event["reason"] for event in events(tmp_path, "last_steps")] == ["end"]
    assert not (tmp_path / "last_steps.bin").exists()


def test_no_memory_is_told_in_the_words_of_the_exception(tmp_path: Path) -> None:
    def fault(_module: Any, loss: Tensor, batch: int) -> Tensor:
        if batch == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore")
        return loss

    fit(tmp_path, seeded(fault=fault), monitor(tmp_path), expect=torch.OutOfMemoryError)
    assert end_of(tmp_path) == (
        "exception",
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB.",
    )


class Scheduled(Classifier):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 2}}


def test_schedulers_are_in_the_start(tmp_path: Path) -> None:
    fit(tmp_path, seeded(Scheduled), monitor(tmp_path))
    assert start_of(tmp_path)["schedulers"] == [
        {
            "class": "StepLR",
            "optimizer": 0,
            "interval": "step",
            "frequency": 2,
            "monitor": None,
            "settings": {"step_size": 3, "gamma": 0.1, "base_lrs": [0.01]},
        }
    ]


@pytest.mark.parametrize("module", [Classifier, Manual])
def test_without_a_scheduler_there_are_none(module: Any, tmp_path: Path) -> None:
    fit(tmp_path, seeded(module), monitor(tmp_path))
    start = start_of(tmp_path)
    assert start["schedulers"] == []
    assert start["hardware"]["hostname"]
    assert start["script"]


def test_the_commit_is_that_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("a" * 40)
    monkeypatch.chdir(tmp_path)
    fit(tmp_path, seeded(), monitor(tmp_path / "run"))
    assert start_of(tmp_path / "run")["git"]["commit"] == "a" * 40


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("val_loss", True),
        ("val/loss", True),
        ("loss/validation", True),
        ("Valid_Loss", True),
        ("val_loss/dataloader_idx_1", True),
        ("train_loss", False),
        ("val_accuracy", False),
        ("loss", False),
    ],
)
def test_a_validation_loss_is_known_by_its_name(name: str, *, counts: bool) -> None:
    assert validation_losses({name: torch.tensor(0.5)}) == ({name: 0.5} if counts else {})
