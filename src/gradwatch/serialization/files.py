"""Reading the files that a run leaves behind.

A directory may hold several runs. The first log of a rank is ``events.jsonl`` (``events.rank<R>.jsonl`` above rank
0); a later run takes the next free ``events.<n>.jsonl`` (``events.rank<R>.<n>.jsonl``). Readers order runs by the
time of their ``run_start``; within a run rank 0 comes first, then the others by number, each in the order written.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gradwatch.records import Event, Incident, RunStart
from gradwatch.serialization.codec import SchemaError, from_dict, to_dict

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINE_BYTES = 64 * 2**20
LINE_START = b'{"schema_version": '

_Path = str | os.PathLike[str]

LOG_NAME = re.compile(r"events(?:\.rank([0-9]+))?(?:\.([0-9]+))?\.jsonl")
_JSON_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_ADVICE = "pass the directory given as dirpath (by default <log_dir>/gradwatch) or one of its events*.jsonl files"


def log_name(rank: int, number: int = 0) -> str:
    """Return the file name of the ``number``-th event log that ``rank`` has begun in a directory."""
    return "events" + (f".rank{rank}" if rank else "") + (f".{number}" if number else "") + ".jsonl"


def ring_of(log: Path) -> Path:
    """Return the path of the ring file that belongs to an event log."""
    return log.with_name("last_steps" + log.name.removeprefix("events").removesuffix(".jsonl") + ".bin")


def load_events(path: _Path, *, run_id: str | None = None) -> list[Event]:
    """Return all events of a run directory or of one ``events*.jsonl`` file; see ``iter_events``."""
    return list(iter_events(path, run_id=run_id))


def iter_events(path: _Path, *, run_id: str | None = None) -> Iterator[Event]:
    """Yield the events of a directory or file: runs by the time of their ``run_start``, ranks in order within a run.

    A line that was cut off while it was written (killed process, full disk) is skipped with a warning.

    Args:
        path: a run directory, or one ``events*.jsonl`` file.
        run_id: only this run. Default: all runs.

    Raises:
        FileNotFoundError: there is no event log.
        SchemaError: a line is something else than an event; the message names file and line.
        ValueError: there is no run ``run_id``.
    """
    logs = logs_of(Path(path))
    if run_id is not None:
        known = dict.fromkeys(log.run_id for log in logs if log.run_id)
        logs = [log for log in logs if log.run_id == run_id]
        if not logs:
            raise ValueError(f"{path}: no run {run_id!r} here, only {', '.join(map(repr, known)) or 'unnamed ones'}")
    for log in logs:
        yield from _read_log(log.path)


def load_incident(path: _Path) -> Incident:
    """Return the incident of an incident directory, or of its ``incident.json``.

    Raises:
        FileNotFoundError: there is no such file.
        SchemaError: the file is not an incident.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "incident.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; pass one of the directories in <dirpath>/incidents")
    with file.open("rb") as stream:
        content = stream.read(MAX_LINE_BYTES + 1)
    try:
        event = _read_line(content)
    except ValueError as error:
        raise SchemaError(f"{file}: {error}") from None
    if not isinstance(event, Incident):
        raise SchemaError(f"{file}: expected an incident, got an event of type {to_dict(event)['type']!r}")
    return event


def last_run(path: Path) -> list[Path]:
    """Return the event logs of the last run at ``path``, that of rank 0 first.

    Raises:
        FileNotFoundError: there is no event log.
    """
    logs = logs_of(path)
    return [log.path for log in logs if log.run_id == logs[-1].run_id and (log.run_id or log is logs[-1])]


class Log(NamedTuple):
    """An event log, by its name and its first line: ``run_id`` is None where that is no ``run_start``."""

    path: Path
    rank: int
    number: int
    run_id: str | None
    start: float


def logs_of(path: Path) -> list[Log]:
    """Return the event logs at ``path`` in reading order."""
    if path.is_file():
        return [_look_at(path)]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or directory; {_ADVICE}")
    logs = [_look_at(file) for file in path.iterdir() if LOG_NAME.fullmatch(file.name) and file.is_file()]
    if not logs:
        raise FileNotFoundError(f"{path}: no events.jsonl in this directory; {_ADVICE}")
    begun: dict[str, float] = {}
    for log in logs:
        run = log.run_id or log.path.name
        begun[run] = min(log.start, begun.get(run, math.inf))
    return sorted(logs, key=lambda log: (begun[log.run_id or log.path.name], log.run_id or "", log.rank, log.number))


def _look_at(path: Path) -> Log:
    """Read the first line of a log alone; what is wrong with it is said when the log is read."""
    name = LOG_NAME.fullmatch(path.name)
    rank, number = (int(name[1] or 0), int(name[2] or 0)) if name else (0, 0)
    try:
        first = _read_line(next(raw_lines(path))[1])
    except (ValueError, StopIteration):
        return Log(path, rank, number, None, math.inf)
    return Log(path, rank, number, first.run_id if isinstance(first, RunStart) else None, first.time)


def _read_log(path: Path) -> Iterator[Event]:
    for number, line in raw_lines(path):
        event = read_line(path, number, line)
        if event is not None:
            yield event


def read_line(path: Path, number: int, line: bytes) -> Event | None:
    """Return the event of a line, or None where there is none: an empty line, or with a warning one that was cut off.

    Raises:
        SchemaError: the line is something else than an event.
    """
    if not line.strip():
        return None
    try:
        return _read_line(line)
    except SchemaError as error:
        raise SchemaError(f"{path}:{number}: {error}") from None
    except ValueError as error:
        if not is_torn(line, number):
            raise SchemaError(f"{path}:{number}: not a line of JSON: {error}") from None
        warnings.warn(f"{path}:{number}: skipped a line that was cut off while it was written", stacklevel=3)
        return None


def raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of the lines of a log.

    Raises:
        SchemaError: a line is too long to be an event.
    """
    with path.open("rb") as file:
        number = 1
        while line := file.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                raise SchemaError(f"{path}:{number}: a line of more than {MAX_LINE_BYTES >> 20} MiB is not an event")
            yield number, line
            number += 1


def _read_line(line: bytes) -> Event:
    if len(line) > MAX_LINE_BYTES:
        raise SchemaError(f"more than {MAX_LINE_BYTES >> 20} MiB are not an event")
    try:
        return from_dict(json.loads(line.decode("utf-8")))
    except RecursionError:
        raise SchemaError("nested too deeply") from None


def is_torn(line: bytes, number: int) -> bool:
    r"""Whether a line that is not JSON is the beginning of one of ours.

    Ours end in ``\n`` or were cut off. A line cut off by a full disk has been closed with ``\n`` before the next.
    """
    if not line.endswith(b"\n"):
        return number > 1 or line.startswith(LINE_START[: len(line)])
    rest = _JSON_STRING.sub(b"", line)
    unfinished = b'"' in rest or sum(map(rest.count, (b"{", b"["))) > sum(map(rest.count, (b"}", b"]")))
    return unfinished and line.startswith(LINE_START[: len(line) - 1])
