"""Two processes on this machine that are the ranks of one run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(module: str, rank: int, port: int, folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NODE_RANK": "0",
        "LOCAL_RANK": str(rank),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    with (folder / f"output.rank{rank}.txt").open("wb") as output:
        command = [sys.executable, "-W", "ignore", "-m", module, str(folder), *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)


@contextmanager
def two_ranks(module: str, folder: Path, *arguments: str, limit: float) -> Iterator[None]:
    """Run a module in two processes to their ends, for ``limit`` seconds at most."""
    port = free_port()
    processes = [start(module, rank, port, folder, *arguments) for rank in (0, 1)]
    deadline = time.monotonic() + limit
    try:
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
        yield
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def output(folder: Path, rank: int) -> str:
    """The end of what a rank has said."""
    return (folder / f"output.rank{rank}.txt").read_text(errors="replace")[-3000:]
