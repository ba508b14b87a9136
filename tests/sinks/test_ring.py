from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gradwatch.serialization import load_ring
from gradwatch.serialization.ring_layout import MAX_PARAMETERS, SLOTS, Columns, Header, Row
from gradwatch.sinks.ring import TIMED_CALLS, Ring, TooSlowError

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = Columns(["a", "b"], ["layer"], [0, 0])
HEADER = Header("run-a", 0, 1, [COLUMNS, COLUMNS])


def row(step: int) -> Row:
    return Row(1.0, step, 0, None, 0.5, 2.0, 1.0, 0.1, None, False, [3.0, 4.0])


def begun(path: Path) -> Ring:
    return Ring(path / "last_steps.bin", HEADER, [[], []])


def full(*_: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def written_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list to which every call that writes adds its place."""
    places: list[int] = []
    real = os.pwrite

    def counted(descriptor: int, data: bytes, place: int) -> int:
        places.append(place)
        return real(descriptor, data, place)

    monkeypatch.setattr(os, "pwrite", counted)
    return places


def test_the_file_has_its_final_size_from_the_start(tmp_path: Path) -> None:
    made = begun(tmp_path)
    size = made.path.stat().st_size
    assert made.path.stat().st_blocks * 512 >= size  # written, no hole that a full disk could not fill
    for step in range(200):
        made.write(step % 2, [row(step)])
    assert made.path.stat().st_size == size
    assert [path.name for path in tmp_path.iterdir()] == ["last_steps.bin"]


def test_a_row_is_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = begun(tmp_path)
    calls = written_at(monkeypatch)
    for step in range(SLOTS + 1):
        made.write(1, [row(step)])
    assert len(calls) == SLOTS + 1
    assert calls[0] == calls[-1]


@pytest.mark.parametrize(("before", "count"), [(0, 1), (3, 10), (60, 4), (60, 5), (60, 20), (64, SLOTS)])
def test_rows_together_are_one_call_or_two_where_the_ring_closes(
    before: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, alone = begun(tmp_path), Ring(tmp_path / "alone.bin", HEADER, [[], []])
    for step in range(before):
        together.write(1, [row(step)])
        alone.write(1, [row(step)])
    for step in range(before, before + count):
        alone.write(1, [row(step)])
    places = written_at(monkeypatch)
    together.write(1, [row(step) for step in range(before, before + count)])
    assert together.path.read_bytes() == alone.path.read_bytes()
    assert len(places) == 1 + ((before + 1) % SLOTS + count > SLOTS)


def test_norms_may_be_an_array(tmp_path: Path) -> None:
    made = begun(tmp_path)
    made.write(0, [row(0)._replace(norms=np.array([6.0, 8.0]))])  # type: ignore[arg-type]
    assert load_ring(made.path)[0].layers == {"layer": [10.0]}


def test_a_ring_that_is_begun_anew_keeps_the_rows_it_is_given(tmp_path: Path) -> None:
    begun(tmp_path).write(0, [row(99)])
    again = Ring(tmp_path / "last_steps.bin", HEADER, [[row(1), row(2)], [row(3)]])
    again.write(0, [row(4)])
    assert [found.steps for found in load_ring(again.path)] == [[1, 2, 4], [3]]


def test_it_knows_when_its_file_has_been_touched(tmp_path: Path) -> None:
    made = begun(tmp_path)
    assert made.is_whole()
    os.truncate(made.path, 10)
    assert not made.is_whole()
    made = begun(tmp_path)
    made.path.unlink()
    assert not made.is_whole()
    made.path.write_bytes(b"other")
    made.remove()
    assert made.path.read_bytes() == b"other"
    made.remove()  # twice is once


def test_it_goes_on_in_a_folder_that_was_moved_and_leaves_the_place_to_others(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    made = begun(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    assert made.is_whole()
    made.write(0, [row(7)])
    assert load_ring(tmp_path / "moved" / "last_steps.bin")[0].steps == [7]
    (tmp_path / "run").mkdir()
    other = begun(tmp_path / "run")
    assert made.is_whole()
    made.remove()
    assert other.is_whole()


def test_removing_leaves_nothing(tmp_path: Path) -> None:
    begun(tmp_path).remove()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_with_no_room_for_it_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for failing in (full, lambda _descriptor, data, _place: len(data) // 2):
        monkeypatch.setattr(os, "pwrite", failing)
        with pytest.raises(OSError, match="No space left"):
            begun(tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_too_many_parameters_are_refused(tmp_path: Path) -> None:
    many = Columns(["p"] * (MAX_PARAMETERS + 1), ["l"], [0] * (MAX_PARAMETERS + 1))
    with pytest.raises(ValueError, match=r"100,001 parameters are more than 100,000"):
        Ring(tmp_path / "last_steps.bin", Header("a", 0, 1, [many]), [[]])
    assert list(tmp_path.iterdir()) == []


def test_slow_writes_are_noticed_once_the_first_rows_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = begun(tmp_path)
    clock = iter(range(10_000))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock) * 250e-6)
    for step in range(TIMED_CALLS - 1):
        made.write(0, [row(step)])
    with pytest.raises(TooSlowError, match="writing a step takes 250 µs here"):
        made.write(0, [row(TIMED_CALLS)])


def test_a_few_rows_that_wait_for_their_turn_say_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = begun(tmp_path)
    lasting = [1.0 if number % 5 == 0 else 1e-5 for number in range(TIMED_CALLS)]
    times = iter([moment for start, seconds in enumerate(lasting) for moment in (10.0 * start, 10.0 * start + seconds)])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    for step in range(TIMED_CALLS):
        made.write(0, [row(step)])


def test_quick_writes_are_timed_for_a_while_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = begun(tmp_path)
    clock = iter(range(2 * TIMED_CALLS))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock) * 150e-6)
    for step in range(TIMED_CALLS + 50):
        made.write(0, [row(step)])


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.sinks.test_ring import begun, row
made = begun(Path(sys.argv[1]))
for step in range(100):
    made.write(0, [row(step)])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_process_leaves_its_rows(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    run = subprocess.run(command, env=environment, check=False, timeout=60)
    assert run.returncode == -signal.SIGKILL
    assert load_ring(tmp_path / "last_steps.bin")[0].steps == list(range(36, 100))
