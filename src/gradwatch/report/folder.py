"""From what a user names to the event logs that are meant: a run's folder, one log, or a folder above."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gradwatch.serialization.files import LOG_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Beyond this a folder is not one of a training, and a home directory is not searched for minutes.
MAX_DEPTH = 6
MAX_VISITED = 50_000
SHOWN = 5


def find(path: str | os.PathLike[str]) -> Path:
    """Return the log, or the folder with event logs, that ``path`` names or that lies below it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: several folders below ``path`` hold event logs; the message names them.
        OSError: ``path`` is neither a file nor a directory.
    """
    path = Path(path)
    if path.is_file() or _holds_a_log(path):
        return path
    if not path.is_dir():
        if path.exists():
            raise OSError(f"{path}: neither a file nor a directory")
        raise FileNotFoundError(f"{path}: no such file or directory")
    found = sorted(_below(path))
    if not found:
        raise FileNotFoundError(
            f"{path}: no events.jsonl here or below; name the folder of a run (by default <log_dir>/gradwatch)"
        )
    if len(found) > 1:
        names = ", ".join(str(folder) for folder in found[:SHOWN])
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise ValueError(f"{path}: {len(found)} folders below hold runs, name one of them: {names}{more}")
    return found[0]


def _holds_a_log(path: Path) -> bool:
    return path.is_dir() and _any_log(path, (entry.name for entry in path.iterdir()))


def _any_log(folder: Path, names: Iterable[str]) -> bool:
    """Whether there is a log among the names: a file, where a pipe would be waited for without end."""
    return any(LOG_NAME.fullmatch(name) and (folder / name).is_file() for name in names)


def _below(path: Path) -> Iterator[Path]:
    depth = len(path.parts)
    for visited, (folder, folders, files) in enumerate(os.walk(path)):
        if visited >= MAX_VISITED:
            raise ValueError(f"{path}: too many folders below; name the folder of a run")
        if _any_log(Path(folder), files):
            yield Path(folder)
        here = len(Path(folder).parts) - depth
        # In place: this is how os.walk is told where not to go.
        folders[:] = [] if here >= MAX_DEPTH else [name for name in folders if not name.startswith(".")]
