"""What looks at a finished run works where torch, Lightning and TensorBoard are not: on a laptop, in a small container.

In an interpreter that refuses them, and (long) in an environment that has never seen them, with gradwatch as a wheel.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from gradwatch import cli
from tests.report.logs import at, incident, last_steps, run_end, run_start, told, write_incident, write_log

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "lightning", "lightning_fabric", "pytorch_lightning", "tensorboard", "matplotlib", "scipy", "sklearn")
# What pip would bring with gradwatch, without torch, Lightning and TensorBoard and what these bring.
LIGHT = ("numpy", "numpy.libs", "rich", "markdown_it", "mdurl", "pygments", "PIL", "pillow.libs")
COMMANDS = {"show": ["A"], "report": ["A", "-o", "report.html"], "compare": ["A", "B"]}

REFUSING = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ImportError(name + " is not installed here")

sys.meta_path.insert(0, Refuse())
"""
READING = """
import sys
import gradwatch
events, steps = gradwatch.load_events("A"), gradwatch.load_steps("A")
assert gradwatch.load_incident("A/incidents/step=00000012-0").action == "raised"
assert gradwatch.load_last_steps("A")[0].steps == [9, 10, 11]
assert len(events) == 8 and list(steps["step"]) == [1, 2, 3], (events, steps)
assert not {name for name in sys.modules if name.partition(".")[0] in HEAVY}
print("read")
"""


def existing() -> list[str]:
    """The commands that there are, of those that look at a finished run."""
    actions = [action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return [name for name in COMMANDS if name in actions[0].choices]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    fatal = incident(action="raised")
    events = [at(1), at(2), at(3), told(3), last_steps(9), fatal, run_end(status="nonfinite")]
    for name in "AB":
        write_log(tmp_path / name, run_start(run_id=name), *events)
        write_incident(tmp_path / name, fatal)
    return tmp_path


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, check=False, cwd=folder, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )


def test_there_is_something_to_run() -> None:
    assert "show" in existing()


def test_the_library_reads_where_torch_is_refused(runs: Path) -> None:
    done = run([sys.executable, "-c", f"HEAVY = {HEAVY!r}\n{REFUSING}{READING}"], runs)
    assert (done.returncode, done.stdout, done.stderr) == (0, "read\n", "")


@pytest.mark.parametrize("command", existing())
def test_a_command_works_where_torch_is_refused(command: str, runs: Path) -> None:
    program = f"{REFUSING}from gradwatch import cli\nsys.exit(cli.main({[command, *COMMANDS[command]]!r}))"
    done = run([sys.executable, "-c", program], runs)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_the_refusal_is_one() -> None:
    done = run([sys.executable, "-c", f"{REFUSING}from gradwatch import HealthMonitor"], ROOT)
    assert "ImportError: torch is not installed here" in done.stderr


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of an environment of its own with gradwatch and what is light of its dependencies."""
    folder = tmp_path_factory.mktemp("environment")
    source, wheels, home = folder / "source", folder / "wheels", folder / "venv"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    offline = ["--no-index", "--no-deps"]
    subprocess.run([*pip, "wheel", *offline, "--no-build-isolation", "-w", str(wheels), str(source)], check=True)
    venv.create(home, system_site_packages=False, with_pip=False)
    binaries = home / "bin"
    (wheel,) = wheels.iterdir()
    subprocess.run([*pip, "--python", str(binaries / "python"), "install", *offline, str(wheel)], check=True)
    here = Path(sysconfig.get_path("purelib"))
    (there,) = home.glob("lib/python*/site-packages")
    for name in LIGHT:
        if (here / name).exists():
            (there / name).symlink_to(here / name)
    return binaries


@pytest.mark.long
def test_an_environment_without_torch(environment: Path, runs: Path) -> None:
    clean = {"PYTHONPATH": "", "PYTHONWARNINGS": "error"}
    python = str(environment / "python")
    for name in HEAVY:
        assert run([python, "-c", f"import {name}"], runs, **clean).returncode == 1
    done = run([python, "-c", f"HEAVY = {HEAVY!r}\n{READING}"], runs, **clean)
    assert (done.returncode, done.stdout, done.stderr) == (0, "read\n", "")
    for command in existing():
        done = run([str(environment / "gradwatch"), command, *COMMANDS[command]], runs, **clean)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout
    assert run([str(environment / "gradwatch"), "show", "A", "--check"], runs, **clean).returncode == 1
