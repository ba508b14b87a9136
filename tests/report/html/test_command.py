"""``gradwatch report`` as a user meets it."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from gradwatch import cli
from gradwatch.report.html import command
from gradwatch.report.run import Run, read_runs
from tests.report.logs import at, finding, incident, last_steps, run_end, run_start, write_log
from tests.report.synthetic import write_run

if TYPE_CHECKING:
    from pathlib import Path

    from gradwatch.records import Event


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_run(tmp_path / "run", layers=4, records=10)
    return tmp_path / "run"


HUGE = 10**400


@pytest.mark.parametrize(
    "event",
    [
        run_start(step=HUGE),
        run_end(step=HUGE),
        finding(step=HUGE, since_step=HUGE),
        finding(since_step=-HUGE),
        incident(step=HUGE),
        last_steps(5, steps=[HUGE] * 3),
    ],
)
def test_a_step_that_no_float_can_hold(event: Event, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path, run_start(), at(10), event)
    assert report(tmp_path) == cli.DONE
    assert capsys.readouterr().err == ""


def report(*arguments: object) -> int:
    return cli.main(["report", *map(str, arguments)])


def test_a_report_beside_the_log(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(folder) == cli.DONE
    file = folder / "report.html"
    captured = capsys.readouterr()
    assert captured.out == f"{file} ({file.stat().st_size / 1e3:.0f} kB)\n"
    assert captured.err == ""
    assert file.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_report_elsewhere(folder: Path, tmp_path: Path) -> None:
    assert report(folder / "events.jsonl", "-o", tmp_path / "mine.html") == cli.DONE
    assert (tmp_path / "mine.html").is_file()
    assert report(folder, "-o", tmp_path) == cli.DONE
    assert (tmp_path / "report.html").is_file()


def test_a_former_report_is_overwritten_and_nothing_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "report.html"
    assert report(folder) == report(folder) == cli.DONE
    file.write_text("mine")
    capsys.readouterr()
    assert report(folder) == cli.UNUSABLE
    assert capsys.readouterr().err == (
        f"gradwatch report: {file} is there and is no report of ours; name another file with -o, or add --force\n"
    )
    assert file.read_text() == "mine"
    assert report(folder, "--force") == cli.DONE
    assert file.read_text(encoding="utf-8") != "mine"


def test_the_event_log_is_never_overwritten_by_accident(folder: Path) -> None:
    before = (folder / "events.jsonl").read_bytes()
    assert report(folder, "-o", folder / "events.jsonl") == cli.UNUSABLE
    assert (folder / "events.jsonl").read_bytes() == before


def test_the_last_of_several_runs_or_the_one_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log(tmp_path, run_start(run_id="aaa", time=1.0))
    write_log(tmp_path, run_start(run_id="bbb", time=2.0), number=1)
    file = tmp_path / "report.html"
    assert report(tmp_path) == cli.DONE
    assert capsys.readouterr().err == "the run bbb; the folder has 1 more (--run aaa)\n"
    assert "<dd>bbb</dd>" in file.read_text(encoding="utf-8")
    assert report(tmp_path, "--run", "a") == cli.DONE
    assert "<dd>aaa</dd>" in file.read_text(encoding="utf-8")
    assert report(tmp_path, "--run", "c") == cli.UNUSABLE


NO_RUNS = [b"\x00\xff\x00", b"{}\n", b'{"schema_version": 99, "type": "step"}\n', b"[" * 9999]


@pytest.mark.parametrize("content", NO_RUNS)
def test_what_is_no_run_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    (tmp_path / "events.jsonl").write_bytes(content)
    assert report(tmp_path) == cli.UNUSABLE
    error = capsys.readouterr().err
    assert error.startswith("gradwatch report: ")
    assert error.count("\n") == 1


def test_no_folder_to_write_to(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(folder, "-o", tmp_path / "nowhere" / "x.html") == cli.UNUSABLE
    assert "no such folder to write to" in capsys.readouterr().err
    assert report(tmp_path / "nothing") == cli.UNUSABLE


def test_names_do_not_act_on_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a\x1b[31mb\udcffc"
    write_log(folder, run_start(run_id="first\x1b[2J", time=1.0))
    write_log(folder, run_start(run_id="second\n", time=2.0), number=1)
    assert report(folder) == cli.DONE
    captured = capsys.readouterr()
    assert captured.out.startswith(str(tmp_path / r"a\x1b[31mb\udcffc"))
    assert captured.err == "the run second\\n; the folder has 1 more (--run first\\x1b[2J)\n"
    assert report(tmp_path / "\x1b[31m") == cli.UNUSABLE
    assert "\x1b" not in capsys.readouterr().err


def test_a_disk_that_is_full(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    assert report(folder) == cli.UNUSABLE
    assert capsys.readouterr().err == "gradwatch report: [Errno 28] No space left on device\n"


TORCH_FREE = """
import sys
sys.modules.update(dict.fromkeys(["torch", "lightning", "pytorch_lightning", "tensorboard", "matplotlib"]))
from gradwatch import cli
from gradwatch.report.html import command
from gradwatch.report.run import Run, read_runs
sys.exit(cli.main(sys.argv[1:]))
"""


def test_neither_torch_nor_lightning_is_needed(folder: Path) -> None:
    line = [sys.executable, "-c", TORCH_FREE, "report", str(folder)]
    done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "report.html").is_file()


@pytest.mark.parametrize(("terminal", "told"), [("0", False), ("1", True)])
def test_progress_is_told_after_a_while_and_to_people_only(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    terminal: str,
    told: bool,  # noqa: FBT001 - a parameter
) -> None:
    def slow(path: Path) -> list[Run]:
        time.sleep(0.5)
        return read_runs(path)

    monkeypatch.setattr(command, "read_runs", slow)
    monkeypatch.setattr(command, "PATIENCE", 0.05)
    monkeypatch.setenv("TTY_COMPATIBLE", terminal)  # what rich goes by before it looks itself
    assert report(folder) == cli.DONE
    assert ("reading the event log" in capsys.readouterr().err) is told


def test_what_is_quick_tells_no_progress(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert report(folder) == cli.DONE
    assert capsys.readouterr().err == ""
