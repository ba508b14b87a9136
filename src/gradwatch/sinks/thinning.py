"""Thinning of an event log that has outgrown its budget: old step records are joined, the rest stays byte for byte.

The log is read line by line and its successor written beside it, a little with every event that is written, so that no
step of the training waits for it. Meanwhile the log grows as ever; what has come in the end is copied, and the new
file takes the place of the old one in one call: whoever opens the log, and whenever the process dies, finds a whole
one.
"""

from __future__ import annotations

import errno
import json
import os
from array import array
from typing import TYPE_CHECKING, Any

from gradwatch.sinks import temporary
from gradwatch.sinks.pooling import Summary, can_join, joined, pooled_record, summary_of
from gradwatch.sinks.thinning_plan import CLOSE, DROP, FIRST_WIDTH, KEEP, Lines, plan, scan

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path
    from typing import BinaryIO

# What a byte of the log costs, by what is done with it: looking at it, copying it, joining records.
_SCAN, _COPY, _JOIN = 1 / 16, 1 / 4, 1.0
_CHUNK = 2**18
_SYNC_BYTES = 4 * 2**20


class Thinning:
    """The work of thinning one log. ``advance`` does a part of it.

    Args:
        path: the log.
        budget: the size, in bytes, that it has outgrown.
        width: the width of the buckets so far.

    Attributes:
        width: that which was chosen.
        descriptor: of the new file, opened for appending.
    """

    def __init__(self, path: Path, budget: int, width: int = FIRST_WIDTH) -> None:
        self.width = width
        self._path, self._budget = path, budget
        self._temporary = temporary.temporary_of(path)
        self._unsynced = 0
        self._work = 0.0
        self.descriptor = temporary.create(self._temporary, append=True)
        self._parts = self._run()

    def advance(self, work: float) -> bool:
        """Do so many bytes' worth of work; return whether the new file has all that the old one has.

        Raises:
            OSError: the disk is full, or a file cannot be read or written.
        """
        self._work += work
        while self._work > 0:
            done = next(self._parts, None)
            if done is None:
                return True
            self._work -= done
        return False

    def replace(self) -> None:
        """Put the new file in the place of the old one.

        Raises:
            OSError: as in ``advance``.
        """
        os.fsync(self.descriptor)
        os.replace(self._temporary, self._path)  # noqa: PTH105 - beside the descriptors, the system's own calls
        temporary.unlock(self.descriptor)

    def abandon(self) -> None:
        """Remove the new file."""
        self._parts.close()
        os.close(self.descriptor)
        self._temporary.unlink(missing_ok=True)

    def _run(self) -> Generator[float]:
        """Do the work; yield what each part of it was worth."""
        with self._path.open("rb") as log:
            lines = Lines(array("q"), array("q"), {}, [], [])
            for size in scan(log, lines):
                yield _SCAN * size
            self.width, actions = plan(lines, self._budget, self.width)
            log.seek(0)
            yield from self._rewrite(log, lines, actions)
            while chunk := log.read(_CHUNK):  # what was written since
                self._write(chunk)
                yield _COPY * len(chunk)

    def _rewrite(self, log: BinaryIO, lines: Lines, actions: bytearray) -> Generator[float]:
        buckets: dict[int, tuple[dict[str, Any], Summary]] = {}
        for size, action in zip(lines.sizes, actions, strict=True):
            if action == DROP:
                log.seek(size, os.SEEK_CUR)
            elif action == KEEP:
                yield from self._copy(log, size)
            else:
                self._join(log.read(size), buckets, close=action == CLOSE)
                yield _JOIN * size
        for record, summary in buckets.values():
            self._write_record(record, summary)

    def _join(self, line: bytes, buckets: dict[int, tuple[dict[str, Any], Summary]], *, close: bool) -> None:
        """Add a step record to the bucket of its optimizer, and write that if it is full or of other layers."""
        try:
            record = json.loads(line)
            summary = summary_of(record)
        except (ValueError, KeyError, TypeError, RecursionError):
            self._write(line)  # not what it looked like
            return
        before = buckets.pop(summary.optimizer, None)
        if before is not None:
            if can_join(before[1], summary):
                summary = joined(before[1], summary)
            else:
                self._write_record(*before)
        buckets[summary.optimizer] = (record, summary)
        if close:
            self._write_record(*buckets.pop(summary.optimizer))

    def _write_record(self, record: dict[str, Any], summary: Summary) -> None:
        if summary.records > 1:
            record = pooled_record(record, summary)
        self._write(json.dumps(record).encode("ascii") + b"\n")

    def _copy(self, log: BinaryIO, size: int) -> Generator[float]:
        while size > 0:
            chunk = log.read(min(size, _CHUNK))
            if not chunk:  # somebody has cut the log off
                raise OSError(errno.EIO, "the event log has become shorter")
            self._write(chunk)
            size -= len(chunk)
            yield _COPY * len(chunk)

    def _write(self, data: bytes) -> None:
        if os.write(self.descriptor, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._unsynced += len(data)
        if self._unsynced >= _SYNC_BYTES:  # little by little, so that the last time does not take long
            self._unsynced = 0
            os.fsync(self.descriptor)
