"""The command line as a user meets it: usage, errors in one line, exit statuses, and no wait for torch."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import gradwatch
from gradwatch import cli
from gradwatch.demo import setting

if TYPE_CHECKING:
    from pathlib import Path

TORCH_FREE = """
import sys
from gradwatch import cli
try:
    status = cli.main(sys.argv[1:])
except SystemExit as end:
    status = end.code
print(status, sorted({"torch", "lightning", "pytorch_lightning", "tensorboard", "numpy"} & set(sys.modules)))
"""


def _fresh(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", TORCH_FREE, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["demo", "--help"], ["replay", "--help"]])
def test_usage_needs_no_torch(arguments: list[str]) -> None:
    assert _fresh(*arguments).stdout.splitlines()[-1] == "0 []"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"gradwatch {gradwatch.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["demo", "--nonsense"], ["demo", "extra"], ["replay"], ["replay", "a", "b"]]
)
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == cli.UNUSABLE
    assert "usage: gradwatch" in capsys.readouterr().err


def test_an_unwritable_folder_is_one_clear_line_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "demo"
    done = _fresh("demo", "--dir", str(folder))
    assert done.stdout.splitlines()[-1] == "2 []"  # before torch was imported
    assert done.stderr == f"gradwatch demo: cannot write to {folder}: Not a directory; name another --dir\n"


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> bool:
        raise AssertionError("the demo started to train")

    monkeypatch.setattr("gradwatch.demo.run.run_demo", refuse)


@pytest.mark.usefixtures("no_training")
def test_missing_scikit_learn_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(setting, "find_spec", {"pydoc_data": True, "pydoc_data.topics": True}.get)
    assert cli.main(["demo", "--dir", str(tmp_path / "demo")]) == cli.UNUSABLE
    captured = capsys.readouterr()
    assert "scikit-learn" in captured.err
    assert "pip install 'gradwatch[demo]'" in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not (tmp_path / "demo").exists()


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("missing", ["pydoc_data", "pydoc_data.topics"])
def test_a_python_without_the_text_says_so(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(setting, "find_spec", lambda name: None if name == missing else True)
    assert cli.main(["demo", "--dir", str(tmp_path / "demo")]) == cli.UNUSABLE
    assert "this Python lacks pydoc_data.topics" in capsys.readouterr().err


@pytest.mark.parametrize(("healthy", "status"), [(True, cli.DONE), (False, cli.UNHEALTHY)])
def test_status_says_whether_the_demo_went_as_expected(
    *, healthy: bool, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("gradwatch.demo.run.run_demo", lambda *_, **__: healthy)
    assert cli.main(["demo", "--dir", str(tmp_path)]) == status


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_interruption_is_one_line(
    interrupt: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def stop(*_: object, **__: object) -> bool:
        raise interrupt

    monkeypatch.setattr("gradwatch.demo.run.run_demo", stop)
    assert cli.main(["demo", "--dir", str(tmp_path)]) == cli.INTERRUPTED
    assert capsys.readouterr().err == f"gradwatch demo: interrupted; what was written so far is in {tmp_path}\n"


def test_a_second_run_says_where_it_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("gradwatch.demo.run.run_demo", lambda *_, **__: True)
    (tmp_path / "digits_cnn").mkdir()
    assert cli.main(["demo", "--dir", str(tmp_path)]) == cli.DONE
    assert f"in {tmp_path / 'run-2'} ({tmp_path} is in use)" in capsys.readouterr().out.replace("\n", "")


# -- replay ------------------------------------------------------------------------------------------------------------


def _incident(folder: Path) -> Path:
    (folder / "incident.json").write_text("{}")
    return folder


def test_a_folder_without_an_incident_is_one_line_at_once(tmp_path: Path) -> None:
    done = _fresh("replay", str(tmp_path))
    assert done.stdout.splitlines()[-1] == "2 []"  # before torch was imported
    assert done.stderr == f"gradwatch replay: {tmp_path} holds no incident.json\n"


def test_a_file_in_place_of_a_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _incident(tmp_path) / "incident.json"
    assert cli.main(["replay", str(file)]) == cli.UNUSABLE
    assert capsys.readouterr().err == f"gradwatch replay: {file} holds no incident.json\n"


@pytest.mark.parametrize(("same", "status"), [(True, cli.DONE), (False, cli.UNHEALTHY)])
def test_status_says_whether_the_verdict_is_the_same(
    *, same: bool, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[dict[str, object]] = []

    def replay(_: object, directory: Path, **options: object) -> bool:
        asked.append({"directory": directory, **options})
        return same

    monkeypatch.setattr("gradwatch.integrations.replay_command.replay", replay)
    arguments = ["replay", str(_incident(tmp_path)), "--factory", "a:b", "--device", "cpu", "--pdb"]
    assert cli.main(arguments) == status
    assert asked == [{"directory": tmp_path, "factory": "a:b", "device": "cpu", "debug": True}]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("broken\nand more"), "broken"),
        (ValueError(), "ValueError"),
        (PermissionError(13, "Permission denied", "x"), "[Errno 13] Permission denied: 'x'"),
        (ImportError("no rich"), "ImportError: no rich"),
        (KeyError("x"), "KeyError: 'x'"),
        (RuntimeError("\nlate\n"), "RuntimeError: late"),
        (RecursionError(), "RecursionError"),
        (MemoryError(), "MemoryError"),
        (SystemExit(0), "SystemExit: 0"),
    ],
    ids=lambda value: repr(value)[:20] if isinstance(value, BaseException) else "",
)
def test_whatever_goes_wrong_is_one_line(
    error: BaseException,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def fail(*_: object, **__: object) -> bool:
        raise error

    monkeypatch.setattr("gradwatch.integrations.replay_command.replay", fail)
    assert cli.main(["replay", str(_incident(tmp_path))]) == cli.UNUSABLE
    assert capsys.readouterr().err == f"gradwatch replay: {line}\n"


def test_a_folder_that_may_not_be_looked_at_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refuse(*_: object, **__: object) -> bool:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr("pathlib.Path.is_file", refuse)
    assert cli.main(["replay", str(tmp_path)]) == cli.UNUSABLE
    assert capsys.readouterr().err == f"gradwatch replay: [Errno 13] Permission denied: '{tmp_path}'\n"


def test_an_interrupted_replay_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def stop(*_: object, **__: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("gradwatch.integrations.replay_command.replay", stop)
    assert cli.main(["replay", str(_incident(tmp_path))]) == cli.INTERRUPTED
    assert capsys.readouterr().err == "gradwatch replay: interrupted\n"
