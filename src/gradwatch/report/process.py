"""Whether the process that writes a run is still there."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradwatch.records import RunStart

_LARGEST_PID = 2**22
# Clocks are set, and a monitor starts some time after its process does; a process begun later is another one.
_LATER = 60.0
# A run that is going on writes each step to its ring, and every log step to its log.
_SILENCE = 600.0


def is_running(start: RunStart | None) -> bool:
    """Whether the process of ``start`` runs on this machine; False where that cannot be known."""
    hardware: dict[str, Any] = start.hardware if start is not None else {}
    host, pid = hardware.get("hostname"), hardware.get("pid")
    if start is None or not host or host != platform.node():
        return False
    if type(pid) is not int or not 0 < pid <= _LARGEST_PID or not _exists(pid):
        return False
    state, begun = _state(pid)
    return state not in ("Z", "X") and not (begun is not None and begun > start.time + _LATER)


def heard_of_elsewhere(start: RunStart | None, last_time: float) -> str | None:
    """Return the other machine on which a run may still be going on: one that wrote something in the last minutes."""
    host = start.hardware.get("hostname") if start is not None else None
    if not isinstance(host, str) or not host or host == platform.node():
        return None
    return host if abs(time.time() - last_time) < _SILENCE else None  # abs: clocks differ


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    except OSError:
        return False
    return True


def _state(pid: int) -> tuple[str, float | None]:
    """Return the state of a process and its Unix time of start, as far as Linux tells.

    A process that nobody has waited for is still listed, as a zombie; and after a reboot its number is another's.
    """
    try:
        # Behind the name in parentheses, which may hold anything: state, parent, ..., start in clock ticks since boot.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        lines = Path("/proc/stat").read_text(encoding="ascii", errors="replace").splitlines()
        boot = next(float(line.split()[1]) for line in lines if line.startswith("btime "))
        return fields[0], boot + float(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration, AttributeError):
        return "", None
