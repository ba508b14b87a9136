"""How a run ended, in the words of ``run_end``; and a run whose loop has forgotten to say that it has."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakSet

from gradwatch.errors import NonFiniteError

if TYPE_CHECKING:
    from gradwatch.engine.monitor import HealthMonitor
    from gradwatch.records import RunStatus

log = logging.getLogger("gradwatch")

MAX_REASON = 1000
EXITED = "the program exited without a call of end()"
DROPPED = "the monitor was given up without a call of end()"

_watching: WeakSet[HealthMonitor] = WeakSet()


class Ending(NamedTuple):
    """Status and reason of ``run_end``."""

    status: RunStatus
    reason: str | None


class Home(NamedTuple):
    """Where a monitor has started: neither a copy of it nor a forked process may end its run."""

    process: int
    monitor: int


def ending_of(exception: BaseException) -> Ending:
    """Return how a run ended that this exception has ended."""
    name, text = type(exception).__name__, _first_line(exception)
    reason = f"{name}: {text}" if text else name
    if isinstance(exception, NonFiniteError):
        return Ending("nonfinite", reason)
    # Lightning's answer to SIGTERM is a SystemExit.
    interrupted = isinstance(exception, (KeyboardInterrupt, SystemExit))
    return Ending("interrupted" if interrupted else "exception", reason)


def keep_watch(monitor: HealthMonitor) -> Home:
    """See to it that the run is ended when the program exits, should nobody have done so before."""
    _watching.add(monitor)
    return Home(os.getpid(), id(monitor))


def end_forgotten(monitor: HealthMonitor, home: Home, ending: Ending) -> None:
    """Write the end of a run that its loop has not ended.

    A log that is not there any more stays away: a folder that was deleted does not come back for a last line.
    """
    if home != (os.getpid(), id(monitor)) or not (monitor.active and monitor.has_log):
        return
    try:
        monitor.end(*ending)
    except Exception as error:  # noqa: BLE001 - nobody could catch it here
        log.debug("gradwatch: the end of a run could not be written: %s", error)


@atexit.register
def _at_exit() -> None:
    for monitor in list(_watching):
        end_forgotten(monitor, monitor.home, _of_this_program())


def _of_this_program() -> Ending:
    """Return what the interpreter tells of its own end: the exception that no one has caught, if there was one.

    In an interactive session that one may be hours old, and another matter.
    """
    uncaught = getattr(sys, "last_value", None)
    interactive = hasattr(sys, "ps1") or bool(sys.flags.interactive)
    if uncaught is None or interactive:
        return Ending("interrupted", EXITED)
    return ending_of(uncaught)


def _first_line(exception: BaseException) -> str:
    try:
        lines = str(exception).strip().splitlines()
    except Exception:  # noqa: BLE001 - the exception is the user's, and so is its text
        return ""
    return lines[0][:MAX_REASON] if lines else ""
