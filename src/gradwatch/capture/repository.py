"""The git commit that a run was started from, for ``run_start``.

Commit and branch are read from the repository's own files: that takes microseconds, needs no git, and works in a
repository of another owner. Only whether files were changed is git's to say, and it is asked once, for a short time.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

SECONDS = 0.5  # a repository that takes longer is said to be in an unknown state
REMEMBERED = 10.0  # seconds: a search over hyperparameters starts many runs
_SMALL = 4096
_PACKED_BYTES = 64 * 2**20
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


def state(directory: str | os.PathLike[str] | None = None) -> dict[str, Any] | None:
    """Return commit, branch (None if detached) and whether tracked files are changed (None if that is not known).

    Args:
        directory: anywhere in the working tree; by default the working directory.

    Returns:
        None outside a repository, and in one without a commit.
    """
    try:
        root = _root_of(Path.cwd() if directory is None else Path(directory).absolute())
        if root is None:
            return None
        folder = _git_folder(root)
        branch, commit = _head(folder)
    except (OSError, ValueError):  # unreadable, or a working directory that was removed
        return None
    return (
        None
        if commit is None
        else {"commit": commit, "branch": branch, "dirty": _is_dirty(root, int(time.monotonic() // REMEMBERED))}
    )


def _root_of(directory: Path) -> Path | None:
    return next((path for path in (directory, *directory.parents) if (path / ".git").exists()), None)


def _git_folder(root: Path) -> Path:
    """Return the repository itself; in a worktree or a submodule ``.git`` is a file that names it."""
    entry = root / ".git"
    if entry.is_dir():
        return entry
    return root / _read(entry).removeprefix("gitdir:").strip()


def _head(folder: Path) -> tuple[str | None, str | None]:
    """Return branch and commit."""
    head = _read(folder / "HEAD").strip()
    if not head.startswith("ref:"):
        return None, _as_commit(head)
    reference = head.removeprefix("ref:").strip()
    common = folder / _read(folder / "commondir").strip() if (folder / "commondir").is_file() else folder
    return reference.removeprefix("refs/heads/"), _commit_of(reference, [folder, common])


def _commit_of(reference: str, folders: list[Path]) -> str | None:
    if reference.startswith("refs/") and ".." not in reference:
        for folder in folders:
            if (folder / reference).is_file():
                return _as_commit(_read(folder / reference))
    packed = folders[-1] / "packed-refs"
    if packed.is_file():
        for line in _read(packed, _PACKED_BYTES).splitlines():
            commit, _, name = line.partition(" ")
            if name.strip() == reference:
                return _as_commit(commit)
    return None


def _as_commit(text: str) -> str | None:
    return text.strip() if _COMMIT.fullmatch(text.strip()) else None


def _read(path: Path, limit: int = _SMALL) -> str:
    if not path.is_file():  # a pipe would never end
        raise FileNotFoundError(path)
    with path.open("rb") as file:
        return file.read(limit).decode("utf-8", "replace")


@lru_cache(maxsize=8)
def _is_dirty(root: Path, _when: int) -> bool | None:
    """Ask git, which writes nothing and calls no file system monitor for it."""
    command = ["git", "-c", "core.fsmonitor=false", "--no-optional-locks", "status", "--porcelain"]
    options = ["--untracked-files=no", "--ignore-submodules=dirty"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        answer = subprocess.run(  # noqa: S603 - no part of the command comes from outside
            [*command, *options],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return bool(answer.stdout.strip()) if answer.returncode == 0 else None
