"""Nothing that happens to the folder of a run changes what is trained, and every misfortune is said a few times."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from gradwatch import load_events, load_last_steps
from gradwatch.sinks import log_budget
from tests.postmortem.training import BUDGET, train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

STEPS = 90
FEW = 6  # warnings of one misfortune: one for each file, and for each thing that cannot be done with it


@pytest.fixture(autouse=True)
def _small_budget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(log_budget, "BUDGET", BUDGET)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alone() -> dict[str, Tensor]:
    """The weights of a training without a monitor."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    weights = train(None, steps=STEPS)
    torch.set_num_threads(threads)
    return weights


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        entry.getMessage()
        for entry in caplog.records
        if entry.levelno >= logging.WARNING and entry.getMessage().endswith("Training goes on.")
    ]


def test_a_monitored_training_is_the_same(tmp_path: Path, alone: dict[str, Tensor]) -> None:
    assert same(train(tmp_path, steps=STEPS), alone)
    assert not same(train(tmp_path, steps=STEPS - 1), alone)


@pytest.mark.parametrize("after", [0, 1, 40])
@pytest.mark.parametrize("short", [False, True], ids=["raises", "comes-short"])
def test_a_full_disk(
    tmp_path: Path,
    alone: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    after: int,
    *,
    short: bool,
) -> None:
    calls = iter(range(10**9))

    def full(real: Callable[..., int]) -> Callable[..., int]:
        def write(descriptor: int, data: bytes, *place: int) -> int:
            mine = str(tmp_path) in str(Path(f"/proc/self/fd/{descriptor}").readlink())
            if not mine or next(calls) < after:
                return real(descriptor, data, *place)
            if short:
                return real(descriptor, data[: len(data) // 2], *place)
            raise OSError(errno.ENOSPC, "No space left on device")

        return write

    for name in ("write", "pwrite"):
        monkeypatch.setattr(os, name, full(getattr(os, name)))
    assert same(train(tmp_path, steps=STEPS), alone)
    assert 1 <= len(complaints(caplog)) <= FEW
    monkeypatch.undo()
    assert all(event.type for event in load_events(tmp_path))


def test_a_folder_that_is_removed_again_and_again(
    tmp_path: Path, alone: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    def remove(batch: int) -> None:
        if batch % 20 == 10:
            shutil.rmtree(tmp_path / "run")

    assert same(train(tmp_path / "run", steps=STEPS, before=remove), alone)
    assert len(complaints(caplog)) <= FEW
    kinds = [event.type for event in load_events(tmp_path / "run")]
    assert (kinds[0], kinds[-1]) == ("run_start", "run_end")
    assert load_last_steps(tmp_path / "run")[0].steps == list(range(STEPS - 64, STEPS))


def test_a_folder_in_whose_place_comes_a_file(
    tmp_path: Path, alone: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    def replace(batch: int) -> None:
        if batch == 30:
            shutil.rmtree(tmp_path / "run")
            (tmp_path / "run").write_text("mine")

    assert same(train(tmp_path / "run", steps=STEPS, before=replace), alone)
    assert (tmp_path / "run").read_text() == "mine"
    assert 1 <= len(complaints(caplog)) <= FEW


def test_two_runs_in_one_folder_at_once(
    tmp_path: Path, alone: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    """Each has a log, a ring and incidents of its own, whoever begins and ends first."""
    inner: list[dict[str, Tensor]] = []

    def other(batch: int) -> None:
        if batch == 45:
            state = torch.random.get_rng_state()
            inner.append(train(tmp_path, steps=STEPS))
            torch.random.set_rng_state(state)

    assert same(train(tmp_path, steps=STEPS, before=other), alone)
    assert same(inner[0], alone)
    assert complaints(caplog) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.1.jsonl", "events.jsonl", "incidents"]
    for name in ("events.jsonl", "events.1.jsonl"):
        events = load_events(tmp_path / name)
        assert [event.type for event in events].count("run_start") == 1
        assert events[-1].type == "run_end"
    assert len(list((tmp_path / "incidents").iterdir())) == 4
    assert [path.name for path in (tmp_path / "incidents").iterdir() if not (path / "incident.json").exists()] == []


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere", "/dev/null", "a\0b", "x" * 300])
def test_a_place_where_nothing_can_be_written(
    tmp_path: Path, alone: dict[str, Tensor], caplog: pytest.LogCaptureFixture, place: str
) -> None:
    (tmp_path / "file").write_text("mine")
    assert same(train(tmp_path / place, steps=STEPS), alone)
    assert 1 <= len(complaints(caplog)) <= FEW
    assert (tmp_path / "file").read_text() == "mine"


# -- real limits, in a process of their own ----------------------------------------------------------------------------


SCRIPT = """
import logging, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from gradwatch.sinks import log_budget
from tests.postmortem.test_misfortunes import STEPS, same
from tests.postmortem.training import BUDGET, train
class Count(logging.Handler):
    said = []
    def emit(self, record):
        if record.getMessage().endswith("Training goes on."): self.said.append(record.getMessage())
logging.getLogger("gradwatch").addHandler(Count())
log_budget.BUDGET = BUDGET
watched = train(Path(sys.argv[1]), steps=STEPS)
print(same(watched, train(None, steps=STEPS)), len(Count.said), *Count.said, sep="\\n")
"""


def in_process(folder: Path, before: Callable[[], None] | None = None, command: Any = ()) -> tuple[str, int, str]:
    """Whether the weights were the same, how many warnings there were, and all that was said."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    run = subprocess.run(
        [*command, sys.executable, "-c", SCRIPT, str(folder)],
        env=environment,
        preexec_fn=before,
        check=False,
        timeout=200,
        capture_output=True,
        text=True,
    )
    lines = run.stdout.splitlines()
    assert run.returncode == 0, run.stderr[-2000:]
    return lines[0], int(lines[1]), run.stdout


def _limit() -> None:
    import resource  # noqa: PLC0415 - in the child alone

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))


def test_a_real_limit_on_the_size_of_files(tmp_path: Path) -> None:
    equal, warnings, _ = in_process(tmp_path, _limit)
    assert equal == "True"
    assert 1 <= warnings <= FEW
    assert all(event.type for event in load_events(tmp_path))


def _may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    probe = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize(("options", "problem"), [("size=60k", "No space left"), ("ro", "Read-only file system")])
def test_a_real_file_system_that_is_full_or_read_only(tmp_path: Path, options: str, problem: str) -> None:
    """A small tmpfs in a mount namespace of its own; what it held is copied out before it goes."""
    if not _may_mount():
        pytest.skip("no mount namespaces here")
    inside, kept = tmp_path / "inside", tmp_path / "kept"
    inside.mkdir()
    script = f'mount -t tmpfs -o {options} tmpfs {inside} && "$@"; code=$?; cp -r {inside} {kept}; exit $code'
    equal, warnings, said = in_process(inside / "run", command=["unshare", "-rm", "sh", "-c", script, "sh"])
    assert equal == "True"
    assert 1 <= warnings <= FEW
    assert problem in said
    if options != "ro":
        events = load_events(kept / "run")
        assert events[0].type == "run_start"
        assert len(events) > 10
