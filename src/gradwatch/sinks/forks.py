"""Whose file it is: a process that was forked off inherits the descriptors of its parent, and must leave them alone.

Counting forks tells the same as asking for the process id, which is a system call, and this is asked at every step.
"""

from __future__ import annotations

import os

_forks = 0


def forks() -> int:
    """Return a number that is another one in a process that was forked off."""
    return _forks


def _count() -> None:
    global _forks  # noqa: PLW0603 - it belongs to the process
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count)
