"""TensorBoard itself on a log directory, with this checkout's plugin or without it, and what it answers."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
LOADERS = {"fast server": "true", "Python": "false"}
PATIENCE = 90.0


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def frame(self) -> tuple[dict[str, Any], np.ndarray]:
        """Take a binary answer apart, as the page does."""
        (length,) = struct.unpack("<I", self.body[:4])
        header = json.loads(self.body[4 : 4 + length])
        assert (4 + length) % 8 == 0
        values = np.frombuffer(self.body[4 + length :], np.dtype(header["dtype"]).newbyteorder("<"))
        return header, values.reshape(header["shape"])


class Server(NamedTuple):
    """A TensorBoard that runs."""

    url: str
    process: subprocess.Popen[str]

    def get(self, path: str, headers: dict[str, str] | None = None, **query: Any) -> Answer:
        """Ask for a path below ``/data``."""
        address = f"{self.url}/data/{path}?{urllib.parse.urlencode(query)}"
        request = urllib.request.Request(address, headers=headers or {})  # noqa: S310 - our own server
        try:
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - as above
                return Answer(response.status, dict(response.headers), response.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers), error.read())

    def ask(self, route: str, headers: dict[str, str] | None = None, **query: Any) -> Answer:
        """Ask the plugin."""
        return self.get(f"plugin/numerical_health/{route}", headers, **query)

    def wait_for_runs(
        self, count: int, such_that: Callable[[dict[str, Any]], bool] = lambda _: True
    ) -> list[dict[str, Any]]:
        """Return the runs once there are so many: TensorBoard reads its logs while it already answers."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            runs = [run for run in self.ask("runs").json()["runs"] if such_that(run)]
            if len(runs) >= count:
                return runs
            time.sleep(0.1)
        raise TimeoutError(f"{len(runs)} of {count} runs after {PATIENCE:g} s")


@contextmanager
def serve(
    logdir: Path, metadata: Path, *arguments: str, loader: str = "false", python: str = sys.executable
) -> Iterator[Server]:
    """Run TensorBoard on a directory and yield it once it listens.

    Args:
        logdir: what it shows.
        metadata: a directory from ``distribution``, with the plugin or without.
        arguments: more of TensorBoard's own.
        loader: ``--load_fast``.
        python: the interpreter whose TensorBoard it is.
    """
    command = [python, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", "0", "--host", "127.0.0.1"]
    command += ["--load_fast", loader, "--reload_interval", "1", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(metadata), str(ROOT / "src")])}
    log = metadata / f"server-{time.monotonic_ns()}.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL, text=True, cwd=metadata
        )
    try:
        yield Server(_address(process, log), process)
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def distribution(folder: Path, *, plugin: bool = True) -> Path:
    """Write what an installer would, so that TensorBoard finds this checkout's plugin, or none of ours at all."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = folder / f"gradwatch-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: gradwatch\nVersion: {project['version']}\n")
    points = project["entry-points"]["tensorboard_plugins"] if plugin else {}
    lines = ["[tensorboard_plugins]", *(f"{name} = {place}" for name, place in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


def _address(process: subprocess.Popen[str], log: Path) -> str:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        said = log.read_text()
        found = re.search(r"TensorBoard \S+ at (http://127\.0\.0\.1:\d+)", said)
        if found:
            return found[1]
        if process.poll() is not None:
            raise RuntimeError(f"TensorBoard ended with {process.returncode}: {said}")
        time.sleep(0.02)
    raise TimeoutError(f"TensorBoard did not start: {log.read_text()}")
