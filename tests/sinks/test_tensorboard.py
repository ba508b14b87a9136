from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.fabric.loggers.tensorboard as fabric_tensorboard
import numpy as np
import pytest
import pytorch_lightning.loggers as twin
from lightning.fabric.loggers.logger import _DummyExperiment
from lightning.fabric.loggers.tensorboard import TensorBoardLogger as FabricLogger
from lightning.pytorch import loggers as lightning_loggers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from gradwatch.records import GradientCheck
from gradwatch.serialization.tensorboard_rows import METRICS, UNKNOWN, curve_series, layer_series
from gradwatch.sinks.event_log import EventLog
from gradwatch.sinks.protocol import Sink
from gradwatch.sinks.tensorboard import MAX_START_BYTES, TensorBoardSink
from tests.sinks.samples import AT, finding, incident, run_end, run_start, step_record, with_layer

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradwatch.records import Event, StepRecord

LAYERS = ("block.0", "block.1")
GRAD_NORM = layer_series("grad_norm", 0, LAYERS).tag
EVENTS, START = "numerical_health/events", "numerical_health/start"


def at(log_step: int, **changes: Any) -> StepRecord:
    return step_record(log_step=log_step, step=log_step, **changes)


def check(log_step: int) -> GradientCheck:
    return GradientCheck(
        **AT | {"step": log_step}, log_step=log_step, verdict="pass", reason="all agree", parameters={}
    )


@pytest.fixture
def logger(tmp_path: Path) -> lightning_loggers.TensorBoardLogger:
    return lightning_loggers.TensorBoardLogger(tmp_path, name="run", version="")


def write(logger: Any, *events: Event, close: bool = True, **arguments: Any) -> TensorBoardSink:
    sink = TensorBoardSink([logger], **arguments)
    for event in events:
        sink.write(event)
    if close:
        sink.close()
    return sink


def read(logger: Any) -> dict[str, list[tuple[int, Any]]]:
    """All tensors on disk, tag by tag."""
    if type(logger.experiment).__module__.startswith("tensorboardX"):
        logger.experiment.close()  # its flush does not wait for what is still in its queue
    else:
        logger.experiment.flush()
    accumulator = EventAccumulator(logger.log_dir, size_guidance={"tensors": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, make_ndarray(event.tensor_proto)) for event in accumulator.Tensors(tag)]
        for tag in accumulator.Tags()["tensors"]
    }


def events_of(logger: Any) -> list[tuple[int, list[dict[str, Any]]]]:
    return [(step, [json.loads(text) for text in texts.tolist()]) for step, texts in read(logger).get(EVENTS, [])]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# -- rows --------------------------------------------------------------------------------------------------------------


def test_a_record_becomes_one_tensor_for_each_metric_and_one_of_curves(logger: Any) -> None:
    record = with_layer(at(49), "block.1", grad_norm=None)
    record = with_layer(record, "block.0", grad_norm=math.nan, nonfinite=3)
    write(logger, run_start(), record)
    found = read(logger)
    rows = [found[layer_series(metric, 0, LAYERS).tag] for metric in METRICS]
    assert [[step for step, _ in row] for row in rows] == [[49]] * 4
    expected = np.array([[math.nan, UNKNOWN], [3.0, 4.0], [1e-3, 1e-3], [3, 0]], dtype=np.float32)
    np.testing.assert_array_equal([row[0][1] for row in rows], expected)
    ((step, curves),) = found[curve_series(0).tag]
    assert (step, curves.dtype, curves[0]) == (49, np.float64, 49)


def test_a_row_in_which_all_is_equal_takes_no_space(logger: Any) -> None:
    write(logger, run_start(), at(0))
    logger.experiment.flush()
    accumulator = EventAccumulator(logger.log_dir)
    accumulator.Reload()
    event = accumulator.Tensors(layer_series("nonfinite", 0, LAYERS).tag)[0]
    assert (event.tensor_proto.tensor_content, list(event.tensor_proto.float_val)) == (b"", [0.0])


def test_nothing_is_written_twice_and_the_last_window_is_written_at_the_end(logger: Any) -> None:
    sink = write(logger, run_start(), *(at(i) for i in range(183)), close=False)
    assert [step for step, _ in read(logger)[GRAD_NORM]] == [*range(180), 181]
    sink.close()
    sink.close()
    assert [step for step, _ in read(logger)[GRAD_NORM]] == [*range(180), 181, 182]


@pytest.mark.parametrize("event", [finding(step=182), incident(step=182), run_end(step=182)])
def test_what_has_happened_brings_the_rows_up_to_it(logger: Any, event: Event) -> None:
    write(logger, run_start(), *(at(i) for i in range(183)), event, close=False)
    assert read(logger)[GRAD_NORM][-1][0] == 182


def test_several_optimizers_have_rows_of_their_own(logger: Any) -> None:
    write(logger, run_start(), at(0), at(0, optimizer=1), at(1), at(1, optimizer=1))
    found = read(logger)
    for optimizer in (0, 1):
        tags = (layer_series("grad_norm", optimizer, LAYERS).tag, curve_series(optimizer).tag)
        assert [[step for step, _ in found[tag]] for tag in tags] == [[0, 1], [0, 1]]


def test_layers_that_change_begin_another_series_and_lose_nothing(logger: Any) -> None:
    write(logger, run_start(), *(at(i) for i in range(181)), step_record(3, log_step=181))
    found = read(logger)
    assert found[GRAD_NORM][-1][0] == 180
    ((step, row),) = found[layer_series("grad_norm", 0, (*LAYERS, "block.2")).tag]
    assert (step, len(row)) == (181, 3)
    assert [step for step, _ in found[curve_series(0).tag]] == [*range(182)]


def test_hostile_layer_names_are_data(logger: Any) -> None:
    names = ["</script><img onerror=alert(1)>", "a\nb", "\ud800", "x" * 5000, ""]
    layers = dict.fromkeys(names, step_record().layers["block.0"])
    write(logger, run_start(), at(0, layers=layers), finding(layer="\ud800", step=0))
    assert len(read(logger)[layer_series("grad_norm", 0, names).tag]) == 1
    assert events_of(logger)[0][1][0]["layer"] == "\ud800"


# -- events ------------------------------------------------------------------------------------------------------------


def test_all_news_of_a_step_are_one_event_in_the_end(logger: Any) -> None:
    """A server keeps the last of two events at one step, and that one has everything."""
    layers = [f"block.{i}" for i in range(100)]
    write(logger, run_start(), at(9), *(finding(step=9, layer=layer) for layer in layers), check(9), at(19))
    written = events_of(logger)
    assert {step for step, _ in written} == {9}
    assert len(written) <= 9  # and not a hundred, each longer than the one before
    assert [event.get("layer") for event in written[-1][1]] == [*layers, None]


def test_the_first_news_of_a_step_are_written_at_once(logger: Any) -> None:
    write(logger, run_start(), at(9), finding(step=9), close=False)
    assert [(step, event["code"]) for step, (event,) in events_of(logger)] == [(9, "exploding-gradient")]


def test_an_incident_is_written_at_once_with_all_that_waited(logger: Any) -> None:
    found = [finding(step=9, layer=str(i)) for i in range(3)]
    write(logger, run_start(), at(9), *found, incident(step=9), close=False)
    assert [event["type"] for event in events_of(logger)[-1][1]] == ["finding"] * 3 + ["incident"]


def test_news_between_records_are_placed_on_the_axis_of_the_loggers(logger: Any) -> None:
    """Two optimizers: the Trainer counts 20 steps in ten batches."""
    start = run_start(step=0, optimizers=[{}, {}])
    early = incident(step=6)
    records = [step_record(log_step=9, step=18), step_record(log_step=19, step=38)]
    write(logger, start, early, *records, incident(step=48), check(30), incident(step=50))
    placed = [(step, event["step"]) for step, events in events_of(logger) for event in events]
    assert placed == [(3, 6), (24, 48), (30, 30), (30, 30), (30, 50)]


def test_steps_never_run_backwards(logger: Any) -> None:
    write(logger, run_start(), check(30), at(9), finding(step=9), check(20))
    steps = [step for step, _ in events_of(logger)]
    assert steps == sorted(steps)


def test_the_folder_of_an_incident_is_named(logger: Any, tmp_path: Path) -> None:
    log, event = EventLog(tmp_path / "files"), incident()
    log.write_incident(replace(event, time=1.0))
    folder = log.write_incident(event)
    log.write_incident(replace(event, time=2.0))
    (tmp_path / "files/incidents/step=00000012-9").mkdir()
    (tmp_path / "files/incidents/step=00000012-9/incident.json").write_text("[]")
    write(logger, run_start(), event, incident(time=3.0), dirpath=tmp_path / "files")
    assert [event["folder"] for event in events_of(logger)[-1][1]] == [str(folder), None]


def test_run_start_and_run_end_frame_the_run(logger: Any) -> None:
    write(logger, run_start(step=500), at(549), run_end(step=560))
    ((step, (text,)),) = read(logger)[START]
    start = json.loads(text)
    assert (step, start["log_step"], start["run_id"], len(start["parameters"])) == (500, 500, "run-a", 2)
    assert [(step, events[0]["status"]) for step, events in events_of(logger)] == [(560, "finished")]


def test_a_large_parameter_table_is_left_out(logger: Any) -> None:
    row = run_start().parameters[0]
    rows = [replace(row, name=f"{i}" * 100) for i in range(MAX_START_BYTES // 100)]
    write(logger, run_start(parameters=rows))
    ((_, (text,)),) = read(logger)[START]
    assert json.loads(text)["parameters"] is None
    assert len(text) < 5000


# -- loggers -----------------------------------------------------------------------------------------------------------


def tensorboard_x(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Lightning logger whose writer is tensorboardX's, as on a machine without tensorboard."""
    with monkeypatch.context() as patch:
        patch.setattr(fabric_tensorboard, "_TENSORBOARD_AVAILABLE", False)
        logger = lightning_loggers.TensorBoardLogger(directory, name="x")
        assert type(logger.experiment).__module__.startswith("tensorboardX")
    return logger


@pytest.mark.parametrize("kind", ["lightning", "twin", "fabric", "tensorboardX"])
def test_every_kind_of_tensorboard_logger_writes_the_same(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: dict[str, Callable[[], Any]] = {
        "lightning": lambda: lightning_loggers.TensorBoardLogger(tmp_path),
        "twin": lambda: twin.TensorBoardLogger(tmp_path),
        "fabric": lambda: FabricLogger(tmp_path),
        "tensorboardX": lambda: tensorboard_x(tmp_path, monkeypatch),
    }
    made = kinds[kind]()
    write(made, run_start(), *(with_layer(at(i), "block.0", grad_norm=math.nan) for i in range(3)), finding(step=2))
    found = read(made)
    assert [step for step, _ in found[GRAD_NORM]] == [0, 1, 2]
    np.testing.assert_array_equal(found[GRAD_NORM][0][1], np.array([math.nan, 1.1], dtype=np.float32))
    assert len(found[EVENTS]) == len(found[START]) == 1


def test_metadata_describe_the_rows_and_are_written_once(logger: Any) -> None:
    write(logger, run_start(), *(at(i) for i in range(20)))
    logger.experiment.flush()
    accumulator = EventAccumulator(logger.log_dir)
    accumulator.Reload()
    metadata = accumulator.SummaryMetadata(GRAD_NORM)
    assert metadata.plugin_data.plugin_name == "numerical_health"
    assert json.loads(metadata.plugin_data.content)["layers"] == list(LAYERS)
    assert _only_file(logger.log_dir).read_bytes().count(b'"metric": "grad_norm"') == 1


def _only_file(folder: str) -> Path:
    (file,) = Path(folder).glob("*tfevents*")
    return file


def test_the_writer_is_the_loggers_own(logger: Any) -> None:
    """A second event file in the directory would freeze the user's own scalars in TensorBoard's Python loader."""
    logger.log_metrics({"loss": 1.0}, step=0)
    write(logger, run_start(), at(0))
    logger.log_metrics({"loss": 2.0}, step=1)
    assert len(list(Path(logger.log_dir).glob("*tfevents*"))) == 1


def test_a_writer_that_was_closed_is_opened_again(logger: Any) -> None:
    sink = write(logger, run_start(), at(0), close=False)
    logger.finalize("success")  # the end of a first fit
    sink.write(at(1))
    sink.close()
    assert [step for step, _ in read(logger)[GRAD_NORM]] == [0, 1]


class Unreachable:
    """A logger whose server cannot be reached."""

    @property
    def experiment(self) -> Any:
        raise ConnectionError("no route to host")


class Other:
    """A logger of something else."""

    experiment = object()


class Rank1:
    """What Lightning's loggers are above rank 0."""

    experiment = _DummyExperiment()


def test_where_there_is_no_tensorboard_nothing_happens(caplog: pytest.LogCaptureFixture) -> None:
    sink = TensorBoardSink([Other(), Rank1(), object(), None, lightning_loggers.CSVLogger("unused")])
    assert isinstance(sink, Sink)
    for event in (run_start(), at(0), finding(), incident(), run_end()):
        sink.write(event)
    sink.close()
    assert warnings_in(caplog) == []


def test_a_logger_without_its_server_is_one_warning(logger: Any, caplog: pytest.LogCaptureFixture) -> None:
    sink = TensorBoardSink([Unreachable(), logger])
    for event in (run_start(), at(0), at(1)):
        sink.write(event)
    sink.close()
    assert len(read(logger)[GRAD_NORM]) == 2
    (said,) = warnings_in(caplog)
    assert said == (
        "gradwatch: the TensorBoard data of Unreachable could not be written: ConnectionError: no route to host."
        " Training goes on without (events.jsonl has it all)."
    )


class FullDisk:
    """A writer that fails from some call on."""

    def __init__(self, good: int) -> None:
        self.good, self.calls = good, 0
        self.experiment = self

    def _get_file_writer(self) -> FullDisk:
        return self

    def add_summary(self, summary: Any, step: int) -> None:
        self.calls += 1
        if self.calls > self.good:
            raise OSError(28, "No space left on device")

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("good", [0, 1, 3])
def test_a_full_disk_is_one_warning_and_spares_the_other_loggers(
    good: int, logger: Any, caplog: pytest.LogCaptureFixture
) -> None:
    full = FullDisk(good)
    sink = TensorBoardSink([full, logger])
    for event in (run_start(), *(at(i) for i in range(6)), finding(step=5)):
        sink.write(event)
    sink.close()
    assert full.calls == good + 1
    assert len(warnings_in(caplog)) == 1
    assert "FullDisk" in warnings_in(caplog)[0]
    assert len(read(logger)[GRAD_NORM]) == 6


def test_a_fault_of_our_own_is_one_warning_and_the_end_of_the_writing(
    logger: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sink = TensorBoardSink([logger])
    for event in (run_start(), at(0), at(1, layers={"odd": None}), at(2)):
        sink.write(event)
    sink.close()
    assert len(warnings_in(caplog)) == 1
    assert len(read(logger)[GRAD_NORM]) == 1


def test_interrupts_are_not_swallowed(logger: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(logger.experiment._get_file_writer(), "add_summary", interrupt)
    with pytest.raises(KeyboardInterrupt):
        TensorBoardSink([logger]).write(run_start())
