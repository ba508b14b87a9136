"""The event log: one JSON object a line, written so that a killed process or a full disk spoils nothing but one line.

Each line is one ``os.write`` on a descriptor opened for appending, without a buffer of ours: once ``write`` has
returned, the line survives the process. (Not a power cut: a sync would cost milliseconds a line.) A log that outgrows
its budget is thinned while the run goes on.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from gradwatch.records import Incident, RunEnd, RunStart
from gradwatch.serialization import log_name, to_dict, to_json_line
from gradwatch.sinks.forks import forks
from gradwatch.sinks.log_budget import LogBudget
from gradwatch.sinks.temporary import remove_leftovers

if TYPE_CHECKING:
    from gradwatch.records import Event

log = logging.getLogger("gradwatch")

# After a failure 1, 2, 4, ... events are given up before the next attempt, at most this many.
MAX_WAIT = 64
# A file that belongs to nobody: descriptor closed behind our back, or a network file system that forgot it.
_LOST = (errno.EBADF, errno.ESTALE)
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


class EventLog:
    """Appends events to a file of its own in ``dirpath``, and writes incidents beside it.

    The file is created with the first event: ``events.jsonl`` (``events.rank<R>.jsonl`` above rank 0), or the next
    free ``events.<n>.jsonl`` where another run has left one. Nothing here raises for a reason outside the program: the
    first failure of each kind is a warning, ``dropped`` counts the events lost, and now and then a new attempt is
    made. A ``run_start`` that was lost, or whose file was removed, is written before anything else. The file belongs to
    the process that has created it: from one that was forked off later, nothing is written and nothing counts.

    Args:
        dirpath: the folder.
        rank: of this process.
        budget: the size, in bytes, from which on old step records are joined; by default that of ``log_budget``.

    Attributes:
        path: the file, or None before the first event.
        dropped: how many events could not be written.
    """

    def __init__(self, dirpath: str | os.PathLike[str], rank: int = 0, budget: int | None = None) -> None:
        self.path: Path | None = None
        self.dropped = 0
        self._dirpath, self._rank = Path(dirpath), rank
        self._budget = LogBudget(rank, budget)
        self._descriptor: int | None = None
        self._forks: int | None = None
        self._closed = False
        self._links = 1
        self._torn = False
        self._run_start: bytes | None = None
        self._run_start_due = False
        self._wait = self._countdown = 0
        self._warned: set[tuple[str, str]] = set()

    def __reduce__(self) -> tuple[type[EventLog], tuple[Path, int, int]]:
        """Copies begin a file of their own: a descriptor means nothing in another process."""
        return EventLog, (self._dirpath, self._rank, self._budget.bytes)

    def write(self, event: Event) -> None:
        """Append ``event``, or count it as dropped."""
        if self._is_forked_off():
            return
        try:
            line = to_json_line(event).encode("ascii")
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            self.dropped += 1
            self._warn(f"events of type {event.type!r} cannot be expressed as JSON", error)
            return
        if isinstance(event, RunStart):
            self._run_start, self._run_start_due = line, True
        # These are few, and worth an attempt each.
        if self._countdown > 0 and not isinstance(event, (RunStart, RunEnd, Incident)):
            self._countdown -= 1
            self.dropped += 1
            return
        self._attempt(line, is_run_start=isinstance(event, RunStart))

    def close(self) -> None:
        """Close the file. Events written later are dropped."""
        self._closed = True
        if not self._is_forked_off():
            self._budget.abandon()
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            try:
                os.close(descriptor)
            except OSError as error:
                self._warn(f"the event log in {self._dirpath} could not be closed", error)

    def write_incident(self, incident: Incident) -> Path | None:
        """Write ``incident.json`` into a new directory under ``incidents`` and return that directory.

        Returns:
            The directory, or None if it could not be written.
        """
        if self._is_forked_off():
            return None
        directory = None
        try:
            text = json.dumps(to_dict(incident), allow_nan=False, indent=2) + "\n"
            directory = self._new_incident_directory(incident.step)
            _write_atomically(directory / "incident.json", text)
        except (OSError, TypeError, ValueError, RecursionError) as error:
            self._warn(f"an incident could not be written to {self._dirpath}", error)
            _remove_if_empty(directory)
            return None
        return directory

    def _is_forked_off(self) -> bool:
        """Whether the file is that of a parent process, which goes on with it."""
        return self._forks is not None and self._forks != forks()

    def _attempt(self, line: bytes, *, is_run_start: bool) -> None:
        try:
            self._open()
            if self._run_start_due and self._run_start is not None:
                self._append(self._run_start)
                self._run_start_due = False
            if not is_run_start:
                self._append(line)
        except (OSError, ValueError) as error:  # ValueError: a path with a null character
            self.dropped += not is_run_start  # that one is kept until it can be written
            if isinstance(error, OSError) and error.errno in _LOST:
                self._descriptor = None
            self._wait = min(max(1, 2 * self._wait), MAX_WAIT)
            self._countdown = self._wait
            self._warn(f"the event log in {self._dirpath} cannot be written", error)
        else:
            if self._wait:
                log.info("gradwatch: the event log is written again; %d events were lost.", self.dropped)
            self._wait = self._countdown = 0

    def _open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "it has been closed")
        if self._descriptor is not None and os.fstat(self._descriptor).st_nlink < self._links:
            self._warn(f"the event log {self.path} was removed during the run, and a new one is begun")
            os.close(self._descriptor)
            self._descriptor = None
        if self._descriptor is None:
            self._budget.begin()
            self._dirpath.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self._dirpath)
            self.path, self._descriptor = _create_log(self._dirpath, self._rank)
            self._forks = forks()
            self._links = os.fstat(self._descriptor).st_nlink  # some network file systems say 0
            self._torn, self._run_start_due = False, self._run_start is not None

    def _append(self, line: bytes) -> None:
        """Write ``line`` in one call, after closing a line that an earlier call could not finish."""
        descriptor = self._descriptor
        assert descriptor is not None  # noqa: S101 - _open came before
        if self._torn:
            _write_all(descriptor, b"\n")
            self._torn = False
        size = os.fstat(descriptor).st_size
        try:
            _write_all(descriptor, line)
        except OSError:
            self._torn = not _cut(descriptor, size)
            raise
        self._thin(descriptor, size + len(line), len(line))

    def _thin(self, descriptor: int, size: int, written: int) -> None:
        """Keep the log within its budget: for each line written a little of that work is done."""
        assert self.path is not None  # noqa: S101 - as in _append
        try:
            successor = self._budget.spend(self.path, descriptor, size, written)
        except Exception as error:  # noqa: BLE001 - the line has been written, whatever fails here
            self._warn(f"the event log in {self._dirpath} could not be thinned, and grows", error)
            return
        if successor is not None:
            self._descriptor = successor
            os.close(descriptor)

    def _warn(self, what: str, error: Exception | None = None) -> None:
        """Say once what goes wrong; another reason is another kind."""
        reason = "" if error is None else f": {error}"
        kind = (what, errno.errorcode.get(getattr(error, "errno", None) or 0, type(error).__name__))
        if kind not in self._warned:
            self._warned.add(kind)
            # A path may hold what no terminal or log file can be sent (half a surrogate pair).
            text = f"{what}{reason}".encode(errors="backslashreplace").decode()
            log.warning("gradwatch: %s. Training goes on.", text)

    def _new_incident_directory(self, step: int) -> Path:
        parent = self._dirpath / "incidents"
        parent.mkdir(parents=True, exist_ok=True)
        suffix = f".rank{self._rank}" if self._rank else ""
        number = 0
        while True:
            directory = parent / f"step={step:08d}-{number}{suffix}"
            try:
                directory.mkdir()
            except FileExistsError:
                number += 1
            else:
                return directory


def _create_log(dirpath: Path, rank: int) -> tuple[Path, int]:
    """Create the next free log; O_EXCL, so that two processes never share one."""
    number = 0
    while True:
        path = dirpath / log_name(rank, number)
        try:
            return path, os.open(path, _FLAGS, 0o666)
        except FileExistsError:
            number += 1


def _write_all(descriptor: int, data: bytes) -> None:
    written = os.write(descriptor, data)
    if written < len(data):  # a disk that fills up takes the part that still fits, and says nothing
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _cut(descriptor: int, size: int) -> bool:
    """Take back a line that was cut off; say whether the file now ends where that line began."""
    try:
        if os.fstat(descriptor).st_size > size:
            os.ftruncate(descriptor, size)
    except OSError:
        return False
    return True


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("x", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # incidents are few, and often the last thing that a machine does
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _remove_if_empty(directory: Path | None) -> None:
    if directory is not None:
        try:
            directory.rmdir()
        except OSError:
            log.debug("gradwatch: %s was left behind.", directory)
