"""A sample of the kill test, and that it notices what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gradwatch.engine.flight_recorder import AT_ONCE
from gradwatch.serialization import load_ring, ring_layout, to_json_line
from gradwatch.serialization.ring_layout import Columns, Header, Row
from gradwatch.sinks.event_log import EventLog
from gradwatch.sinks.ring import Ring
from tests.postmortem.dying import Told
from tests.postmortem.inspection import inspect, known_commands
from tests.postmortem.training import BUDGET
from tests.sinks.samples import finding, incident, run_start
from tests.sinks.test_thinning import check, record

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]


def killed(runs: int, seed: int) -> subprocess.CompletedProcess[str]:
    """Kill so many, in an interpreter of its own: this one may have threads, which a fork does not survive."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.postmortem.kill", "--runs", str(runs), "--seed", str(seed)]
    return subprocess.run(command, env=environment, cwd=ROOT, check=False, timeout=3600, capture_output=True, text=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL and fork")
@pytest.mark.parametrize(
    ("runs", "seed"), [(10, 1), pytest.param(200, 2, marks=[pytest.mark.long, pytest.mark.timeout(3600)])]
)
def test_killed_runs_leave_all_that_they_had_written(runs: int, seed: int) -> None:
    run = killed(runs, seed)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert f"{runs} of {runs} runs left all that they had written" in run.stdout


# -- it notices --------------------------------------------------------------------------------------------------------


def dead_run(folder: Path) -> Told:
    """What a run of 200 steps leaves when it is killed, without a training."""
    told = Told()
    log = EventLog(folder, 0, BUDGET)
    events = [run_start()]
    for step in range(200):
        events.append(record(step))  # type: ignore[arg-type]
        events += [finding(step=step)] * (step % 25 == 0)  # type: ignore[list-item]
        events += [check(step)] * (step % 30 == 0)  # type: ignore[list-item]
    for event in events:
        log.write(event)
        told.lines.append(to_json_line(event).encode())
    columns = Columns(["a", "b", "c"], ["body", "norm", "head"], [0, 1, 2])
    ring = Ring(folder / "last_steps.bin", Header("run-a", 0, 1, [columns]), [[]])
    for step in range(200):
        ring.write(0, [Row(1.0, step, 0, 0, 0.5, 2.0 + step, 1.0, 0.1, None, False, [1.0, 2.0, 3.0])])
        told.steps.append((step, 0.5, 2.0 + step))
    return told


def without(pattern: bytes) -> Callable[[Path], None]:
    """Take a line out of the log."""

    def change(folder: Path) -> None:
        lines = (folder / "events.jsonl").read_bytes().splitlines(keepends=True)
        place = next(place for place in reversed(range(len(lines))) if pattern in lines[place])
        (folder / "events.jsonl").write_bytes(b"".join(lines[:place] + lines[place + 1 :]))

    return change


def edited(before: bytes, after: bytes) -> Callable[[Path], None]:
    """Change the log in one place."""

    def change(folder: Path) -> None:
        content = (folder / "events.jsonl").read_bytes()
        assert before in content
        (folder / "events.jsonl").write_bytes(content.replace(before, after, 1))

    return change


def torn_in_the_middle(folder: Path) -> None:
    lines = (folder / "events.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "events.jsonl").write_bytes(b"".join([*lines[:-2], lines[-2][:90] + b"\n", lines[-1]]))


def one_row_less(folder: Path) -> None:
    """Spoil two rows of the ring: one may be."""
    size = 8 * 3 + ring_layout.ROW.size + ring_layout.CHECKSUM.size
    content = bytearray((folder / "last_steps.bin").read_bytes())
    for row in (3, 4):
        content[-row * size] ^= 1
    (folder / "last_steps.bin").write_bytes(content)


def test_a_run_that_has_lost_nothing_is_all_right(tmp_path: Path) -> None:
    found = inspect(tmp_path, dead_run(tmp_path))
    assert found.wrong == []
    assert found.thinned
    assert len(load_ring(tmp_path / "last_steps.bin")[0].steps) == 64


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without(b'"type": "step"'), "events: "),
        (without(b'"pooled": {'), "events: "),
        (without(b'"type": "finding"'), "events: AssertionError: finding lines are lost"),
        (without(b'"type": "run_start"'), "events: AssertionError: run_start lines are lost"),
        (without(b'"type": "gradient_check"'), "events: AssertionError: gradient checks are lost"),
        (edited(b'"growth": 12.5', b'"growth": 12.6'), "events: AssertionError: finding lines are lost"),
        (edited(b'"layer_grad_norm": [[', b'"layer_grad_norm": [[1'), "events: AssertionError"),
        (torn_in_the_middle, "events: AssertionError: a line was cut off that is not the last"),
        (one_row_less, "last_steps: AssertionError: only 63"),
        (lambda folder: (folder / "last_steps.bin").unlink(), "last_steps: "),
        (lambda folder: (folder / "events.jsonl").unlink(), "events: "),
        (lambda folder: (folder / "x.tmp").write_text(""), "next_run: "),
    ],
    ids=range(12),
)
def test_what_is_lost_is_noticed(tmp_path: Path, change: Callable[[Path], object], said: str) -> None:
    told = dead_run(tmp_path)
    change(tmp_path)
    assert any(what.startswith(said) for what in inspect(tmp_path, told).wrong)


def test_other_last_steps_are_noticed(tmp_path: Path) -> None:
    told = dead_run(tmp_path)
    told.steps[150] = (150, 0.5, 0.0)
    assert inspect(tmp_path, told).wrong == ["last_steps: AssertionError: other last steps than were told"]


def test_a_missing_folder_of_an_incident_is_noticed(tmp_path: Path) -> None:
    told = dead_run(tmp_path)
    with (tmp_path / "events.jsonl").open("a") as log:
        log.write(to_json_line(incident()))
    told.lines.append(to_json_line(incident()).encode())
    [wrong] = inspect(tmp_path, told).wrong
    assert wrong.startswith("incidents: ")


def test_what_was_written_and_not_told_any_more_is_no_fault(tmp_path: Path) -> None:
    told = dead_run(tmp_path)
    told.lines.pop()
    told.steps.pop()
    assert inspect(tmp_path, told).wrong == []
    told.lines.pop()
    del told.steps[-AT_ONCE:]
    assert len(inspect(tmp_path, told).wrong) == 2


def test_commands_are_those_of_this_version() -> None:
    assert set(known_commands()) <= {"show", "report"}
