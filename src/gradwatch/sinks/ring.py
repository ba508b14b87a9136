"""The ring file: the last steps of a run, one row written at each, so that they survive a process that is killed.

No memory map: on a full disk, or in a file that somebody has cut off, touching one is a SIGBUS, which ends the
training. A ``pwrite`` fails with an error instead, and costs 2 to 3 µs (200 parameters, row and checksum included).
What it has written survives the process; nothing is synced, so a power cut may cost the last seconds.
"""

from __future__ import annotations

import errno
import os
import time
import zlib
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from gradwatch.serialization import ring_layout as layout
from gradwatch.serialization.ring_layout import Row, flags_of
from gradwatch.sinks import temporary
from gradwatch.sinks.forks import forks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gradwatch.serialization.ring_layout import Header

# Calls that are timed, and the median time at which writing is given up: a network file system, as a rule. No mean: on
# a busy machine a single call may wait for milliseconds, for its turn.
TIMED_CALLS = 100
SLOW_SECONDS = 200e-6


class TooSlowError(OSError):
    """Writing a row takes so long that training would notice."""


class _Part(NamedTuple):
    """The rows of one optimizer: where they begin, and the bytes of one."""

    offset: int
    row_bytes: int


class Ring:
    """Writes rows into a ring file of its own. Whatever fails raises an ``OSError``, and the ring is of no use then.

    Args:
        path: the file; one that is there is replaced, at once and as a whole.
        header: whose steps these are.
        rows: steps to begin with, oldest first, for each optimizer.
    """

    def __init__(self, path: Path, header: Header, rows: Sequence[Sequence[Row]]) -> None:
        if not hasattr(os, "pwrite"):
            raise OSError(errno.ENOSYS, "this system cannot write at a position")
        self.path, self._forks = path, forks()
        beginning = layout.header_bytes(header)
        self._size = len(beginning) + layout.SLOTS * header.row_bytes
        self._parts = _parts(header, len(beginning))
        self._written = [0] * len(self._parts)
        self._seconds: list[float] = []
        successor = temporary.temporary_of(path)
        self._descriptor = temporary.create(successor, append=False)
        try:
            # All of it, at once: a disk with no room for the file says so now.
            self._write_at(beginning + bytes(self._size - len(beginning)), 0)
            for optimizer, own in enumerate(rows):
                if own:
                    self.write(optimizer, own)
            os.replace(successor, path)  # noqa: PTH105 - beside the descriptors, the system's own calls
            self._links = os.fstat(self._descriptor).st_nlink  # some network file systems say 0
        except BaseException:
            self.close()
            successor.unlink(missing_ok=True)
            raise

    def write(self, optimizer: int, rows: Sequence[Row]) -> None:
        """Write the next rows of an optimizer, 1 to ``SLOTS``, in one call, or two where the ring closes.

        Raises:
            TooSlowError: the first calls took too long.
            OSError: they could not be written.
        """
        part, first = self._parts[optimizer], self._written[optimizer] + 1
        packed = [_packed(row, first + i) for i, row in enumerate(rows)]
        slot = first % layout.SLOTS
        before_end = layout.SLOTS - slot
        self._write(b"".join(packed[:before_end]), part.offset + slot * part.row_bytes)
        if len(packed) > before_end:
            self._write(b"".join(packed[before_end:]), part.offset)
        self._written[optimizer] += len(rows)

    def is_ours(self) -> bool:
        """Whether this process has begun the file; one that was forked off must leave it to its parent."""
        return self._forks == forks()

    def is_whole(self) -> bool:
        """Whether the file is still there, with its size: nobody has removed it or cut it off.

        It may be elsewhere: one whose folder was given another name is written on there, as the event log is.
        """
        try:
            state = os.fstat(self._descriptor)
        except OSError:
            return False
        return state.st_size == self._size and state.st_nlink >= self._links

    def close(self) -> None:
        """Close the file and leave it."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def remove(self) -> None:
        """Close the file and remove it; one that has been moved stays."""
        if self.is_ours() and self._is_here():  # another one of this name is none of ours
            self.path.unlink(missing_ok=True)
        self.close()

    def _is_here(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self.path))  # noqa: PTH116 - as above
        except OSError:
            return False

    def _write(self, data: bytes, place: int) -> None:
        if len(self._seconds) >= TIMED_CALLS:
            self._write_at(data, place)
            return
        start = time.perf_counter()
        self._write_at(data, place)
        self._seconds.append(time.perf_counter() - start)
        if len(self._seconds) == TIMED_CALLS and (typical := median(self._seconds)) > SLOW_SECONDS:
            raise TooSlowError(f"writing a step takes {typical * 1e6:.0f} µs here")

    def _write_at(self, data: bytes, place: int) -> None:
        if os.pwrite(self._descriptor, data, place) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _packed(row: Row, sequence: int) -> bytes:
    """Return a row as it stands in the file."""
    numbers = layout.ROW.pack(
        sequence,
        flags_of(row),
        row.time,
        row.step,
        row.epoch,
        row.batch_idx or 0,
        0.0 if row.loss is None else row.loss,
        row.grad_norm,
        row.coefficient,
        0.0 if row.lr is None else row.lr,
        0.0 if row.loss_scale is None else row.loss_scale,
    )
    body = numbers + layout.norm_bytes(row.norms)
    return body + layout.CHECKSUM.pack(zlib.crc32(body))


def _parts(header: Header, offset: int) -> list[_Part]:
    parts = []
    for columns in header.optimizers:
        parts.append(_Part(offset, columns.row_bytes))
        offset += layout.SLOTS * columns.row_bytes
    return parts
