"""One training in a process of its own, and its death."""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from gradwatch.sinks import log_budget
from tests.postmortem import journal
from tests.postmortem.journal import HEAD, ROW, CrashPoint, Journal, Phase
from tests.postmortem.training import BUDGET, train

if TYPE_CHECKING:
    from pathlib import Path

LONGEST = 120.0  # seconds, after which a process is killed whatever it was meant to do


class Fate(NamedTuple):
    """How a process shall die: at a crash point; or some seconds after it has told so much, in a phase or anywhere."""

    way: str
    point: CrashPoint | None = None
    frames: int | None = None
    delay: float = 0.0
    phase: str | None = None


@dataclass
class Told:
    """What a process has told, and how it ended.

    ``lines`` are those of the event log, ``steps`` the rows of the ring (step, loss, gradient norm); ``calls`` counts
    calls by call and kind of file; ``phase`` is where it was when it was killed.
    """

    lines: list[bytes] = field(default_factory=list)
    steps: list[tuple[int, float, float]] = field(default_factory=list)
    calls: dict[tuple[str, str], int] = field(default_factory=dict)
    phase: str = journal.TRAINING
    killed: bool = False

    @property
    def frames(self) -> int:
        """How much it has told."""
        return len(self.lines) + len(self.steps)


def run(folder: Path, fate: Fate) -> Told:
    """Train in a forked process, which imports nothing any more, until it dies or ends."""
    reading, writing = os.pipe()
    phase = Phase()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _live(folder, Journal(writing, phase, fate.point))
    os.close(writing)
    return _watch(child, reading, phase, fate)


def _live(folder: Path, writer: Journal) -> None:
    """The life of the child; it never returns."""
    status = 1
    try:
        logging.disable()
        log_budget.BUDGET = BUDGET
        writer.install()
        writer.tell(journal.BEGUN)
        train(folder)
        writer.tell_calls()
        status = 0
    finally:
        os._exit(status)


def _watch(child: int, pipe: int, phase: Phase, fate: Fate) -> Told:
    told, content = Told(), b""
    due, latest = math.inf, time.monotonic() + LONGEST
    while True:
        if select.select([pipe], [], [], 0.0 if due < math.inf else 0.002)[0]:
            chunk = os.read(pipe, 2**20)
            if not chunk:
                break
            content = _take_frames(content + chunk, told)
        now = time.monotonic()
        if due == math.inf and fate.frames is not None and told.frames >= fate.frames:
            due = now + fate.delay
        if (now >= due and fate.phase in (None, phase.get())) or now > latest:
            os.kill(child, signal.SIGKILL)
            fate, due, latest = Fate("done"), math.inf, math.inf
    os.close(pipe)
    _, status = os.waitpid(child, 0)
    told.killed, told.phase = os.WIFSIGNALED(status), phase.get()
    if not told.killed and os.waitstatus_to_exitcode(status) != 0:
        message = f"the training failed by itself, with status {status}"
        raise RuntimeError(message)
    return told


def _take_frames(content: bytes, told: Told) -> bytes:
    """Read whole frames; return what is left of the last."""
    while len(content) >= HEAD.size:
        kind, size = HEAD.unpack_from(content)
        if len(content) < HEAD.size + size:
            break
        body, content = content[HEAD.size : HEAD.size + size], content[HEAD.size + size :]
        if kind == journal.LINE:
            told.lines.append(body)
        elif kind == journal.STEP:
            told.steps.append(ROW.unpack(body))
        elif kind == journal.CALLS:
            for line in body.decode().splitlines():
                call, file, count = line.split("|")
                told.calls[call, file] = int(count)
    return content
