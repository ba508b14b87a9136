"""Promise 1, bitwise: with ``clip=None`` and no fault the monitor changes nothing that a training leaves behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytorch_lightning
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from gradwatch import NumericalHealthMonitor
from gradwatch.capture.forward import ForwardWatch
from gradwatch.integrations.pytorch_lightning import NumericalHealthMonitor as NumericalHealthMonitorForPL
from tests.cases import CASES, Case, named
from tests.noninterference.fingerprint import differences
from tests.noninterference.runs import Outcome, run

if TYPE_CHECKING:
    from pathlib import Path


def monitors() -> list[Any]:
    """Return the monitor with default settings, but for clipping."""
    return [NumericalHealthMonitor(clip=None)]


def check(plain: Outcome, watched: Outcome) -> None:
    """Fail unless the runs are equal and the second one was really watched, with nothing to report as broken."""
    assert differences(plain.fingerprint, watched.fingerprint) == []
    assert watched.of_type("incident") == []
    assert watched.failures == []
    assert len(watched.of_type("run_start")) == 1
    assert [event["status"] for event in watched.of_type("run_end")] == ["finished"]
    steps = watched.of_type("step")
    assert steps
    assert any(layer["grad_norm"] for event in steps for layer in event["layers"].values())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_training_ends_bitwise_as_without_the_monitor(case: Case, tmp_path: Path) -> None:
    check(run(case, tmp_path / "plain"), run(case, tmp_path / "watched", monitors))


@pytest.mark.parametrize("name", ["cnn_batchnorm", "gan", "accumulation", "scaled", "checkpointing"])
def test_same_under_pytorch_lightning(name: str, tmp_path: Path) -> None:
    plain = run(named(name), tmp_path / "plain", package=pytorch_lightning)
    watched = run(
        named(name), tmp_path / "watched", lambda: [NumericalHealthMonitorForPL(clip=None)], pytorch_lightning
    )  # fmt: skip
    check(plain, watched)


@pytest.mark.parametrize("mode", ["stop", "skip", "warn"])
@pytest.mark.parametrize("name", ["transformer", "accumulation", "gan"])
def test_same_in_every_mode(name: str, mode: str, tmp_path: Path) -> None:
    """What a mode prepares for a fault that never comes (copies of buffers, kept batches) changes nothing."""
    watched = run(
        named(name), tmp_path / "watched", lambda: [NumericalHealthMonitor(clip=None, on_nonfinite=mode)]
    )  # fmt: skip
    check(run(named(name), tmp_path / "plain"), watched)


def test_same_with_records_of_every_parameter(tmp_path: Path) -> None:
    watched = run(
        named("cnn_batchnorm"),
        tmp_path / "watched",
        lambda: [NumericalHealthMonitor(clip=None, granularity="parameter", log_every_n_steps=1)],
    )
    check(run(named("cnn_batchnorm"), tmp_path / "plain"), watched)


# Compiled code has no place to look from, and the other two have no layer whose input is a real number.
UNSEEN = {"compiled", "sparse", "complex_weights"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same_when_activations_are_sampled_at_every_step(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward hooks and all rules, at every step; the comparisons above look at every second one."""
    sampled: list[bool] = []
    take = ForwardWatch.take

    def taking(watch: ForwardWatch) -> Any:
        forward = take(watch)
        sampled.append(forward is not None and bool(forward.inputs or forward.outputs))
        return forward

    monkeypatch.setattr(ForwardWatch, "take", taking)
    watched = run(case, tmp_path / "watched", lambda: [NumericalHealthMonitor(clip=None, log_every_n_steps=1)])
    check(run(case, tmp_path / "plain"), watched)
    # Elsewhere all but batches without a loss are looked at.
    assert (sum(sampled) >= 5) == (case.name not in UNSEEN)


@pytest.mark.parametrize("kind", ["none", "tensorboard", "both"])
def test_same_with_any_loggers(kind: str, tmp_path: Path) -> None:
    def outcome(name: str, callbacks: Any = tuple) -> Outcome:
        root = tmp_path / name
        board, table = (cls(root, name=cls.__name__) for cls in (TensorBoardLogger, CSVLogger))
        loggers = {"none": False, "tensorboard": board, "both": [board, table]}[kind]
        return run(named("cnn_batchnorm"), root, callbacks, logger=loggers)

    check(outcome("plain"), outcome("watched", monitors))


@pytest.mark.parametrize("name", ["cnn_batchnorm", "accumulation", "scaled", "gan"])
def test_same_after_resuming(name: str, tmp_path: Path) -> None:
    """The second epoch after a checkpoint ends as without the monitor, which was there in both."""
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    run(named(name), plain / "first", max_epochs=1)
    run(named(name), watched / "first", monitors, max_epochs=1)
    check(
        run(named(name), plain / "second", ckpt_path=plain / "first" / "end.ckpt", max_epochs=2),
        run(named(name), watched / "second", monitors, ckpt_path=watched / "first" / "end.ckpt", max_epochs=2),
    )


def test_the_users_own_clipping_wins_over_auto(tmp_path: Path) -> None:
    """With ``clip="auto"`` too, a run whose Trainer or module clips ends as without the monitor."""
    for name in ("schedule_and_clip", "own_clipping", "own_gradient_edit"):
        plain = run(named(name), tmp_path / name / "plain")
        check(plain, run(named(name), tmp_path / name / "watched", lambda: [NumericalHealthMonitor()]))


def test_a_copy_made_in_training_carries_nothing_of_the_monitor(tmp_path: Path) -> None:
    """The teacher is a deepcopy taken in ``on_train_start``; its modules are compared with those of a plain run."""
    watched = run(named("teacher"), tmp_path, monitors)
    teacher = {name: value for name, value in watched.fingerprint.items() if name.startswith("modules/teacher")}
    assert teacher
    assert [name for name, value in teacher.items() if "/hooks/" in name and value] == []
    assert "gradwatch" not in repr(teacher)
