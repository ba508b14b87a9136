"""Rows and events for the Numerical Health tab, into the event files of a run's TensorBoard loggers."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradwatch.records import Finding, GradientCheck, Incident, LayerTable, RunEnd, RunStart, StepRecord
from gradwatch.serialization import to_dict
from gradwatch.serialization.tensorboard_rows import EVENTS, METRICS, START, curve_series, layer_series
from gradwatch.sinks.custom_scalars import add_charts
from gradwatch.sinks.row_pooling import RowPool
from gradwatch.sinks.tensorboard_files import Channel, EventFile, find_event_file

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence

    from gradwatch.records import Event
    from gradwatch.sinks.tensorboard_files import Row

log = logging.getLogger("gradwatch")

# A longer run_start goes without its parameter table: the tab names layers by the metadata of their rows.
MAX_START_BYTES = 256 * 2**10


class TensorBoardSink:
    """Writes what the Numerical Health tab shows, for every logger that has a TensorBoard writer.

    Without such a logger, and on ranks above 0, it writes nothing. A writer that fails is named in one warning and
    left alone from then on.

    Args:
        loggers: of the run, of any kind.
        dirpath: where the run keeps its incidents; named in those that are written.
    """

    def __init__(self, loggers: Iterable[Any], dirpath: str | os.PathLike[str] | None = None) -> None:
        self._loggers = list(loggers)
        self._dirpath = None if dirpath is None else Path(dirpath)
        self._files: list[EventFile] | None = None
        self._rows: dict[int, _OptimizerRows] = {}
        self._axis = _StepAxis()
        self._news = _News()

    def write(self, event: Event) -> None:
        """Take one event; nothing is written for the types that the tab does not show."""
        self._safely(self._take, event)

    def close(self) -> None:
        """Write what waits. The writers belong to the run, which closes them itself."""
        self._safely(self._finish)

    def _safely(self, act: Callable[..., None], *arguments: Any) -> None:
        """Act, unless there is nowhere to write; what goes wrong is said once, and ends the writing for good."""
        try:
            if self._files is None:
                self._files = self._open()
            if self._files:
                act(*arguments)
        except Exception as error:  # noqa: BLE001 - the monitor's own failure is a warning, never the end of a run
            self._files = []
            _warn("the data of the Numerical Health tab", error)

    def _open(self) -> list[EventFile]:
        files = []
        for logger in self._loggers:
            try:
                file = find_event_file(logger)
            except Exception as error:  # noqa: BLE001 - as above
                _warn(f"the TensorBoard data of {type(logger).__name__}", error)
            else:
                files += [] if file is None else [file]
        return files

    def _take(self, event: Event) -> None:
        if isinstance(event, StepRecord):
            self._write_news()
            self._take_record(event)
        elif isinstance(event, (Finding, Incident, GradientCheck, RunEnd)):
            self._take_news(event)
        elif isinstance(event, RunStart):
            self._take_start(event)

    def _finish(self) -> None:
        self._write_news()
        self._write_rows()
        for file in self._files or ():
            file.flush()

    def _take_start(self, run: RunStart) -> None:
        self._axis.start(run)
        described = {**to_dict(run), "log_step": self._axis.log_step(run)}
        text = json.dumps(described)
        if len(text) > MAX_START_BYTES:
            text = json.dumps({**described, "parameters": None})
        self._send([(_START, [text])], described["log_step"])
        for file in self._files or ():
            add_charts(file.experiment)

    # -- rows -----------------------------------------------------------------------------------------------------

    def _take_record(self, record: StepRecord) -> None:
        self._axis.learn(record)
        rows = self._rows.get(record.optimizer)
        layers = LayerTable.of(record.layers).names
        if rows is None or layers != rows.pool.layers:
            self._write_rows()
            rows = self._rows[record.optimizer] = _OptimizerRows(record.optimizer, layers)
        rows.pool.add(record)
        if rows.pool.is_due:
            self._write_row(rows)

    def _write_rows(self, *, early: bool = False) -> None:
        """Write every row that waits; ``early``: those that may be written before their window is full."""
        for rows in self._rows.values():
            if rows.pool.may_close if early else rows.pool.waits:
                self._write_row(rows)

    def _write_row(self, rows: _OptimizerRows) -> None:
        step = rows.pool.last
        assert step is not None  # noqa: S101 - something waits
        layers, curves = rows.pool.take()
        self._send(list(zip(rows.channels, (*layers, curves), strict=True)), step)

    # -- events ---------------------------------------------------------------------------------------------------

    def _take_news(self, event: Event) -> None:
        step = self._news.place(self._axis.log_step(event))
        if step != self._news.step:
            self._write_news()
        described = {**to_dict(event), "log_step": step}
        if isinstance(event, Incident):
            described["folder"] = _folder(self._dirpath, event)
        self._news.add(json.dumps(described), step)
        urgent = isinstance(event, (Incident, RunEnd))
        if urgent or self._news.is_due:
            self._write_news()
        if urgent or (isinstance(event, Finding) and event.status == "opened"):
            self._write_rows(early=True)

    def _write_news(self) -> None:
        if self._news.waits:
            self._send([(_EVENTS, self._news.take())], self._news.step)

    def _send(self, rows: Sequence[tuple[Channel, Row]], step: int) -> None:
        for file in list(self._files or ()):
            try:
                file.write(rows, step)
            except Exception as error:  # noqa: BLE001 - as in _safely
                self._files = [other for other in self._files or () if other is not file]
                _warn(f"the TensorBoard data of {file.name}", error)


_START, _EVENTS = Channel(START), Channel(EVENTS)


class _OptimizerRows:
    """The pooled records of an optimizer, and the series that they are written to."""

    def __init__(self, optimizer: int, layers: tuple[str, ...]) -> None:
        self.pool = RowPool(layers)
        series = [layer_series(metric, optimizer, layers) for metric in METRICS]
        self.channels = [Channel(each) for each in (*series, curve_series(optimizer))]


class _StepAxis:
    """The loggers' x-axis, for events that know the Trainer's step alone."""

    def __init__(self) -> None:
        self._optimizers = 1
        self._first = self._last = (0, 0)

    def start(self, run: RunStart) -> None:
        """Begin where a run begins; expect all its optimizers to step in every batch that steps."""
        self._optimizers = max(1, len(run.optimizers))
        self._first = self._last = (run.step, run.step // self._optimizers)

    def learn(self, record: StepRecord) -> None:
        """Learn from a record, which knows both."""
        self._last = (record.step, record.log_step)

    def log_step(self, event: Event) -> int:
        """Return the log step of an event."""
        if isinstance(event, GradientCheck):
            return event.log_step
        (step, log_step), (first_step, first_log_step) = self._last, self._first
        since = max(0, event.step - step)
        if step > first_step and log_step > first_log_step:
            return log_step + since * (log_step - first_log_step) // (step - first_step)
        return log_step + since // self._optimizers


class _News:
    """The events of one log step, which TensorBoard has to get as one: of two at the same step it drops the first.

    The first is written at once; with more of them at the same step they are written anew, all together, whenever
    their number has doubled, and the last ones before anything else is written.
    """

    def __init__(self) -> None:
        self.step = 0
        self._texts: list[str] = []
        self._written = 0

    @property
    def waits(self) -> bool:
        """Whether there are events that have not been written."""
        return len(self._texts) > self._written

    @property
    def is_due(self) -> bool:
        """Whether it is worth to write those of this step anew."""
        return len(self._texts) >= 2 * self._written

    def place(self, step: int) -> int:
        """Return the step at which an event is written: never one before that of the last."""
        return max(step, self.step)

    def add(self, text: str, step: int) -> None:
        """Add an event; those of an earlier step are forgotten."""
        if step != self.step:
            self.step, self._texts, self._written = step, [], 0
        self._texts.append(text)

    def take(self) -> list[str]:
        """Return all events of the step."""
        self._written = len(self._texts)
        return self._texts


def _folder(dirpath: Path | None, incident: Incident) -> str | None:
    """Return the folder in which an incident has just been written, None where it has not."""
    if dirpath is None:
        return None
    for folder in sorted(dirpath.glob(f"incidents/step={incident.step:08d}-*"), reverse=True):
        try:
            if json.loads((folder / "incident.json").read_bytes())["time"] == incident.time:
                return str(folder.absolute())
        except (OSError, ValueError, LookupError, TypeError):  # what somebody else has left there
            continue
    return None


def _warn(what: str, error: Exception) -> None:
    log.warning(
        "gradwatch: %s could not be written: %s: %s. Training goes on without (events.jsonl has it all).",
        what,
        type(error).__name__,
        error,
    )
