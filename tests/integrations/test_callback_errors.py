"""Exceptions of the user, anomaly mode, broken loggers and places, and copies of the module."""

from __future__ import annotations

import copy
import math
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from gradwatch import NonFiniteError
from tests.integrations.fits import (
    Classifier,
    Odd,
    Partly,
    data,
    events,
    fit,
    monitor,
    nan_loss,
    seeded,
    watched_nowhere,
    weights,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("nothing_fails")


NAN = math.nan


# -- when something breaks -------------------------------------------------------------------------------------------


def test_a_fit_leaves_no_hook_behind(tmp_path: Path) -> None:
    assert watched_nowhere(fit(tmp_path, seeded(), monitor(tmp_path)).trainer)


@pytest.mark.parametrize(
    ("error", "raised", "status"),
    [
        (ArithmeticError("first line\nsecond"), ArithmeticError, "exception"),
        (KeyboardInterrupt(), (SystemExit, KeyboardInterrupt), "interrupted"),
        (SIGTERMException(), SIGTERMException, "interrupted"),
    ],
    ids=["error", "keyboard", "sigterm"],
)
def test_an_exception_of_the_users_closes_the_run(
    error: BaseException, raised: Any, status: str, tmp_path: Path
) -> None:
    def fault(_module: Any, loss: Tensor, batch: int) -> Tensor:
        if batch == 3:
            raise error
        return loss * NAN if batch == 1 else loss

    fitted = fit(tmp_path, seeded(fault=fault), monitor(tmp_path, on_nonfinite="skip"), expect=raised)
    assert fitted.error is not None
    assert watched_nowhere(fitted.trainer)
    assert not torch.is_anomaly_enabled()  # armed by the skip, and switched on when the error came
    end = events(tmp_path, "run_end")
    assert [(event["status"], event["steps"]) for event in end] == [(status, 3)]
    assert end[0]["reason"].startswith(type(error).__name__)
    assert "second" not in end[0]["reason"]


def test_an_exception_in_validation_closes_the_run_outside_of_a_batch(tmp_path: Path) -> None:
    class Failing(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            raise ArithmeticError

    fit(tmp_path, Failing, monitor(tmp_path), validation=data(2), expect=ArithmeticError)
    end = events(tmp_path, "run_end")[0]
    assert (end["status"], end["steps"], end["batch_idx"], end["reason"]) == ("exception", 5, None, "ArithmeticError")


@pytest.mark.parametrize("limit", [{"max_steps": 0}, {"max_epochs": 0}, {"limit_train_batches": 0}])
def test_a_fit_without_steps(limit: dict[str, Any], tmp_path: Path) -> None:
    assert fit(tmp_path, seeded(), monitor(tmp_path), **limit).error is None
    assert events(tmp_path, "step") == []


@pytest.mark.parametrize("mode", [True, False])
def test_the_trainers_anomaly_mode_is_not_weakened(tmp_path: Path, *, mode: bool) -> None:
    seen: list[tuple[bool, bool]] = []

    def note(_module: Any, loss: Tensor, batch: int) -> Tensor:
        seen.append((torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()))
        if batch == 1 and len(seen) == 2:  # an infinite gradient: the checking mode looks for NaN only
            return loss * math.inf
        return loss

    before = torch.is_anomaly_check_nan_enabled()
    watch = monitor(tmp_path, on_nonfinite="skip", anomaly_steps=3)
    fit(tmp_path, seeded(fault=note), watch, detect_anomaly=mode, expect=RuntimeError)
    if mode:
        assert set(seen) == {(True, True)}
    else:
        assert [on for on, _ in seen] == [False] * 2 + [True] * 3 + [False] * 5
        assert seen[2] == (True, False)
    assert not torch.is_anomaly_enabled()
    assert torch.is_anomaly_check_nan_enabled() == before


@pytest.mark.parametrize("mode", ["skip", "warn"])
def test_anomaly_mode_does_not_change_the_outcome(mode: str, tmp_path: Path) -> None:
    ends = []
    for steps in (0, 100):
        path = tmp_path / str(steps)
        fitted = fit(path, seeded(fault=nan_loss(1, 3)), monitor(path, on_nonfinite=mode, anomaly_steps=steps))
        ends.append(weights(fitted.module))
    assert str(ends[0]) == str(ends[1])


@pytest.mark.parametrize("order", [1, -1])
def test_a_logger_that_raises_is_a_warning(order: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(CSVLogger):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            if any(name.startswith("health/") for name in metrics):
                message = "server is gone"
                raise ConnectionError(message)

    fine = CSVLogger(tmp_path, name="fine")
    fit(tmp_path, seeded(), monitor(tmp_path), logger=[Broken(tmp_path, name="broken"), fine][::order])
    assert len([message for message in caplog.messages if "server is gone" in message]) == 1
    assert len(events(tmp_path, "step")) == 10
    assert "health/grad_norm" in (tmp_path / "fine" / "version_0" / "metrics.csv").read_text()


@pytest.mark.parametrize("fault", [None, 2])
def test_a_file_in_the_place_of_dirpath_is_a_warning(
    fault: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "file"
    place.write_text("in the way")
    module = seeded() if fault is None else seeded(fault=nan_loss(fault))
    fitted = fit(tmp_path, module, monitor(place), expect=NonFiniteError)
    assert (fitted.error is None) == (fault is None)
    assert place.read_text() == "in the way"
    assert any("cannot be written" in message for message in caplog.messages)


# -- copies of the module --------------------------------------------------------------------------------------------


def test_a_trainer_that_has_fitted_can_be_copied(tmp_path: Path) -> None:
    trainer = fit(tmp_path, Odd(Partly()), monitor(tmp_path), max_epochs=1).trainer
    for trainer_again in (copy.deepcopy(trainer), pickle.loads(pickle.dumps(trainer))):
        trainer_again.fit_loop.max_epochs = 2
        trainer_again.fit(trainer_again.lightning_module, data())
    assert [event["steps"] for event in events(tmp_path, "run_end")] == [5, 5, 5]


def test_a_copy_of_the_callback_takes_back_no_hook_of_the_original(tmp_path: Path) -> None:
    class Copying(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            twin = copy.deepcopy(trainer.callbacks[0])
            twin.teardown(trainer, trainer.lightning_module, "fit")

    fit(tmp_path, seeded(), monitor(tmp_path), Copying(), max_epochs=1)
    assert len(events(tmp_path, "step")) == 5
    assert [event["status"] for event in events(tmp_path, "run_end")] == ["finished"]


def test_copies_of_the_module_carry_nothing_of_the_monitor(tmp_path: Path) -> None:
    copies: list[Any] = []

    class Copying(Callback):
        """After the monitor's own hooks, in the middle of a batch."""

        def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            text = pickle.dumps(pl_module)
            assert b"gradwatch" not in text
            copies.extend([copy.deepcopy(pl_module), pickle.loads(text)])
            assert b"gradwatch" not in pickle.dumps(optimizer)

    fit(tmp_path, Odd(Partly()), monitor(tmp_path), Copying(), max_epochs=1)
    assert len(copies) == 10
    for module in copies:
        assert "gradwatch" not in repr([vars(child) for child in module.modules()])
        assert all(
            not getattr(child, name)
            for child in module.modules()
            for name in vars(child)
            if name.endswith("_hooks") and not name.startswith("_load_state_dict")
        )
