from __future__ import annotations

import copy
import errno
import json
import logging
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gradwatch.serialization import load_events, load_incident
from gradwatch.sinks import event_log
from gradwatch.sinks.event_log import EventLog
from gradwatch.sinks.protocol import Sink
from tests.sinks.samples import finding, incident, run_end, run_start, step_record

if TYPE_CHECKING:
    from collections.abc import Callable

real_write = os.write


def steps(count: int) -> list[int]:
    return list(range(count))


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def written(path: Path) -> list[int]:
    return [event.step for event in load_events(path) if event.type == "step"]


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


class FullDisk:
    """Stands in for ``os.write``: while ``full``, takes ``room`` bytes of a call, then fails or comes short."""

    def __init__(self, room: int, *, short: bool = False) -> None:
        self.room, self.short, self.full, self.calls = room, short, False, 0

    def __call__(self, descriptor: int, data: bytes) -> int:
        self.calls += 1
        if not self.full:
            return real_write(descriptor, data)
        count = real_write(descriptor, data[: self.room])
        if self.short:
            return count
        raise OSError(errno.ENOSPC, "No space left on device")


def no_truncate(*_: object) -> None:
    raise OSError(errno.EPERM, "append-only file")


# -- the file ------------------------------------------------------------------------------------------------------


def test_it_is_a_sink(tmp_path: Path) -> None:
    assert isinstance(EventLog(tmp_path, 0), Sink)


def test_directory_and_file_are_made_with_the_first_event(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "a" / "b", 0)
    assert not (tmp_path / "a").exists()
    assert log.path is None
    log.write(run_start())
    assert log.path == tmp_path / "a" / "b" / "events.jsonl"
    assert load_events(log.path) == [run_start()]  # before close: nothing waits in a buffer


def test_a_log_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    EventLog(tmp_path / "a", 0).close()
    assert not (tmp_path / "a").exists()


def test_each_line_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(room=0)
    monkeypatch.setattr(os, "write", disk)
    log = EventLog(tmp_path, 0)
    for event in (run_start(), step_record(), run_end()):
        log.write(event)
    assert disk.calls == 3


@pytest.mark.parametrize(("rank", "name"), [(0, "events.jsonl"), (3, "events.rank3.jsonl")])
def test_the_rank_is_in_the_name(tmp_path: Path, rank: int, name: str) -> None:
    EventLog(tmp_path, rank).write(run_start(rank=rank))
    assert names(tmp_path) == [name]


def test_a_fresh_run_never_touches_an_older_file(tmp_path: Path) -> None:
    events = [run_start(run_id=name, time=start) for name, start in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
    for event in events:
        log = EventLog(tmp_path, 0)
        log.write(event)
        log.close()
    assert names(tmp_path) == ["events.1.jsonl", "events.2.jsonl", "events.jsonl"]
    assert load_events(tmp_path) == events
    assert load_events(tmp_path, run_id="b") == [events[1]]


def test_logs_begun_at_once_never_share_a_file(tmp_path: Path) -> None:
    logs = [EventLog(tmp_path, 0) for _ in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda log: log.write(run_start()), logs))
    assert len({log.path for log in logs}) == 16


def test_names_and_nonfinite_values_leave_one_legal_line(tmp_path: Path) -> None:
    log = EventLog(tmp_path, 0)
    log.write(finding(layer='a\n"b\u2028\ud800', evidence={"norm": float("nan")}))
    content = (tmp_path / "events.jsonl").read_bytes()
    assert content.count(b"\n") == 1
    assert json.loads(content)["evidence"] == {"norm": "NaN"}


def test_copies_and_pickles_begin_a_file_of_their_own(tmp_path: Path) -> None:
    log = EventLog(tmp_path, 2)
    log.write(run_start())
    for duplicate in (copy.deepcopy(log), pickle.loads(pickle.dumps(log))):
        duplicate.write(run_start())
        assert duplicate.path != log.path


def test_events_after_close_are_dropped_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = EventLog(tmp_path, 0)
    log.write(run_start())
    log.close()
    log.close()
    log.write(run_end())
    log.write(run_end())
    assert load_events(tmp_path) == [run_start()]
    assert log.dropped == 2
    assert len(warned(caplog)) == 1
    assert "it has been closed" in warned(caplog)[0]


KILLED = """
import os, signal, sys
from gradwatch.sinks.event_log import EventLog
from tests.sinks.samples import run_start, step_record
log = EventLog(sys.argv[1], 0)
log.write(run_start())
for step in range(40):
    log.write(step_record(step=step))
os.kill(os.getpid(), signal.SIGKILL)
"""


def in_child(script: str, directory: Path, prepare: Callable[[], None] | None = None) -> int:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", script, str(directory)]
    return subprocess.run(command, env=environment, preexec_fn=prepare, check=False, timeout=60).returncode


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_process_leaves_every_line_that_was_written(tmp_path: Path) -> None:
    assert in_child(KILLED, tmp_path) == -signal.SIGKILL
    assert written(tmp_path) == steps(40)


# -- failures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("short", [False, True], ids=["raises", "comes-short"])
@pytest.mark.parametrize("room", [0, 1, 200])
def test_a_disk_that_fills_up_spoils_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, room: int, *, short: bool
) -> None:
    disk = FullDisk(room, short=short)
    monkeypatch.setattr(os, "write", disk)
    log = EventLog(tmp_path, 0)
    for step in range(40):
        disk.full = 10 <= step < 20
        log.write(step_record(step=step))
    content = (tmp_path / "events.jsonl").read_bytes()
    for line in content.splitlines():
        json.loads(line)  # the file has no torn line at all
    survivors = written(tmp_path)
    assert survivors[:10] == steps(10)
    assert survivors[-1] == 39
    assert log.dropped == 40 - len(survivors) >= 10
    assert len(warned(caplog)) == 1
    assert "No space left" in warned(caplog)[0]


def test_a_torn_line_that_cannot_be_taken_back_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(room=30)
    monkeypatch.setattr(os, "write", disk)
    monkeypatch.setattr(os, "ftruncate", no_truncate)
    log = EventLog(tmp_path, 0)
    for step in range(8):
        disk.full = step == 3
        log.write(step_record(step=step))
    with pytest.warns(UserWarning, match=":4: skipped a line that was cut off"):
        assert written(tmp_path) == [0, 1, 2, 5, 6, 7]  # 3 was lost, 4 was not tried


LIMITED = """
import json, sys
from gradwatch.sinks.event_log import EventLog
from tests.sinks.samples import step_record
log = EventLog(sys.argv[1], 0)
for step in range(100):
    log.write(step_record(step=step))
sys.exit(0 if log.dropped else 3)
"""


def limit_file_size() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))


@pytest.mark.skipif(os.name != "posix", reason="resource limits")
def test_a_real_limit_in_the_middle_of_a_line(tmp_path: Path) -> None:
    assert in_child(LIMITED, tmp_path, limit_file_size) == 0
    survivors = written(tmp_path)
    assert 3 < len(survivors) < 100
    assert survivors == steps(len(survivors))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_that_is_always_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(event_log, "_create_log", lambda *_: (Path("/dev/full"), os.open("/dev/full", os.O_WRONLY)))
    log = EventLog(tmp_path, 0)
    for step in range(50):
        log.write(step_record(step=step))
    assert log.dropped == 50
    assert len(warned(caplog)) == 1


def test_a_place_where_nothing_can_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    log = EventLog(tmp_path / "file" / "gradwatch", 0)
    log.write(run_start())
    for step in range(20):
        log.write(step_record(step=step))
    assert log.write_incident(incident()) is None
    assert log.write_incident(incident()) is None
    log.close()
    assert log.dropped == 20
    assert len(warned(caplog)) == 2  # one for the log, one for the incidents
    assert str(tmp_path / "file") in warned(caplog)[0]
    assert "Training goes on" in warned(caplog)[0]
    assert "incident" in warned(caplog)[1]


@pytest.mark.parametrize("path", ["a\0b", "\ud800"], ids=["null", "surrogate"])  # ids that a worker can send
def test_a_path_that_no_file_can_have(path: str, caplog: pytest.LogCaptureFixture) -> None:
    log = EventLog(path, 0)
    log.write(step_record())
    assert log.write_incident(incident()) is None
    assert log.dropped == 1
    assert len(warned(caplog)) == 2


def test_after_a_failure_attempts_become_rare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = []

    def refuse(_path: Path, _rank: int) -> tuple[Path, int]:
        attempts.append(log.dropped)
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(event_log, "_create_log", refuse)
    log = EventLog(tmp_path, 0)
    for step in range(300):
        log.write(step_record(step=step))
    assert attempts == [0, 2, 5, 10, 19, 36, 69, 134, 199, 264]
    for event in (run_end(), incident()):  # too important to wait
        log.write(event)
    assert attempts[-2:] == [300, 301]
    assert len(warned(caplog)) == 1


def test_a_run_start_that_was_lost_comes_first_later(tmp_path: Path) -> None:
    obstacle = tmp_path / "gradwatch"
    obstacle.write_text("in the way")
    log = EventLog(obstacle, 0)
    log.write(run_start())
    obstacle.unlink()
    log.write(step_record(step=0))  # still waiting
    log.write(step_record(step=1))
    assert load_events(obstacle) == [run_start(), step_record(step=1)]
    assert log.dropped == 1


def test_each_kind_of_failure_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    codes = [errno.EIO, errno.ENOSPC, errno.EIO, errno.ENOSPC, errno.EIO]

    def fail(*_: object) -> int:
        code = codes.pop()
        raise OSError(code, os.strerror(code))

    log = EventLog(tmp_path, 0)
    monkeypatch.setattr(os, "write", fail)
    while codes:
        log.write(run_end())
    assert [("Input/output" in text) for text in warned(caplog)] == [True, False]


def test_a_directory_removed_during_the_run_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = EventLog(tmp_path / "run", 0)
    log.write(run_start())
    log.write(step_record(step=0))
    shutil.rmtree(tmp_path / "run")
    log.write(step_record(step=1))
    log.write(run_end())
    assert load_events(tmp_path / "run") == [run_start(), step_record(step=1), run_end()]
    assert len(warned(caplog)) == 1
    assert "was removed during the run" in warned(caplog)[0]
    assert log.dropped == 0


def test_a_descriptor_closed_by_somebody_else_costs_one_event(tmp_path: Path) -> None:
    log = EventLog(tmp_path, 0)
    log.write(run_start())
    assert log._descriptor is not None
    os.close(log._descriptor)
    for step in range(4):
        log.write(step_record(step=step))
    assert load_events(tmp_path / "events.1.jsonl") == [run_start(), step_record(step=2), step_record(step=3)]
    assert log.dropped == 2


def test_what_cannot_be_expressed_is_dropped_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    circle: list[object] = []
    circle.append(circle)
    log = EventLog(tmp_path, 0)
    for _ in range(3):
        log.write(finding(evidence={"circle": circle}))
    log.write(run_end())
    assert load_events(tmp_path) == [run_end()]
    assert log.dropped == 3
    assert len(warned(caplog)) == 1
    assert "'finding' cannot be expressed as JSON" in warned(caplog)[0]


# -- incidents -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        (0, ["step=00000012-0", "step=00000012-1", "step=00000013-0"]),
        (1, ["step=00000012-0.rank1", "step=00000012-1.rank1", "step=00000013-0.rank1"]),
    ],
)
def test_incidents_are_numbered_within_their_step(tmp_path: Path, rank: int, expected: list[str]) -> None:
    log = EventLog(tmp_path / "run", rank)
    events = [incident(rank=rank), incident(rank=rank, action="warned"), incident(rank=rank, step=13)]
    paths = [log.write_incident(event) for event in events]
    assert paths == [tmp_path / "run" / "incidents" / name for name in expected]
    for path, event in zip(paths, events, strict=True):
        assert path is not None
        assert load_incident(path) == event
        assert names(path) == ["incident.json"]


def test_an_older_run_is_not_overwritten(tmp_path: Path) -> None:
    first = EventLog(tmp_path, 0).write_incident(incident())
    second = EventLog(tmp_path, 0).write_incident(incident(action="warned"))
    assert first is not None
    assert load_incident(first) == incident()
    assert second == tmp_path / "incidents" / "step=00000012-1"


def test_incident_json_is_for_people_too(tmp_path: Path) -> None:
    path = EventLog(tmp_path, 0).write_incident(incident(affected=["\u00e4\nb"]))
    assert path is not None
    text = (path / "incident.json").read_text(encoding="ascii")
    assert text.startswith('{\n  "schema_version": 1,\n  "type": "incident",\n')
    assert text.endswith("}\n")


def test_an_incident_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    log = EventLog(tmp_path, 0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        assert log.write_incident(incident()) is None
        assert log.write_incident(replace(incident(), step=13)) is None
    assert names(tmp_path / "incidents") == []
    assert len(warned(caplog)) == 1
    assert log.write_incident(incident()) == tmp_path / "incidents" / "step=00000012-0"
