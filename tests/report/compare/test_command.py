"""``gradwatch compare`` on the command line: exit status, one line for what cannot be read, files that are not lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradwatch.cli import DONE, UNUSABLE, main
from tests.report.compare.runs import seeds

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: object) -> int:
    return main(["compare", *map(str, arguments)])


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("gradwatch compare: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_tables_go_to_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*seeds(tmp_path, range(3))) == DONE
    captured = capsys.readouterr()
    assert "3 runs of one experiment" in captured.out
    assert captured.err == ""


def test_json_is_all_there_is_on_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = seeds(tmp_path, range(2))
    assert run(one, "--against", other, "--json", "-o", tmp_path / "page.html") == DONE
    assert json.loads(capsys.readouterr().out)["compare_version"] == 1
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_page_of_ours_is_replaced_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths, page = seeds(tmp_path, range(2)), tmp_path / "page.html"
    assert run(*paths, "-o", page) == run(*paths, "-o", page) == DONE
    assert "page.html (" in capsys.readouterr().err
    page.write_text("mine", encoding="utf-8")
    assert run(*paths, "-o", page) == UNUSABLE
    assert "add --force" in complaint(capsys)
    assert page.read_text(encoding="utf-8") == "mine"
    assert run(*paths, "-o", page, "--force") == DONE
    assert page.read_text(encoding="utf-8") != "mine"


def test_a_page_that_cannot_be_written_is_told_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("nowhere", "nowhere", "-o", tmp_path / "no" / "page.html") == UNUSABLE
    assert "no such folder to write to" in complaint(capsys)
    (tmp_path / "compare.html").mkdir()
    assert run("nowhere", "nowhere", "-o", tmp_path) == UNUSABLE
    assert "no page of gradwatch compare" in complaint(capsys)


def test_a_folder_stands_for_the_page_in_it(tmp_path: Path) -> None:
    assert run(*seeds(tmp_path, range(2)), "-o", tmp_path) == DONE
    assert (tmp_path / "compare.html").is_file()


def test_one_run_alone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = seeds(tmp_path, [0])
    assert run(path) == UNUSABLE
    assert "name at least two runs" in complaint(capsys)


@pytest.mark.parametrize(
    "content", [None, b"", b"\x00\xff" * 100, b'{"a": 1}\n', b"[" * 100_000, b'{"schema_version": 9}\n']
)
def test_what_is_no_log_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None) -> None:
    one, other = seeds(tmp_path, range(2))
    log = other / "events.jsonl"
    log.unlink()
    if content is not None:
        log.write_bytes(content)
    status = run(one, other)
    if content == b"":  # a run that was killed before it could write a line
        assert status == DONE
        assert "unknown" in capsys.readouterr().out
    else:
        assert status == UNUSABLE
        assert str(other) in complaint(capsys)


@pytest.fixture(scope="module")
def log_and_other(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path]:
    """The log of one run and the folder of another."""
    one, other = seeds(tmp_path_factory.mktemp("fuzz"), range(2), records=4, steps=40, layers=2)
    return (one / "events.jsonl").read_bytes(), other


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cut=st.integers(0, 6000), at=st.integers(0, 6000), noise=st.binary(max_size=8))
def test_torn_and_garbled_logs_are_read_or_refused(
    *,
    log_and_other: tuple[bytes, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    cut: int,
    at: int,
    noise: bytes,
) -> None:
    content, other = log_and_other
    garbled = content[:at] + noise + content[at + len(noise) :]
    (tmp_path / "events.jsonl").write_bytes(garbled[: len(garbled) - cut])
    status = run(tmp_path, other, "-o", tmp_path / "page.html")
    captured = capsys.readouterr()
    assert status in (DONE, UNUSABLE)
    assert "Traceback" not in captured.err
    assert captured.err.count("\n") == 1  # the complaint, or where the page is


def test_a_reader_that_leaves_and_an_old_terminal_are_no_errors(tmp_path: Path) -> None:
    paths = seeds(tmp_path / "a", range(2), lr=0.01) + seeds(tmp_path / "b", range(2))
    command = [sys.executable, "-m", "gradwatch.cli", "compare", *map(str, paths)]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    old = subprocess.run(command, capture_output=True, check=False, env=environment, timeout=60)
    assert (old.returncode, old.stderr) == (DONE, b"")
    assert b"? " in old.stdout  # a plus-minus sign
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == DONE


def test_neither_torch_nor_lightning_is_imported(tmp_path: Path) -> None:
    paths = seeds(tmp_path, range(2))
    program = (
        "import sys\nfrom gradwatch.cli import main\n"
        f"main({['compare', *map(str, paths), '-o', str(tmp_path / 'page.html')]!r})\n"
        "print(sorted({'torch', 'lightning', 'tensorboard', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.endswith("[]\n")
