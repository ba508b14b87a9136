"""How a run says that it has ended, also where its loop does not."""

from __future__ import annotations

import copy
import gc
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gradwatch import load_events
from gradwatch.engine.endings import DROPPED, EXITED, MAX_REASON, ending_of
from gradwatch.errors import NonFiniteError
from tests.engine.loops import events, setup, train, watch
from tests.sinks.samples import incident

if TYPE_CHECKING:
    from pathlib import Path

    from gradwatch.records import RunEnd


class Mute(Exception):  # noqa: N818 - it says nothing
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("exception", "ending"),
    [
        (ValueError("bad\nsecond line"), ("exception", "ValueError: bad")),
        (ValueError(), ("exception", "ValueError")),
        (KeyboardInterrupt(), ("interrupted", "KeyboardInterrupt")),
        (SystemExit(3), ("interrupted", "SystemExit: 3")),
        (NonFiniteError("Non-finite loss", incident()), ("nonfinite", "NonFiniteError: Non-finite loss")),
        (MemoryError("no room"), ("exception", "MemoryError: no room")),
        (Mute(), ("exception", "Mute")),
    ],
    ids=["text", "no text", "ctrl-c", "exit", "nonfinite", "memory", "mute"],
)
def test_an_exception_says_how_a_run_ended(exception: BaseException, ending: tuple[str, str]) -> None:
    assert ending_of(exception) == ending


def test_a_long_text_is_cut() -> None:
    assert len(ending_of(ValueError("x" * 10**6)).reason or "") <= MAX_REASON + len("ValueError: ")


SCRIPT = """
import os, signal, sys
import torch
from tests.engine.loops import setup, spoiled, train, watch
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
parts = setup()
monitor = watch(Path(sys.argv[1]), parts)
train(monitor, parts)
"""


def ended(path: Path, last_lines: str, *options: str) -> tuple[RunEnd | None, int]:
    """The ``run_end`` of a program that ends in these lines, and its exit status."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    command = [sys.executable, *options, "-c", SCRIPT + last_lines, str(path)]
    run = subprocess.run(command, env=environment, check=False, timeout=120, capture_output=True, input=b"")
    found = [event for event in load_events(path) if event.type == "run_end"]
    assert len(found) <= 1
    return (found[0] if found else None), run.returncode  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("lines", "status", "reason", "code"),
    [
        ("sys.exit(7)", "interrupted", EXITED, 7),
        ("raise ValueError('boom')", "exception", "ValueError: boom", 1),
        ("train(monitor, parts, spoiled(parts.batches, 2))", "nonfinite", "NonFiniteError: ", 1),
        ("signal.raise_signal(signal.SIGINT)", "interrupted", "KeyboardInterrupt", -2),
        ("monitor.end('finished'); raise ValueError('later')", "finished", None, 1),
    ],
)
def test_a_loop_that_forgets_to_end_its_run(
    tmp_path: Path, lines: str, status: str, reason: str | None, code: int
) -> None:
    end, exit_code = ended(tmp_path, lines)
    assert end is not None
    assert end.status == status
    assert (end.reason or "").startswith(reason or "")
    assert (end.reason is None) is (reason is None)
    assert (end.steps, exit_code) == (6, code) or status == "nonfinite"
    assert not (tmp_path / "last_steps.bin").exists()


def test_what_leaves_no_time_leaves_the_ring(tmp_path: Path) -> None:
    end, _ = ended(tmp_path, "os.kill(os.getpid(), signal.SIGTERM)")
    assert end is None
    assert (tmp_path / "last_steps.bin").exists()


def test_a_forked_process_ends_nothing(tmp_path: Path) -> None:
    end, _ = ended(tmp_path, "child = os.fork()\nif child == 0: sys.exit(0)\nos.waitpid(child, 0)\nos._exit(0)")
    assert end is None


def test_an_interactive_session_may_have_seen_other_errors(tmp_path: Path) -> None:
    end, _ = ended(tmp_path, "sys.last_value = ValueError('an hour ago')", "-i")
    assert end is not None
    assert (end.status, end.reason) == ("interrupted", EXITED)


def ends(path: Path) -> list[tuple[str, str | None]]:
    return [(event.status, event.reason) for event in events(path, "run_end")]


def test_a_monitor_that_is_given_up_ends_its_run_at_once(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts)
    train(monitor, parts)
    assert ends(tmp_path) == []
    del monitor  # no part of it refers to it, so there is nothing to collect
    assert ends(tmp_path) == [("interrupted", DROPPED)]
    assert not (tmp_path / "last_steps.bin").exists()


def test_an_end_is_written_once(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts)
    monitor.end("finished")
    del monitor
    gc.collect()
    assert ends(tmp_path) == [("finished", None)]


def test_a_second_start_ends_the_run_before_it(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path / "a", parts)
    monitor.start(parts.model, parts.optimizer)
    monitor.end("finished")
    assert ends(tmp_path / "a") == [("interrupted", "another run was started")]


def test_copies_end_nothing(tmp_path: Path) -> None:
    class Holder:
        pass

    parts = setup()
    monitor = watch(tmp_path, parts)
    duplicate: Any = copy.copy(monitor)
    del duplicate
    gc.collect()
    assert ends(tmp_path) == []
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["events.jsonl", "last_steps.bin"]
    assert monitor.active


def test_a_folder_that_was_deleted_does_not_come_back(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path / "run", parts)
    shutil.rmtree(tmp_path / "run")
    del monitor
    gc.collect()
    assert not (tmp_path / "run").exists()
