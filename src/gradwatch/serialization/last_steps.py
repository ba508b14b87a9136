"""The last steps of a run at full rate: from the ring file of one that could not end, else from its event log."""

from __future__ import annotations

import os
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from gradwatch.records import LastSteps, RunEnd, RunStart
from gradwatch.serialization import ring_layout as layout
from gradwatch.serialization.codec import SchemaError
from gradwatch.serialization.files import last_run, raw_lines, read_line, ring_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

    from gradwatch.serialization.ring_layout import Columns, Header, Row

_Path = str | os.PathLike[str]

KILLED, END = "killed", "end"
_MARKS = tuple(b'"type": "%s"' % kind for kind in (b"run_start", b"last_steps", b"run_end"))
_MARK_WITHIN = 64  # bytes from the start of a line


def load_last_steps(path: _Path) -> list[LastSteps]:
    """Return the last steps of the last run in a directory: one record for each optimizer of each rank.

    They come from the last such event of a rank's log, the one at the end of the run or what was written for its last
    finding or incident, or from the ring file beside it where that knows of later steps. Needs no torch.

    Args:
        path: a run directory, one ``events*.jsonl`` file, or one ``last_steps*.bin`` file.

    Raises:
        FileNotFoundError: there is no event log.
        SchemaError: a file is something else than what gradwatch writes.
    """
    if Path(path).suffix == ".bin":
        return load_ring(path)
    found: list[LastSteps] = []
    for log in last_run(Path(path)):
        start, told, end = _look_through(log)
        last = {event.optimizer: event for event in (*told, *ring_beside(log, start, told, end))}
        found += [last[optimizer] for optimizer in sorted(last)]
    return found


def ring_beside(log: Path, start: RunStart | None, told: Iterable[LastSteps], end: RunEnd | None) -> list[LastSteps]:
    """Return the last steps in the ring file beside a log, of each optimizer of which the log has none as late.

    The file may be that of another run, or one that this run has lost sight of, as where its folder was moved.

    Args:
        log: the path of an event log.
        start: its ``run_start``, unless that was lost.
        told: its last steps.
        end: its ``run_end``. What the log could not take then are the steps before the end: ``reason`` is ``end``.

    Raises:
        FileNotFoundError, SchemaError: as ``load_ring``.
    """
    if not ring_of(log).is_file():
        return []
    header, found = _read(ring_of(log))
    if start is not None and header.run_id != start.run_id:
        return []
    if end is not None:
        # The step at which a run ends may be one that was not taken any more.
        reached = any(event.step + 1 >= end.step for event in found)
        found = [replace(event, reason=END) for event in found] if reached else []
    newest: dict[int, int] = {}
    for event in told:
        if event.steps:
            newest[event.optimizer] = max(newest.get(event.optimizer, event.steps[-1]), event.steps[-1])
    return [event for event in found if event.optimizer not in newest or event.step > newest[event.optimizer]]


def load_ring(path: _Path) -> list[LastSteps]:
    """Return what a ring file holds: for each optimizer that has stepped, its last 64 steps, with reason ``killed``.

    A run that is still going on can be read as well.

    Raises:
        FileNotFoundError: there is no such file.
        SchemaError: it is no ring file, or not a whole one.
    """
    return _read(Path(path))[1]


def _read(file: Path) -> tuple[Header, list[LastSteps]]:
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    with file.open("rb") as stream:
        header = _read_header(file, stream)
        found = []
        for number, columns in enumerate(header.optimizers):
            rows = _read_rows(stream, columns)
            if rows:
                found.append(layout.as_event(rows, columns, rank=header.rank, optimizer=number, reason=KILLED))
    return header, found


def _read_header(file: Path, stream: BinaryIO) -> Header:
    """Read what comes before the rows; its size, and that of the file, are looked at before anything is read."""
    prelude = stream.read(layout.PRELUDE.size)
    if len(prelude) < layout.PRELUDE.size or not prelude.startswith(layout.MAGIC):
        _refuse(file, "not a ring file of gradwatch")
    _, version, slots, size, checksum = layout.PRELUDE.unpack(prelude)
    if version != layout.VERSION:
        _refuse(file, f"version {version} is none that this gradwatch reads ({layout.VERSION})")
    if size > layout.MAX_HEADER_BYTES or slots != layout.SLOTS:
        _refuse(file, "not a ring file of gradwatch: its sizes make no sense")
    content = stream.read(size)
    if len(content) < size or zlib.crc32(content) != checksum:
        _refuse(file, "its header is damaged")
    try:
        header = layout.read_header(content)
    except SchemaError as error:
        _refuse(file, str(error))
    expected = layout.PRELUDE.size + size + slots * header.row_bytes
    actual = os.fstat(stream.fileno()).st_size
    if actual != expected:
        _refuse(file, f"it has {actual:,} bytes instead of {expected:,}: cut off, or not ours")
    return header


def _read_rows(stream: BinaryIO, columns: Columns) -> list[Row]:
    """Return the whole rows of the next optimizer, oldest first."""
    found: dict[int, Row] = {}
    for slot in range(layout.SLOTS):
        content = stream.read(columns.row_bytes)
        if len(content) < columns.row_bytes:  # somebody cuts the file off at this moment
            break
        numbered = layout.read_row(content, len(columns.parameters))
        if numbered is not None and numbered[0] % layout.SLOTS == slot:
            found[numbered[0]] = numbered[1]
    newest = max(found, default=0)
    return [found[sequence] for sequence in sorted(found) if sequence > newest - layout.SLOTS][-layout.STEPS :]


def _look_through(log: Path) -> tuple[RunStart | None, list[LastSteps], RunEnd | None]:
    """Return start, the last event of each optimizer, and end; other lines are not looked into."""
    start, last, end = None, dict[int, LastSteps](), None
    for number, line in raw_lines(log):
        if any(mark in line[:_MARK_WITHIN] for mark in _MARKS):
            event = read_line(log, number, line)
            if isinstance(event, LastSteps):
                last[event.optimizer] = event
            elif isinstance(event, RunStart):
                start = start or event
            elif isinstance(event, RunEnd):
                end = end or event
    return start, [last[optimizer] for optimizer in sorted(last)], end


def _refuse(file: Path, what: str) -> NoReturn:
    raise SchemaError(f"{file}: {what}")
