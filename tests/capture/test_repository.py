from __future__ import annotations

import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from gradwatch.capture import repository
from gradwatch.capture.repository import state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    repository._is_dirty.cache_clear()
    yield
    repository._is_dirty.cache_clear()


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    run = subprocess.run(
        ["git", *identity, *arguments],  # noqa: S607 - wherever it is installed
        cwd=directory,
        env={name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.strip()


def committed(directory: Path) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    git(directory, "init")
    (directory / "file").write_text("one")
    git(directory, "add", "file")
    git(directory, "commit", "-m", "first")
    return git(directory, "rev-parse", "HEAD")


def fake(directory: Path, **files: str) -> Path:
    """A repository made of these files; ``__`` in a name stands for a slash."""
    for name, content in files.items():
        path = directory / ".git" / name.replace("__", "/").replace("_refs", "-refs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return directory


@needs_git
def test_commit_branch_and_changes(tmp_path: Path) -> None:
    commit = committed(tmp_path)
    assert state(tmp_path) == {"commit": commit, "branch": "main", "dirty": False}
    (tmp_path / "new").write_text("untracked files are results, as a rule")
    (tmp_path / "a" / "b").mkdir(parents=True)
    repository._is_dirty.cache_clear()
    assert state(tmp_path / "a" / "b") == {"commit": commit, "branch": "main", "dirty": False}
    (tmp_path / "file").write_text("two")
    repository._is_dirty.cache_clear()
    assert state(tmp_path) == {"commit": commit, "branch": "main", "dirty": True}


@needs_git
def test_detached_packed_and_in_a_worktree(tmp_path: Path) -> None:
    main = tmp_path / "main"
    commit = committed(main)
    git(main, "worktree", "add", "-b", "feature/x", str(tmp_path / "tree"))
    git(main, "pack-refs", "--all")
    assert state(main) == {"commit": commit, "branch": "main", "dirty": False}
    assert state(tmp_path / "tree") == {"commit": commit, "branch": "feature/x", "dirty": False}
    git(main, "checkout", "--detach")
    assert state(main) == {"commit": commit, "branch": None, "dirty": False}


@needs_git
def test_nothing_is_written_into_the_repository(tmp_path: Path) -> None:
    committed(tmp_path)
    index = tmp_path / ".git" / "index"
    os.utime(tmp_path / "file", (1, 1))  # git would like to note that nothing has changed
    before = index.read_bytes(), index.stat().st_mtime_ns
    assert state(tmp_path) is not None
    assert (index.read_bytes(), index.stat().st_mtime_ns) == before


def test_outside_a_repository_there_is_none(tmp_path: Path) -> None:
    assert state(tmp_path) is None


def test_the_working_directory_is_asked_and_may_be_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, HEAD=COMMIT)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    assert (state() or {})["commit"] == COMMIT
    (tmp_path / "gone").rmdir()
    assert state() is None


@pytest.mark.parametrize(
    ("files", "branch"),
    [
        ({"HEAD": f"{COMMIT}\n"}, None),
        ({"HEAD": "ref: refs/heads/a/b\n", "refs__heads__a__b": f"{COMMIT}\n"}, "a/b"),
        (
            {"HEAD": "ref: refs/heads/x", "packed_refs": f"# packed\n{'1' * 40} refs/heads/y\n{COMMIT} refs/heads/x\n"},
            "x",
        ),
    ],
)
def test_without_git_all_but_the_changes_is_known(
    files: dict[str, str], branch: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert state(fake(tmp_path, **files)) == {"commit": COMMIT, "branch": branch, "dirty": None}


@pytest.mark.parametrize(
    "files",
    [
        {"HEAD": ""},
        {"HEAD": "ref: refs/heads/unborn"},
        {"HEAD": "ref: refs/heads/.invalid"},
        {"HEAD": "ref: ../../../secret", "packed_refs": ""},
        {"HEAD": "ref: refs/heads/../../config", "config": COMMIT},
        {"HEAD": "<script>"},
        {"HEAD": "\x00" * 5000},
        {"config": ""},
    ],
)
def test_what_makes_no_sense_is_none(files: dict[str, str], tmp_path: Path) -> None:
    assert state(fake(tmp_path, **files)) is None


def test_a_git_file_that_names_nothing(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("gitdir: /nowhere/at/all\n")
    assert state(tmp_path) is None
    (tmp_path / ".git").unlink()
    os.mkfifo(tmp_path / ".git")
    assert state(tmp_path) is None


@pytest.mark.parametrize("script", ["exec sleep 30", "exit 128", "echo 'M file'; exit 1"])
def test_a_git_that_is_slow_or_refuses_costs_little(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    start = time.monotonic()
    found: Any = state(fake(tmp_path, HEAD=COMMIT))
    assert found == {"commit": COMMIT, "branch": None, "dirty": None}
    assert time.monotonic() - start < 5


def test_many_runs_ask_git_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(*_: Any, **__: Any) -> Any:
        calls.append(1)
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", counted)
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    fake(tmp_path, HEAD=COMMIT)
    for _ in range(10):
        state(tmp_path)
    assert len(calls) == 1
