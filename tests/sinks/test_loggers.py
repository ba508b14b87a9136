from __future__ import annotations

import csv
import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import lightning.fabric.loggers.tensorboard as fabric_tensorboard
import pytest
import pytorch_lightning.loggers as twin
from lightning.pytorch import loggers as lightning_loggers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gradwatch.sinks.loggers import LoggerSink
from gradwatch.sinks.protocol import Sink
from tests.sinks.samples import finding, incident, run_end, run_start, step_record, with_layer

if TYPE_CHECKING:
    from pathlib import Path

    from gradwatch.records import RunStart


class ListLogger:
    """The least that is a logger."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.calls.append((step, dict(metrics)))
        metrics.clear()  # what a logger does to its argument is nobody else's business


class DottedLogger(ListLogger):
    group_separator = "."


class BrokenLogger(ListLogger):
    """Fails at the calls whose numbers are given."""

    def __init__(self, bad: set[int]) -> None:
        super().__init__()
        self.bad, self.count = bad, 0

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.count += 1
        if self.count in self.bad:
            message = "server is gone"
            raise ConnectionError(message)
        super().log_metrics(metrics, step)


def said(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def run_with_layers(*counts: int) -> RunStart:
    row = run_start().parameters[0]
    rows = [
        replace(row, name=f"{o}.{i}.{kind}", layer=f"{o}.{i}", optimizer=o)
        for o, count in enumerate(counts)
        for i in range(count)
        for kind in ("weight", "bias")
    ]
    return run_start(parameters=[*rows, replace(row, layer="frozen", optimizer=None)])


def test_it_is_a_sink_and_no_logger_is_fine() -> None:
    sink = LoggerSink([])
    assert isinstance(sink, Sink)
    sink.write(step_record())
    sink.close()


def test_scalars_go_to_every_logger_at_the_log_step() -> None:
    loggers = [ListLogger(), DottedLogger(), ListLogger()]
    sink = LoggerSink(loggers)
    for event in (run_start(), step_record(1, step=40, log_step=7), finding(), incident(), run_end()):
        sink.write(event)
    sink.close()
    assert [step for logger in loggers for step, _ in logger.calls] == [7, 7, 7]
    first, dotted, last = (logger.calls[0][1] for logger in loggers)
    assert first == last
    assert first["health/grad_norm"] == 2.0
    assert first["update_ratio/block.0"] == 1e-3
    assert {tag.replace("/", ".") for tag in first} == set(dotted)


def test_values_are_plain_numbers() -> None:
    logger = ListLogger()
    LoggerSink([logger]).write(step_record())
    assert {type(value) for value in logger.calls[0][1].values()} == {int, float}


@pytest.mark.parametrize(("layers", "sent"), [(66, True), (67, False)])
def test_auto_sends_layers_while_they_are_at_most_200_tags(
    layers: int, caplog: pytest.LogCaptureFixture, *, sent: bool
) -> None:
    caplog.set_level(logging.INFO)
    logger = ListLogger()
    sink = LoggerSink([logger], layer_scalars="auto")
    for _ in range(3):
        sink.write(step_record(layers))
    assert [("grad_norm/block.0" in metrics) for _, metrics in logger.calls] == [sent] * 3
    assert said(caplog, logging.INFO) == (
        []
        if sent
        else [
            (
                "gradwatch: the loggers get no per-layer scalars: 201 tags are more than 200 and make dashboards slow."
                " events.jsonl has them all; layer_scalars=True sends them anyway."
            )
        ]
    )


def test_auto_counts_the_layers_of_all_optimizers_before_the_first_record() -> None:
    logger = ListLogger()
    sink = LoggerSink([logger])
    sink.write(run_with_layers(40, 40))
    sink.write(step_record(40))
    assert "grad_norm/block.0" not in logger.calls[0][1]
    fits = LoggerSink([logger])
    fits.write(run_with_layers(33, 33))
    fits.write(step_record(33))
    assert "grad_norm/block.0" in logger.calls[1][1]


@pytest.mark.parametrize("wanted", [True, False])
def test_true_and_false_decide_alone(caplog: pytest.LogCaptureFixture, *, wanted: bool) -> None:
    caplog.set_level(logging.INFO)
    logger = ListLogger()
    sink = LoggerSink([logger], layer_scalars=wanted)
    for count in (1, 500):
        sink.write(step_record(count))
    assert [("grad_norm/block.0" in metrics) for _, metrics in logger.calls] == [wanted, wanted]
    assert said(caplog, logging.INFO) == []


def test_a_broken_logger_gets_one_warning_and_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    broken, fine = BrokenLogger(set(range(100))), ListLogger()
    sink = LoggerSink([broken, fine])
    for _ in range(10):
        sink.write(step_record())
    assert broken.count == 3
    assert len(fine.calls) == 10
    assert said(caplog, logging.WARNING) == [
        (
            "gradwatch: logger BrokenLogger failed: ConnectionError: server is gone. Training goes on; after 3 failures"
            " in a row it gets no more scalars from gradwatch (events.jsonl has them all)."
        )
    ]


def test_a_logger_that_recovers_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    flaky = BrokenLogger({1, 2, 4, 5, 7, 8})
    sink = LoggerSink([flaky])
    for _ in range(12):
        sink.write(step_record())
    assert flaky.count == 12
    assert len(flaky.calls) == 6
    assert len(said(caplog, logging.WARNING)) == 1


@pytest.mark.parametrize("logger", [object(), None, property()])
def test_what_is_no_logger_at_all_is_a_warning(logger: Any, caplog: pytest.LogCaptureFixture) -> None:
    LoggerSink([logger]).write(step_record())
    assert "AttributeError" in said(caplog, logging.WARNING)[0]


def test_interrupts_are_not_swallowed() -> None:
    class Interrupted(ListLogger):
        def log_metrics(self, metrics: dict[str, float], step: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LoggerSink([Interrupted()]).write(step_record())


# -- with the real ones ----------------------------------------------------------------------------------------------


def tensorboard_x(directory: Path, monkeypatch: pytest.MonkeyPatch) -> lightning_loggers.TensorBoardLogger:
    """A Lightning logger whose writer is tensorboardX's, as on a machine without tensorboard."""
    with monkeypatch.context() as patch:
        patch.setattr(fabric_tensorboard, "_TENSORBOARD_AVAILABLE", False)
        logger = lightning_loggers.TensorBoardLogger(directory, name="x")
        assert type(logger.experiment).__module__.startswith("tensorboardX")
    return logger


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = EventAccumulator(str(directory))
    accumulator.Reload()
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_csv_and_tensorboard_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = lightning_loggers.CSVLogger(tmp_path, name="csv", flush_logs_every_n_steps=1)
    late_table = twin.CSVLogger(tmp_path, name="late")
    board = lightning_loggers.TensorBoardLogger(tmp_path, name="board")
    board_x = tensorboard_x(tmp_path, monkeypatch)
    loggers: list[Any] = [table, late_table, board, board_x]
    sink = LoggerSink(loggers)
    start = step_record(2)
    for step in range(6):
        record = replace(start, log_step=step)
        if step < 3:  # frozen at first: its grad_norm is a tag that appears late
            record = with_layer(record, "block.1", grad_norm=None)
        if step == 4:
            record = with_layer(record, "block.0", grad_norm=math.inf, nonfinite=2)
        record = replace(record, nonfinite_steps=int(step >= 4))
        sink.write(record)
        table.log_metrics({"train_loss": 1.5}, step=step)  # the user's own rows go on between ours
    for logger in loggers:
        logger.finalize("success")

    for file in (tmp_path / "csv/version_0/metrics.csv", tmp_path / "late/version_0/metrics.csv"):
        ours = [row for row in rows(file) if row["health/grad_norm"]]
        assert [row["step"] for row in ours] == list("012345")
        assert [row["grad_norm/block.1"] for row in ours] == ["", "", "", "1.1", "1.1", "1.1"]
        assert [row["grad_norm/block.0"] for row in ours] == ["0.1"] * 4 + ["", "0.1"]
        assert [row["health/nonfinite"] for row in ours] == list("000011")
    assert [row["train_loss"] for row in rows(tmp_path / "csv/version_0/metrics.csv")].count("1.5") == 6
    for name in ("board", "x"):
        found = scalars(tmp_path / name / "version_0")
        assert [step for step, _ in found["grad_norm/block.0"]] == [0, 1, 2, 3, 5]
        assert [value for _, value in found["health/nonfinite"]] == [0, 0, 0, 0, 1, 1]
        assert found["health/grad_norm"] == [(step, 2.0) for step in range(6)]
