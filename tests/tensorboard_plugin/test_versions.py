"""The oldest TensorBoard that the metadata allow and the newest there is, each in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.tensorboard_plugin.logs import (
    SPIKE,
    broken_runs,
    odd_steps,
    write_eventful_run,
    write_long_run,
    write_scalars,
)
from tests.tensorboard_plugin.serving import LOADERS, ROOT, distribution, serve

if TYPE_CHECKING:
    from pathlib import Path

STEPS = 20_000


def oldest() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (bound,) = (each for each in project["dependencies"] if each.startswith("tensorboard>="))
    return bound.replace(">=", "==") + ".*"


@pytest.fixture(scope="module", params=[oldest(), "tensorboard"], ids=["oldest", "newest"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with this TensorBoard, and nothing of ours installed."""
    folder = tmp_path_factory.mktemp("environment")
    interpreter = folder / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", request.param],
    ):
        subprocess.run(command, check=True, env=environment, timeout=900, capture_output=True)
    return str(interpreter)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    write_long_run(folder / "long", STEPS, layers=50)
    write_eventful_run(folder / "eventful")
    write_scalars(folder / "theirs")
    broken_runs(folder / "broken")
    return folder


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_the_tab_works(python: str, loader: str, logs: Path, tmp_path: Path) -> None:
    with serve(logs, distribution(tmp_path), loader=loader, python=python) as server:
        runs = {run["name"]: run for run in server.wait_for_runs(13)}
        server.wait_for_runs(1, lambda run: bool(run["name"] == "long" and run["last"] == STEPS - 1))
        assert server.get("plugins_listing").json()["numerical_health"]["enabled"]
        assert list(server.get("plugin/scalars/tags").json()["theirs"]) == ["loss"]
        assert (runs["eventful"]["findings"]["error"], runs["eventful"]["incidents"]) == (1, 1)
        assert runs["broken/later_version"]["note"].startswith("rows of version 2")
        header, values = server.ask("matrix", run="long", metric="grad_norm", columns=800).frame()
        for step, odd in zip(odd_steps(STEPS), (np.isnan(values), values == SPIKE), strict=True):
            ((where, _),) = np.argwhere(odd)
            assert header["first"][where] <= step <= header["last"][where]
