"""What to type after the demo: commands that can be pasted as they are, and what each of them shows."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

TAB_NAME = "Numerical Health"  # the name is the plugin's, which stands above the demo; a test compares
REPORT_FILE = "report.html"


class NextCommand(NamedTuple):
    """One line for a shell, and what it shows."""

    line: str
    shows: str


def next_commands(folder: Path, run: Path) -> Iterator[NextCommand]:
    """Yield how to look closer.

    Args:
        folder: what the demo wrote, with one subfolder per training.
        run: the subfolder of the training that is worth a closer look.
    """
    yield NextCommand(_line("gradwatch", "show", str(run)), f"{run.name} on one screen, with what to change")
    yield NextCommand(_line("gradwatch", "report", str(run), "-o", REPORT_FILE), "the same as one page, with curves")
    yield NextCommand(_line("tensorboard", "--logdir", str(folder)), f"every training, in the tab {TAB_NAME}")


def _line(program: str, *arguments: str) -> str:
    return shlex.join([_program(program), *arguments])


def _program(name: str) -> str:
    """Return how to call a program of this environment in a shell where the environment is not active."""
    beside_python = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if (found is not None and Path(found) == beside_python) or not beside_python.exists():
        return name
    here = Path.cwd()
    return str(beside_python.relative_to(here) if beside_python.is_relative_to(here) else beside_python)
