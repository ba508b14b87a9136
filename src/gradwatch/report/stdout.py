"""Standard output that may be a pipe whose reader leaves, or that cannot spell every character."""

from __future__ import annotations

import io
import os
import sys

from rich.console import Console


class PatientConsole(Console):
    """A console whose reader may leave: ``gradwatch compare ... | head`` is no error."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        super().__init__(highlight=False)

    def on_broken_pipe(self) -> None:
        """Say nothing more, and let the exit status be what it would have been."""
        self.quiet = True
        _no_more_output()


def write(text: str) -> None:
    """Write to standard output; a reader that has left is no error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _no_more_output()


def _no_more_output() -> None:
    # Otherwise the interpreter tries once more as it ends, and complains.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
