"""``gradwatch replay`` in a new process says of every incident of the zoo what was said in the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.zoo.case import FP32
from tests.zoo.families import CASES
from tests.zoo.trial import PLAIN, run

if TYPE_CHECKING:
    from tests.zoo.case import Case

ROOT = Path(__file__).resolve().parents[2]
FACTORIES = {"rms-norm-of-padding": "padded_normaliser"}
# What no replay shows: a value that comes once, and what a scan finds between two steps.
WITHOUT_STEP = ("transient-reading", "adamw-rate-too-large", "momentum-overflow")
REPLAYED = [
    case for case in CASES if FP32 in case.truth and case.truth[FP32].incident and case.name not in WITHOUT_STEP
]

# One process for all: each replay builds module, trainer and tensors anew from its folder alone.
SCRIPT = """
import json, sys
from gradwatch.cli import main
statuses = {}
for line in sys.stdin:
    name, *arguments = json.loads(line)
    print(f"--- {name}", flush=True)
    statuses[name] = main(["replay", *arguments])
print("=== " + json.dumps(statuses))
"""


class Replayed(NamedTuple):
    status: int
    output: str


def _incident_folder(case: Case, folder: Path) -> Path | None:
    run(case, FP32, PLAIN, folder)
    found = sorted((folder / "incidents").glob("*/replay.json"))
    return found[0].parent if found else None


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Replayed]:
    lines = []
    for case in CASES:
        if case in REPLAYED:
            folder = _incident_folder(case, tmp_path_factory.mktemp("zoo"))
            if folder is not None:
                lines.append(json.dumps([case.name, str(folder), *_factory(case)]))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=250,
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    printed, _, statuses = done.stdout.rpartition("=== ")
    parts = dict(part.split("\n", 1) for part in printed.split("--- ")[1:])
    return {name: Replayed(status, parts[name]) for name, status in json.loads(statuses).items()}


def _factory(case: Case) -> list[str]:
    return ["--factory", f"{__name__}:{FACTORIES[case.name]}"] if case.name in FACTORIES else []


def padded_normaliser() -> Any:
    """The one module of the zoo whose constructor has an argument that no hyperparameter records."""
    return next(case for case in CASES if case.name == "rms-norm-of-padding").module()


@pytest.mark.parametrize("case", REPLAYED, ids=lambda case: case.name)
def test_a_new_process_gives_the_same_verdict(case: Case, replayed: dict[str, Replayed]) -> None:
    status, output = replayed[case.name]
    assert status == 0, output
    assert "The verdict is the one recorded." in output
