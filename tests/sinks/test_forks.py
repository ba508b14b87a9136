"""A process that was forked off is another one, and its own children are others again."""

from __future__ import annotations

import os

import pytest

from gradwatch.sinks.forks import forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked off on this system")
@pytest.mark.filterwarnings("ignore:This process")  # is multi-threaded; the child leaves at once
def test_a_fork_has_another_number_and_its_parent_keeps_its_own() -> None:
    mine = forks()
    child = os.fork()
    if child == 0:
        os._exit(forks() - mine)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert forks() == mine
