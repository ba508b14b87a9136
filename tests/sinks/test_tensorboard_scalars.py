"""Scalars that go into TensorBoard as one event are what the logger would have written one by one."""

from __future__ import annotations

import functools
from itertools import chain
from typing import TYPE_CHECKING, Any

import lightning.fabric.loggers.tensorboard as fabric_tensorboard
import pytest
import pytorch_lightning.loggers as twin
from lightning.pytorch import loggers as lightning_loggers
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch.utils.tensorboard import SummaryWriter

from gradwatch.sinks.tensorboard_scalars import log_metrics

if TYPE_CHECKING:
    from pathlib import Path

METRICS = {"health/grad_norm": 0.1, "health/nonfinite": 3, "grad_norm/a.b": 1e300, "grad_norm/é %d": -0.0}


def written(folder: Path) -> list[list[tuple[int, str, float]]]:
    """The scalars in the event file of a folder, by event."""
    (file,) = folder.rglob("events.out.*")
    events = [event for event in EventFileLoader(str(file)).Load() if event.HasField("summary")]
    return [[(event.step, value.tag, value.tensor.float_val[0]) for value in event.summary.value] for event in events]


@pytest.mark.parametrize("prefix", ["", "run"])
@pytest.mark.parametrize("package", [lightning_loggers, twin], ids=["lightning", "twin"])
def test_one_event_holds_what_the_logger_writes_one_by_one(package: Any, prefix: str, tmp_path: Path) -> None:
    theirs = package.TensorBoardLogger(tmp_path, name="theirs", prefix=prefix)
    ours = package.TensorBoardLogger(tmp_path, name="ours", prefix=prefix)
    for step in (4, 9):
        theirs.log_metrics(dict(METRICS), step=step)
        log_metrics(ours, METRICS, step)
    for logger in (theirs, ours):
        logger.finalize("success")
    singly, together = written(tmp_path / "theirs"), written(tmp_path / "ours")
    assert [len(event) for event in singly] == [1] * 2 * len(METRICS)
    assert [len(event) for event in together] == [len(METRICS)] * 2
    assert [*chain(*together)] == [*chain(*singly)]


class Renaming(lightning_loggers.TensorBoardLogger):
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        super().log_metrics({f"my/{name}": value for name, value in metrics.items()}, step)


def test_a_logger_that_does_it_another_way_is_asked(tmp_path: Path) -> None:
    logger = Renaming(tmp_path)
    log_metrics(logger, METRICS, 1)
    logger.finalize("success")
    assert [tag for event in written(tmp_path) for _, tag, _ in event] == [f"my/{name}" for name in METRICS]


def test_a_method_that_was_replaced_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger, calls = lightning_loggers.TensorBoardLogger(tmp_path), []
    with monkeypatch.context() as patch:  # as trackers do that listen to TensorBoard
        patch.setattr(logger.experiment, "add_scalar", lambda *arguments: calls.append(arguments))
        log_metrics(logger, METRICS, 1)
    assert calls == [(name, value, 1) for name, value in METRICS.items()]
    calls.clear()
    monkeypatch.setattr(logger, "log_metrics", lambda metrics, step: calls.append((metrics, step)))
    log_metrics(logger, METRICS, 1)
    assert calls == [(METRICS, 1)]


def _in_a_function(original: Any, call: Any) -> Any:
    @functools.wraps(original)  # so that it says of itself to be the original
    def tracked(*arguments: Any, **keywords: Any) -> None:
        call(*arguments, **keywords)

    return tracked


def _in_a_function_of_no_module(original: Any, call: Any) -> Any:
    """As ``mock`` makes one with ``autospec``."""
    namespace: dict[str, Any] = {"call": call}
    exec("def tracked(*arguments, **keywords): call(*arguments, **keywords)", namespace)  # noqa: S102
    del namespace["__builtins__"]
    return functools.wraps(original)(namespace["tracked"])


def _in_a_proxy(original: Any, call: Any) -> Any:
    """As the package ``wrapt`` makes one."""

    class Proxy:
        __class__ = property(lambda self: type(original))  # noqa: ARG005

        def __get__(self, instance: Any, owner: Any = None) -> Any:
            return _in_a_proxy(original.__get__(instance, owner), functools.partial(call, instance))

        def __getattr__(self, name: str) -> Any:
            return getattr(original, name)

        def __call__(self, *arguments: Any, **keywords: Any) -> None:
            call(*arguments, **keywords)

    return Proxy()


@pytest.mark.parametrize("wrap", [_in_a_function, _in_a_function_of_no_module, _in_a_proxy])
@pytest.mark.parametrize("wrapped", [fabric_tensorboard.TensorBoardLogger, SummaryWriter])
def test_a_method_that_was_wrapped_is_called(
    wrapped: Any, wrap: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, calls = {SummaryWriter: "add_scalar"}.get(wrapped, "log_metrics"), []
    original = getattr(wrapped, name)

    def tracked(*arguments: Any, **keywords: Any) -> None:
        calls.append(arguments)
        original(*arguments, **keywords)

    monkeypatch.setattr(wrapped, name, wrap(original, tracked))
    log_metrics(lightning_loggers.TensorBoardLogger(tmp_path), METRICS, 1)
    assert len(calls) == {"add_scalar": len(METRICS), "log_metrics": 1}[name]


def test_tensorboard_x_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fabric_tensorboard, "_TENSORBOARD_AVAILABLE", False)
    logger = lightning_loggers.TensorBoardLogger(tmp_path)
    assert type(logger.experiment).__module__.startswith("tensorboardX")
    log_metrics(logger, {"a": 1.0}, 2)
    logger.finalize("success")
    assert written(tmp_path) == [[(2, "a", 1.0)]]
