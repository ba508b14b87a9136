"""Files that are written beside another one, to take its place as a whole; and what a killed process leaves of them."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # no POSIX: what is left behind stays
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from pathlib import Path

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_NAME = re.compile(r"(?:events|last_steps)(?:\.rank[0-9]+)?(?:\.[0-9]+)?\.(?:jsonl|bin)\.tmp")


def temporary_of(path: Path) -> Path:
    """Return where the successor of a file is written."""
    return path.with_name(path.name + ".tmp")


def create(path: Path, *, append: bool) -> int:
    """Create a file and return its descriptor. It is locked for as long as that, or a copy of it, is open.

    Raises:
        OSError: it could not be created, or is there already.
    """
    descriptor = os.open(path, _FLAGS if append else _FLAGS & ~os.O_APPEND, 0o666)
    _lock(descriptor)
    return descriptor


def remove_leftovers(directory: Path) -> None:
    """Remove the temporary files of ours that nobody has open any more."""
    if fcntl is None:
        return
    for path in [path for path in directory.iterdir() if _NAME.fullmatch(path.name) and path.is_file()]:
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError:
            continue
        try:
            if _lock(descriptor):
                path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def unlock(descriptor: int) -> None:
    """Give up the lock of a file that has taken its place."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        except OSError:
            return


def _lock(descriptor: int) -> bool:
    """Lock a file; False where another process has, or where the file system knows no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
