"""The examples run as they stand, and are what the demo trains."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradwatch import load_events
from gradwatch.records import Incident, StepRecord

ROOT = Path(__file__).parents[1]
COPIES = {
    "digits_cnn.py": "digits.py",
    "nan_bug.py": "digits.py",
    "char_transformer.py": "text.py",
    "char_lstm.py": "text.py",
}


def _run(example: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / example), *arguments]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # two of them wait for each other when other tests run
    return subprocess.run(command, cwd=folder, env=one_thread, capture_output=True, text=True, timeout=240, check=False)


def _definitions(file: Path) -> dict[str, str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return {node.name: ast.dump(node) for node in nodes}


@pytest.mark.parametrize("example", ["digits_cnn.py", "char_transformer.py", "char_lstm.py"])
def test_an_example_trains_and_leaves_its_log(example: str, tmp_path: Path) -> None:
    done = _run(example, tmp_path, "--max-steps", "2")
    assert done.returncode == 0, done.stderr
    log = tmp_path / "lightning_logs" / "version_0"
    assert list(log.glob("events.out.tfevents.*"))
    assert load_events(log / "gradwatch")


def test_the_bug_is_stopped_where_it_strikes(tmp_path: Path) -> None:
    done = _run("nan_bug.py", tmp_path)
    assert done.returncode == 1
    assert "NonFiniteError" in done.stderr.splitlines()[-1] or "\ngradwatch.errors.NonFiniteError: " in done.stderr
    events = load_events(tmp_path / "lightning_logs" / "version_0" / "gradwatch")
    (incident,) = [event for event in events if isinstance(event, Incident)]
    assert incident.first_seen == "loss"
    assert 0 < incident.step < 300  # a real bug needs its batch: neither at once nor never
    assert "head" in " ".join(incident.affected)


def test_the_bug_is_survived_by_skipping(tmp_path: Path) -> None:
    done = _run("nan_bug.py", tmp_path, "--on-nonfinite", "skip", "--max-steps", "200")
    assert done.returncode == 0, done.stderr
    events = load_events(tmp_path / "lightning_logs" / "version_0" / "gradwatch")
    (first, *_) = [event for event in events if isinstance(event, Incident)]
    assert first.action == "skipped"
    assert max(event.step for event in events if isinstance(event, StepRecord)) > first.step


@pytest.mark.parametrize(("example", "module"), COPIES.items())
def test_an_example_is_what_the_demo_trains(example: str, module: str) -> None:
    copies = _definitions(ROOT / "examples" / example)
    originals = _definitions(ROOT / "src" / "gradwatch" / "demo" / module)
    del copies["main"]
    assert copies
    assert copies.items() <= originals.items()


@pytest.mark.parametrize("example", COPIES)
def test_an_example_stands_on_its_own(example: str) -> None:
    tree = ast.parse((ROOT / "examples" / example).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name and name.startswith("gradwatch")} == {"gradwatch"}
