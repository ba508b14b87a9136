"""The one way out of the engine: event log, loggers, console. Nothing that fails here ends a run."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gradwatch.records import StepRecord
from gradwatch.replica import bundle
from gradwatch.sinks import console
from gradwatch.sinks.event_log import EventLog
from gradwatch.sinks.loggers import LoggerSink
from gradwatch.sinks.tensorboard import TensorBoardSink

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gradwatch.engine.context import RunContext
    from gradwatch.engine.flight_recorder import FlightRecorder
    from gradwatch.engine.settings import LayerScalars
    from gradwatch.records import Event, Finding, Incident, RunEnd, RunStart
    from gradwatch.replica.bundle import Bundle

log = logging.getLogger("gradwatch")

MAX_INCIDENTS = 100
# Beyond so many, a run that survives them all has one in the log for every thousandth part more: a few thousand lines
# for a million. ``run_end`` counts them all, and so do the counters of every record.
ALL_LOGGED = 1000


class Reporter:
    """Hands records to the sinks of one run.

    Args:
        context: the loop's setting: where files go, which loggers there are.
        layer_scalars: whether the loggers get per-layer scalars.
        max_incident_bytes: what all incidents together may take on disk.
        flight: has the last steps, which are written beside findings and incidents, and at the end.
    """

    def __init__(
        self,
        context: RunContext,
        *,
        layer_scalars: LayerScalars,
        max_incident_bytes: int,
        flight: FlightRecorder | None = None,
    ) -> None:
        self._dirpath = context.dirpath if context.write else None
        self._event_log = EventLog(context.dirpath, context.rank) if context.write else None
        self._flight = flight if context.write else None
        self._log_path: Path | None = None
        self._run_id = ""
        self._sinks: list[Any] = [] if self._event_log is None else [self._event_log]
        if context.loggers:
            self._sinks.append(LoggerSink(context.loggers, layer_scalars=layer_scalars))
            self._sinks.append(TensorBoardSink(context.loggers, self._dirpath))
        self._incidents = self._next_logged = 0
        self._bytes_left = max_incident_bytes
        self._failed: set[str] = set()
        self._told: dict[tuple[str, str | None], str] = {}

    def start(self, event: RunStart) -> None:
        """Write ``run_start`` and say, once for all ranks, what was chosen."""
        self._run_id = event.run_id
        self.write(event)
        self._follow_log()
        if event.rank == 0:
            for line in console.format_start(event, self._dirpath):
                log.info("%s", line)

    def end(self, event: RunEnd, clip_rate: float) -> None:
        """Write ``run_end``, say how it went, and close every sink."""
        lost = self._lost()
        if self._flight is not None:
            self._write_all(self._flight.at_end(event))
        self.write(replace(event, dropped_events=self._lost()))
        if self._flight is not None:  # what could not be written stays in the ring file
            self._flight.close(remove=self._lost() == lost)
        self._close()
        if event.rank == 0:
            log.info("%s", console.format_end(event, clip_rate=clip_rate))

    def write(self, event: Event) -> None:
        """Hand ``event`` to every sink."""
        for sink in self._sinks:
            try:
                sink.write(event)
            except Exception as error:  # noqa: BLE001 - a broken logger is a warning, never the end of a run
                self._warn_once(f"{type(sink).__name__} failed: {type(error).__name__}: {error}")
        if isinstance(event, StepRecord):
            self._follow_log()

    def incident(self, incident: Incident, make_bundle: Callable[[], Bundle] | None = None) -> str:
        """Write an incident to its own folder and to the event log; return the message for the user.

        After ``MAX_INCIDENTS`` folders only the event log is written, after ``ALL_LOGGED`` incidents not each of them,
        and all bundles together take no more than ``max_incident_bytes``: a run that survives every incident must not
        fill the disk.

        Args:
            incident: what happened.
            make_bundle: returns what a replay needs, where the step can be run again.
        """
        self._incidents += 1
        path = self._write_incident(incident) if self._incidents <= MAX_INCIDENTS else None
        if self._incidents >= self._next_logged:
            self._next_logged = self._incidents + 1 + self._incidents // ALL_LOGGED
            self.write(incident)
            if self._flight is not None:
                self._write_all(self._flight.at_incident(incident))
        replayable = path is not None and make_bundle is not None and self._write_bundle(path, make_bundle)
        return console.format_incident(incident, path, replayable=replayable)

    def finding(self, finding: Finding) -> None:
        """Write a finding to the event log and say it."""
        self.findings([finding])

    def findings(self, findings: Sequence[Finding]) -> None:
        """Write findings to the event log, and say them: once each, and layers with the same trouble together."""
        for finding in findings:
            self.write(finding)
        if self._flight is not None:
            for finding in findings:
                self._write_all(self._flight.at_finding(finding))
        for group in console.grouped([finding for finding in findings if self._is_news(finding)]):
            level = logging.INFO if all(finding.severity == "info" for finding in group) else logging.WARNING
            log.log(level, "%s", console.format_findings(group), extra={"finding": group[0].code})

    def _is_news(self, finding: Finding) -> bool:
        """Whether a reader of the console should hear of it: what has opened, closed, or become worse."""
        key, severity = (finding.code, finding.layer), finding.severity
        before = self._told.pop(key, None)
        if finding.status != "closed":
            self._told[key] = severity
        return finding.status != "updated" or severity != before

    def has_log(self) -> bool:
        """Whether the event log is there."""
        path = None if self._event_log is None else self._event_log.path
        return path is not None and path.is_file()

    def _write_all(self, events: Sequence[Event]) -> None:
        for event in events:
            self.write(event)

    def _lost(self) -> int:
        return 0 if self._event_log is None else self._event_log.dropped

    def _follow_log(self) -> None:
        """Keep the ring file beside the event log, which begins a new file where its own was removed."""
        path = None if self._event_log is None else self._event_log.path
        if self._flight is None or path is None:
            return
        if path == self._log_path:
            self._flight.check()
        else:
            self._log_path = path
            self._flight.open(path, self._run_id)

    def _close(self) -> None:
        for sink in self._sinks:
            try:
                sink.close()
            except Exception as error:  # noqa: BLE001 - as in write
                self._warn_once(f"closing {type(sink).__name__} failed: {type(error).__name__}: {error}")

    def _write_incident(self, incident: Incident) -> Path | None:
        if self._event_log is None:
            return None
        try:
            return self._event_log.write_incident(incident)
        except Exception as error:  # noqa: BLE001 - as in write
            self._warn_once(f"the incident could not be written: {type(error).__name__}: {error}")
            return None

    def _write_bundle(self, path: Path, make_bundle: Callable[[], Bundle]) -> bool:
        """Save what a replay needs; return whether the weights are in it."""
        try:
            bundle.save(path, make_bundle(), max_bytes=max(0, self._bytes_left))
            self._bytes_left -= sum(file.stat().st_size for file in path.iterdir())
            return (path / bundle.WEIGHTS).exists()
        except Exception as error:  # noqa: BLE001 - as in write
            self._warn_once(f"what a replay needs could not be saved: {type(error).__name__}: {error}")
            return False

    def _warn_once(self, message: str) -> None:
        if message not in self._failed:
            self._failed.add(message)
            log.warning("gradwatch: %s. Training goes on.", message)
