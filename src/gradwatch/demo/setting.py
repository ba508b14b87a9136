"""What the demo needs before it starts: data, and a folder to write to. Without torch, so that errors are instant."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class DemoError(Exception):
    """The demo cannot run here; the message is one line for the user."""


def check_packages() -> None:
    """Check that the data of the demo can be read here.

    Raises:
        DemoError: names what is missing and what installs it.
    """
    if find_spec("sklearn") is None:
        raise DemoError("scikit-learn is not installed, and the digits come with it: pip install 'gradwatch[demo]'")
    # Some distributions ship a reduced standard library.
    if find_spec("pydoc_data") is None or find_spec("pydoc_data.topics") is None:
        raise DemoError("this Python lacks pydoc_data.topics, the text to train on; use a complete CPython")


def fresh_folder(folder: Path) -> Path:
    """Create ``folder``; if something is in it already, create and return ``folder/run-2``, ``run-3`` and so on.

    Raises:
        DemoError: nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder if not any(folder.iterdir()) else _numbered(folder)
        probe = fresh / "writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DemoError(f"cannot write to {folder}: {error.strerror or error}; name another --dir") from error
    return fresh


def _numbered(folder: Path) -> Path:
    for number in count(2):
        candidate = folder / f"run-{number}"
        try:
            candidate.mkdir()
        except FileExistsError:
            continue
        return candidate
    raise AssertionError  # count() does not end
