"""Event files as runs leave them: good ones, through the sink, and bad ones, byte by byte."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from gradwatch.records import GradientCheck, LayerNorms, LayerTable
from gradwatch.serialization.tensorboard_rows import EVENTS, PLUGIN_NAME, content, curve_series, layer_series
from gradwatch.sinks.tensorboard import TensorBoardSink
from tests.sinks.samples import AT, finding, incident, run_end, run_start, step_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from gradwatch.records import StepRecord
    from gradwatch.serialization.tensorboard_rows import Series

LAYERS = ("block.0", "block.1")


class Writer:
    """The least that the sink takes for a logger of TensorBoard."""

    def __init__(self, folder: Path) -> None:
        self.experiment = self
        self._file = EventFileWriter(str(folder), max_queue_size=1000)

    def _get_file_writer(self) -> Writer:
        return self

    def add_summary(self, summary: Summary, step: int) -> None:
        self._file.add_event(Event(step=step, wall_time=1.7e9 + step, summary=summary))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def at(log_step: int, count: int = 2, **changes: Any) -> StepRecord:
    return step_record(count, log_step=log_step, step=log_step, **changes)


def write_run(folder: Path, *events: Any, step: int = 0) -> None:
    """Write events of one run, from its start on."""
    write_events(folder, (run_start(step=step), *events))


def write_events(folder: Path, events: Iterable[Any]) -> None:
    """Write events as they come."""
    writer = Writer(folder)
    sink = TensorBoardSink([writer])
    for event in events:
        sink.write(event)
    sink.close()
    writer.close()


def write_eventful_run(folder: Path, steps: int = 60) -> None:
    """A run with two findings, of which one ends, a check, and an incident that ends it."""
    check = GradientCheck(**AT | {"step": 20}, log_step=20, verdict="pass", reason="all agree", parameters={})
    lost = {"code": "lost-signal", "layer": "block.1", "severity": "info"}
    write_run(
        folder,
        *(at(i) for i in range(10)),
        finding(step=9, **lost),
        *(at(i) for i in range(10, 20)),
        finding(step=19, status="updated", severity="error", message="It grows."),
        check,
        finding(step=20, status="closed", message="It has come back.", **lost),
        *(at(i) for i in range(21, steps)),
        incident(step=steps),
        run_end(step=steps, status="nonfinite"),
    )


def write_scalars(folder: Path, steps: int = 20) -> None:
    """A run of somebody else, without anything of ours."""
    writer = Writer(folder)
    for step in range(steps):
        writer.add_summary(Summary(value=[Summary.Value(tag="loss", simple_value=1.0 / (step + 1))]), step)
    writer.close()


def write_raw(folder: Path, tag: str, tensors: Sequence[TensorProto], metadata: bytes) -> None:
    """Write tensors under our name as they are."""
    writer = Writer(folder)
    plugin_data = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=metadata)
    described = SummaryMetadata(plugin_data=plugin_data, data_class=DATA_CLASS_TENSOR)
    for step, tensor in enumerate(tensors):
        writer.add_summary(Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=described)]), step)
    writer.close()


def rows(series: Series, *values: Any, dtype: Any = np.float32) -> tuple[str, list[TensorProto], bytes]:
    """Return rows of a series for ``write_raw``."""
    return series.tag, [make_tensor_proto(np.asarray(value, dtype=dtype)) for value in values], content(series)


def texts(*texts: bytes) -> tuple[str, list[TensorProto], bytes]:
    """Return texts of events for ``write_raw``, one a step."""
    return EVENTS.tag, [make_tensor_proto(np.array([text], dtype=object)) for text in texts], content(EVENTS)


GRAD_NORM = layer_series("grad_norm", 0, LAYERS)


def broken_runs(folder: Path) -> list[str]:
    """Write every kind of damage, one a run, and return the names of the runs."""
    not_a_tensor = TensorProto(dtype=1, tensor_content=b"123")
    not_a_tensor.tensor_shape.dim.add(size=2)
    later = json.dumps({"version": 2, "kind": "layers", "metric": "grad_norm", "layers": LAYERS}).encode()
    damage: dict[str, tuple[str, list[TensorProto], bytes]] = {
        "random_metadata": (GRAD_NORM.tag, rows(GRAD_NORM, [1, 2])[1], b"\x00\xff{{{"),
        "no_metadata": (GRAD_NORM.tag, rows(GRAD_NORM, [1, 2])[1], b""),
        "later_version": (GRAD_NORM.tag, rows(GRAD_NORM, [1, 2])[1], later),
        "wrong_shape": rows(GRAD_NORM, [1, 2, 3], [[1, 2]], 1.0, []),
        "wrong_type": rows(GRAD_NORM, [1, 2], dtype=np.int64),
        "half_of_it": rows(GRAD_NORM, [1, 2], [1, 2, 3]),
        "not_a_tensor": (GRAD_NORM.tag, [not_a_tensor], content(GRAD_NORM)),
        "not_json": texts(b"{", b"\xff", b"[]", b"null", b"3", b'{"schema_version": 1, "type": "finding"}'),
        "later_events": texts(b'{"schema_version": 9, "type": "finding"}'),
        "odd_curves": rows(curve_series(0), [np.nan], np.full(17, np.nan), dtype=np.float64),
    }
    for name, raw in damage.items():
        write_raw(folder / name, *raw)
    (folder / "cut_off").mkdir()
    write_run(folder / "cut_off", *(at(i) for i in range(9)))
    (file,) = (folder / "cut_off").iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    return sorted([*damage, "cut_off"])


SPIKE = 100.0


def odd_steps(steps: int) -> tuple[int, int]:
    """Return the steps of ``write_long_run`` at which there is a NaN and a spike."""
    return steps * 654_321 // 1_000_000, steps * 345_678 // 1_000_000


def write_long_run(folder: Path, steps: int, layers: int) -> None:
    """Write a run that logs every step, in which two layers have one odd step each: NaN, and 100 times the usual."""
    names = [f"block.{i}" for i in range(layers)]
    usual = {
        name: LayerNorms(grad_norm=1.0 + i / layers, weight_norm=3.0 + i, update_ratio=1e-3 / (1 + i), nonfinite=0)
        for i, name in enumerate(names)
    }
    nan_step, spike_step = odd_steps(steps)
    odd = {
        nan_step: LayerTable.of(usual | {names[1]: replace(usual[names[1]], grad_norm=math.nan, nonfinite=1)}),
        spike_step: LayerTable.of(usual | {names[0]: replace(usual[names[0]], grad_norm=SPIKE)}),
    }
    always = LayerTable.of(usual)
    # `at` would make a record with layers of its own each time, only to throw them away.
    record = at(0)
    write_events(folder, (replace(record, step=i, log_step=i, layers=odd.get(i, always)) for i in range(steps)))
