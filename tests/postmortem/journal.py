"""What a process that is going to be killed tells of itself, and the crash points at which it kills itself.

Every call that writes a file of the run goes through here. An event is told once ``EventLog.write`` has returned, steps
once the recorder has written those that waited, through a pipe that nothing else uses: what has been told must be found
afterwards.
"""

from __future__ import annotations

import functools
import mmap
import os
import re
import signal
import struct
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gradwatch.engine.flight_recorder import FlightRecorder
from gradwatch.engine.gradient_checks import GradientChecks
from gradwatch.engine.reporter import Reporter
from gradwatch.serialization import to_json_line
from gradwatch.sinks.event_log import EventLog
from gradwatch.sinks.thinning import Thinning

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradwatch.records import Event

HEAD = struct.Struct("<cI")
ROW = struct.Struct("<qdd")
BEGUN, LINE, STEP, CALLS = b"B", b"L", b"S", b"C"

# What the process is about, innermost last.
PHASES = {
    "thinning": (Thinning, "advance"),
    "incident": (Reporter, "incident"),
    "gradient check": (GradientChecks, "after_batch"),
    "event": (EventLog, "write"),
}
TRAINING = "training"
_CODES = [TRAINING, *PHASES]
_KINDS = (
    ("log", re.compile(r"events[^/]*\.jsonl")),
    ("thinned log", re.compile(r"events[^/]*\.jsonl\.tmp")),
    ("ring", re.compile(r"last_steps[^/]*\.bin")),
    ("new ring", re.compile(r"last_steps[^/]*\.bin\.tmp")),
    ("incident", re.compile(r"incident\.json\.tmp")),
)


class CrashPoint(NamedTuple):
    """The ``number``-th ``call`` on a file of a kind; ``when``: before, in the middle of, or after it."""

    call: str
    kind: str
    when: str
    number: int


class Phase:
    """One byte that two processes share: what the training is about just now."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def set(self, name: str) -> str:
        """Enter a phase; return the one that was left."""
        before = self.get()
        self._byte[0] = _CODES.index(name)
        return before

    def get(self) -> str:
        return _CODES[self._byte[0]]


class Journal:
    """Tells what the process has written, and kills it at a crash point.

    Args:
        pipe: the descriptor on which it is told.
        phase: what the process is about.
        point: where it dies; None for nowhere.
    """

    def __init__(self, pipe: int, phase: Phase, point: CrashPoint | None) -> None:
        self._pipe, self._phase, self._point = pipe, phase, point
        self._calls: Counter[tuple[str, str]] = Counter()
        self._write = os.write

    def install(self) -> None:
        """Take the place of the calls; the process ends with them."""
        for name in ("write", "pwrite", "fsync", "replace"):
            setattr(os, name, self._around(name, getattr(os, name)))
        for name, (owner, method) in PHASES.items():
            setattr(owner, method, self._within(name, getattr(owner, method)))
        for owner, method, around in (
            (FlightRecorder, "flush", self._telling_steps),
            (EventLog, "write", self._telling_line),
        ):
            setattr(owner, method, around(getattr(owner, method)))

    def tell(self, what: bytes, content: bytes = b"") -> None:
        """Write one frame."""
        frame = HEAD.pack(what, len(content)) + content
        while frame:
            frame = frame[self._write(self._pipe, frame) :]

    def tell_calls(self) -> None:
        """Tell how many calls of each kind there were."""
        lines = [f"{call}|{kind}|{count}" for (call, kind), count in sorted(self._calls.items())]
        self.tell(CALLS, "\n".join(lines).encode())

    def _around(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def wrapped(first: Any, *rest: Any) -> Any:
            kind = _kind_of(first)
            if kind is None:
                return real(first, *rest)
            self._calls[name, kind] += 1
            number = self._calls[name, kind]
            self._die_at(CrashPoint(name, kind, "before", number))
            if rest and self._point == CrashPoint(name, kind, "middle", number):
                real(first, rest[0][: len(rest[0]) // 2], *rest[1:])
                self._die()
            result = real(first, *rest)
            self._die_at(CrashPoint(name, kind, "after", number))
            return result

        return wrapped

    def _within(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            before = self._phase.set(name)
            try:
                return real(*args, **kwargs)
            finally:
                self._phase.set(before)

        return wrapped

    def _telling_line(self, real: Callable[[EventLog, Event], None]) -> Callable[[EventLog, Event], None]:
        @functools.wraps(real)
        def wrapped(log: EventLog, event: Event) -> None:
            dropped = log.dropped
            real(log, event)
            if log.dropped == dropped:
                self.tell(LINE, to_json_line(event).encode("ascii"))

        return wrapped

    def _telling_steps(self, real: Callable[[FlightRecorder], None]) -> Callable[[FlightRecorder], None]:
        @functools.wraps(real)
        def wrapped(flight: FlightRecorder) -> None:
            histories = flight._watched.histories
            rows = [row for i, times in flight._waiting.items() for row in list(histories[i].rows)[-len(times) :]]
            real(flight)
            for row in rows:
                self.tell(STEP, ROW.pack(row.step, float("nan") if row.loss is None else row.loss, row.grad_norm))

        return wrapped

    def _die_at(self, point: CrashPoint) -> None:
        if point == self._point:
            self._die()

    def _die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def _kind_of(file: Any) -> str | None:
    """Return which file of a run a descriptor or a path is."""
    try:
        name = Path(f"/proc/self/fd/{file}").readlink().name if isinstance(file, int) else Path(file).name
    except OSError:
        return None
    return next((kind for kind, pattern in _KINDS if pattern.fullmatch(name)), None)
